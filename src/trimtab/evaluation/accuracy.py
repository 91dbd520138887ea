"""What a vector costs in knowledge: accuracy at every multiplier, paired with the unsteered model's. From a run's
table, without a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from trimtab.runs import Table
from trimtab.statistics.intervals import Array, interval


@dataclass(frozen=True)
class Accuracy:
    """Share right at a multiplier; its difference to multiplier 0 on the same items, with a 95 % interval, and the
    exact McNemar p of that difference.

    For "mc2", a mean instead of a share, and the p of a paired Wilcoxon test.
    """

    multiplier: float
    value: float
    lo: float
    hi: float
    change: float
    change_lo: float
    change_hi: float
    p: float
    n: int


def accuracy(table: Table, kind: str = "correct", condition: str = "vector") -> list[Accuracy]:
    """Accuracy at every multiplier, from a run's table."""
    grid, _, values = table.curve(kind, condition, None)
    plain = values[:, int(np.flatnonzero(grid == 0)[0])]
    out: list[Accuracy] = []
    for m, here in zip(grid.tolist(), values.T, strict=True):
        change = here - plain
        p = _wilcoxon(change) if kind == "mc2" else _mcnemar(change)
        out.append(
            Accuracy(m, float(here.mean()), *interval(here), float(change.mean()), *interval(change), p, len(here))
        )
    return out


def _wilcoxon(change: Array) -> float:
    test: Any = stats.wilcoxon(change) if change.any() else None
    return 1.0 if test is None else float(test.pvalue)


def _mcnemar(change: Array) -> float:
    """Two-sided exact test that gained and lost items are equally many."""
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
