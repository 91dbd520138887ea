"""What is asked of the optimizer, and what it gives back: Problem and Result, and the values a problem is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab import registry
from trimtab.errors import LossError
from trimtab.model import LM, Layer, Positions, everywhere
from trimtab.optimize.constraints import Constraint
from trimtab.optimize.noise import Noise
from trimtab.optimize.objectives import Objective, Term
from trimtab.optimize.stopping import History, MaxSteps, Stopper
from trimtab.sites import EMBEDDINGS, RESID_POST, SITES
from trimtab.steering.interventions import Intervention
from trimtab.steering.operators import Add, Affine
from trimtab.steering.operators.base import Operator
from trimtab.steering.vector import Provenance, SteeringVector


@dataclass(frozen=True)
class Place:
    """Where and how the trained vector acts.

    Args:
        layers: one layer, or several that are trained together.
        operator: how it acts while it is trained; it may be applied with another one later.
        positions: at which tokens.
        rank: of the matrix, for `Affine`.
        shared: one vector for all layers; else each has its own.
        under: frozen interventions that act before it (vectors in tandem).
        site: "resid_post", or "embeddings": at what enters block 0 (no layers are given then).
        gain: the multiplier it acts with while it is trained (for `Clamp` the published clamp coefficient).
    """

    layers: tuple[Layer, ...] = ()
    operator: Operator = field(default_factory=Add)
    positions: Positions | str = everywhere
    rank: int = 0
    shared: bool = True
    under: tuple[Intervention, ...] = ()
    gain: float = 1.0
    site: str = RESID_POST

    def __post_init__(self) -> None:
        if self.site not in SITES or (self.site != RESID_POST and tuple(self.layers) not in ((), (EMBEDDINGS,))):
            raise LossError(
                "not a site",
                given=(self.site, self.layers),
                expected='"resid_post" with layers, or "embeddings" without',
            )
        object.__setattr__(self, "layers", tuple(sorted(self.layers)) if self.site == RESID_POST else (EMBEDDINGS,))
        object.__setattr__(self, "positions", Positions.parse(self.positions))
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise LossError("not a set of layers", given=self.layers, expected="at least one, none twice")
        if not math.isfinite(self.gain) or self.gain == 0:
            raise LossError("not a gain", given=self.gain, expected="a finite number other than 0")
        if self.rank < 0 or (self.rank > 0 and not isinstance(self.operator, Affine)):
            raise LossError(
                "only an affine map has a rank",
                given=(self.operator, self.rank),
                expected="operator=Affine() with rank >= 1",
            )

    @property
    def where(self) -> Positions:
        return Positions.parse(self.positions)

    @property
    def first(self) -> tuple[Layer, ...]:
        """The layer each trained vector acts at first."""
        return self.layers[:1] if self.shared else self.layers

    def rows(self, vector: SteeringVector) -> Float[Tensor, "l r d"]:
        """What is trained, of a vector: a matrix (1, d), or (1 + 2 rank, d), for each of `first`."""
        return torch.stack([vector[k].reshape(-1, vector.width) for k in self.first]).float()

    def vector(self, rows: Float[Tensor, "l r d"], made: Provenance | None = None) -> SteeringVector:
        """The vector of what was trained."""
        by_layer = {layer: rows[0 if self.shared else k] for k, layer in enumerate(self.layers)}
        return SteeringVector(
            {k: v if self.rank else v[0] for k, v in by_layer.items()}, made or Provenance(), site=self.site
        )


@dataclass(frozen=True)
class Start:
    """Where the descent begins: a random vector of a given norm (drawn from the seed), or a given one.

    Rows of an affine map start at norm 1.
    """

    norm: float = 1.0
    vector: SteeringVector | None = None
    seed: int = 0


@dataclass(frozen=True)
class Descent:
    """Adam (0.9, 0.999) over all terms at once.

    Args:
        rate: learning rate, per coordinate of the vector.
        stop: the first that fires ends the descent.
        noise: where around the vector the gradient is taken.
        schedule: "constant", or "cosine" to zero over `warm + over` steps.
        warm: steps of linear warm-up.
        over: steps of the cosine.
        clip: largest norm of a gradient.
        penalty: what the squared norm of the vector costs beside its losses (L2), in nats for each unit.
    """

    rate: float = 0.1
    stop: tuple[Stopper, ...] = (MaxSteps(50),)
    noise: Noise | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    warm: int = 0
    over: int = 100
    clip: float | None = None
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < math.inf:
            raise LossError("not a penalty", given=self.penalty, expected="a number >= 0")
        if not self.rate > 0:
            raise LossError("not a learning rate", given=self.rate, expected="a number > 0")
        if not any(isinstance(s, MaxSteps) for s in self.stop):
            raise LossError(
                "nothing is sure to end the descent", given=self.stop, expected="MaxSteps among the stoppers"
            )

    def rate_at(self, step: int) -> float:
        """Learning rate of an update, counted from 0."""
        return scheduled(self.rate, step, self.warm, self.over if self.schedule == "cosine" else None)


def scheduled(rate: float, step: int, warm: int, over: int | None) -> float:
    """Learning rate of an update, counted from 0: linear over `warm` steps, then constant, or a cosine to zero over
    `over` steps.
    """
    if step < warm:
        return rate * (step + 1) / warm
    return rate if over is None else rate * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / over)))


def adam(gradient: Tensor, first: Tensor, second: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both moments after update t (from 1), and the move to take times the learning rate (Adam, 0.9, 0.999)."""
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    return first, second, (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)


