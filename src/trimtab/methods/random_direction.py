from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations, Read
from trimtab.registry import register
from trimtab.steering.controls import in_span, isotropic


@register("method", "random-direction")
@dataclass(frozen=True)
class RandomDirection(ContrastMethod):
    """A random direction with the norm of the mean difference: the control every vector must beat.

    Attributes:
        seed: of the direction.
        within_span: a random combination of the differences, orthogonal to their mean; else isotropic.
        read: see mean-diff.
    """

    seed: int = 0
    within_span: bool = False
    read: Read = "auto"
    nulls = 0

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        if self.within_span:
            return in_span(acts.deltas, 1, self.seed)[0]
        return isotropic(acts.mean_difference(), self.seed)
