"""Statistics of propensity curves: slopes, their spread and their uncertainty (Tan et al. 2024, section 3). Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval, sample size and unit; `control` is the same number for the strongest control."""

    name: str
    value: float
    lo: float
    hi: float
    n: int
    unit: str
    control: float | None = None


@dataclass(frozen=True)
class Slopes:
    """Least-squares line of every item's propensity against the multiplier, all (n,).

    `se` is the standard error of the slope, `r2` the share of the curve's variance on the line (NaN for a flat curve),
    `rmse` the root of the mean squared residual over the K points.
    """

    slope: Array
    intercept: Array
    se: Array
    r2: Array
    rmse: Array


def unsteered(multipliers: Array) -> int:
    """The column of multiplier 0, which every grid holds."""
    return int(np.flatnonzero(multipliers == 0)[0])


def fit_slopes(multipliers: Array, propensity: Array) -> Slopes:
    """Fit each row of `propensity` (n, K) against `multipliers` (K,). Rows with NaN give NaN."""
    x = multipliers - multipliers.mean()
    sxx = float((x**2).sum())
    slope = propensity @ x / sxx
    intercept = propensity.mean(1) - slope * multipliers.mean()
    residual = propensity - intercept[:, None] - slope[:, None] * multipliers
    sse = (residual**2).sum(1)
    sst = ((propensity - propensity.mean(1, keepdims=True)) ** 2).sum(1)
    k = len(multipliers)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(sst > 0, 1 - sse / sst, np.nan)
        se = np.sqrt(sse / (k - 2) / sxx) if k > 2 else np.full_like(slope, np.nan)
    return Slopes(slope, intercept, se, r2, np.sqrt(sse / k))