@dataclass(frozen=True)
class Problem:
    """One vector to optimize."""

    objective: Objective | Term
    place: Place
    constraints: tuple[Constraint, ...] = ()
    descent: Descent = field(default_factory=Descent)
    start: Start = field(default_factory=Start)

    @property
    def goal(self) -> Objective:
        return Objective.of(self.objective)

    def check(self, lm: LM) -> None:
        """Refuse what cannot be solved.

        Raises:
            ModelError: a layer the model does not have.
            LossError: a term that looks at layers the vector cannot change, or a start of another shape.
        """
        lm.places(list(self.place.layers))
        for _, term in self.goal.terms:
            lm.layers(list(term.reads))
            if any(layer <= self.place.layers[0] for layer in term.reads):
                raise LossError(
                    "a term looks at a layer the vector does not change",
                    given=f"reads {term.reads}, steers {self.place.layers}",
                    expected=f"layers above {self.place.layers[0]}",
                )
        given = self.start.vector
        if given is not None:
            shapes = {given[k].reshape(-1, given.width).shape for k in self.place.first}
            if shapes != {(1 + 2 * self.place.rank, lm.width)}:
                raise LossError(
                    "the start has another shape", given=sorted(shapes), expected=(1 + 2 * self.place.rank, lm.width)
                )

    def describe(self) -> dict[str, Any]:
        """The problem as plain JSON."""
        place = self.place
        return {
            "objective": self.goal.describe(),
            "layers": list(place.layers),
            "operator": registry.describe(place.operator),
            "positions": str(place.positions),
            "rank": place.rank,
            "shared": place.shared,
            "gain": place.gain,
            "site": place.site,
            "under": [iv.describe() for iv in place.under],
            "constraints": [_value(c) for c in self.constraints],
            "descent": _value(self.descent),
            "start": {
                "norm": self.start.norm,
                "seed": self.start.seed,
                "vector": self.start.vector.hash if self.start.vector else None,
            },
        }


@dataclass(frozen=True)
class Result:
    """What a problem found.

    Attributes:
        vector: the best vector it stood on (what its norm costs counted, where there is a penalty); the one at which a
            target was reached, if it stopped for that.
        loss: the weighted loss of this very vector, in nats, without a penalty.
        losses: the loss of each term at it, in the order of the objective.
        history: losses and norms of every vector it stood on.
        steps: updates made.
        reason: why it ended: the stopper, or what went wrong.
        reached: whether the target was reached; None if there was none.
        raw: the raw loss of each term at it, in nats: what a satisficing term compares with its level; else the same
            as `losses`.
        holds: whether output constraints hold, for a vector made shorter under them; None otherwise.
    """

    vector: SteeringVector
    loss: float
    losses: tuple[float, ...]
    history: History
    steps: int
    reason: str
    reached: bool | None
    holds: bool | None = None
    raw: tuple[float, ...] = ()

    def intervention(self, place: Place, multiplier: float = 1.0) -> Intervention:
        """The vector as it was trained: same operator, same positions, and the gain times `multiplier`."""
        return Intervention(self.vector, place.operator, multiplier * place.gain, place.positions)

    def describe(self) -> Mapping[str, Any]:
        """Headline figures."""
        norm = {str(k): n for k, n in self.vector.norm().items()}
        return {
            "loss": self.loss,
            "losses": list(self.losses),
            "raw": list(self.raw),
            "steps": self.steps,
            "reason": self.reason,
            "reached": self.reached,
            "norm": norm,
        }


def _value(x: Any) -> Any:
    name = type(x).__name__
    fields = asdict(x) if not hasattr(x, "to") else {"to": [v.hash for v in x.to]}
    table = {k: _plain(v) for k, v in fields.items()}
    if isinstance(x, Descent):
        table["stop"] = [_value(s) for s in x.stop]
        table["noise"] = None if x.noise is None else _value(x.noise)
    return {"name": name, **table}


def _plain(v: Any) -> Any:
    return v if v is None or isinstance(v, str | int | float | bool | list | dict) else str(v)
