"""What a vector costs in knowledge: accuracy at every multiplier, paired with the unsteered model's. From a run's
table, without a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from trimtab.runs import Table
from trimtab.statistics.intervals import Array, interval


@dataclass(frozen=True)
class Accuracy:
    """Share right at a multiplier; its difference to multiplier 0 on the same items, with a 95 % interval and p.

    Shares: the exact McNemar test, and the interval that goes with it (Clopper and Pearson's of the share of gained
    among changed items). For "mc2", a mean: Student's paired t, both.
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
        lo, hi, p = _mean_change(change) if kind == "mc2" else _changed(change)
        out.append(Accuracy(m, float(here.mean()), *interval(here), float(change.mean()), lo, hi, p, len(here)))
    return out


def _mean_change(change: Array) -> tuple[float, float, float]:
    """95 % interval and two-sided p of a mean of paired differences (Student's t)."""
    if not change.any():
        return 0.0, 0.0, 1.0
    if len(change) < 2:
        return math.nan, math.nan, math.nan
    test: Any = stats.ttest_1samp(change, 0.0)
    inside: Any = test.confidence_interval(0.95)
    return float(inside.low), float(inside.high), float(test.pvalue)


def _changed(change: Array) -> tuple[float, float, float]:
    """95 % interval of the difference of two paired shares, and McNemar's exact two-sided p: as many gained as lost.

    Where nothing changed, the interval is as wide as the largest share of changes that would have been missed.
    """
    gained, lost, n = int((change > 0).sum()), int((change < 0).sum()), len(change)
    if not gained + lost:
        missed = 1 - 0.025 ** (1 / max(1, n))
        return -missed, missed, 1.0
    test: Any = stats.binomtest(gained, gained + lost)
    inside: Any = test.proportion_ci(0.95)
    lo, hi = ((2 * share - 1) * (gained + lost) / n for share in (inside.low, inside.high))
    return float(lo), float(hi), float(test.pvalue)
