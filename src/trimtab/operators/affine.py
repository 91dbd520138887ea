from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.operators import Multiplier, Operator
from trimtab.registry import register


@register("operator", "affine")
@dataclass(frozen=True)
class Affine(Operator):
    """h + m (M h + b) with M = sum of l_i r_i^T of rank r (Dunefsky & Cohan 2025, affine steering).

    The stored vector has 1 + 2 r rows: b, then the l_i, then the r_i. A plain (d,) vector is the case r = 0.
    """

    def move(self, h: Tensor, v: Tensor, m: Multiplier) -> Tensor:
        rows = v if v.ndim > 1 else v[None]
        rank = (rows.shape[0] - 1) // 2
        left, right = rows[1 : 1 + rank], rows[1 + rank :]
        return h + m * (h @ right.T @ left + rows[0])
