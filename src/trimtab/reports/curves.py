"""What a report draws: propensity curves, side effects, layers, texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.statistics.intervals import Array
from trimtab.statistics.slopes import Slopes


@dataclass(frozen=True)
class Curve:
    """Propensity of one condition: items x multipliers, and the line through each item.

    `lo`, `hi` bound the mean over items; `low_change`, `high_change` the mean change from the unsteered model, item
    by item. Items that were not measured at every multiplier are not among `items`; `unmeasured` says how many.
    `groups` is the question of each item.
    """

    condition: str
    multipliers: Array
    items: Sequence[str]
    groups: Sequence[str]
    values: Array
    slopes: Slopes
    lo: Array
    hi: Array
    low_change: Array
    high_change: Array
    unmeasured: int = 0

    @property
    def mean(self) -> Array:
        return self.values.mean(0)

    @property
    def questions(self) -> int:
        """Independent ones."""
        return len(set(self.groups))


@dataclass(frozen=True)
class SideEffect:
    """Mean of one metric (by its label, and its name) of one condition over the multipliers, with its interval."""

    metric: str
    name: str
    unit: str
    condition: str
    multipliers: Array
    mean: Array
    lo: Array
    hi: Array
    n: int


@dataclass(frozen=True)
class LayerPoint:
    """Mean slope at one layer of a sweep."""

    layer: int
    slope: float
    lo: float
    hi: float


@dataclass(frozen=True)
class TextPoint:
    """Share of the answers at one multiplier that have broken (`quality.py`)."""

    multiplier: float
    broken: float
    n: int
