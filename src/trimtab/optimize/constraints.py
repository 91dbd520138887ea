"""Constraints: what a vector may be. Each is a projection, applied after every step in the order given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import LossError
from trimtab.model import Layer
from trimtab.steering.vector import SteeringVector


class Constraint:
    """A set of vectors, given by a projection onto it."""

    def project(self, v: Float[Tensor, "l r d"], layers: Sequence[Layer]) -> Float[Tensor, "l r d"]:
        """The nearest allowed vector.

        Args:
            v: for each trained vector its rows: the offset first, then the rows of an affine map.
            layers: where each of the l vectors is applied first.
        """
        raise NotImplementedError

    def tangent(self, gradient: Float[Tensor, "l r d"], layers: Sequence[Layer]) -> Float[Tensor, "l r d"]:
        """The part of a gradient that a step can use."""
        return gradient


@dataclass(frozen=True)
class Ball(Constraint):
    """Norm of the offset at most `radius` (at each layer). A radius of 0 leaves the matrix of an affine map alone."""

    radius: float

    def __post_init__(self) -> None:
        if not self.radius >= 0:
            raise LossError("not the radius of a ball", given=self.radius, expected="a number >= 0")

    def project(self, v: Tensor, layers: Sequence[Layer]) -> Tensor:
        return torch.cat([_shrunk(v[:, :1], self.radius), v[:, 1:]], 1)


@dataclass(frozen=True)
class Sphere(Constraint):
    """Norm of the offset equal to `radius` (at each layer)."""

    radius: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise LossError("not the radius of a sphere", given=self.radius, expected="a number > 0")

    def project(self, v: Tensor, layers: Sequence[Layer]) -> Tensor:
        norm = v[:, :1].norm(dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
        return torch.cat([v[:, :1] * (self.radius / norm), v[:, 1:]], 1)


@dataclass(frozen=True)
class Factors(Constraint):
    """Norm of every left and right row of an affine map at most `radius`, or equal to it."""

    radius: float = 2.0
    equal: bool = False

    def project(self, v: Tensor, layers: Sequence[Layer]) -> Tensor:
        rows = v[:, 1:]
        if self.equal:
            rows = rows * (self.radius / rows.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny))
        return torch.cat([v[:, :1], _shrunk(rows, self.radius)], 1)


@dataclass(frozen=True)
class Orthogonal(Constraint):
    """The offset is orthogonal to each of some vectors (at the layers they share): families of solutions that differ.

    (Goldman-Wetzler & Turner 2024.) Put it before a norm constraint.
    """

    to: tuple[SteeringVector, ...]

    def project(self, v: Tensor, layers: Sequence[Layer]) -> Tensor:
        rows = [_outside(row, self._basis(layer, row)) for row, layer in zip(v[:, 0], layers, strict=True)]
        return torch.cat([torch.stack(rows)[:, None], v[:, 1:]], 1)

    def tangent(self, gradient: Tensor, layers: Sequence[Layer]) -> Tensor:
        return self.project(gradient, layers)

    def _basis(self, layer: Layer, like: Tensor) -> Tensor | None:
        given = [v[layer].reshape(-1, v.width)[0] for v in self.to if layer in v.vectors]
        if not given:
            return None
        if len(given) >= like.shape[-1]:
            raise LossError(
                "no direction is left", given=f"orthogonal to {len(given)} vectors in {like.shape[-1]} dimensions"
            )
        return torch.linalg.qr(torch.stack(given).to(like).T)[0]


def projected(
    v: Float[Tensor, "l r d"], constraints: Sequence[Constraint], layers: Sequence[Layer]
) -> Float[Tensor, "l r d"]:
    """Every constraint in turn."""
    for constraint in constraints:
        v = constraint.project(v, layers)
    return v


def _shrunk(rows: Tensor, radius: float) -> Tensor:
    norm = rows.norm(dim=-1, keepdim=True)
    return torch.where(norm > radius, rows * (radius / norm.clamp(min=torch.finfo(rows.dtype).tiny)), rows)


def _outside(row: Tensor, basis: Tensor | None) -> Tensor:
    return row if basis is None else row - basis @ (basis.T @ row)
