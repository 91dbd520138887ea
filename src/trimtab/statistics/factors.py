"""Spurious factors of steerability: answer letter and polarity (Tan et al. 2024, sections 4-5). Numpy only.

Factors come from an item's metadata (`matching_letter`, `polarity`), never from its rendered text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from trimtab.errors import DataError
from trimtab.statistics.intervals import Array, Groups, known, members

SMALLEST_CELL = 20
TERMS = ("concept", "letter", "polarity", "interaction")


@dataclass(frozen=True)
class Shares:
    """Variance of the slopes that factors explain, in absolute units: the published sequential split, first factor
    first.
    """

    total: float
    explained: Mapping[str, float]

    @property
    def unexplained(self) -> float:
        return self.total - sum(self.explained.values())


def variance_shares(slope: Array, factors: Mapping[str, Array]) -> Shares:
    """Sequential shares: each factor's is the drop in residual variance when it joins a least-squares fit.

    Args:
        slope: (n,) per-item steerability.
        factors: name -> (n,) values, in the order they enter. For one balanced two-level factor the share is
            ((mean at A - mean at B) / 2)^2, up to n / (n - 1).
    """
    design = [np.ones_like(slope)]
    total = before = float(np.var(slope, ddof=1))
    explained: dict[str, float] = {}
    for name, values in factors.items():
        design.append(np.asarray(values, dtype=float))
        residual = slope - _fit(np.stack(design, 1), slope)[1]
        after = float(np.var(residual, ddof=1))
        explained[name], before = before - after, after
    return Shares(total, explained)


def factorial_fit(slope: Array, letter: Array, polarity: Array) -> dict[str, float]:
    """Cell-balanced fit slope = concept + letter a + polarity y + interaction a y, with a, y in {-1, +1}.

    "concept" is the steerability with letter and polarity balanced out.

    Raises:
        DataError: a factor that is not -1/+1, or a cell with fewer than 20 items: the factors cannot be told apart.
    """
    a, y = np.asarray(letter, float), np.asarray(polarity, float)
    if set(np.unique(a)) != {-1.0, 1.0} or set(np.unique(y)) != {-1.0, 1.0}:
        raise DataError(
            "letter and polarity must be -1 or +1, each present", given=(np.unique(a).tolist(), np.unique(y).tolist())
        )
    cells = {(i, j): int(((a == i) & (y == j)).sum()) for i in (-1, 1) for j in (-1, 1)}
    if min(cells.values()) < SMALLEST_CELL:
        raise DataError(
            "letter and polarity are not identifiable",
            given=cells,
            expected=f"at least {SMALLEST_CELL} items in each cell",
        )
    beta, _ = _fit(np.stack([np.ones_like(a), a, y, a * y], 1), slope)
    return dict(zip(TERMS, beta.tolist(), strict=True))


def concept_and_position(at_a: Array, at_b: Array) -> tuple[Array, Array]:
    """Order-free steerability and position bias of each item, from its slope with the matching option at A and at B."""
    return (at_a + at_b) / 2, (at_a - at_b) / 2


def leaning(values: Array, codes: Array, groups: Groups = None) -> tuple[float, float, float]:
    """Half the difference of the mean between items of code 1 and of code -1, with its 95 % interval: how far a model
    leans to a letter, or to Yes, whatever is asked.

    An item read in both orders of its options stands twice, with one group: what is its own cancels. The interval is
    that of a regression on the code with errors that go by group, Student's t.

    Args:
        values: (n,) propensity of the items in the unsteered model, NaN where not measured; codes: (n,) 1 where the
            matching answer is at A (begins with Yes), -1 where it is at B (with No), 0 where it is neither, which is
            left out.
        groups: the question of each item.
    """
    both, groups = known(np.stack([np.where(codes == 0, np.nan, values), codes], 1), groups)
    (y, c), own = both.T, members(groups, len(both))
    fewest = min(_holding(side, c, own) for side in (1, -1))
    if fewest < 2 or len(own) < 4:
        return float("nan"), float("nan"), float("nan")
    design = np.stack([np.ones_like(c), c], 1)
    beta, fitted = _fit(design, y)
    half = float(stats.t.ppf(0.975, len(own) - 2)) * float(_errors(design, y - fitted, own)[1])
    return float(beta[1]), float(beta[1] - half), float(beta[1] + half)


def _holding(code: int, codes: Array, own: Sequence[NDArray[np.intp]]) -> int:
    """How many groups hold an item of this code."""
    return sum(bool((codes[k] == code).any()) for k in own)


def _errors(design: Array, residual: Array, own: Sequence[NDArray[np.intp]]) -> Array:
    """Standard errors of coefficients that hold where spreads differ and items of a group go together: residuals as if
    the group had been left out (HC3 where every item is its own group).
    """
    inverse = np.linalg.pinv(design.T @ design)
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)

    def alone(k: NDArray[np.intp]) -> Array:
        if len(k) == 1:
            return design[k[0]] * (residual[k[0]] / max(1 - leverage[k[0]], 1e-12))
        return design[k].T @ np.linalg.pinv(np.eye(len(k)) - design[k] @ inverse @ design[k].T) @ residual[k]

    weighted = np.stack([alone(k) for k in own])
    return np.sqrt(np.diag(inverse @ (weighted.T @ weighted) @ inverse))


@dataclass(frozen=True)
class FactorFit:
    """A fit of slopes on letter and polarity, balanced over cells.

    Attributes:
        beta, se, p: "concept" (the steerability with both balanced out), "letter", "polarity", "interaction";
            heteroscedasticity-robust (HC3) standard errors, two-sided p-values.
        shares: order-free (Shapley) shares of the variance, of each factor and the interaction.
        omega2: the share all of them explain, without the part chance explains.
        freedom: degrees of freedom of the errors.
    """

    beta: Mapping[str, float]
    se: Mapping[str, float]
    p: Mapping[str, float]
    shares: Mapping[str, float]
    omega2: float
    freedom: int

    def interval(self, term: str) -> tuple[float, float]:
        """95 % interval of one coefficient (Student's t)."""
        half = float(stats.t.ppf(0.975, self.freedom)) * self.se[term]
        return self.beta[term] - half, self.beta[term] + half


def fit_factors(slope: Array, letter: Array, polarity: Array, groups: Groups = None) -> FactorFit:
    """Cell-balanced fit of `factorial_fit`, with standard errors (by group) and shares.

    Raises:
        DataError: as `factorial_fit`.
    """
    beta = factorial_fit(slope, letter, polarity)
    a, y = np.asarray(letter, float), np.asarray(polarity, float)
    columns = {"concept": np.ones_like(a), "letter": a, "polarity": y, "interaction": a * y}
    design = np.stack(list(columns.values()), 1)
    residual, own = slope - design @ np.array(list(beta.values())), members(groups, len(slope))
    se, freedom = _errors(design, residual, own), max(1, len(own) - 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(np.array(list(beta.values())) / se), freedom)
    factors = {k: columns[k] for k in TERMS[1:]}
    n, total = len(slope), float(((slope - slope.mean()) ** 2).sum())
    unexplained = float((residual**2).sum())
    mean_square = unexplained / (n - 4)
    omega2 = (total - unexplained - 3 * mean_square) / (total + mean_square) if total > 0 else float("nan")
    return FactorFit(
        beta,
        dict(zip(TERMS, se.tolist(), strict=True)),
        dict(zip(TERMS, p.tolist(), strict=True)),
        shapley_shares(slope, factors),
        omega2,
        n - 4,
    )


def shapley_shares(slope: Array, factors: Mapping[str, Array]) -> dict[str, float]:
    """Share of the variance of the slopes that each factor explains, averaged over all orders in which the factors may
    enter.
    """
    total = float(((slope - slope.mean()) ** 2).sum())
    names = list(factors)

    def explained(chosen: Iterable[str]) -> float:
        design = np.stack([np.ones_like(slope), *(np.asarray(factors[k], float) for k in chosen)], 1)
        return 1 - float(((slope - _fit(design, slope)[1]) ** 2).sum()) / total if total > 0 else float("nan")

    orders = list(permutations(names))
    shares: dict[str, float] = {}
    for k in names:
        gains = [explained(o[: o.index(k) + 1]) - explained(o[: o.index(k)]) for o in orders]
        shares[k] = float(np.mean(gains))
    return shares


def cells(slope: Array, metas: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, int]]:
    """Mean slope and number of items for each matching letter and polarity that occurs, such as "A, yes"."""
    by_cell: dict[str, list[float]] = {}
    for s, meta in zip(slope, metas, strict=True):
        if not np.isnan(s):
            cell = f"{meta.get('matching_letter', '-')}, {meta.get('polarity', 'none')}"
            by_cell.setdefault(cell, []).append(float(s))
    return {k: (float(np.mean(v)), len(v)) for k, v in sorted(by_cell.items())}


