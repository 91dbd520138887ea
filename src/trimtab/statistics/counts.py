"""Counts: of n things, how many; with a 95 % interval of the share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trimtab.statistics.intervals import Figure, wilson


@dataclass(frozen=True)
class Count:
    """Of n samples, how many are so; with a 95 % interval of the share (Wilson)."""

    hits: int
    n: int
    lo: float
    hi: float

    @property
    def share(self) -> float:
        return self.hits / self.n if self.n else float("nan")

    @classmethod
    def of(cls, hits: int, n: int) -> Count:
        return cls(hits, n, *wilson(hits, n))

    def figure(self, name: str, control: float | None = None) -> Figure:
        """As a figure of a summary; `control` is the same share without the vector, or of a random one."""
        return Figure(name, self.share, self.lo, self.hi, self.n, "share", control)


def share(flags: Iterable[bool]) -> Count:
    """Share of True, with its interval."""
    every = list(flags)
    return Count.of(sum(map(bool, every)), len(every))
