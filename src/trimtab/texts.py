"""What generated text is like, without a judge: variety, and how strange the unsteered model finds it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from trimtab.model import LM
from trimtab.model.tokens import Prompt
from trimtab.steerability import Array


def words(text: str) -> list[str]:
    """Words and punctuation marks, lower case."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams over all n-grams of the texts (Li et al. 2016): near 0 for a text that goes in circles. NaN if there are none."""
    grams = [tuple(w[k : k + n]) for w in map(words, texts) for k in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def strangeness(lm: LM, prompts: Sequence[Prompt], texts: Sequence[str]) -> Array:
    """Mean -log p per token of each text as an answer, under the unsteered model, in nats: the logarithm of its perplexity. NaN for empty texts.

    Call it outside of `steer`.
    """
    out = np.full(len(texts), np.nan)
    there = [k for k, t in enumerate(texts) if t.strip()]
    if there:
        for k, logp in zip(there, lm.logprobs([prompts[k] for k in there], [texts[k] for k in there]), strict=True):
            out[k] = -float(logp.mean())
    return out
