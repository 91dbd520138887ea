from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.registry import register
from trimtab.steering.operators.base import Multiplier, Operator, along, unit


@register("operator", "ablate")
@dataclass(frozen=True)
class Ablate(Operator):
    """h - m (u.h) u with u the direction of v: at 1 the component along v is removed (Arditi et al. 2024). v's norm is
    without effect.
    """

    def move(self, h: Tensor, v: Tensor, m: Multiplier) -> Tensor:
        return h - m * along(h, unit(v))
