from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.registry import register
from trimtab.steering.operators.base import Multiplier, Operator


@register("operator", "rotate")
@dataclass(frozen=True)
class Rotate(Operator):
    """|h| (h + m v) / |h + m v|: turns h towards v in their plane and keeps its norm. Where h + m v vanishes, h
    stays.
    """

    def move(self, h: Tensor, v: Tensor, m: Multiplier) -> Tensor:
        moved = h + m * v
        before, after = h.norm(dim=-1, keepdim=True), moved.norm(dim=-1, keepdim=True)
        gone = after <= 1e-6 * before
        return torch.where(gone, h, moved * (before / after.masked_fill(gone, 1.0)))
