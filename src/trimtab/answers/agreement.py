"""How well two judges agree, or a judge and the truth, over the same answers. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import RecipeError
from trimtab.statistics.intervals import Array, correlation_interval, ends, resampled, spearman


@dataclass(frozen=True)
class Agreement:
    """How two judges, or a judge and the truth, rate the same answers.

    Attributes:
        n: answers both scored. unscored: those one of them did not score.
        pearson, spearman: correlations, with 95 % bootstrap intervals over answers.
        kappa: Cohen's, of "above the threshold", with its interval.
        agree: share of answers on the same side of it.
        apart: mean of the first's score minus the second's.
    """

    n: int
    unscored: int
    pearson: tuple[float, float, float]
    spearman: tuple[float, float, float]
    kappa: tuple[float, float, float]
    agree: float
    apart: float


def agreement(
    one: Sequence[float], two: Sequence[float], threshold: float, *, seed: int = 0, resamples: int = 1000
) -> Agreement:
    """Compare scores of the same answers on one scale; NaN is "not scored", and counted apart.

    Raises:
        RecipeError: fewer than three answers that both scored.
    """
    a, b = np.asarray(one, float), np.asarray(two, float)
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 3:
        raise RecipeError("too few answers that both judges scored", given=int(both.sum()), expected="at least 3")
    x, y = a[both], b[both]
    n, ranks = len(x), spearman(x, y)
    draws = resampled(None, n, seed, resamples)

    def spread(statistic: Callable[[Array, Array], float]) -> tuple[float, float, float]:
        return statistic(x, y), *ends([statistic(x[d], y[d]) for d in draws])

    def side(p: Array, q: Array) -> float:
        return kappa(p > threshold, q > threshold)

    same = float(((x > threshold) == (y > threshold)).mean())
    return Agreement(
        n,
        int((~both).sum()),
        spread(_pearson),
        (ranks, *correlation_interval(ranks, n)),
        spread(side),
        same,
        float((x - y).mean()),
    )


def kappa(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    """Cohen's kappa: agreement beyond what two raters with these shares would reach by chance. NaN if both always say
    the same.
    """
    agree = float((one == two).mean())
    chance = float(one.mean() * two.mean() + (1 - one.mean()) * (1 - two.mean()))
    return (agree - chance) / (1 - chance) if chance < 1 else math.nan


def _pearson(x: Array, y: Array) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else math.nan
