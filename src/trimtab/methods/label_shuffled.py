from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations, Read, rescaled
from trimtab.model import Layer
from trimtab.registry import register


@register("method", "label-shuffled")
@dataclass(frozen=True)
class LabelShuffled(ContrastMethod):
    """Mean difference with the sides of every pair drawn by coin, at the norm it comes out with: the null of "there
    is a shared direction".

    Attributes:
        seed: of the coins.
        read: see mean-diff.
    """

    seed: int = 0
    read: Read = "auto"
    nulls = 0

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        return acts.by_coin(self.seed).mean_difference()

    def fit_activations(self, acts: Activations) -> dict[Layer, Tensor]:
        drawn = self.directions(acts)
        return dict(zip(acts.layers, rescaled(drawn, like=drawn), strict=True))
