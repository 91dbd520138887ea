"""What methods share: a learner is a frozen dataclass whose fields are its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.methods.contrast import Activations, Read, activations, rescaled
from trimtab.model import LM, Layer
from trimtab.progress import Progress
from trimtab.steering.controls import KEPT
from trimtab.steering.use import POSITIONS, UNMEASURED, Use


class Fit(NamedTuple):
    """What a learner found: one tensor (d,) per layer, and figures about how it found them."""

    vectors: Mapping[Layer, Tensor]
    figures: Mapping[str, Any] = {}


class Method:
    """A learner: a frozen dataclass whose fields are its parameters.

    Attributes:
        least: how many pairs it needs.
        alone: whether it needs no data at all.
        descends: whether every layer costs a descent of its own.
    """

    least = 2
    alone = False
    descends = False

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        """Learn.

        Args:
            data: training pairs; None only for a method that can do without.
            progress: called with (done, in all), if it takes long.
        """
        raise NotImplementedError

    def likely_layers(self, n: int) -> list[Layer] | None:
        """Where to learn in a model of n blocks if nobody says; None for everywhere, if that costs one pass."""
        return sorted({n // 3, n // 2, 3 * n // 5}) if self.descends else None

    def used(self, data: Dataset) -> Sequence[Pair]:
        """The pairs it looks at."""
        return data.pairs

    def use(self, layers: Sequence[Layer]) -> Use:
        """How a vector of its is to be used at some layers, before anything was measured: as it was learned."""
        positions, operator = getattr(self, "positions", POSITIONS), getattr(self, "operator", "add")
        return Use(tuple(layers), positions=positions, operator={"name": operator}, why=(UNMEASURED,))


class FewShot(Method):
    """A learner that takes one prompt and no data, or the first few pairs of the data."""

    prompt: str
    examples: int
    least = 1
    descends = True

    @property
    def alone(self) -> bool:  # type: ignore[override]
        return bool(self.prompt)

    def used(self, data: Dataset) -> Sequence[Pair]:
        return () if self.prompt else data.pairs[: self.examples]


class ContrastMethod(Method):
    """A learner that needs the activations alone. The result is rescaled to the norm of the mean difference at each
    layer,

    so that a multiplier means the same whichever method found the direction.
    """

    read: Read = "auto"
    nulls = KEPT  # label-shuffled vectors to keep beside the learned one

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        """A direction per layer, of any norm."""
        raise NotImplementedError

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        assert data is not None
        return Fit(self.fit_activations(activations(lm, data, layers, read=self.read, progress=progress)))

    def figures(self, acts: Activations) -> Mapping[str, Any]:
        """What is to be kept about the fit, by layer."""
        return {}

    def fit_activations(self, acts: Activations) -> dict[Layer, Tensor]:
        vectors = rescaled(self.directions(acts), acts.mean_difference())
        return dict(zip(acts.layers, vectors, strict=True))

    def label_shuffled(self, acts: Activations) -> dict[str, dict[Layer, Tensor]]:
        """What this learner finds where the sides of every pair are drawn by coin, at the norm of the mean difference
        there.
        """
        drawn = (acts.by_coin(seed) for seed in range(self.nulls))
        moved = [a for a in drawn if (a.mean_difference().norm(dim=-1) > 1e-6 * acts.deltas.norm(dim=-1).amax(0)).all()]
        return {f"shuffled-{k}": self.fit_activations(a) for k, a in enumerate(moved)}
