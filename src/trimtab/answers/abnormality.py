"""How strange a text is to the model a chat model was made from: the base-model framework of Dunefsky & Cohan 2025. In
bits per token.

The base model reads samples of the behavior one would like to see (the context), then a text. The fewer bits the text
costs it, the more normal the text is for that behavior. What a steered model says can be judged so without anybody
reading it, and without the steered model's own opinion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trimtab.errors import DataError, ModelError
from trimtab.model import LM, Row
from trimtab.statistics.intervals import Array

TAG = re.compile(r"<[^<>\s]{1,40}>")


@dataclass(frozen=True)
class Sample:
    """A text: what was put before it (prompt, and words put into the assistant's mouth), what was said, and whom it is
    about.
    """

    before: str
    said: str
    about: str = ""


def broken_tags(text: str) -> str:
    """Chat tags with spaces inside, so that a base model reads them as text."""
    return TAG.sub(lambda m: " ".join(["<", m[0][1:-1].replace("|", " | ").strip(), ">"]), text)


def check_shared(base: LM, chat: LM) -> None:
    """Refuse a pair of models that do not read text alike.

    Raises:
        ModelError: their tokenizers differ.
    """
    probe = "What is the capital of France? (A): 12 apples\n\nIt's Paris, of course."
    one, two = (tuple(lm.tokenizer(probe, add_special_tokens=False).input_ids) for lm in (base, chat))
    if one != two:
        raise ModelError(
            f"{base.id} and {chat.id} have different tokenizers",
            given=(one[:8], two[:8]),
            expected="a base model and the chat model made from it",
        )


@torch.no_grad()
def bits(base: LM, context: Sequence[Sample], samples: Sequence[Sample], *, first: int = 100, batch: int = 4) -> Array:
    """-log2 p per token of what is said in each sample, given the context. The mean over samples is S(X|C).

    Tokens that begin in the part before what was said are not scored. NaN for a sample whose entity (`about`) stands
    in the context, or that says nothing.

    Args:
        context: samples of the behavior to compare with, one after the other.
        first: score at most so many tokens (late-layer steering goes in circles, which would look likely).

    Raises:
        DataError: no context; or context and sample do not fit the model's.
    """
    if not context:
        raise DataError("nothing to compare with", given=0, expected="samples of the behavior as context")
    known = {s.about for s in context if s.about}
    head = "\n".join(broken_tags(s.before + s.said) for s in context) + "\n"
    out = np.full(len(samples), np.nan)
    there = [k for k, s in enumerate(samples) if s.said.strip() and s.about not in known]
    rows = {k: _row(base, head + broken_tags(samples[k].before), broken_tags(samples[k].said), first) for k in there}
    for chosen in base.batches([rows[k] for k in there], batch) if there else ():
        picked = [there[j] for j in chosen]
        tokens = base.batch([rows[k] for k in picked])
        logp = (
            base.prefix(tokens, layers=[0])
            .logits.log_softmax(-1)[:, :-1]
            .gather(-1, tokens.ids[:, tokens.pivot :, None])[..., 0]
        )
        for j, k in enumerate(picked):
            n = len(rows[k].ids) - rows[k].prompt
            out[k] = -float(logp[j, :n].double().mean()) / math.log(2)
    return out


def information(base: LM, context: Sequence[Sample]) -> float:
    """-log2 p of a context by itself, per token: how many bits, relative to the base model, it takes to specify the
    behavior, over its length.
    """
    text = "\n".join(broken_tags(s.before + s.said) for s in context)
    ids = base.tokenizer(text, add_special_tokens=True).input_ids
    if len(ids) < 2:
        raise DataError("the context is empty", given=text[:40])
    if len(ids) > base.context:
        raise DataError(
            "the context is longer than the base model's",
            given=f"{len(ids)} tokens",
            expected=f"at most {base.context}",
        )
    with torch.no_grad():
        tokens = base.batch([Row(tuple(ids), 1)])
        logp = base.prefix(tokens, layers=[0]).logits.log_softmax(-1)[0, :-1].gather(-1, tokens.ids[0, 1:, None])[:, 0]
    return -float(logp.double().mean()) / math.log(2)


def _row(lm: LM, before: str, text: str, first: int) -> Row:
    """Both as ids in one tokenization; scored are the tokens that begin where `text` begins or later."""
    encoding = lm.tokenizer(before + text, add_special_tokens=True, return_offsets_mapping=True)
    ids, offsets = list(encoding.input_ids), list(encoding.offset_mapping)
    at = next((k for k, (a, b) in enumerate(offsets) if a >= len(before) and b > a), len(ids))
    row = Row(tuple(ids[: at + first]), at)
    if len(row.ids) > lm.context or at == 0 or at == len(ids):
        raise DataError(
            "a sample does not fit the base model",
            given=f"{len(row.ids)} tokens, {len(ids) - at} of them said",
            expected=f"at most {lm.context}, one said",
        )
    return row
