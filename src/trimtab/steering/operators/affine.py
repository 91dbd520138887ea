from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.registry import register
from trimtab.steering.operators.base import Multiplier, Operator


@register("operator", "affine")
@dataclass(frozen=True)
class Affine(Operator):
    """h + m (M h + b) with M = sum of l_i r_i^T of rank r (Dunefsky & Cohan 2025, affine steering).

    The stored vector has 1 + 2 r rows: b, then the l_i, then the r_i. A plain (d,) vector is the case r = 0.

    With leading axes, (..., 1 + 2 r, d), every batch element of the stream (..., s, d) has its own map.
    """

    def move(self, h: Tensor, v: Tensor, m: Multiplier) -> Tensor:
        if v.ndim == 1:
            return h + m * v
        rank = (v.shape[-2] - 1) // 2
        left, right = v[..., 1 : 1 + rank, :], v[..., 1 + rank :, :]
        offset = v[0] if v.ndim == 2 else v[..., :1, :]
        return h + m * (h @ right.mT @ left + offset)
