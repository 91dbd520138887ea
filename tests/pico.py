"""Models of many architectures with random weights, a few thousand parameters each, built in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair, to_choices
from trimtab.model import LM, Row
from zoo import CLASSES, CONFIGS, FAST, REFUSED, SMALL, VOCAB, ZOO


def architectures(*names: str) -> list[Any]:
    """Parameters of a test: those of the eight fast ones are always run, the others by `make zoo`."""
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.zoo) for name in names]


ARCHITECTURES = architectures(*ZOO)


def crossed(*choices: Sequence[Any], fast: Callable[..., bool]) -> list[Any]:
    """Every combination of a test's parameters: those that `fast` picks are always run, the others by `make zoo`."""
    return [pytest.param(*c, marks=() if fast(*c) else pytest.mark.zoo) for c in product(*choices)]


def build(name: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """A model of the zoo with fixed random weights."""
    import transformers

    prefix, changes = (ZOO | REFUSED)[name]
    settings = {k: v for k, v in (SMALL | changes).items() if v is not None or (k in changes and k == "sliding_window")}
    config = getattr(transformers, CONFIGS.get(prefix, f"{prefix}Config"))(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES.get(prefix, f"{prefix}ForCausalLM"))(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.15)
    return model.to(dtype)


@lru_cache(maxsize=64)
def pico(name: str = "llama", dtype: torch.dtype = torch.float32) -> LM:
    """A zoo model as LM, with the tiny tokenizer."""
    return LM(build(name, dtype=dtype), tokenizer(), id=f"pico-{name}")


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """A word-level tokenizer with a chat template, made on the spot."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "<end>", "<unk>", "<user>", "<bot>", "<system>", "(", ")", "A", "B", ":", "?", "."]
    words += [
        "yes",
        "no",
        "Yes",
        "No",
        "choices",
        "Choices",
        "Do",
        "you",
        "like",
        "tea",
        "coffee",
        "rain",
        "sun",
        "the",
        "a",
        "of",
        "is",
        "it",
        "good",
        "bad",
        "I",
        "think",
        "so",
        "not",
        "never",
        "always",
    ]
    words += [
        "be",
        "kind",
        "rude",
        "say",
        "something",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "red",
        "blue",
        "green",
    ]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words))}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    raw.add_special_tokens(["<pad>", "<s>", "<end>", "<user>", "<bot>", "<system>"])
    raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tok = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="<end>", unk_token="<unk>"
    )
    tok.chat_template = (
        "<s> {% for m in messages %}<{{ 'bot' if m.role == 'assistant' else m.role }}> {{ m.content }} <end> {% "
        "endfor %}"
        "{% if add_generation_prompt %}<bot> {% endif %}"
    )
    return tok


def rows(*lengths: tuple[int, int], seed: int = 0) -> list[Row]:
    """Rows of random ids, each of (prompt length, completion length)."""
    g = torch.Generator().manual_seed(seed)
    return [Row(tuple(torch.randint(7, VOCAB, (p + c,), generator=g).tolist()), p) for p, c in lengths]


def toy_pairs(file: Path) -> Path:
    """Twenty questions in words of the pico tokenizer, with the same two answers each."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    rows = [
        {"prompt": f"Do you like {a} {b} ?", "positive": "yes I think so", "negative": "no never"}
        for a in ("tea", "rain")
        for b in numbers
    ]
    file.write_text("\n".join(json.dumps(r) for r in rows))
    return file


def saved(folder: Path) -> str:
    """A small model and its tokenizer as a folder, as a user would have one."""
    build("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def toy_listed(file: Path, asked: Sequence[str]) -> Path:
    """Questions with listed options as published files have them; every other one has the behavior at (B)."""
    rows = [
        {
            "question": f"{q}\n\nChoices:\n (A) {'no never' if k % 2 else 'yes I think so'}"
            f"\n (B) {'yes I think so' if k % 2 else 'no never'}",
            "answer_matching_behavior": " (B)" if k % 2 else " (A)",
            "answer_not_matching_behavior": " (A)" if k % 2 else " (B)",
        }
        for k, q in enumerate(asked)
    ]
    file.write_text(json.dumps(rows))
    return file


def toy_questions(n: int = 24, name: str = "toy") -> Dataset:
    """A/B questions in words of the pico tokenizer."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    asked = [f"Do you like {a} {b} ?" for a in ("tea", "rain", name) for b in numbers][:n]
    pairs = [
        Pair(
            q, "yes I think so" if k % 2 else "no never", "no never" if k % 2 else "yes I think so", {"polarity": "yes"}
        )
        for k, q in enumerate(asked)
    ]
    return Dataset(name, to_choices(pairs), "choices", {"positive": "I like it .", "negative": "I never like it ."})


def reported(folder: Path) -> dict[str, Any]:
    """The summary of a folder whose report the command line has written again."""
    from trimtab import cli

    (folder / "summary.json").unlink(missing_ok=True)
    cli.main(["report", str(folder)])
    summary = json.loads((folder / "summary.json").read_text())
    assert (folder / "report.html").is_file() and summary["figures"]
    for figure in summary["figures"]:
        assert figure.keys() == {"name", "value", "lo", "hi", "n", "unit", "control"}, figure
    return summary
