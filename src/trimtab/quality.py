"""Text quality, defined once: how strange the unsteered model finds a text, how much it repeats itself, and whether its sentences are whole. No judge, no torch.

`broken` puts the three together; how often it agrees with a person who read the texts stands in docs/statistics.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trimtab.statistics.intervals import Array

STRANGE = 2.5  # nats per token beyond the unsteered model's own answers
REPEATED = 0.3  # share of pairs of words that stood there before
WHOLE = 0.5  # share of sentences that are none


@runtime_checkable
class Scorer(Protocol):
    """What gives log-probabilities of texts: an `LM`."""

    def logprobs(self, prompts: Sequence[Any], completions: Sequence[str]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Quality:
    """Of one text.

    Attributes:
        strangeness: mean -log p per token under the unsteered model, nats; NaN if nobody looked, or nothing was said.
        repetition: share of its pairs of neighbouring words that stood in it before; 0 for a text without a pair.
        whole: share of its sentences that are whole; the last one is not counted if the text was cut in it. NaN for a text that says nothing.
    """

    strangeness: float
    repetition: float
    whole: float

    @classmethod
    def of(cls, text: str, strangeness: float = float("nan")) -> Quality:
        repeated = 1 - distinct([text])
        return cls(strangeness, 0.0 if np.isnan(repeated) else float(repeated), whole(text))

    def broken(self, usual: float) -> bool:
        """Whether the text has broken: stranger than usual, in circles, or mostly not made of sentences; or nothing was said.

        Args:
            usual: strangeness of the unsteered model's own answers.
        """
        return bool(self.strangeness - usual > STRANGE or self.repetition > REPEATED or not self.whole >= WHOLE)


def words(text: str) -> list[str]:
    """Words and punctuation marks, lower case."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams over all n-grams of the texts (Li et al. 2016): near 0 for a text that goes in circles. NaN if there are none."""
    grams = [tuple(w[k : k + n]) for w in map(words, texts) for k in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


_END = re.compile(r"(?<=[.!?:])[\"')\]*]*\s+|\n+")


def whole(text: str) -> float:
    """Share of the sentences (or list entries) of a text that could be one: they begin like one and are made of words.

    The text may have been cut: its last sentence is not asked to end, unless it is the only one and ends at once.
    """
    found = [s.strip() for s in _END.split(text.strip()) if s and s.strip()]
    return float(np.mean([_could_be_one(s) for s in found])) if found else float("nan")


def _could_be_one(sentence: str) -> bool:
    """Letters outweigh marks, no mark is piled up, and most of it are words of a usual length."""
    bare = re.sub(r"^(?:[-*#>•]+|\d+[.)])\s*", "", sentence)
    letters = sum(c.isalpha() or c.isspace() for c in bare)
    spoken = re.findall(r"[^\W\d_]+", bare)
    if not bare:
        return True  # the mark of a list entry
    return (
        letters >= 0.75 * len(bare) and not re.search(r"([^\w\s])\1{3,}", bare) and bool(spoken) and float(np.median([len(w) for w in spoken])) <= 12
    )


def strangeness(lm: Scorer, prompts: Sequence[Any], texts: Sequence[str]) -> Array:
    """Mean -log p per token of each text as an answer, under the unsteered model, in nats: the logarithm of its perplexity. NaN for empty texts.

    Call it outside of `steer`.
    """
    out = np.full(len(texts), np.nan)
    there = [k for k, t in enumerate(texts) if t.strip()]
    if there:
        for k, logp in zip(there, lm.logprobs([prompts[k] for k in there], [texts[k] for k in there]), strict=True):
            out[k] = -float(logp.mean())
    return out


def broken(texts: Iterable[str], odd: Iterable[float], usual: float) -> list[bool]:
    """Which of some texts have broken."""
    return [Quality.of(t, s).broken(usual) for t, s in zip(texts, odd, strict=True)]
