"""train(): one vector from many preferences, a few at a time, through replays whose lower blocks were run once (Cao et al. 2024).

The composition of the batches is drawn once and their order anew in every epoch, so that the passes below the vector are kept from one epoch
to the next. The weights are frozen; gradients are taken with respect to the vector alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import LossError
from trimtab.model import LM
from trimtab.optimise.constraints import Constraint, projected
from trimtab.optimise.losses import Losses
from trimtab.optimise.objectives import Prefer
from trimtab.optimise.problems import Place, Problem, adam
from trimtab.vector import Provenance, SteeringVector

Progress = Callable[..., None]
Signs = Literal["one", "batch", "example", "both"]


@dataclass(frozen=True)
class Training:
    """AdamW (0.9, 0.999) on batches of preferences.

    Args:
        rate: learning rate, per coordinate.
        batch: preferences a step.
        epochs: when to stop.
        schedule_epochs: the span of the cosine, `epochs` by default. The published runs stop a cosine of 100 epochs after 5 to 20.
        warm: steps of linear warm-up.
        decay: weight decay.
        clip: largest norm of a gradient.
        signs: "one" (uni-directional: the vector is added), "batch" (added or subtracted, drawn for every batch, as published), "example" (drawn for
            every preference), or "both" (exact: the mean over both).
        patience: epochs without a better margin on the validation preferences after which it ends.
        seed: of the batches, their order and the signs.
    """

    rate: float
    batch: int = 4
    epochs: int = 20
    schedule_epochs: int | None = None
    warm: int = 100
    decay: float = 0.0
    clip: float = 1.0
    signs: Signs = "both"
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rate > 0 or min(self.batch, self.epochs, self.patience) < 1 or self.signs not in ("one", "batch", "example", "both"):
            raise LossError("not a training", given=asdict(self), expected="rate > 0; batch, epochs and patience >= 1; known signs")

    def rate_at(self, step: int, per_epoch: int) -> float:
        """Learning rate of an update, counted from 0."""
        span = (self.schedule_epochs or self.epochs) * per_epoch
        if step < self.warm:
            return self.rate * (step + 1) / self.warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warm) / max(1, span - self.warm))))


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: mean training loss; on the validation preferences the mean margin (nats) with the vector added, with it subtracted
    (of the opposite answers), and the share of preferences whose margin is above 0 both ways; the norm."""

    loss: float
    up: float
    down: float
    right: float
    norm: float

    @property
    def margin(self) -> float:
        """What is compared between epochs."""
        return (self.up + self.down) / 2


@dataclass(frozen=True)
class Trained:
    """The vector of the best epoch, and all epochs."""

    vector: SteeringVector
    best: int
    epochs: Sequence[Epoch] = field(default_factory=tuple)
    steps: Sequence[float] = field(default_factory=tuple)

    def describe(self) -> dict[str, Any]:
        e = self.epochs[self.best]
        return {"loss": e.loss, "steps": len(self.steps), "epoch": self.best + 1, "margin up": e.up, "margin down": e.down, "right": e.right}


