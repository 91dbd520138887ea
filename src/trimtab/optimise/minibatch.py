"""train(): one vector from many preferences, a few at a time, through replays whose lower blocks were run once (Cao et al. 2024).

The composition of the batches is drawn once and their order anew in every epoch, so that the passes below the vector are kept from one epoch
to the next. The weights are frozen; gradients are taken with respect to the vector alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
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
from trimtab.optimise.problems import Place, Problem, adam, scheduled
from trimtab.optimise.store import Kept
from trimtab.vector import Provenance, SteeringVector

Progress = Callable[..., None]
Array = np.ndarray[Any, np.dtype[np.float64]]
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
        strength: train the direction and the logarithm of the norm as two parameters, instead of the coordinates.
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
    strength: bool = False

    def __post_init__(self) -> None:
        if not self.rate > 0 or min(self.batch, self.epochs, self.patience) < 1 or self.signs not in ("one", "batch", "example", "both"):
            raise LossError("not a training", given=asdict(self), expected="rate > 0; batch, epochs and patience >= 1; known signs")

    def rate_at(self, step: int, per_epoch: int) -> float:
        """Learning rate of an update, counted from 0."""
        span = (self.schedule_epochs or self.epochs) * per_epoch
        return scheduled(self.rate, step, self.warm, max(1, span - self.warm))


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
class Step:
    """One update: mean loss of its preferences and share on the right side of an unsteered model's (both of a subtracted vector's opposites), and the
    mean weight of their gradients (1 at the start, 0 where the loss is saturated; NaN but for "sigmoid" and "free")."""

    loss: float
    right: float
    weight: float


@dataclass(frozen=True)
class Trained:
    """The vector of the best epoch, all epochs, and all steps."""

    vector: SteeringVector
    best: int
    epochs: Sequence[Epoch] = field(default_factory=tuple)
    steps: Sequence[Step] = field(default_factory=tuple)

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
    to: str | Path | None = None,
    progress: Progress | None = None,
    save_every: float = 30.0,
) -> Trained:
    """Train one vector, from 0.

    Args:
        preferences: all with the vector added; the signs are for `how` to choose.
        held_out: preferences that choose the epoch; the training preferences where there are none.
        to: a file for the state (safetensors); if it is there, the training goes on from it. It must be of the same training.
        progress: called with (steps done, in all, the margins in words).
        save_every: seconds between two saves.

    Raises:
        LossError: no preferences, a loss that is not a number, a reference that is not that of multiplier 0, or a state of another training.
    """
    if not preferences or any(p.negated for p in preferences):
        raise LossError("nothing to train on", given=len(preferences), expected="preferences, none negated")
    problems = [Problem(replace(p, negated=d), place, tuple(constraints)) for d in (False, True) for p in preferences]
    problems[0].check(lm)
    about = {"name": "train", "training": asdict(how), "preferences": len(preferences), "layers": list(place.layers)}
    school = _School(lm, problems, how, _Watch(lm, held_out or preferences, place), progress)
    key = {
        "of": lm.facts,
        **about,
        "problems": [p.describe() for p in problems],
        "held out": [p.describe() for p in held_out],
    }
    kept = school.restore(Path(to), json.dumps(key, sort_keys=True)) if to is not None else None
    while not school.over:
        school.step()
        if kept is not None and (school.over or kept.due(save_every)):
            kept.write(*school.state())
    made = Provenance(lm.id, lm.revision, lm.fingerprint, {**about, "first": preferences[0].describe()}, version=version("trimtab"))
    return Trained(place.vector(school.best_v, made), school.best, tuple(school.epochs), tuple(school.steps))


class _School:
    """A training under way."""

    def __init__(self, lm: LM, problems: Sequence[Problem], how: Training, watch: _Watch, progress: Progress | None) -> None:
        self.problems, self.how, self.watch, self.progress = problems, how, watch, progress
        self.n = len(problems) // 2
        self.batches = np.array_split(np.random.default_rng(how.seed).permutation(self.n), math.ceil(self.n / how.batch))
        self.losses = Losses(lm, problems, 2 * how.batch, keep=len(self.batches))
        place = problems[0].place
        self.v = torch.zeros(len(place.first), 1 + 2 * place.rank, lm.width)
        self.adam, self.best, self.best_v = _AdamW(self.v, how), 0, self.v
        self.epochs, self.steps = list[Epoch](), list[Step]()
        watch.check_reference(self.v)

    @property
    def over(self) -> bool:
        done = len(self.epochs)
        return done == self.how.epochs or (done > 0 and done - 1 - self.best >= self.how.patience)

    def step(self) -> None:
        """One update; at the end of an epoch, a look at the margins."""
        how, t, per_epoch = self.how, len(self.steps), len(self.batches)
        epoch, b = divmod(t, per_epoch)
        chosen = self._drawn(epoch, b)
        found = self.losses.at(dict.fromkeys(chosen, self.v[None]), gradients=set(chosen))
        losses = np.array([float(found.terms[k][0][0]) for k in chosen])
        if not np.isfinite(losses).all():
            raise LossError(f"the loss is not a number in step {t + 1}", do="lower the rate, or cap the norm")
        gradient = torch.stack([found.gradients[k][0] for k in chosen]).mean(0)
        place, bounds = self.problems[0].place, self.problems[0].constraints
        self.v = projected(self.adam.step(self.v, gradient, how.rate_at(t, per_epoch)), bounds, place.first)
        self.steps.append(_told(losses, self.problems[0]))
        if b == per_epoch - 1:
            self.epochs.append(self.watch.epoch(self.v, float(np.mean([s.loss for s in self.steps[-per_epoch:]]))))
            if self.epochs[-1].margin > self.epochs[self.best].margin or epoch == 0:
                self.best, self.best_v = epoch, self.v.clone()
        if self.progress:
            seen = self.epochs[-1:] or None
            words = f"margins {seen[0].up:+.2f} {seen[0].down:+.2f}" if seen else f"loss {losses.mean():.3f}"
            self.progress(len(self.steps), how.epochs * per_epoch, words)

    def _drawn(self, epoch: int, b: int) -> list[int]:
        """The problems of batch b of an epoch; the draws of an epoch depend on the seed and its number alone, so a resumed training repeats them."""
        rng = np.random.default_rng([self.how.seed, epoch])
        order = rng.permutation(len(self.batches))
        signs = rng.integers(0, 2, (len(self.batches), self.how.batch))
        return _signed(self.batches[order[b]].tolist(), self.n, self.how.signs, signs[b].tolist())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        told = {"best": self.best, "t": self.adam.t, "epochs": [asdict(e) for e in self.epochs], "steps": [asdict(s) for s in self.steps]}
        return {"v": self.v, "best": self.best_v, "first": self.adam.first, "second": self.adam.second}, told

    def restore(self, path: Path, of: str) -> Kept:
        kept = Kept(path, of)
        found = kept.read()
        if found is not None:
            tensors, told = found
            self.v, self.best_v, self.best = tensors["v"], tensors["best"], told["best"]
            self.adam.first, self.adam.second, self.adam.t = tensors["first"], tensors["second"], told["t"]
            self.epochs, self.steps = [Epoch(**e) for e in told["epochs"]], [Step(**s) for s in told["steps"]]
        return kept


def _told(losses: Array, problem: Problem) -> Step:
    """A step from the losses of its preferences: the weight of a gradient is 1 - exp(-loss) of -log sigmoid, twice that to be 1 at the start."""
    (_, term), *_ = problem.goal.terms
    soft = isinstance(term, Prefer) and term.form in ("sigmoid", "free")
    even = {"sigmoid": math.log(2), "free": math.log(2), "hinge": 1.0}.get(term.form if isinstance(term, Prefer) else "", math.nan)
    right = float((losses < even).mean()) if math.isfinite(even) else math.nan
    return Step(float(losses.mean()), right, float(-2 * np.expm1(-losses).mean()) if soft else math.nan)


def _signed(batch: Sequence[int], n: int, signs: Signs, drawn: Sequence[int]) -> list[int]:
    """The problems of a step: k is preference k with the vector added, n + k with it subtracted."""
    if signs == "one":
        return list(batch)
    if signs == "both":
        return [*batch, *(n + k for k in batch)]
    return [k + n * drawn[j if signs == "example" else 0] for j, k in enumerate(batch)]


class _AdamW:
    """AdamW on the coordinates; or, for `strength`, on the direction and the logarithm of the norm, once there is a direction."""

    def __init__(self, v: Tensor, how: Training) -> None:
        self.how, self.t = how, 0
        self.first, self.second = (v.new_zeros(v.numel() + 1) for _ in range(2))

    def step(self, v: Float[Tensor, "l r d"], gradient: Float[Tensor, "l r d"], rate: float) -> Float[Tensor, "l r d"]:
        gradient = gradient * (self.how.clip / gradient.norm().clamp(min=self.how.clip))
        size = v.norm()
        apart = self.how.strength and float(size) > 0
        flat = gradient.flatten()
        if apart:
            along = (gradient * v).sum()  # d loss / d log size
            flat = (gradient - along * v / size**2).flatten() * size
        else:
            along = gradient.new_zeros(())
        self.t += 1
        self.first, self.second, move = adam(torch.cat([flat, along[None]]), self.first, self.second, self.t)
        turn = move[:-1].unflatten(0, v.shape)
        if not apart:
            return v * (1 - rate * self.how.decay) - rate * turn
        relative = rate * v.numel() ** 0.5 / size.clamp(min=rate * v.numel() ** 0.5)  # as fast as the coordinates would go
        turned = v / size - relative * turn / v.numel() ** 0.5
        return turned / turned.norm() * size * torch.exp(-relative * move[-1] - rate * self.how.decay)


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
