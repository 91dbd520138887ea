"""Under what an answer was given, as a value: pages and statistics ask it, and never take its label apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Condition:
    """What was done to the model.

    Attributes:
        kind: "unsteered", or the family of vectors: "promote", "random", "mean difference", ...; or what was done
            instead ("prefill attack").
        source: which of the family: the number of the example it was learned from, for instance.
        norm: where vectors of several norms are told apart.
        layer: where vectors of several layers are.
        how: how it acts, where it is not simply added: "subtracted", "clamped", "in tandem".
        strength: the multiplier, where several are told apart.
        behind: what the prompt ends in, such as "suffix".
        label: for people, and the name in files.
    """

    kind: str
    source: str = ""
    norm: float | None = None
    layer: int | None = None
    how: str = ""
    strength: float | None = None
    behind: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self._words())

    def __str__(self) -> str:
        return self.label

    def _words(self) -> str:
        name = " ".join(filter(None, (self.kind, self.source)))
        name += f" at {self.layer}" if self.layer is not None else ""
        return name + (f", {self.how}" if self.how else "")

    def but(self, **changes: Any) -> Condition:
        """The same but for some of it, with a label to match."""
        return replace(self, **{"label": "", **changes})

    def at(self, strength: float) -> Condition:
        """The same at one multiplier of several."""
        return replace(self, strength=strength, label=f"{self.label} at {strength:g}")

    @property
    def alone(self) -> bool:
        """Nothing but added, at the usual strength, to a plain prompt."""
        return not self.how and self.strength is None and not self.behind


UNSTEERED = Condition("unsteered")

Said = dict[tuple[str, Condition], list[str]]  # (prompt, condition): the answers


def texts_of(said: Said, condition: Condition) -> list[str]:
    """All answers under one condition, question by question."""
    return [t for (_, c), texts in said.items() if c == condition for t in texts]


def texts_at(said: Said, strength: float | None) -> list[str]:
    """All answers under conditions of one strength; None: of those that have none."""
    return [t for (_, c), texts in said.items() if c.strength == strength for t in texts]


def conditions_of(said: Iterable[tuple[str, Condition]]) -> list[Condition]:
    """Those of some answers, in their order."""
    return list(dict.fromkeys(c for _, c in said))