def train(
    lm: LM,
    preferences: Sequence[Prefer],
    place: Place,
    how: Training,
    *,
    held_out: Sequence[Prefer] = (),
    constraints: Sequence[Constraint] = (),
    progress: Progress | None = None,
) -> Trained:
    """Train one vector, from 0.

    Args:
        preferences: all with the vector added; the signs are for `how` to choose.
        held_out: preferences that choose the epoch; the training preferences where there are none.
        progress: called with (steps done, in all, the margins in words).

    Raises:
        LossError: no preferences, a loss that is not a number, or a reference that is not that of multiplier 0.
    """
    if not preferences or any(p.negated for p in preferences):
        raise LossError("nothing to train on", given=len(preferences), expected="preferences, none negated")
    n, watch = len(preferences), _Watch(lm, held_out or preferences, place)
    problems = [Problem(p, place) for p in preferences] + [Problem(replace(p, negated=True), place) for p in preferences]
    problems[0].check(lm)
    rng = np.random.default_rng(how.seed)
    batches = np.array_split(rng.permutation(n), math.ceil(n / how.batch))
    losses = Losses(lm, problems, 2 * how.batch, keep=len(batches))
    v = torch.zeros(len(place.first), 1 + 2 * place.rank, lm.width)
    watch.check_reference(v)
    adam, seen, steps = _AdamW(v), list[Epoch](), list[float]()
    best, best_v = 0, v
    for epoch in range(how.epochs):
        mean = 0.0
        for b in rng.permutation(len(batches)):
            chosen = _signed(batches[b].tolist(), n, how.signs, rng)
            found = losses.at(dict.fromkeys(chosen, v[None]), gradients=set(chosen))
            loss = float(np.mean([float(found.terms[k][0][0]) for k in chosen]))
            if not math.isfinite(loss):
                raise LossError(f"the loss is not a number in step {len(steps) + 1}", do="lower the rate, or cap the norm")
            gradient = torch.stack([found.gradients[k][0] for k in chosen]).mean(0)
            v = projected(adam.step(v, gradient, how, how.rate_at(len(steps), len(batches))), tuple(constraints), place.first)
            steps.append(loss)
            mean += loss / len(batches)
            if progress:
                words = f"margins {seen[-1].up:+.2f} {seen[-1].down:+.2f}" if seen else f"loss {loss:.3f}"
                progress(len(steps), how.epochs * len(batches), words)
        seen.append(watch.epoch(v, mean))
        if seen[-1].margin > seen[best].margin or epoch == 0:
            best, best_v = epoch, v.clone()
        if epoch - best >= how.patience:
            break
    about = {"name": "train", "training": asdict(how), "preferences": n, "first": preferences[0].describe(), "layers": list(place.layers)}
    made = Provenance(lm.id, lm.revision, lm.fingerprint, about, version=version("trimtab"))
    return Trained(place.vector(best_v, made), best, tuple(seen), tuple(steps))


def _signed(batch: Sequence[int], n: int, signs: Signs, rng: np.random.Generator) -> list[int]:
    """The problems of a step: k is preference k with the vector added, n + k with it subtracted."""
    if signs == "one":
        return list(batch)
    if signs == "both":
        return [*batch, *(n + k for k in batch)]
    drawn = rng.integers(0, 2, 1 if signs == "batch" else len(batch))
    return [k + n * int(drawn[j % len(drawn)]) for j, k in enumerate(batch)]


class _AdamW:
    def __init__(self, v: Tensor) -> None:
        self.first, self.second, self.t = torch.zeros_like(v), torch.zeros_like(v), 0

    def step(self, v: Float[Tensor, "l r d"], gradient: Float[Tensor, "l r d"], how: Training, rate: float) -> Float[Tensor, "l r d"]:
        gradient = gradient * (how.clip / gradient.norm().clamp(min=how.clip))
        self.t += 1
        self.first, self.second, move = adam(gradient, self.first, self.second, self.t)
        return v * (1 - rate * how.decay) - rate * move


class _Watch:
    """Margins on the preferences that choose the epoch."""

    def __init__(self, lm: LM, preferences: Sequence[Prefer], place: Place) -> None:
        up = [Problem(replace(p, form="margin"), place) for p in preferences]
        down = [Problem(replace(p, form="margin", negated=True), place) for p in preferences]
        self.n, self.losses = len(up), Losses(lm, [*up, *down], 16)

    def margins(self, v: Tensor) -> Float[Tensor, "two n"]:
        """Margin of every preference with the vector added, and of its opposite with it subtracted."""
        found = self.losses.at(dict.fromkeys(range(2 * self.n), v[None]), gradients=set()).terms
        return -torch.stack([found[k][0][0] for k in range(2 * self.n)]).cpu().unflatten(0, (2, self.n))

    def epoch(self, v: Tensor, loss: float) -> Epoch:
        up, down = self.margins(v)
        return Epoch(loss, float(up.mean()), float(down.mean()), float(((up > 0) & (down > 0)).float().mean()), float(v[:, 0].norm()))

    def check_reference(self, v: Tensor) -> None:
        """At 0 every margin must be 0."""
        worst = float(self.margins(v).abs().max())
        if not worst <= 0.05:
            raise LossError("the reference is not that of multiplier 0", given=f"a margin of {worst:.3g} nats at the start", expected="0")
