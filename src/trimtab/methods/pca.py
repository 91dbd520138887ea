from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations, Read
from trimtab.registry import register


@register("method", "pca")
@dataclass(frozen=True)
class PCA(ContrastMethod):
    """First uncentred principal direction of the differences, with the sign of their mean (Zou et al. 2023, as in Tan
    et al. 2024).

    Attributes:
        read: see mean-diff.
    """

    read: Read = "auto"

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        deltas = acts.deltas.transpose(0, 1).double()
        first = torch.linalg.svd(deltas, full_matrices=False).Vh[:, 0]
        towards = (first * deltas.mean(1)).sum(-1, keepdim=True)
        return torch.where(towards < 0, -first, first).float()