def interval(
    values: Array, statistic: Callable[[Array], Array] | None = None, groups: Sequence[str] | None = None, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap over items (or over groups of items that share a question), 4,000 resamples.

    Args:
        values: (n,) or (n, K).
        statistic: from (resamples, n, ...) to (resamples, ...), along axis 1; the mean by default.
    """
    values = values[~np.isnan(values)] if values.ndim == 1 else values
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = _bounds(values, statistic or (lambda v: v.mean(1)), groups, seed)
    return float(low), float(high)


def band(values: Array, groups: Sequence[str] | None = None, seed: int = 0) -> tuple[Array, Array]:
    """Pointwise 95 % bootstrap interval of the column means of (n, K)."""
    return _bounds(values, lambda v: v.mean(1), groups, seed)


def _bounds(values: Array, statistic: Callable[[Array], Array], groups: Sequence[str] | None, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    n, found = len(values), []
    members = _members(groups, n)
    for _ in range(8):
        if members is None:
            found.append(statistic(values[rng.integers(0, n, (500, n))]))
        else:
            found += [statistic(values[np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])][None]) for _ in range(250)]
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5], axis=0)
    return low, high


def _members(groups: Sequence[str] | None, n: int) -> list[NDArray[np.int64]] | None:
    """Indices of each group, or None where every item is its own."""
    if groups is None or len(groups) != n or len(set(groups)) == n:
        return None
    places: dict[str, list[int]] = {}
    for k, g in enumerate(groups):
        places.setdefault(g, []).append(k)
    return [np.array(p) for p in places.values()]


def share_figure(name: str, flags: NDArray[np.bool_], control: float | None = None) -> Figure:
    """A share with its Wilson interval, which does not collapse at 0 and 1."""
    n, k = len(flags), int(flags.sum())
    return Figure(name, k / n if n else float("nan"), *wilson(k, n), n, "share", control)


def wilson(found: int, n: int) -> tuple[float, float]:
    """95 % interval of a share; NaN of nothing."""
    if n == 0:
        return float("nan"), float("nan")
    ci = stats.binomtest(found, n).proportion_ci(method="wilson")
    return float(ci.low), float(ci.high)


def mean_figure(name: str, values: Array, unit: str, control: float | None = None) -> Figure:
    """A mean over items with its bootstrap interval; NaN values are left out and not counted."""
    real = values[~np.isnan(values)]
    lo, hi = interval(real)
    return Figure(name, float(real.mean()) if len(real) else float("nan"), lo, hi, len(real), unit, control)


def anti_steerable(slope: Array) -> NDArray[np.bool_]:
    """Items whose propensity does not rise with the multiplier (a slope of zero counts)."""
    return ~(slope > 0)


def confidence(slopes: Slopes) -> NDArray[Any]:
    """ "steerable", "anti-steerable" or "ambiguous" per item, by whether the 95 % interval of its slope excludes 0."""
    wide = 1.96 * slopes.se
    out = np.full(slopes.slope.shape, "ambiguous", dtype="<U14")
    out[slopes.slope - wide > 0] = "steerable"
    out[slopes.slope + wide < 0] = "anti-steerable"
    return out


def spearman(a: Array, b: Array) -> float:
    """Rank correlation; NaN where a side is constant."""
    x, y = stats.rankdata(a), stats.rankdata(b)
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def null_p(observed: float, nulls: Sequence[float]) -> float:
    """Two-sided p-value of a slope against the slopes of null vectors: (1 + how many are as large) / (1 + how many)."""
    return (1 + sum(abs(x) >= abs(observed) for x in nulls)) / (1 + len(nulls))


# ---------------------------------------------------------------- shape of a curve


@dataclass(frozen=True)
class Shape:
    """What a line through an item's curve leaves out, all (n,).

    `local` is the change of propensity from multiplier -0.5 to 0.5 (NaN where the grid lacks them), `curvature` the coefficient of the squared
    multiplier in a quadratic fit, `spearman` the rank correlation of multiplier and propensity, `unsteered` the propensity at multiplier 0.
    """

    local: Array
    curvature: Array
    spearman: Array
    unsteered: Array


def shapes(multipliers: Array, propensity: Array) -> Shape:
    """Shape of each row of `propensity` (n, K)."""
    at = {float(m): propensity[:, k] for k, m in enumerate(multipliers)}
    nothing = np.full(len(propensity), np.nan)
    design = np.stack([np.ones_like(multipliers), multipliers, multipliers**2], 1)
    curvature = np.linalg.lstsq(design, propensity.T, rcond=None)[0][2] if len(multipliers) > 2 else nothing
    order = stats.rankdata(multipliers)
    ranks = stats.rankdata(propensity, axis=1)
    order, ranks = order - order.mean(), ranks - ranks.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        spearman = ranks @ order / np.sqrt((ranks**2).sum(1) * (order**2).sum())
    return Shape(at[0.5] - at[-0.5] if 0.5 in at and -0.5 in at else nothing, curvature, spearman, at[0.0])


# ---------------------------------------------------------------- uncertainty


def bca(values: Array, statistic: Callable[[Array], Array], seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """95 % bias-corrected and accelerated bootstrap interval (Efron 1987) of a statistic of (n,) values.

    Args:
        statistic: from (..., n) to (...), along the last axis, such as `lambda v: v.mean(-1)`.
    """
    n = len(values)
    if n < 3 or np.ptp(values) == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([statistic(values[rng.integers(0, n, (500, n))]) for _ in range(max(1, resamples // 500))])
    here = float(statistic(values))
    below = np.clip(((drawn < here).mean() + 0.5 * (drawn == here).mean()), 1e-6, 1 - 1e-6)
    bias = stats.norm.ppf(below)
    left_out = np.array([float(statistic(np.delete(values, k))) for k in range(n)])
    far = left_out.mean() - left_out
    scale = float((far**2).sum()) ** 1.5
    accelerate = float((far**3).sum()) / (6 * scale) if scale > 0 else 0.0
    z = bias + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(drawn, stats.norm.cdf(bias + z / (1 - accelerate * z)))
    return float(low), float(high)


def two_level(per_pair: Array, seed: int = 0, resamples: int = 2_000) -> tuple[float, float]:
    """95 % interval of a mean slope when both the test items and the training pairs are drawn again.

    Args:
        per_pair: (n, m) slope of test item i along the difference of training pair j; a mean-difference vector is the mean over j.
    """
    rng = np.random.default_rng(seed)
    n, m = per_pair.shape
    draws = [rng.multinomial(n, np.full(n, 1 / n)) @ per_pair @ rng.multinomial(m, np.full(m, 1 / m)) / (n * m) for _ in range(resamples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def split_half(per_pair: Sequence[Array], seed: int = 0, resamples: int = 200) -> float:
    """How well mean slopes of data sets can be known from data of this size: correlation over data sets of two halves that share neither
    test items nor training pairs, stepped up to full size (Spearman-Brown), mean over splits. The ceiling of any correlation with them.

    Args:
        per_pair: for each data set the (n, m) slopes of `two_level`.
    """
    rng = np.random.default_rng(seed)
    found: list[float] = []
    for _ in range(resamples):
        halves: list[tuple[float, float]] = []
        for x in per_pair:
            rows, columns = (rng.permutation(k) for k in x.shape)
            a, b = x.shape[0] // 2, x.shape[1] // 2
            halves.append((float(x[np.ix_(rows[:a], columns[:b])].mean()), float(x[np.ix_(rows[a:], columns[b:])].mean())))
        one, two = np.array(halves).T
        r = spearman(one, two)
        found.append(2 * r / (1 + r) if r > -1 else float("nan"))
    return float(np.nanmean(found))


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values: reject those at most q to keep the share of false discoveries at q (Benjamini & Hochberg 1995). NaN stays NaN."""
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    m = len(order)
    least = 1.0
    for rank, k in zip(range(m, 0, -1), order[::-1], strict=True):
        least = min(least, float(p[k]) * m / rank)
        out[k] = least
    return out


def expected_anti_steerable(slope: Array) -> float:
    """The anti-steerable share a normal distribution of the same mean and spread would have."""
    spread = float(slope.std(ddof=1)) if len(slope) > 1 else 0.0
    return float(stats.norm.cdf(-slope.mean() / spread)) if spread > 0 else float(slope.mean() <= 0)


def at_cost(multipliers: Array, cost: Array, value: Array, budget: float, sign: int = 1) -> tuple[float, float]:
    """The multiplier at which a vector first costs `budget`, going up (or down, with sign -1) from 0, and the value there, both interpolated:
    vectors of different length compared at equal side effect.

    Args:
        cost, value: (K,), at each multiplier.

    Returns:
        Multiplier and value; NaN where the grid ends before the budget is reached.
    """
    order = np.argsort(sign * multipliers)
    order = order[sign * multipliers[order] >= 0]
    m, c, v = multipliers[order], cost[order], value[order]
    over = np.flatnonzero(c >= budget)
    if not len(over) or over[0] == 0:
        return float("nan"), float("nan")
    k = int(over[0])
    t = (budget - c[k - 1]) / (c[k] - c[k - 1])
    return float(m[k - 1] + t * (m[k] - m[k - 1])), float(v[k - 1] + t * (v[k] - v[k - 1]))
