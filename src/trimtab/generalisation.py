"""Does a vector learned in one context steer in another, and what foretells it? (Tan et al. 2024, section 5.) Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.steerability import Array, Figure, spearman

Grid = Mapping[tuple[str, str], Array]  # (context the vector was learned in, context it is tested in) -> slope of every test item


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


def relative(grid: Grid, train: str, test: str, seed: int = 0, resamples: int = 2_000) -> Relative:
    """s(v_train, D_test) / s(v_test, D_test), with a bootstrap interval over the test items (both on the same draw).

    Args:
        grid: must hold (train, test) and (test, test).
    """
    over, under = grid[train, test], grid[test, test]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(under), (resamples, len(under)))
    below = under[drawn].mean(1)
    lo, hi = np.percentile(below, [2.5, 97.5])
    if lo <= 0 <= hi:
        return Relative(train, test, float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(over[drawn].mean(1) / below, [2.5, 97.5])
    return Relative(train, test, float(over.mean() / under.mean()), float(low), float(high))


def transfer(grid: Grid) -> list[Relative]:
    """Every pair of contexts but a context with itself."""
    return [relative(grid, a, b) for a, b in grid if a != b and (b, b) in grid]


def correlation(name: str, x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable] | None = None, seed: int = 0) -> Figure:
    """Spearman correlation with a bootstrap interval over points, or over clusters of points that are not independent (data sets, families)."""
    a, b, groups = _known(x, y, clusters)
    drawn = [spearman(a[k], b[k]) for k in _draws(groups, len(a), seed)]
    lo, hi = _ends(drawn)
    return Figure(name, spearman(a, b), lo, hi, len(a), "Spearman")


def closer(
    x: Sequence[float], other: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """How much better x ranks y than `other` does: difference of Spearman correlations, and its interval by a paired bootstrap."""
    known = ~(np.isnan(np.array(x, float)) | np.isnan(np.array(other, float)) | np.isnan(np.array(y, float)))
    a, b, c = (np.array(v, float)[known] for v in (x, other, y))
    groups = None if clusters is None else [g for g, k in zip(clusters, known, strict=True) if k]
    drawn = [spearman(a[k], c[k]) - spearman(b[k], c[k]) for k in _draws(groups, len(a), seed)]
    return (spearman(a, c) - spearman(b, c), *_ends(drawn))


def partial(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float:
    """Spearman correlation of what is left of x and y when their ranks are regressed on those of a third quantity."""
    ranks = [np.argsort(np.argsort(np.array(v, float))).astype(float) for v in (x, y, given)]
    design = np.stack([np.ones(len(ranks[2])), ranks[2]], 1)
    a, b = (r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2])
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else float("nan")


def apart(unsteered: Mapping[str, Array], one: str, two: str) -> float:
    """How differently the model behaves in two contexts: mean absolute difference of unsteered propensity, item by item."""
    return float(np.abs(unsteered[one] - unsteered[two]).mean())


def left_out(features: Array, y: Array, groups: Sequence[Hashable], fit: Callable[[Array, Array], Callable[[Array], Array]]) -> Array:
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


def _known(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable] | None) -> tuple[Array, Array, list[Hashable] | None]:
    a, b = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)
    known = ~(np.isnan(a) | np.isnan(b))
    return a[known], b[known], None if clusters is None else [g for g, k in zip(clusters, known, strict=True) if k]


def _draws(groups: Sequence[Hashable] | None, n: int, seed: int, resamples: int = 1_000) -> list[NDArray[np.intp]]:
    """Indices of bootstrap samples of n points, or of whole clusters."""
    rng = np.random.default_rng(seed)
    if groups is None:
        return list(rng.integers(0, n, (resamples, n)))
    members = [np.flatnonzero([g == name for g in groups]) for name in dict.fromkeys(groups)]
    return [np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))]) for _ in range(resamples)] if members else []


def _ends(drawn: Sequence[float]) -> tuple[float, float]:
    known = [d for d in drawn if not np.isnan(d)]
    if len(known) < 20:
        return float("nan"), float("nan")
    lo, hi = np.percentile(known, [2.5, 97.5])
    return float(lo), float(hi)
