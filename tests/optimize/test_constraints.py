"""What a vector may be."""

from __future__ import annotations

import pytest
import torch

from descents import ASK, SAID, vector
from pico import pico
from trimtab.optimize import (
    Ball,
    Descent,
    Factors,
    MaxSteps,
    Orthogonal,
    Place,
    Problem,
    Sphere,
    Start,
    optimize,
    promote,
)
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH


def test_constraints_hold_after_every_step() -> None:
    v = 5 * torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    assert Ball(2.0).project(v, (0, 1))[:, 0].norm(dim=-1).tolist() == pytest.approx([2.0, 2.0])
    assert torch.equal(Ball(2.0).project(0.01 * v, (0, 1)), 0.01 * v)
    assert Sphere(2.0).project(0.01 * v, (0, 1))[:, 0].norm(dim=-1).tolist() == pytest.approx([2.0, 2.0])
    assert Factors(1.5).project(v, (0, 1))[:, 1:].norm(dim=-1).max() <= 1.5 + 1e-5
    taken = SteeringVector({0: torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))})
    free = Orthogonal((taken, vector(0))).project(v, (0, 1))
    assert float(free[0, 0] @ taken[0]) == pytest.approx(0, abs=1e-4) and float(
        free[0, 0] @ vector(0)[0]
    ) == pytest.approx(0, abs=1e-4)
    assert torch.equal(free[1], v[1])


def test_a_family_of_orthogonal_solutions() -> None:
    lm, found = pico("llama"), []
    for seed in range(3):
        rules = (Orthogonal(tuple(found)), Ball(10.0))
        found.append(
            optimize(
                lm, [Problem(promote(ASK, SAID), Place((1,)), rules, Descent(0.5, (MaxSteps(20),)), Start(seed=seed))]
            )[0].vector
        )
    for k, one in enumerate(found):
        for two in found[k + 1 :]:
            assert abs(one.cosine(two)[1]) < 1e-4
