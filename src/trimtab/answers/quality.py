"""Text quality, defined once: how strange the unsteered model finds a text, how much it repeats itself, and whether its
sentences are whole. No judge, no torch.

`broken` puts the three together; how often it agrees with a person who read the texts stands in docs/statistics.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        repetition: how much of it goes in circles: the share of its pairs of neighboring words that stood in it
            before, or of its characters that stand in a row of at least six repeats of a few, whichever is more.
        whole: share of its sentences that could be one. NaN for a text that says nothing.
    """

    strangeness: float
    repetition: float
    whole: float

    @classmethod
    def of(cls, text: str, strangeness: float = float("nan")) -> Quality:
        return cls(strangeness, repetition(text), whole(text))

    def broken(self, usual: float) -> bool:
        """Whether the text has broken: stranger than usual, in circles, or mostly not made of sentences; or nothing
        was said.

        Args:
            usual: strangeness of the unsteered model's own answers.
        """
        return bool(self.strangeness - usual > STRANGE or self.repetition > REPEATED or not self.whole >= WHOLE)


def words(text: str) -> list[str]:
    """Words and punctuation marks, lower case."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams over all n-grams of the texts (Li et al. 2016): near 0 for a text that goes in circles. NaN if
    there are none.
    """
    grams = [tuple(w[k : k + n]) for w in map(words, texts) for k in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


_ROW = re.compile(r"([^\s\d]{1,8}?)\1{5,}")  # a few characters, six times or more in a row
_RULE = re.compile(r"[-=_*.~+|:]+")  # which rules of tables and dots are made of
_END = re.compile(r"(?<=[.!?:])[\"')\]*]*\s+|\n+")


def repetition(text: str) -> float:
    """How much of a text goes in circles, from 0 to 1. Texts of fewer than eight words repeat characters alone."""
    terms = re.findall(r"\w+", text.casefold())
    pairs = 1 - distinct([" ".join(terms)]) if len(terms) >= 8 else 0.0
    rows = sum(len(m[0]) for m in _ROW.finditer(text) if not _RULE.fullmatch(m[0]))
    return max(float(pairs), rows / max(1, len(text.strip())))


def whole(text: str) -> float:
    """Share of the lines and sentences of a text that say something in words, letters of any script, or figures; a text
    may be cut anywhere.
    """
    parts = [s.strip() for s in _END.split(text.strip()) if s and s.strip()]
    sentences = [s for s in parts if not _RULE.fullmatch(s.replace(" ", ""))] or parts
    return float(np.mean([_says_something(s) for s in sentences])) if sentences else float("nan")


def _says_something(sentence: str) -> bool:
    """Letters, marks of scripts that have them, or digits are in it, and more of them than of signs that nobody writes
    in a row.
    """
    kinds = [unicodedata.category(c)[0] for c in sentence if not c.isspace()]
    signs = sum(k in "SC" and ord(c) > 127 for k, c in zip(kinds, "".join(sentence.split()), strict=True))
    # one emoji or two are an answer, too
    return sum(k in "LMN" for k in kinds) > signs or (len(kinds) <= 4 and signs == len(kinds))


def strangeness(lm: Scorer, prompts: Sequence[Any], texts: Sequence[str]) -> Array:
    """Mean -log p per token of each text as an answer, under the unsteered model, in nats: the logarithm of its
    perplexity. NaN for empty texts.

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


@dataclass(frozen=True)
class Texts:
    """What is known of some answers together.

    Attributes:
        broken: share that are no longer text.
        strangeness: mean -log p per token under the unsteered model, nats; NaN if all of them are empty.
        distinct: different pairs of words over all of them; NaN if there are none.
    """

    broken: float
    strangeness: float
    distinct: float


@dataclass(frozen=True)
class Usual:
    """The unsteered model's own answers to some prompts: what other answers to them are held against."""

    lm: Scorer
    prompts: Sequence[Any]
    texts: Sequence[str]

    @cached_property
    def odd(self) -> Array:
        return strangeness(self.lm, self.prompts, self.texts)

    @cached_property
    def own(self) -> Texts:
        """What is known of the unsteered answers themselves."""
        return self._known(self.texts, self.odd)

    def beside(self, texts: Sequence[str]) -> Texts:
        """What is known of other answers to the same prompts. Call it outside of `steer`."""
        return self._known(texts, strangeness(self.lm, self.prompts, texts))

    def _known(self, texts: Sequence[str], odd: Array) -> Texts:
        middle = 0.0 if np.isnan(self.odd).all() else float(np.nanmedian(self.odd))
        mean = float("nan") if np.isnan(odd).all() else float(np.nanmean(odd))
        return Texts(float(np.mean(broken(texts, odd.tolist(), middle))), mean, distinct(texts))
