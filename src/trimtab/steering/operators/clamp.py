from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.registry import register
from trimtab.steering.operators.base import Multiplier, Operator, along, unit


@register("operator", "clamp")
@dataclass(frozen=True)
class Clamp(Operator):
    """h - (u.h) u + m v with u the direction of v: the component along v becomes that of m v, whatever it was.

    (Dunefsky & Cohan 2025, clamp steering.) As for every operator a multiplier of 0 means "off", not "clamp to zero":
    that is Ablate.
    """

    def move(self, h: Tensor, v: Tensor, m: Multiplier) -> Tensor:
        return h - along(h, unit(v)) + m * v
