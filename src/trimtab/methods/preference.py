from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trimtab.data.datasets import Dataset
from trimtab.errors import DataError, RecipeError, check_least
from trimtab.methods.base import Fit, Method
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM, Layer
from trimtab.model.positions import Positions
from trimtab.optimize import Ball, Constraint, Place, Prefer, Trained, Training, train
from trimtab.optimize.minibatch import Signs
from trimtab.progress import Progress
from trimtab.registry import register
from trimtab.steering.use import POSITIONS, Use

YARDSTICK = 16  # rows over which the residual norm is taken


@register("method", "preference")
@dataclass(frozen=True)
class Preference(Method):
    """A vector trained so that its addition makes positive answers likelier than negative ones, and its subtraction the
    reverse (BiPO, Cao et al. 2024).

    Attributes:
        beta: how sharply the loss tells the two answers apart.
        loss: the published sigmoid, hinge, ipo, free (no reference, per token) or unpaired (each answer by itself).
        signs: both directions in every step, one drawn for each batch (as published), or addition alone ("one").
        norm: largest norm, in medians of the residual stream's norm at the layer; 0 for no cap.
        rate: learning rate, in medians of that norm over the square root of the width.
        batch: pairs a step.
        epochs: most times through the data.
        schedule_epochs: over how many epochs the rate falls; by default over all.
        warm: steps over which the rate rises.
        decay: weight decay.
        clip: largest norm of a gradient.
        validation: share of the pairs that chooses the epoch and ends the training.
        patience: epochs without larger margins in either direction, after which it ends.
        positions: which tokens are steered while it is trained.
        strength: train direction and norm as two parameters.
        shared: one vector for all layers given; else each layer has a training of its own.
        end: score the token that ends the turn, too.
        published: the training of the publication as executed: its rate, warm-up from 0, last checkpoint, no cap, end
            tokens, one sign a batch; only batch, epochs and seed are then yours.
        sample: pairs on which margins are watched.
        every: steps between two looks at them.
        resume: a folder; an interrupted training goes on from there.
        seed: of the order of the pairs.
    """

    beta: float = 0.1
    loss: Literal["sigmoid", "hinge", "ipo", "free", "unpaired"] = "sigmoid"
    signs: Signs = "both"
    norm: float = 0.0
    rate: float = 0.005
    batch: int = 4
    epochs: int = 10
    schedule_epochs: int | None = None
    warm: int = 20
    decay: float = 0.0
    clip: float = 1.0
    validation: float = 0.1
    patience: int = 3
    positions: str = POSITIONS
    strength: bool = False
    shared: bool = False
    end: bool = False
    published: bool = False
    sample: int = 32
    every: int = 20
    resume: str = ""
    seed: int = 0
    least = 4
    descends = True

    def __post_init__(self) -> None:
        check_least("preference", 0, norm=self.norm, validation=self.validation, warm=self.warm, decay=self.decay)
        check_least("preference", 0, above=True, rate=self.rate, beta=self.beta, clip=self.clip)
        check_least("preference", 1, batch=self.batch, epochs=self.epochs, patience=self.patience)
        check_least("preference", 1, sample=self.sample, every=self.every)
        if not self.validation < 1:
            raise RecipeError("preference: validation is a share", given=self.validation, expected="from 0 to below 1")
        Positions.parse(self.positions)
        self.training(1.0)

    def training(self, unit: float) -> Training:
        """The training at a layer whose unit of the learning rate is `unit`."""
        if self.published:
            return Training.published(
                batch=self.batch, epochs=self.epochs, seed=self.seed, sample=self.sample, every=self.every
            )
        return Training(
            self.rate * unit,
            self.batch,
            self.epochs,
            self.schedule_epochs,
            self.warm,
            self.decay,
            self.clip,
            self.signs,
            self.patience,
            self.seed,
            self.strength,
            sample=self.sample,
            every=self.every,
        )

    def use(self, layers: Sequence[Layer]) -> Use:
        use = super().use(layers)
        return replace(use, positions="everywhere") if self.published else use

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        figures: dict[str, Any] = {}
        vectors: dict[Layer, Any] = {}
        for place, trained in self.trained(lm, data, layers, progress):
            vectors |= dict(trained.vector.vectors)
            figures |= {str(layer): trained.describe() for layer in place}
        return Fit(vectors, figures)

    def trained(
        self,
        lm: LM,
        data: Dataset | None,
        layers: Sequence[Layer],
        progress: Progress | None = None,
        watched: Dataset | None = None,
    ) -> list[tuple[tuple[Layer, ...], Trained]]:
        """The layers of every training, with what it came to, epoch by epoch.

        Args:
            watched: pairs that are looked at after an epoch, and choose it; by default a share of the data.
        """
        if data is None:
            raise DataError("nothing to learn from", expected="a data set of pairs")
        for p in watched or ():
            paired_rows(lm, p)
        rows = [paired_rows(lm, p) for p in data]  # refuses a pair that cannot be asked, before anything is run
        mine = 0 if watched is not None or self.published else self.validation
        held = max(1, round(mine * len(data))) if mine else 0
        terms = self._terms(data)
        held_out = terms[len(terms) - held :] if watched is None else self._terms(watched)
        yardstick = lm.norms([r[0] for r in rows[:YARDSTICK]], layers)
        places = [tuple(layers)] if self.shared else [(layer,) for layer in layers]
        out: list[tuple[tuple[Layer, ...], Trained]] = []
        for done, place in enumerate(places):
            unit = min(yardstick[k] for k in place)
            bounds: tuple[Constraint, ...] = (Ball(self.norm * unit),) if self.norm and not self.published else ()
            trained = train(
                lm,
                terms[: len(terms) - held],
                Place(place, positions=self.use(place).positions),
                self.training(unit / lm.width**0.5),
                held_out=held_out,
                constraints=bounds,
                progress=_part(progress, done, len(places)),
                to=Path(self.resume) / f"training-{'-'.join(map(str, place))}.safetensors" if self.resume else None,
            )
            out.append((place, trained))
        return out

    def _terms(self, data: Dataset) -> list[Prefer]:
        """A preference for each pair."""
        others = (
            [p.positive if k % 2 else p.negative for k, p in enumerate([*data][1:] + [data[0]])]
            if self.loss == "unpaired"
            else [""] * len(data)
        )
        return [
            Prefer(
                p.asked, p.positive, p.negative, beta=self.beta, form=self.loss, other=o, end=self.end or self.published
            )
            for p, o in zip(data, others, strict=True)
        ]


def _part(progress: Progress | None, done: int, layers: int) -> Progress | None:
    """Progress of one layer as that of all."""
    if progress is None:
        return None
    return lambda step, steps, words="": progress(done * steps + step, layers * steps, words)
