"""train(): one vector from many terms (preferences, or texts to promote and suppress), a few at a time, through replays
whose lower blocks were run once (Cao et al. 2024; the minibatches of Dunefsky & Cohan 2025).

The composition of the batches is drawn once and their order anew in every epoch, so that the passes below the vector
are kept from one epoch to the next. The weights are frozen; gradients are taken with respect to the vector alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
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
from trimtab.optimize.constraints import Constraint, projected
from trimtab.optimize.losses import Losses
from trimtab.optimize.objectives import Term
from trimtab.optimize.preferences import Prefer
from trimtab.optimize.problems import Place, Problem, adam, scheduled
from trimtab.optimize.store import Kept
from trimtab.progress import Progress
from trimtab.steering.vector import Provenance, SteeringVector

Array = np.ndarray[Any, np.dtype[np.float64]]
Signs = Literal["one", "batch", "example", "both"]


@dataclass(frozen=True)
class Training:
    """AdamW (0.9, 0.999) on batches of terms.

    Args:
        rate: learning rate, per coordinate.
        batch: terms a step.
        epochs: when to stop.
        schedule_epochs: the span of the cosine, `epochs` by default. The published runs stop a cosine of 100 epochs
            after 5 to 20.
        warm: steps of linear warm-up.
        cold: the warm-up begins at 0, so that the first update moves nothing (as published).
        schedule: "cosine", or "constant" behind the warm-up.
        decay: weight decay.
        clip: largest norm of a gradient.
        signs: "one" (uni-directional: the vector is added), "batch" (added or subtracted, drawn for every batch, as
            published), "example" (drawn for every preference), or "both" (exact: the mean over both).
        patience: epochs without a better margin on the validation preferences after which it ends.
        seed: of the batches, their order and the signs.
        keep: the vector of the "best" epoch looked at, or the "last" (as published).
        sample: most terms that are watched, spread evenly over those there are.
        every: steps at least between two looks at them; there is one at the end.
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
    cold: bool = False
    schedule: Literal["cosine", "constant"] = "cosine"
    keep: Literal["best", "last"] = "best"
    sample: int = 32
    every: int = 20

    @classmethod
    def published(cls, **changes: Any) -> Training:
        """The settings of the published runs as executed: rate 5e-4 per coordinate, a warm-up of 100 steps from 0, a
        cosine over 100 epochs, one sign a batch, no weight decay (it is never forwarded to the optimizer), and the
        last vector.
        """
        settings = cls(
            5e-4,
            batch=4,
            epochs=20,
            schedule_epochs=100,
            warm=100,
            cold=True,
            signs="batch",
            keep="last",
            patience=10**6,
        )
        return replace(settings, **changes)

    def __post_init__(self) -> None:
        least = min(self.batch, self.epochs, self.patience, self.sample, self.every)
        known = (
            self.signs in ("one", "batch", "example", "both")
            and self.schedule in ("cosine", "constant")
            and self.keep in ("best", "last")
        )
        if not self.rate > 0 or least < 1 or not known:
            raise LossError(
                "not a training",
                given=asdict(self),
                expected="rate > 0; batch, epochs, patience, sample and every >= 1; known signs",
            )

    def rate_at(self, step: int, per_epoch: int) -> float:
        """Learning rate of an update, counted from 0."""
        if self.cold and step < self.warm:
            return self.rate * step / self.warm
        span = (self.schedule_epochs or self.epochs) * per_epoch
        return scheduled(self.rate, step, self.warm, max(1, span - self.warm) if self.schedule == "cosine" else None)


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: mean training loss; on the watched preferences the mean margin (nats) with the vector
    added, with it subtracted (of the opposite answers), and the share of preferences whose margin is above 0 both
    ways; the norm. Of other terms than preferences both margins are minus the mean loss. NaN where nobody looked.
    """

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
    """One update: mean loss of its preferences and share on the right side of an unsteered model's (both of a
    subtracted vector's opposites), and the mean weight of their gradients (1 at the start, 0 where the loss is
    saturated; NaN but for "sigmoid" and "free").
    """

    loss: float
    right: float
    weight: float


@dataclass(frozen=True)
class Trained:
    """The vector of the best (or last) epoch, all epochs, and all steps."""

    vector: SteeringVector
    best: int
    epochs: Sequence[Epoch] = field(default_factory=tuple)
    steps: Sequence[Step] = field(default_factory=tuple)

    def describe(self) -> dict[str, Any]:
        e = self.epochs[self.best]
        return {
            "loss": e.loss,
            "steps": len(self.steps),
            "epoch": self.best + 1,
            "margin up": e.up,
            "margin down": e.down,
            "right": e.right,
        }


def train(
    lm: LM,
    terms: Sequence[Term],
    place: Place,
    how: Training,
    *,
    held_out: Sequence[Term] = (),
    constraints: Sequence[Constraint] = (),
    to: str | Path | None = None,
    progress: Progress | None = None,
    save_every: float = 2.0,
) -> Trained:
    """Train one vector, from 0.

    Args:
        terms: preferences, all with the vector added (the signs are for `how` to choose); or other terms, with
            `signs="one"`.
        held_out: terms that choose the epoch; those trained on where there are none.
        to: a file for the state (safetensors); if it is there, the training goes on from it. It must be of the same
            training.
        progress: called with (steps done, in all, the margins in words).
        save_every: seconds between two saves.

    Raises:
        LossError: no terms, a loss that is not a number, a reference that is not that of multiplier 0, or a state of
            another training.
    """
    both = all(isinstance(t, Prefer) for t in terms)
    if not terms or any(t.sign < 0 for t in terms if both):
        raise LossError("nothing to train on", given=len(terms), expected="terms; preferences that are not negated")
    if not both and how.signs != "one":
        raise LossError("only preferences have an opposite", given=how.signs, expected='signs="one" for other terms')
    about = {"name": "train", "training": asdict(how), "preferences": len(terms), "layers": list(place.layers)}
    school = _School(lm, terms, place, how, held_out, constraints, progress)
    key = {
        "of": lm.facts,
        **about,
        "problems": [p.describe() for p in school.problems[: school.n]],
        "held out": [p.describe() for p in held_out],
    }
    store = school.restore(Path(to), json.dumps(key, sort_keys=True)) if to is not None else None
    while not school.over:
        school.step()
        if store is not None and (school.over or store.due(save_every)):
            store.write(*school.state())
    made = Provenance.of(lm, method={**about, "first": terms[0].describe()}, version=version("trimtab"))
    chosen = school.best if how.keep == "best" else len(school.epochs) - 1
    return Trained(
        place.vector(school.best_v if how.keep == "best" else school.v, made),
        chosen,
        tuple(school.epochs),
        tuple(school.steps),
    )


class _School:
    """A training under way.

    What is trained on and what is watched are problems of one `Losses`, so that answers are read, and their reference
    is taken, once:

        problems   0..n-1 every term; n..2n-1 the same with the vector subtracted (preferences alone); then what is
        watched, added and subtracted
    """

    def __init__(
        self,
        lm: LM,
        terms: Sequence[Term],
        place: Place,
        how: Training,
        held_out: Sequence[Term] = (),
        constraints: Sequence[Constraint] = (),
        progress: Progress | None = None,
    ) -> None:
        self.how, self.progress, self.n, self.place, self.constraints = (
            how,
            progress,
            len(terms),
            place,
            tuple(constraints),
        )
        train = [Problem(t, place, self.constraints) for t in _both_ways(terms)]
        train[0].check(lm)
        self.batches = np.array_split(
            np.random.default_rng(how.seed).permutation(self.n), math.ceil(self.n / how.batch)
        )
        watched = _both_ways([_margin(t) for t in _spread(held_out or terms, how.sample)])
        self.watched = range(len(train), len(train) + len(watched))
        self.problems = [*train, *(Problem(t, place) for t in watched)]
        self.losses = Losses(lm, self.problems, 2 * how.batch, keep=len(self.batches) + 1)
        self.v = torch.zeros(len(place.first), 1 + 2 * place.rank, lm.width)
        self.adam, self.best, self.best_v = _AdamW(self.v, how), 0, self.v
        self.epochs, self.steps = list[Epoch](), list[Step]()
        self.looked = -how.every  # the step of the last look
        if isinstance(terms[0], Prefer):
            self._check_reference()

    @property
    def over(self) -> bool:
        done = len(self.epochs)
        seen = [k for k, e in enumerate(self.epochs) if not math.isnan(e.margin)]
        return done == self.how.epochs or (bool(seen) and seen[-1] - self.best >= self.how.patience)

    def step(self) -> None:
        """One update; at the end of an epoch, now and then, a look at the margins."""
        how, t, per_epoch = self.how, len(self.steps), len(self.batches)
        epoch, b = divmod(t, per_epoch)
        chosen = self._drawn(epoch, b)
        evaluation = self.losses.at(dict.fromkeys(chosen, self.v[None]), gradients=set(chosen))
        losses = np.array([float(evaluation.terms[k][0][0]) for k in chosen])
        if not np.isfinite(losses).all():
            raise LossError(f"the loss is not a number in step {t + 1}", do="lower the rate, or cap the norm")
        gradient = torch.stack([evaluation.gradients[k][0] for k in chosen]).mean(0)
        self.v = projected(
            self.adam.step(self.v, gradient, how.rate_at(t, per_epoch)), self.constraints, self.place.first
        )
        self.steps.append(_told(losses, self.problems[0]))
        if b == per_epoch - 1:
            self._end_epoch(epoch)
        if self.progress:
            seen = next((e for e in reversed(self.epochs) if not math.isnan(e.margin)), None)
            words = f"margins {seen.up:+.2f} {seen.down:+.2f}" if seen else f"loss {losses.mean():.3f}"
            self.progress(len(self.steps), how.epochs * per_epoch, words)

    def _end_epoch(self, epoch: int) -> None:
        """Take down the epoch; look at the margins if the last look is long ago, or this is the end."""
        loss, t = float(np.mean([s.loss for s in self.steps[-len(self.batches) :]])), len(self.steps)
        norm = float(self.v[:, 0].norm())
        if t - self.looked < self.how.every and epoch + 1 < self.how.epochs:
            self.epochs.append(Epoch(loss, math.nan, math.nan, math.nan, norm))
            return
        self.looked = t
        up, down = self._margins()
        self.epochs.append(
            Epoch(loss, float(up.mean()), float(down.mean()), float(((up > 0) & (down > 0)).float().mean()), norm)
        )
        if (
            self.epochs[-1].margin > self.epochs[self.best].margin
            or math.isnan(self.epochs[self.best].margin)
            or epoch == 0
        ):
            self.best, self.best_v = epoch, self.v.clone()

    def _margins(self) -> Float[Tensor, "two n"]:
        """Margin of every watched preference with the vector added, and of its opposite with it subtracted; of other
        terms minus the loss, twice.
        """
        terms = self.losses.at(dict.fromkeys(self.watched, self.v[None]), gradients=set()).terms
        values = -torch.stack([terms[k][0][0] for k in self.watched]).cpu()
        pairs = isinstance(self.problems[self.watched[0]].objective, Prefer)
        return values.unflatten(0, (2, -1)) if pairs else torch.stack([values, values])

    def _check_reference(self) -> None:
        """At 0 every margin must be 0."""
        worst = float(self._margins().abs().max())
        if not worst <= 0.05:
            raise LossError(
                "the reference is not that of multiplier 0",
                given=f"a margin of {worst:.3g} nats at the start",
                expected="0",
            )

    def _drawn(self, epoch: int, b: int) -> list[int]:
        """The problems of batch b of an epoch; the draws of an epoch depend on the seed and its number alone, so a
        resumed training repeats them.
        """
        rng = np.random.default_rng([self.how.seed, epoch])
        order = rng.permutation(len(self.batches))
        signs = rng.integers(0, 2, (len(self.batches), self.how.batch))
        return _signed(self.batches[order[b]].tolist(), self.n, self.how.signs, signs[b].tolist())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        facts = {
            "best": self.best,
            "t": self.adam.t,
            "looked": self.looked,
            "epochs": [asdict(e) for e in self.epochs],
            "steps": [asdict(s) for s in self.steps],
        }
        return {"v": self.v, "best": self.best_v, "first": self.adam.first, "second": self.adam.second}, facts

    def restore(self, path: Path, of: str) -> Kept:
        store = Kept(path, of)
        saved = store.read()
        if saved is not None:
            tensors, facts = saved
            self.v, self.best_v, self.best, self.looked = tensors["v"], tensors["best"], facts["best"], facts["looked"]
            self.adam.first, self.adam.second, self.adam.t = tensors["first"], tensors["second"], facts["t"]
            self.epochs, self.steps = [Epoch(**e) for e in facts["epochs"]], [Step(**s) for s in facts["steps"]]
        return store


def _both_ways(terms: Sequence[Term]) -> list[Term]:
    """Preferences with the vector added, then with it subtracted; other terms as they are."""
    down = [replace(t, negated=True) for t in terms if isinstance(t, Prefer)]
    return [*terms, *down] if len(down) == len(terms) else list(terms)


def _margin(term: Term) -> Term:
    """What is watched of a term."""
    return replace(term, form="margin") if isinstance(term, Prefer) else term


def _spread(terms: Sequence[Term], most: int) -> list[Term]:
    """At most so many, evenly spread."""
    if len(terms) <= most:
        return list(terms)
    return [terms[k] for k in np.linspace(0, len(terms) - 1, most).round().astype(int).tolist()]


def _told(losses: Array, problem: Problem) -> Step:
    """A step from the losses of its preferences: the weight of a gradient is 1 - exp(-loss) of -log sigmoid, twice that
    to be 1 at the start.
    """
    (_, term), *_ = problem.goal.terms
    soft = isinstance(term, Prefer) and term.form in ("sigmoid", "free")
    even = {"sigmoid": math.log(2), "free": math.log(2), "hinge": 1.0}.get(
        term.form if isinstance(term, Prefer) else "", math.nan
    )
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
    """AdamW on the coordinates; or, for `strength`, on the direction and the logarithm of the norm, once there is a
    direction.
    """

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
        # as fast as the coordinates would go
        relative = rate * v.numel() ** 0.5 / size.clamp(min=rate * v.numel() ** 0.5)
        turned = v / size - relative * turn / v.numel() ** 0.5
        return turned / turned.norm() * size * torch.exp(-relative * move[-1] - rate * self.how.decay)
