"""Intervals that hold at the sizes people have: few items, skewed effects, items that share a question. One notion of
group throughout.

Items of one group (a question) are not independent, so every interval here takes `groups`, one name per item, and
counts groups. NaN is "not measured": it is left out, never counted. What each interval covers, simulated, stands in
docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from trimtab.errors import DataError

Array = NDArray[np.floating[Any]]
Groups = Sequence[Hashable] | None
NOTHING = (float("nan"), float("nan"))
MANY = 20  # groups from which on a resampled median is trusted


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


# ---------------------------------------------------------------- groups


def members(groups: Groups, n: int) -> list[NDArray[np.intp]]:
    """Indices of the items of each group, in order of appearance; every item is its own group where none are named.

    Raises:
        DataError: not one name per item.
    """
    if groups is None:
        return [np.array([k]) for k in range(n)]
    _one_each(groups, n)
    places: dict[Hashable, list[int]] = {}
    for k, g in enumerate(groups):
        places.setdefault(g, []).append(k)
    return [np.array(p) for p in places.values()]


def known(values: Array, groups: Groups = None) -> tuple[Array, Groups]:
    """What was measured: values (n,) without NaN, or (n, K) without the rows that hold one, and the groups that go with
    it.
    """
    there: NDArray[np.bool_] = np.logical_not(np.isnan(values if values.ndim > 1 else values[:, None]).any(axis=1))
    _one_each(groups, len(values))
    return values[there], None if groups is None else [g for g, k in zip(groups, there.tolist(), strict=True) if k]


def _one_each(groups: Groups, n: int) -> None:
    if groups is not None and len(groups) != n:
        raise DataError("not one group per item", given=f"{len(groups)} groups", expected=f"{n}, one for each item")


def resampled(groups: Groups, n: int, seed: int, times: int) -> list[NDArray[np.intp]]:
    """Indices of bootstrap samples: of n items, or of as many whole groups as there are."""
    rng, own = np.random.default_rng(seed), members(groups, n)
    if groups is None:
        return list(rng.integers(0, n, (times, n)))
    return [_items(own, rng.integers(0, len(own), len(own))) for _ in range(times)] if own else []


def _items(own: Sequence[NDArray[np.intp]], chosen: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Indices of the items of some groups, one group after the other."""
    return np.concatenate([own[k] for k in chosen])


def by_group(values: Array, groups: Groups) -> tuple[Array, float]:
    """Contributions of the groups to the mean of `values` (n, ...): (G, ...) numbers around that mean whose spread is
    that of the mean times the root of G (linearized ratio estimator); and how many groups of one size would tell as
    much (Kish 1965).

    A large group pulls the mean towards itself, so its distance is divided by the root of what it leaves to the
    others (as in HC2 errors).
    """
    own, mean, n = members(groups, len(values)), values.mean(0), len(values)
    sizes = np.array([len(k) for k in own])
    if len(own) == n:
        return values, float(n)
    apart = np.stack([(values[k] - mean).sum(0) for k in own]) * (len(own) / n)
    left = np.sqrt((1 - 1 / len(own)) / np.maximum(1 - sizes / n, 1e-12))
    return mean + apart * left.reshape(-1, *[1] * (values.ndim - 1)), float(n**2 / (sizes**2).sum())


# ---------------------------------------------------------------- means


def interval(values: Array, groups: Groups = None) -> tuple[float, float]:
    """95 % interval of a mean over items (n,): Student's t, corrected for skewness by Hall's monotone transformation
    (Hall 1992), over groups.

    NaN with fewer than three groups: two say nothing about a shape, and their t interval is wider than anything worth
    telling.
    """
    lo, hi = band(values[:, None], groups)
    return float(lo[0]), float(hi[0])


