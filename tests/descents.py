"""Prompts, goals and problems that the tests of optimize share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trimtab.model import last_k
from trimtab.optimize import (
    Ball,
    Descent,
    Factors,
    Gaussian,
    MaxSteps,
    Place,
    Problem,
    Sphere,
    Start,
    Tangent,
    Target,
    promote,
    suppress,
)
from trimtab.steering.operators import Affine, Clamp
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH

ASK, SAID, OTHER = "Do you like tea ?", "Yes I like tea .", "No , never ."
MIXED = (
    promote(ASK, SAID)
    + 2.0 * suppress(ASK, OTHER, coldness=1.0)
    + promote("say something kind", "tea is good .", negated=True, per_token=True)
)


def vector(layer: int, size: float = 3.0, seed: int = 0) -> SteeringVector:
    v = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({layer: size * v / v.norm()})


def start(problem: Problem, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(len(problem.place.first), 1 + 2 * problem.place.rank, WIDTH, generator=g)


def many() -> list[Problem]:
    """Runs that differ in everything a batch may mix."""
    descent = Descent(0.1, (MaxSteps(6),))
    base = Problem(promote(ASK, SAID), Place((1,)), (Ball(4.0),), descent)
    return [
        base,
        replace(base, start=Start(seed=1), descent=Descent(0.3, (MaxSteps(3),))),
        replace(base, objective=suppress("is it rain ?", OTHER) + promote(ASK, SAID)),
        replace(base, place=Place((2,)), constraints=(Sphere(2.0),)),
        replace(base, place=Place((1,), Clamp())),
        replace(base, place=Place((1,), positions=last_k(2)), descent=Descent(0.1, (MaxSteps(6),), Gaussian(0.1, 3))),
        replace(base, place=Place((0, 2), shared=False), descent=Descent(0.1, (MaxSteps(4),), Tangent(0.1, 2))),
        replace(base, descent=Descent(0.2, (Target(1e9), MaxSteps(6)))),
        replace(base, place=Place((1,), Affine(), rank=1), constraints=(Ball(0.0), Factors(1.0, equal=True))),
        replace(base, objective=promote(ASK, SAID) + promote(ASK, SAID, negated=True)),
    ]
