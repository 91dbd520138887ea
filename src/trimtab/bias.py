"""Spurious factors of steerability: answer letter and polarity (Tan et al. 2024, sections 4-5). Numpy only.

Factors come from an item's metadata (`matching_letter`, `polarity`), never from its rendered text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.datasets import Pair, as_choice
from trimtab.errors import DataError

Array = NDArray[np.floating[Any]]
SMALLEST_CELL = 20


@dataclass(frozen=True)
class Shares:
    """Variance of the slopes that factors explain, in absolute units: the published sequential split, first factor first."""

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
        raise DataError("letter and polarity must be -1 or +1, each present", given=(np.unique(a).tolist(), np.unique(y).tolist()))
    cells = {(i, j): int(((a == i) & (y == j)).sum()) for i in (-1, 1) for j in (-1, 1)}
    if min(cells.values()) < SMALLEST_CELL:
        raise DataError("letter and polarity are not identifiable", given=cells, expected=f"at least {SMALLEST_CELL} items in each cell")
    beta, _ = _fit(np.stack([np.ones_like(a), a, y, a * y], 1), slope)
    return dict(zip(("concept", "letter", "polarity", "interaction"), beta.tolist(), strict=True))


def swapped(pair: Pair) -> Pair:
    """The same A/B question with its options in the other order, the behavior-matching one at the other letter.

    Raises:
        DataError: not an A/B question made by trimtab's converters.
    """
    letter = pair.meta.get("matching_letter")
    lines = pair.prompt.rsplit("\n\nChoices:\n", 1)
    options = [line.partition(": ")[2] for line in lines[-1].splitlines()]
    if letter not in ("A", "B") or len(lines) != 2 or len(options) != 2 or not all(options):
        raise DataError("cannot swap the options of this item", given=pair.prompt[-120:], expected="two lines '(A): ...' and '(B): ...'")
    matching, other = options if letter == "A" else options[::-1]
    return as_choice(Pair(lines[0], matching, other, pair.meta), "B" if letter == "A" else "A")


def concept_and_position(at_a: Array, at_b: Array) -> tuple[Array, Array]:
    """Order-free steerability and position bias of each item, from its slope with the matching option at A and at B."""
    return (at_a + at_b) / 2, (at_a - at_b) / 2


def codes(pairs: Sequence[Pair], key: str, high: str) -> Array:
    """+1 where `meta[key]` is `high`, else -1."""
    return np.array([1.0 if p.meta.get(key) == high else -1.0 for p in pairs])


def _fit(design: Array, y: Array) -> tuple[Array, Array]:
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    return beta, design @ beta
