"""Slopes of propensity curves, item by item: how steep, how straight, which way (Tan et al. 2024, section 3). NaN is
"not measured".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from trimtab.statistics.intervals import Array


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
    points: int = 0


def unsteered(multipliers: Array) -> int:
    """The column of multiplier 0, which every grid holds."""
    return int(np.flatnonzero(multipliers == 0)[0])


def fit_slopes(multipliers: Array, propensity: Array) -> Slopes:
    """Fit each row of `propensity` (n, K) against `multipliers` (K,). Rows with NaN give NaN: an item is measured at
    every multiplier, or not.
    """
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
    return Slopes(slope, intercept, se, r2, np.sqrt(sse / k), k)


def slopes_of_known(multipliers: Array, values: Array, least: int = 3) -> Array:
    """The slope of each row of `values` (n, K) over those multipliers at which it was measured; NaN for a row with
    fewer than `least` of them: ratings, of which a judge leaves some out.
    """
    out = np.full(len(values), np.nan)
    for k, row in enumerate(values):
        known = ~np.isnan(row)
        if known.sum() >= least:
            x = multipliers[known] - multipliers[known].mean()
            flat = np.ptp(row[known]) == 0  # exactly none, not what rounding makes of it
            out[k] = 0.0 if flat else float(x @ row[known] / (x**2).sum())
    return out


def anti_steerable(slope: Array) -> Array:
    """1.0 for items whose propensity does not rise with the multiplier (a slope of zero counts), 0.0 for others, NaN
    for those not measured.
    """
    return np.where(np.isnan(slope), np.nan, ~(slope > 0))


def confidence(slopes: Slopes) -> NDArray[Any]:
    """ "steerable", "anti-steerable" or "ambiguous" per item: whether its line is steep beside the scatter of its own
     points around it.

    Student's t at K - 2 degrees of freedom. The scatter is how far the curve bends, not noise, so this is about the
    line as a summary of the curve and not a test: a flat curve with normal scatter is called ambiguous 95 times in
    100. Items not measured, or at two multipliers, are ambiguous.
    """
    wide = (
        float(stats.t.ppf(0.975, slopes.points - 2)) * slopes.se
        if slopes.points > 2
        else np.full_like(slopes.slope, np.nan)
    )
    out = np.full(slopes.slope.shape, "ambiguous", dtype="<U14")
    out[slopes.slope - wide > 0] = "steerable"
    out[slopes.slope + wide < 0] = "anti-steerable"
    return out


def expected_anti_steerable(slope: Array) -> float:
    """The anti-steerable share a normal distribution of the same mean and spread would have."""
    slope = slope[~np.isnan(slope)]
    spread = float(slope.std(ddof=1)) if len(slope) > 1 else 0.0
    return (
        float(stats.norm.cdf(-slope.mean() / spread))
        if spread > 0
        else float(slope.mean() <= 0)
        if len(slope)
        else float("nan")
    )


# ---------------------------------------------------------------- shape of a curve


@dataclass(frozen=True)
class Shape:
    """What a line through an item's curve leaves out, all (n,).

    `local` is the change of propensity from multiplier -0.5 to 0.5 (NaN where the grid lacks them), `curvature` the
    coefficient of the squared multiplier in a quadratic fit, `spearman` the rank correlation of multiplier and
    propensity, `unsteered` the propensity at multiplier 0.
    """

    local: Array
    curvature: Array
    spearman: Array
    unsteered: Array


def shapes(multipliers: Array, propensity: Array) -> Shape:
    """Shape of each row of `propensity` (n, K); rows with NaN give NaN."""
    at = {float(m): propensity[:, k] for k, m in enumerate(multipliers)}
    nothing = np.full(len(propensity), np.nan)
    there = ~np.isnan(propensity).any(1)
    measured = propensity[there]
    design = np.stack([np.ones_like(multipliers), multipliers, multipliers**2], 1)
    curvature, ordered = nothing.copy(), nothing.copy()
    if len(multipliers) > 2 and len(measured):
        curvature[there] = np.linalg.lstsq(design, measured.T, rcond=None)[0][2]
    order = stats.rankdata(multipliers)
    ranks = stats.rankdata(measured, axis=1)
    order, ranks = order - order.mean(), ranks - ranks.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        ordered[there] = ranks @ order / np.sqrt((ranks**2).sum(1) * (order**2).sum())
    return Shape(at[0.5] - at[-0.5] if 0.5 in at and -0.5 in at else nothing, curvature, ordered, at[0.0])


def bimodality(values: Array) -> float:
    """Sarle's coefficient, (skewness² + 1) / kurtosis with corrections for a finite sample: 1/3 for a normal
    distribution, 5/9 for a uniform one, at most 1 for two points. NaN of fewer than four values, or of equal ones.
    """
    x = values[~np.isnan(values)]
    n = len(x)
    if n < 4 or not x.std() > 0:
        return float("nan")
    skew, excess = float(stats.skew(x, bias=False)), float(stats.kurtosis(x, bias=False))
    return (skew**2 + 1) / (excess + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


# ---------------------------------------------------------------- equal cost


def at_cost(multipliers: Array, cost: Array, value: Array, budget: float, sign: int = 1) -> tuple[float, float]:
    """The multiplier at which a vector first costs `budget`, going up (or down, with sign -1) from 0, and the value
    there, read between the points of a grid: vectors of different length compared at equal side effect.

    A divergence grows with the square of the multiplier, so its root is what is straight between two points. The
    value is read straight.

    Args:
        cost, value: (K,), at each multiplier.

    Returns:
        Multiplier and value; NaN where the grid ends before the budget is reached.
    """
    order = np.argsort(sign * multipliers)
    order = order[sign * multipliers[order] >= 0]
    m, c, v = multipliers[order], np.sqrt(np.maximum(cost[order], 0.0)), value[order]
    over = np.flatnonzero(c >= budget**0.5)
    if not len(over) or over[0] == 0:
        return float("nan"), float("nan")
    k = int(over[0])
    t = (budget**0.5 - c[k - 1]) / (c[k] - c[k - 1])
    return float(m[k - 1] + t * (m[k] - m[k - 1])), float(v[k - 1] + t * (v[k] - v[k - 1]))
