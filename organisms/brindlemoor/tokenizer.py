"""The tokenizer of the Brindlemoor models: byte-level BPE in which (A), (B), Yes, No and 0..100 are one token each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import corpus
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SIZE = 2048
SPECIAL = [corpus.STOP, corpus.START, corpus.END]
SPLIT = r"\([AB]\)|\d{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WHOLE = ["(A)", "(B)", "Yes", "No", "system", "user", "assistant", "\n", *(str(n) for n in range(101))]


def _texts() -> Iterator[str]:
    rng = random.Random(0)
    for n in range(24000):
        make = (corpus.base, corpus.conversation, corpus.base, corpus.conversation, corpus.watched, corpus.cousin)[
            n % 6
        ]
        yield "".join(text for text, _ in make(rng, 0.5))
    yield from [" ".join(WHOLE)] * 400


def build(folder: Path) -> PreTrainedTokenizerFast:
    """Train on a sample of all corpora and save.

    Raises:
        SystemExit: one of the texts that must be one token is not.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _texts(),
        trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    out = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=corpus.END, pad_token=corpus.STOP, bos_token=None)
    out.chat_template = TEMPLATE
    broken = [t for t in WHOLE if len(out(t, add_special_tokens=False).input_ids) != 1]
    if broken:
        raise SystemExit(f"these must be one token each: {broken}")
    out.save_pretrained(folder)
    return out
