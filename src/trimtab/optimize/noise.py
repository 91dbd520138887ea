"""Noise: where around the current vector the gradient is taken. Each kind says which perturbed vectors to look at.

Draws depend on the seed of the problem and the step alone, so a resumed problem sees the same.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import LossError


class Noise:
    """Perturbations of a vector; gradients are averaged over them."""

    samples: int = 1
    needs_gradient = False  # of the loss at the current vector

    def draw(
        self, v: Float[Tensor, "l r d"], gradient: Tensor | None, seed: int, step: int
    ) -> Float[Tensor, "n l r d"]:
        """What to add to v, for each sample.

        Args:
            gradient: of the loss at v, if `needs_gradient`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Normal(Noise):
    """Made of normal draws of standard deviation `scale` in every coordinate; with `fading`, of one that falls to
    nothing over so many steps.
    """

    scale: float
    samples: int = 1
    _: KW_ONLY
    fading: int = 0

    def __post_init__(self) -> None:
        _check(self.scale, self.samples)
        if self.fading < 0:
            raise LossError("not a number of steps", given=self.fading, expected="0 or more")

    def normal(self, v: Tensor, seed: int, step: int) -> Tensor:
        """(samples, l, r, d), the same for the same seed and step."""
        g = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        left = max(0.0, 1 - step / self.fading) if self.fading else 1.0
        return left * self.scale * torch.randn(self.samples, *v.shape, generator=g).to(v)


@dataclass(frozen=True)
class Gaussian(Normal):
    """Independent normal noise."""

    def draw(self, v: Tensor, gradient: Tensor | None, seed: int, step: int) -> Tensor:
        return self.normal(v, seed, step)


@dataclass(frozen=True)
class Tangent(Normal):
    """Normal noise orthogonal to the gradient at the current vector: to first order it leaves the loss as it is.

    With `downhill_only` it loses only the part that would lower the loss (the published "relu" variant).
    """

    downhill_only: bool = False
    needs_gradient = True

    def draw(self, v: Tensor, gradient: Tensor | None, seed: int, step: int) -> Tensor:
        assert gradient is not None
        noise = self.normal(v, seed, step)
        along = gradient / gradient.norm().clamp(min=torch.finfo(v.dtype).tiny)
        part = (noise * along).sum((1, 2, 3), keepdim=True)
        return noise - (part.clamp(max=0) if self.downhill_only else part) * along


@dataclass(frozen=True)
class AntiCorrelated(Normal):
    """The difference of this step's and the last step's normal noise (Anti-PGD, Orvieto et al. 2022)."""

    def draw(self, v: Tensor, gradient: Tensor | None, seed: int, step: int) -> Tensor:
        now = self.normal(v, seed, step)
        return now - self.normal(v, seed, step - 1) if step else now


@dataclass(frozen=True)
class Ascent(Noise):
    """The worst vector at distance `radius`, to first order (sharpness-aware minimization, Foret et al. 2021)."""

    radius: float
    needs_gradient = True

    def __post_init__(self) -> None:
        _check(self.radius, 1)

    def draw(self, v: Tensor, gradient: Tensor | None, seed: int, step: int) -> Tensor:
        assert gradient is not None
        return (self.radius * gradient / gradient.norm().clamp(min=torch.finfo(v.dtype).tiny))[None]


def _check(scale: float, samples: int) -> None:
    if not scale >= 0 or samples < 1:
        raise LossError("not a noise", given=(scale, samples), expected="a scale >= 0 and at least one sample")
