"""What vectors without the behavior in them reach: p-values against many of them, fair to a layer that was chosen, and
to many tests at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trimtab.statistics.intervals import Array

DRAWS = 499  # null vectors of a kind that are forecast
LEAST = 199  # fewer settle nothing: a kind with less is told, and not tested against
TOGETHER = "all"  # the layer of a vector that acts at several at once


@dataclass(frozen=True)
class Null:
    """Forecast mean slopes of null vectors of one kind, at every layer the vector could have been put at.

    A vector is put at the layer that suits it best, so a null vector is given the same choice: what counts is the
    largest of its slopes over the layers, each in units of what nulls reach at that layer (slopes grow with the norm
    of the stream; unscaled, the last layers would decide alone).

    Attributes:
        kind: "random" (isotropic), "span" (random in the span of the training differences, orthogonal to their mean),
            "shuffled" (labels drawn by coin).
        scale: layer -> root mean square of the slopes there.
        largest: of every null vector, its largest |slope| / scale over the layers.
        tries: how many layers that is.
    """

    kind: str
    scale: Mapping[str, float]
    largest: tuple[float, ...]
    tries: int = 1

    @classmethod
    def of(cls, kind: str, layers: Sequence[Any], slopes: Array) -> Null:
        """From the slopes of m null vectors at l layers, (m, l)."""
        scale = np.sqrt((slopes**2).mean(0))
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(scale > 0, np.abs(slopes) / scale, 0.0)
        return cls(
            kind,
            {str(k): float(s) for k, s in zip(layers, scale, strict=True)},
            tuple(relative.max(1).tolist()),
            len(layers),
        )

    def p(self, slope: float, layer: Any) -> float:
        """Two-sided p-value of a vector's forecast mean slope at its layer; NaN if nothing moves the model there, or
        for a layer not looked at.
        """
        scale = self.scale.get(str(layer), 0.0)
        return null_p(slope / scale, self.largest) if scale > 0 and not np.isnan(slope) else float("nan")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Null:
        return cls(table["kind"], dict(table["scale"]), tuple(table["largest"]), table["tries"])


@dataclass(frozen=True)
class Compared:
    """A vector's mean slope at its layer, forecast or measured, and what null vectors reach on the same items.

    Attributes:
        layer: where it acts, or "all" of its layers together.
        slope: its mean slope over these items, in the unit of the propensity per multiplier.
        how: "forecast" or "measured".
    """

    layer: str
    slope: float
    items: int
    how: str
    nulls: tuple[Null, ...]

    @property
    def tested(self) -> tuple[Null, ...]:
        """The kinds that were drawn often enough to settle something."""
        return tuple(n for n in self.nulls if len(n.largest) >= LEAST)

    def beside(self, kind: str) -> float:
        """The p-value beside one kind of null vectors; NaN where none were drawn, or nothing moves the model."""
        return next((n.p(self.slope, self.layer) for n in self.tested if n.kind == kind), float("nan"))

    @property
    def decisive(self) -> str:
        """The kind that decides: label-shuffled vectors are exchangeable with a vector that was learned from pairs if
        the sides of these say nothing; a vector that brought none is compared with random directions.
        """
        kinds = {n.kind for n in self.tested}
        return next((kind for kind in ("shuffled", "random") if kind in kinds), "")

    @property
    def p(self) -> float:
        """The p-value beside the kind that decides; NaN without any, or where nothing moves the model."""
        return self.beside(self.decisive)

    def to_json(self) -> dict[str, Any]:
        facts = {"layer": self.layer, "slope": self.slope, "items": self.items, "how": self.how}
        return {**facts, "nulls": [n.to_json() for n in self.nulls]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Compared:
        return cls(
            table["layer"],
            table["slope"],
            table["items"],
            table["how"],
            tuple(Null.from_json(n) for n in table["nulls"]),
        )


def null_p(observed: float, nulls: Sequence[float]) -> float:
    """Two-sided p-value of a slope against those of null vectors: (1 + how many are as large) / (1 + how many).

    As large is what differs by no more than rounding: a null that is plus or minus the vector itself is a tie.
    """
    return (1 + sum(abs(x) >= abs(observed) * (1 - 1e-5) for x in nulls)) / (1 + len(nulls))


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values: reject those at most q to keep the share of false discoveries at q (Benjamini & Hochberg
    1995). NaN stays NaN.
    """
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    m = len(order)
    least = 1.0
    for rank, k in zip(range(m, 0, -1), order[::-1], strict=True):
        least = min(least, float(p[k]) * m / rank)
        out[k] = least
    return out
