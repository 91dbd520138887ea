from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.methods import Activations, ContrastMethod, Read
from trimtab.registry import register


@register("method", "label-shuffled")
@dataclass(frozen=True)
class LabelShuffled(ContrastMethod):
    """Mean difference after swapping positive and negative in a random half of the pairs: the null of "there is a shared direction"."""

    seed: int = 0
    read: Read = "auto"
    nulls = 0

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        n = acts.positive.shape[0]
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        signs = torch.ones(n)
        signs[order[: n // 2]] = -1.0
        return torch.einsum("n,nld->ld", signs, acts.deltas) / n
