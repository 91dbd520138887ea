"""When a descent ends. Stoppers look at its history and at nothing else, so a resumed one ends where it would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from trimtab.errors import LossError


@dataclass
class History:
    """What a descent has seen: at every vector it stood on, the weighted loss and the loss of each term (nats), and the
    norm.

    Attributes:
        targets: the target of each term, or None.
        raw: the raw loss of each term, where a term aims at a level of another.
        vectors: every vector it stood on, (l, r, d), where they were asked for.
        penalty: what a squared norm costs beside the loss.
    """

    targets: tuple[float | None, ...] = ()
    totals: list[float] = field(default_factory=list[float])
    losses: list[list[float]] = field(default_factory=list[list[float]])
    norms: list[float] = field(default_factory=list[float])
    raw: list[list[float]] = field(default_factory=list[list[float]])
    vectors: list[Tensor] = field(default_factory=list[Tensor])
    penalty: float = 0.0

    def worth(self, at: int) -> float:
        """The weighted loss of a vector it stood on, and what its norm costs: what is minimized."""
        return self.totals[at] + (self.penalty * self.norms[at] ** 2 if self.penalty else 0.0)

    @property
    def steps(self) -> int:
        """Updates made so far: the first entry is the start."""
        return len(self.totals) - 1


class Stopper:
    """A reason to end."""

    reaches = False  # whether the vector it stops at is the one that was asked for

    def done(self, history: History) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class MaxSteps(Stopper):
    """After so many updates."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise LossError("not a number of steps", given=self.steps, expected="0 or more")

    def done(self, history: History) -> bool:
        return history.steps >= self.steps


@dataclass(frozen=True)
class Target(Stopper):
    """When the loss is low enough, `patience` times in a row.

    Args:
        loss: the level, in nats. In the mode "sum" the weighted sum must be at or below it. In the mode "each" every
            term must be at or below its own target, or this level if it has none.
    """

    loss: float | None = None
    each: bool = False
    patience: int = 1
    reaches = True

    def __post_init__(self) -> None:
        if self.loss is None and not self.each:
            raise LossError(
                "a target needs a level", given=self, expected="loss in nats, or each=True and terms with targets"
            )

    def done(self, history: History) -> bool:
        return _in_a_row([self._low(history, k) for k in range(len(history.totals))][-self.patience :], self.patience)

    def _low(self, history: History, k: int) -> bool:
        if not self.each:
            return self.loss is not None and history.totals[k] <= self.loss
        levels = [self.loss if t is None else t for t in history.targets]
        if all(level is None for level in levels):
            return False
        return all(level is None or loss <= level for level, loss in zip(levels, history.losses[k], strict=True))


@dataclass(frozen=True)
class Plateau(Stopper):
    """When what is minimized changed by less than `change` nats, `patience` times in a row."""

    change: float = 1e-6
    patience: int = 1

    def done(self, history: History) -> bool:
        t = [history.worth(k) for k in range(len(history.totals))]
        return _in_a_row([abs(b - a) < self.change for a, b in pairwise(t)][-self.patience :], self.patience)


def stopped_by(stoppers: Sequence[Stopper], history: History) -> Stopper | None:
    """The first stopper that says so."""
    return next((s for s in stoppers if s.done(history)), None)


def _in_a_row(hits: Sequence[bool], n: int) -> bool:
    return len(hits) == n and all(hits)