def band(values: Array, groups: Groups = None) -> tuple[Array, Array]:
    """The same for every column of (n, K): pointwise 95 % intervals of the column means, over the rows that were
    measured at every column.
    """
    values, groups = known(values, groups)
    own, size = by_group(values, groups) if len(values) else (values, 0.0)
    if len(own) < 3 or size < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    n, mean = len(own), values.mean(0)
    spread = np.sqrt(((own - mean) ** 2).sum(0) / (n - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        third = ((own - mean) ** 3).mean(0) / spread**3 * np.sqrt(n * (n - 1)) / (n - 2)
    skewed = np.where(spread > 1e-12 * np.abs(mean), third, 0.0) / np.sqrt(n)
    quantiles = stats.t.ppf([0.025, 0.975], size - 1)
    above, below = (_unskewed(q, skewed) * spread / np.sqrt(n) for q in quantiles)
    return np.minimum(mean - below, mean), np.maximum(mean - above, mean)


def _unskewed(quantile: float, a: Array) -> Array:
    """The t at which t + a t^2 / 3 + a^2 t^3 / 27 + a / 6, which is nearly Student's, has a quantile; a is the skewness
    over the root of n.
    """
    safe = np.where(np.abs(a) > 1e-9, a, 1.0)
    return np.where(np.abs(a) > 1e-9, (np.cbrt(1 + safe * (quantile - safe / 6)) - 1) * 3 / safe, quantile)


def mean_figure(name: str, values: Array, unit: str, control: float | None = None, groups: Groups = None) -> Figure:
    """A mean over items with its interval; NaN values are left out and not counted."""
    real, groups = known(values, groups)
    lo, hi = interval(real, groups)
    return Figure(name, float(real.mean()) if len(real) else float("nan"), lo, hi, len(real), unit, control)


def crossed(values: Array, groups: Groups = None) -> tuple[float, float]:
    """95 % interval of a grand mean when rows and columns are both drawn: of a mean slope when both the test items and
    the training pairs are.

    Variances of row means and of column means add; Student's t with Satterthwaite's degrees of freedom.

    Args:
        values: (n, m), such as the slope of test item i along the difference of training pair j.
        groups: of the rows.
    """
    rows, columns = by_group(values.mean(1), groups)[0], values.mean(0)
    if min(len(rows), len(columns)) < 3:
        return NOTHING
    parts = [(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in (rows, columns)]
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / d for v, d in parts) if variance > 0 else 1.0
    half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
    return float(values.mean() - half), float(values.mean() + half)


# ---------------------------------------------------------------- shares


def wilson(found: float, n: float) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which does not collapse at 0 and 1; NaN of nothing. `n` may be an
    effective size.
    """
    if n <= 0:
        return NOTHING
    z = float(stats.norm.ppf(0.975))
    p, wide = found / n, z * z / n
    middle, half = (p + wide / 2) / (1 + wide), z * np.sqrt(p * (1 - p) / n + wide / (4 * n)) / (1 + wide)
    return max(0.0, float(middle - half)) if found > 0 else 0.0, min(1.0, float(middle + half)) if found < n else 1.0


def effective(flags: Array, groups: Groups) -> float:
    """How many independent items would tell a share as well as these do: at most one per item, at least about one per
    group.
    """
    n, own = len(flags), members(groups, len(flags))
    p = float(flags.mean())
    variance = float(by_group(flags, groups)[0].var(ddof=1)) / len(own) if len(own) > 1 else 0.0
    if len(own) == n or not 0 < p < 1 or variance <= 0:
        return float(min(n, len(own)))
    # the variance of few groups is itself uncertain: as wide as Student's t would be
    wider = float(stats.t.ppf(0.975, len(own) - 1) / stats.norm.ppf(0.975)) ** 2
    return float(np.clip(p * (1 - p) / (variance * wider), 1.0, n))


def share_figure(
    name: str, flags: Array | NDArray[np.bool_], control: float | None = None, groups: Groups = None
) -> Figure:
    """A share with its Wilson interval at the effective number of items. Flags are booleans, or 1, 0 and NaN for "not
    measured".
    """
    real, groups = known(np.asarray(flags, dtype=float), groups)
    if not len(real):
        return Figure(name, float("nan"), *NOTHING, 0, "share", control)
    size = effective(real, groups)
    return Figure(name, float(real.mean()), *wilson(float(real.mean()) * size, size), len(real), "share", control)


# ---------------------------------------------------------------- medians


def median_figure(name: str, values: Array, unit: str, groups: Groups = None, seed: int = 0) -> Figure:
    """A median over items with its interval; NaN values are left out and not counted."""
    real, groups = known(values, groups)
    lo, hi = median_interval(real, groups, seed)
    return Figure(name, float(np.median(real)) if len(real) else float("nan"), lo, hi, len(real), unit)


def median_interval(values: Array, groups: Groups = None, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a median: BCa from `MANY` groups on; below, the items between which half of a sample lies
    (Woodruff 1952),

    which are order statistics. Four items or fewer cannot reach 95 %: their range is given (three cover 0.75).
    """
    values, groups = known(values, groups)
    own = members(groups, len(values))
    if len(own) < 3:
        return NOTHING
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    if len(own) >= MANY:
        return bca(values, lambda v: np.median(v, -1), groups, seed)
    n = len(values)
    below = (values <= np.median(values)).astype(float)
    size = effective(below, groups) if len(own) < n else float(n)
    # P(fewer than this share lie below the median) <= 0.025
    rank = int(stats.binom.ppf(0.025, round(size), 0.5)) / size
    order = np.sort(values)
    k = int(rank * n)
    return float(order[max(k - 1, 0)]), float(order[min(n - k, n - 1)])


def bca(
    values: Array, statistic: Callable[[Array], Array], groups: Groups = None, seed: int = 0, resamples: int = 2_000
) -> tuple[float, float]:
    """95 % bias-corrected and accelerated bootstrap interval (Efron 1987) of a statistic of (n,) values, over groups.

    Args:
        statistic: from (..., n) to (...), along the last axis, such as `lambda v: np.median(v, -1)`.
    """
    values, groups = known(values, groups)
    own = members(groups, len(values))
    if len(own) < 3 or np.ptp(values) == 0:
        return NOTHING
    if groups is None:
        index = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
        drawn = np.concatenate([statistic(values[part]) for part in np.array_split(index, max(1, resamples // 500))])
    else:
        drawn = np.array([float(statistic(values[k])) for k in resampled(groups, len(values), seed, resamples)])
    here = float(statistic(values))
    below = np.clip(((drawn < here).mean() + 0.5 * (drawn == here).mean()), 1e-6, 1 - 1e-6)
    bias = stats.norm.ppf(below)
    left_out = np.array([float(statistic(np.delete(values, k))) for k in own])
    far = left_out.mean() - left_out
    scale = float((far**2).sum()) ** 1.5
    accelerate = float((far**3).sum()) / (6 * scale) if scale > 0 else 0.0
    z = bias + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(drawn, stats.norm.cdf(bias + z / (1 - accelerate * z)))
    return float(low), float(high)


def ratio_of_means(
    both: Array, groups: Groups = None, seed: int = 0, resamples: int = 2_000
) -> tuple[float, float, float]:
    """The mean of the first column of (n, 2) over that of the second, and its 95 % bootstrap interval: both on one draw
    of items, or of their groups. Rows that lack one are left out. NaN where the interval of the second mean holds
    0, or there are fewer than three groups: then a ratio says nothing.
    """
    both, own = known(both, groups)
    over, under = both.T
    nothing = (float("nan"), *NOTHING)
    if len(members(own, len(under))) < 3:
        return nothing
    drawn = resampled(own, len(under), seed, resamples)
    below = np.array([under[k].mean() for k in drawn])
    lo, hi = ends(below)
    if not lo > 0 and not hi < 0:
        return nothing
    above, there = np.array([over[k].mean() for k in drawn]), below != 0  # a draw of zeros alone has no ratio
    low, high = ends(above[there] / below[there])
    return float(over.mean() / under.mean()), low, high


# ---------------------------------------------------------------- correlations


def spearman(a: Array, b: Array) -> float:
    """Rank correlation, ties at their mean rank; NaN where a side is constant."""
    x, y = stats.rankdata(a), stats.rankdata(b)
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def correlation_interval(r: float, n: int) -> tuple[float, float]:
    """95 % interval of a Spearman correlation of n independent points: Fisher's z with the variance of Bonett & Wright
    (2000).
    """
    if n < 5 or np.isnan(r):
        return NOTHING
    # half a step of the coefficient short of 1, which says no more than that the truth is beyond the last step
    most = 1 - 6 / (n * (n * n - 1))
    half = float(stats.t.ppf(0.975, n - 3)) * np.sqrt((1 + r * r / 2) / (n - 3))
    z = np.arctanh(np.clip(r, -most, most))
    return -1.0 if r <= -most else float(np.tanh(z - half)), 1.0 if r >= most else float(np.tanh(z + half))


def ends(drawn: Sequence[float] | Array) -> tuple[float, float]:
    """The middle 95 % of what a statistic was on bootstrap samples; NaN where fewer than twenty are numbers."""
    real = np.asarray(drawn, dtype=float)
    real = real[~np.isnan(real)]
    return (float(np.percentile(real, 2.5)), float(np.percentile(real, 97.5))) if len(real) >= 20 else NOTHING


def split_half(
    per_pair: Sequence[Array], groups: Sequence[Groups] | None = None, seed: int = 0, times: int = 200
) -> float:
    """Reliability: how well the mean slopes of data sets can be known from data of this size. Correlation over data
    sets of two halves that share neither test items (whole groups) nor training pairs, mean over splits, stepped up
    to full size (Spearman-Brown), from 0 to 1.

    No correlation with these means can be expected to exceed its square root.

    Args:
        per_pair: for each data set (n, m) slopes of test item i along the difference of training pair j.
        groups: for each data set those of its items.
    """
    rng, each = (
        np.random.default_rng(seed),
        [members(None if groups is None else groups[k], len(x)) for k, x in enumerate(per_pair)],
    )
    usable = [k for k, x in enumerate(per_pair) if len(each[k]) > 1 and x.shape[1] > 1]  # the others have no halves
    per_pair, each = [per_pair[k] for k in usable], [each[k] for k in usable]
    if len(per_pair) < 3:
        return float("nan")
    correlations: list[float] = []
    for _ in range(times):
        halves: list[tuple[float, float]] = []
        for x, own in zip(per_pair, each, strict=True):
            order, columns = rng.permutation(len(own)), rng.permutation(x.shape[1])
            rows = [_items(own, part) for part in np.array_split(order, 2)]
            half = x.shape[1] // 2
            halves.append(
                (float(x[np.ix_(rows[0], columns[:half])].mean()), float(x[np.ix_(rows[1], columns[half:])].mean()))
            )
        one, two = np.array(halves).T
        correlations.append(spearman(one, two))
    r = float(np.clip(np.nanmean(correlations), 0.0, 1.0)) if not np.isnan(correlations).all() else float("nan")
    return 2 * r / (1 + r)
