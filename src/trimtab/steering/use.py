"""Use: how a vector is to be used, and what a dose of it does. It travels in the vector's file. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trimtab.errors import VectorError
from trimtab.journal import plain

UNMEASURED = "No dose was measured: multiplier 1 is the vector as it was learned."
POSITIONS = "from_last_prompt_token"  # what is steered unless said otherwise: prompts are read once, and caches hold


@dataclass(frozen=True)
class DosePoint:
    """What one multiplier does.

    Attributes:
        relative: |m v| over the median |h| at the layer; the largest, where the vector acts at several.
        drift: KL of the steered from the unsteered model along the latter's own answers, nats per token.
        broken: share of answers that are no longer text; that of the unsteered model is `Dose.broken`.
        strangeness: mean -log p per token of the answers under the unsteered model, less that of its own answers.
        distinct: different pairs of words over all pairs of words of the answers.
        propensity, lo, hi: mean rise over held-out items, with its 95 % interval; None without items.
        control: the largest |mean change| of the controls at this multiplier; None without items.
    """

    multiplier: float
    relative: float
    drift: float
    broken: float
    strangeness: float | None
    distinct: float | None
    propensity: float | None = None
    lo: float | None = None
    hi: float | None = None
    control: float | None = None

    @property
    def beats_controls(self) -> bool | None:
        """Whether the whole interval of the rise is above 0 and beyond every control; None where nothing was
        measured.
        """
        if self.propensity is None or self.lo is None or self.control is None:
            return None
        return self.lo > max(0.0, self.control)


@dataclass(frozen=True)
class Dose:
    """Multipliers against what they do: the price list of a vector.

    Attributes:
        points: by multiplier, from weak to strong.
        broken: share of the unsteered model's answers that are no text.
        distinct: of the unsteered model's answers.
        prompts, tokens: how many answers, of how many tokens at most, the text was looked at in.
        items, questions: held-out items of the propensity, and independent questions among them; 0 without.
        unit: of the propensity.
        data: name of the items.
        controls: names of the vectors without the behavior in them.
        seed: of sampling.
    """

    points: tuple[DosePoint, ...]
    broken: float
    distinct: float | None
    prompts: int
    tokens: int
    items: int = 0
    questions: int = 0
    unit: str = ""
    data: str = ""
    controls: tuple[str, ...] = ()
    seed: int = 0

    def at(self, multiplier: float) -> DosePoint | None:
        """The point nearest to a multiplier; None beyond the strongest."""
        inside = [p for p in self.points if p.multiplier >= multiplier] and self.points
        return min(inside, key=lambda p: abs(p.multiplier - multiplier), default=None)


@dataclass(frozen=True)
class Use:
    """How a vector is to be used: what `steer`, `chat` and `measure` do with it unless told otherwise.

    Attributes:
        layers: where it acts.
        multiplier: the recommended dose.
        positions, operator, gate: which tokens, how, when.
        ship: the weakest multiplier that beats its controls, and the strongest that keeps the text whole; None if
            there is no such range, or nobody measured.
        why: how layer and multiplier were chosen, or why they could not be, in sentences.
        dose: what each multiplier does; None if nobody measured.
    """

    layers: tuple[int, ...]
    multiplier: float = 1.0
    positions: str = POSITIONS
    operator: Mapping[str, Any] = field(default_factory=lambda: {"name": "add"})
    gate: Mapping[str, Any] = field(default_factory=lambda: {"name": "always"})
    ship: tuple[float, float] | None = None
    why: tuple[str, ...] = ()
    dose: Dose | None = None

    @property
    def grid(self) -> tuple[float, ...]:
        """Multipliers to measure it at: up to the recommended one, both ways; none if its dose is not known."""
        m = self.multiplier
        return () if self.dose is None or m == 0 else tuple(sorted((-m, -m / 2, 0.0, m / 2, m)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what was not measured is left out."""
        return plain(self)

    @classmethod
    def from_json(cls, table: Any, name: str) -> Use:
        """What `to_json` gave.

        Raises:
            VectorError: of another shape.
        """
        try:
            return msgspec.convert(table, cls)
        except msgspec.ValidationError as problem:
            raise VectorError(
                f"{name}: its recommended use cannot be read", given=str(problem), do="learn the vector again"
            ) from problem


def ranges(layers: Iterable[int]) -> str:
    """Block numbers, neighbors as ranges: "3, 7-9"."""
    runs: list[list[int]] = []
    for k in layers:
        if runs and k == runs[-1][-1] + 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
