from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.registry import register
from trimtab.steering.operators.base import Multiplier, Operator


@register("operator", "add")
@dataclass(frozen=True)
class Add(Operator):
    """h + m v: activation addition (Turner et al. 2023; Rimsky et al. 2024)."""

    def move(self, h: Tensor, v: Tensor, m: Multiplier) -> Tensor:
        return h + m * v
