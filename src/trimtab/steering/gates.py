"""Gates: when an intervention acts. Each gives a weight for every token, of its own row and of nothing that comes
later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import SteerError
from trimtab.model import Frame, Layer
from trimtab.registry import register
from trimtab.steering.operators.base import unit
from trimtab.steering.vector import SteeringVector


class Gate:
    """When an intervention acts: a weight for every token, of its own row and of nothing that comes later."""

    def weight(
        self, h: Float[Tensor, "b s d"], v: Float[Tensor, "*rows d"], frame: Frame
    ) -> Float[Tensor, "b s"] | None:
        """Factors of the multiplier, (b, s); None for 1 everywhere."""
        raise NotImplementedError


@register("gate", "always")
@dataclass(frozen=True)
class Always(Gate):
    """Open at every token."""

    def weight(self, h: Tensor, v: Tensor, frame: Frame) -> None:
        return None


@register("gate", "cosine-above")
@dataclass(frozen=True)
class CosineAbove(Gate):
    """Open at the tokens whose residual stream has a cosine above a threshold with the vector, or with another.

    Attributes:
        threshold: the cosine above which it opens.
        other: the vector to compare with; by default the one that steers.
        layer: which layer of the other vector is taken; by default its first.
    """

    threshold: float = 0.0
    other: SteeringVector | None = None
    layer: Layer | None = None

    def weight(self, h: Tensor, v: Tensor, frame: Frame) -> Tensor:
        probe = (
            v.reshape(-1, v.shape[-1])[0]
            if self.other is None
            else self.other[self.layer if self.layer is not None else self.other.layers[0]]
        )
        cosine = (unit(h.float()) * unit(probe.to(h.device).float())).sum(-1)
        return (cosine > self.threshold).float()


@register("gate", "schedule")
@dataclass(frozen=True)
class Schedule(Gate):
    """Full weight in the prompt, then a function of the number k of tokens generated before.

    Attributes:
        shape: until: 1 for k < tokens, then 0; linear: falls to 0 at k = tokens; half-life: halves every `tokens`.
        tokens: how many generated tokens that takes.
    """

    shape: Literal["until", "linear", "half-life"] = "until"
    tokens: int = 32

    def __post_init__(self) -> None:
        if self.shape not in ("until", "linear", "half-life") or self.tokens < 1:
            raise SteerError(
                "not a schedule",
                given=(self.shape, self.tokens),
                expected='"until", "linear" or "half-life", and tokens >= 1',
            )

    def weight(self, h: Tensor, v: Tensor, frame: Frame) -> Tensor:
        prompts = torch.tensor([r.prompt for r in frame.rows], device=frame.index.device)[:, None]
        k = (frame.index - prompts).clamp(min=0).float()
        if self.shape == "until":
            return (k < self.tokens).float()
        return (1 - k / self.tokens).clamp(min=0) if self.shape == "linear" else 0.5 ** (k / self.tokens)
