"""What operators share: their laws, kept here once for all of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Multiplier = float | Float[Tensor, "*#batch 1"]


class Operator:
    """A change of the residual stream.

    Laws: a multiplier of 0 is the identity, bit for bit; arithmetic is fp32, cast once to the stream's dtype; finite
    input gives finite output; the input is not written to.
    """

    def __call__(
        self, h: Float[Tensor, "*batch d"], v: Float[Tensor, "*rows d"], m: Multiplier
    ) -> Float[Tensor, "*batch d"]:
        """Steer `h` by `m` times the stored vector `v`.

        Args:
            h: the stream, (..., d).
            v: the vector, (..., d) broadcastable against `h`; `Affine` takes (1 + 2 r, d).
            m: a number, or one per position, (..., 1).
        """
        if not isinstance(m, Tensor) and m == 0:
            return h
        m = m.to(h.device) if isinstance(m, Tensor) else m
        moved = self.move(h.float(), v.to(h.device).float(), m)
        # past the largest number would be infinity: the largest number is nearer to what was meant
        if h.dtype == torch.float16:
            most = torch.finfo(h.dtype).max
            moved = torch.where(h.isfinite(), moved.clamp(-most, most), moved)
        moved = moved.to(h.dtype)
        return torch.where(m == 0, h, moved) if isinstance(m, Tensor) else moved

    def move(self, h: Tensor, v: Tensor, m: Multiplier) -> Tensor:
        """The change itself, in fp32; m is not 0 where it matters."""
        raise NotImplementedError


def unit(v: Tensor) -> Tensor:
    """Direction of v along the last axis; zero if v is zero."""
    norm = v.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, v / norm.clamp(min=torch.finfo(v.dtype).tiny), torch.zeros_like(v))


def along(h: Tensor, u: Tensor) -> Tensor:
    """Component of h along the unit vector u, as a vector."""
    return (h * u).sum(-1, keepdim=True) * u
