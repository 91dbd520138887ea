"""Words counted in samples: tables of strings by question and condition, and families of words over a strength sweep (Dunefsky 2025)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.statistics.intervals import wilson


@dataclass(frozen=True)
class Count:
    """Of n samples, how many contain it; with a 95 % interval of the share (Wilson)."""

    found: int
    n: int
    lo: float
    hi: float

    @property
    def share(self) -> float:
        return self.found / self.n if self.n else float("nan")

    @classmethod
    def of(cls, found: int, n: int) -> Count:
        return cls(found, n, *wilson(found, n))


def contains(text: str, strings: Sequence[str]) -> bool:
    """Whether one of the strings stands in the text, no matter the case, and not in the middle of a word: "evil" in "evils", not in "devil"."""
    lower = text.casefold()
    return any(re.search((r"(?<!\w)" if s[:1].isalnum() else "") + re.escape(s.casefold()), lower) for s in strings)


def table(
    texts: Mapping[tuple[str, str], Sequence[str]], strings: Mapping[str, Sequence[str]], first: int = 100
) -> dict[tuple[str, str, str], Count]:
    """How many of the first samples of each question and condition contain each string, unfiltered as published.

    Args:
        texts: (question, condition) -> samples.
        strings: question -> strings to look for.

    Returns:
        (question, string, condition) -> count.
    """
    return {
        (question, s, condition): Count.of(sum(contains(t, [s]) for t in found[:first]), len(found[:first]))
        for (question, condition), found in texts.items()
        for s in strings.get(question, ())
    }


def families(texts: Mapping[float, Sequence[str]], words: Mapping[str, Sequence[str]], first: int = 100) -> dict[str, dict[float, Count]]:
    """How many samples at each strength contain any word of each family, such as general and specific ones."""
    return {
        family: {m: Count.of(sum(contains(t, some) for t in found[:first]), len(found[:first])) for m, found in sorted(texts.items())}
        for family, some in words.items()
    }
