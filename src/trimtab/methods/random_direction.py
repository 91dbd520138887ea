from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.methods import Activations, ContrastMethod, Read
from trimtab.registry import register


@register("method", "random-direction")
@dataclass(frozen=True)
class RandomDirection(ContrastMethod):
    """A random direction with the norm of the mean difference: the control every vector must beat.

    With `within_span` it is a random combination of the differences (centred on their mean), else isotropic.
    """

    seed: int = 0
    within_span: bool = False
    read: Read = "auto"
    nulls = 0

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        n, layers, d = acts.positive.shape
        g = torch.Generator().manual_seed(self.seed)
        if not self.within_span:
            return torch.randn(layers, d, generator=g)
        centred = acts.deltas - acts.deltas.mean(0)
        return torch.einsum("n,nld->ld", torch.randn(n, generator=g), centred)
