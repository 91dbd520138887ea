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
    if n == 0:
        return Figure(name, float("nan"), float("nan"), float("nan"), 0, "share", control)
    ci = stats.binomtest(k, n).proportion_ci(method="wilson")
    return Figure(name, k / n, float(ci.low), float(ci.high), n, "share", control)


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


def null_p(observed: float, nulls: Sequence[float]) -> float:
    """Two-sided p-value of a slope against the slopes of null vectors: (1 + how many are as large) / (1 + how many)."""
    return (1 + sum(abs(x) >= abs(observed) for x in nulls)) / (1 + len(nulls))
