"""The verdict: one decision table, one vocabulary, for every command that says whether a vector works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.statistics.intervals import Figure

Kind = Literal[
    "no verdict",
    "too few items",
    "no measurable effect",
    "not beyond controls",
    "breaks the text",
    "does no more than asking in words",
    "works backwards",
    "works",
]
ALPHA = 0.05
FEWEST = 10  # independent questions below which nothing is said
# per multiplier: an even choice moves to 51 %; every token of an answer becomes 1 % likelier
FLOORS = {"nats": 0.05, "nats/token": 0.01}
BROKEN = 0.5  # share of answers that break, beyond those of the unsteered model


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        slope: mean slope over the test items, with its interval over questions.
        questions: independent ones that were measured.
        p: of the vector's forecast slope against null vectors that could choose their layer as it could; NaN if there
            are none.
        control: the largest |mean slope| of a measured control; NaN if none was measured.
        readable: whether the measure says anything about this model (letters that carry something).
        broken: share of texts that break at the multiplier the claim is about, beyond the unsteered model's; NaN if
            none were looked at.
        gain: largest mean rise of propensity at a positive multiplier whose text holds.
        asked: mean rise by asking for the behavior in words, with its interval; None if nobody asked.
        foreseen: the slope that p is about; NaN if it is not known.
    """

    slope: Figure
    questions: int
    p: float
    control: float
    readable: bool = True
    broken: float = float("nan")
    gain: float = float("nan")
    asked: Figure | None = None
    foreseen: float = float("nan")

    @property
    def floor(self) -> float:
        """The least slope that counts as an effect, in the unit of the propensity."""
        return FLOORS.get(self.slope.unit.removesuffix(" per multiplier"), 0.0)


def decide(e: Evidence) -> Kind:
    """The first line of the decision table that holds (docs/statistics.md).

    Works, in either direction, is only said of a mean slope that is told from 0, at least as large as the floor,
    beyond null vectors of every kind (p at most 0.05, forecast), in the direction of that forecast, and beyond every
    measured control.
    """
    if not e.readable:
        return "no verdict"
    if e.questions < FEWEST or np.isnan([e.slope.value, e.slope.lo, e.slope.hi]).any():
        return "too few items"
    if e.slope.lo <= 0 <= e.slope.hi or abs(e.slope.value) < e.floor:
        return "no measurable effect"
    if np.isnan(e.p):
        return "no verdict"
    if e.p > ALPHA or abs(e.slope.value) <= e.control or e.foreseen * e.slope.value < 0:
        return "not beyond controls"
    if e.broken > BROKEN:
        return "breaks the text"
    if e.slope.value < 0:
        return "works backwards"
    if e.asked is not None and e.asked.lo > 0 and e.gain <= e.asked.value:
        return "does no more than asking in words"
    return "works"