def codes(metas: Sequence[Mapping[str, Any]], key: str, high: str) -> Array:
    """+1 where `meta[key]` is `high`, else -1."""
    return np.array([1.0 if meta.get(key) == high else -1.0 for meta in metas])


def _fit(design: Array, y: Array) -> tuple[Array, Array]:
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    return beta, design @ beta


# ---------------------------------------------------------------- as published


def published_cells(slope: Array, metas: Sequence[Mapping[str, Any]], multipliers: int = 7) -> dict[str, float]:
    """Cell means the way the published figures have them: answers were stored for the unsteered model alone, and rows
    without one fell into "B, no",

    so that this group is its own items once and every item of the data set `multipliers` - 1 times more.
    """
    true = cells(slope, metas)
    means = {k: m for k, (m, _) in true.items()}
    mine, n = true.get("B, no", (0.0, 0))
    extra = (multipliers - 1) * len(slope)
    return {**means, "B, no": (mine * n + (multipliers - 1) * float(slope.sum())) / (n + extra)}


def corrected_cell(published: Mapping[str, float], counts: Mapping[str, int], multipliers: int = 7) -> float:
    """The true mean of "B, no" from the published means of all cells and their sizes."""
    n, extra = counts["B, no"], (multipliers - 1)
    others = sum(published[k] * c for k, c in counts.items() if k != "B, no")
    whole = published["B, no"] * (n + extra * sum(counts.values()))
    return (whole - extra * others) / (n * (1 + extra))
