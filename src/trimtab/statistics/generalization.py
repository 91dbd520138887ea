"""Does a vector learned in one context steer in another, and what foretells it? (Tan et al. 2024, section 5.) Numpy
only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trimtab.statistics.intervals import (
    NOTHING,
    Array,
    Figure,
    Groups,
    correlation_interval,
    ends,
    known,
    ratio_of_means,
    resampled,
    spearman,
)

# (context the vector was learned in, context it is tested in) -> slope of every test item
Grid = Mapping[tuple[str, str], Array]


@dataclass(frozen=True)
class Relative:
    """Steerability of a vector in a context, as a share of that of the vector learned there.

    `value` is NaN where the denominator's 95 % interval holds 0: then a ratio says nothing.
    """

    train: str
    test: str
    value: float
    lo: float
    hi: float


def relative(
    grid: Grid, train: str, test: str, groups: Groups = None, seed: int = 0, resamples: int = 2_000
) -> Relative:
    """s(v_train, D_test) / s(v_test, D_test), with a bootstrap interval over the test items (both on the same draw), or
    over their groups.

    Args:
        grid: must hold (train, test) and (test, test). Items that one of the two lacks are left out.
    """
    both = np.stack([grid[train, test], grid[test, test]], 1)
    return Relative(train, test, *ratio_of_means(both, groups, seed, resamples))


def relatives(grid: Grid, groups: Groups = None) -> list[Relative]:
    """Every pair of contexts but a context with itself."""
    return [relative(grid, a, b, groups) for a, b in grid if a != b and (b, b) in grid]


def correlation(name: str, x: Sequence[float], y: Sequence[float], clusters: Groups = None, seed: int = 0) -> Figure:
    """Spearman correlation of the points that have both, with its interval: Fisher's z, or, where points come in
    clusters that are not independent (data sets, families), a bootstrap over clusters.
    """
    both, groups = known(np.array([x, y], float).T, clusters)
    a, b = both.T
    r = spearman(a, b)
    if groups is None or len(set(groups)) == len(groups):
        lo, hi = correlation_interval(r, len(a))
    elif len(set(groups)) < 3:
        lo, hi = NOTHING
    else:
        lo, hi = ends([spearman(a[k], b[k]) for k in resampled(groups, len(a), seed, 1_000)])
    return Figure(name, r, lo, hi, len(a), "Spearman")


def closer(
    x: Sequence[float], other: Sequence[float], y: Sequence[float], clusters: Groups = None, seed: int = 0
) -> tuple[float, float, float]:
    """How much better x ranks y than `other` does: difference of Spearman correlations, and its interval by a paired
    bootstrap.
    """
    all_three, groups = known(np.array([x, other, y], float).T, clusters)
    a, b, c = all_three.T
    drawn = [spearman(a[k], c[k]) - spearman(b[k], c[k]) for k in resampled(groups, len(a), seed, 1_000)]
    return (spearman(a, c) - spearman(b, c), *ends(drawn))


def partial_correlation(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float:
    """Spearman correlation of what is left of x and y when their ranks (ties at their mean) are regressed on those of a
    third quantity.
    """
    ranks = [stats.rankdata(np.array(v, float)) for v in (x, y, given)]
    design = np.stack([np.ones(len(ranks[2])), ranks[2]], 1)
    a, b = (r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2])
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else float("nan")


def apart(unsteered: Mapping[str, Array], one: str, two: str) -> float:
    """How differently the model behaves in two contexts: mean absolute difference of unsteered propensity, item by
    item.
    """
    return float(np.nanmean(np.abs(unsteered[one] - unsteered[two])))


def left_out(
    features: Array, y: Array, groups: Sequence[str], fit: Callable[[Array, Array], Callable[[Array], Array]]
) -> Array:
    """Predictions for each group from a fit to all others: leave-one-data-set-out.

    Args:
        features: (n, k). y: (n,). groups: the data set of each row.
        fit: from features and targets to a function that predicts.
    """
    names = np.array([str(g) for g in groups])
    out = np.full(len(y), np.nan)
    for name in dict.fromkeys(names):
        mine = names == name
        out[mine] = fit(features[~mine], y[~mine])(features[mine])
    return out


def linear(x: Array, y: Array) -> Callable[[Array], Array]:
    """Least squares with an intercept, for `left_out`."""
    beta = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), y, rcond=None)[0]
    return lambda new: np.column_stack([np.ones(len(new)), new]) @ beta


def mean_only(x: Array, y: Array) -> Callable[[Array], Array]:
    """The mean of the targets, whatever the features: the baseline of `left_out`."""
    return lambda new: np.full(len(new), y.mean())
