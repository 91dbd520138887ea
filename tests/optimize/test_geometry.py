"""Cosines, paths between vectors, detection."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from descents import ASK, SAID
from pico import pico
from trimtab.errors import VectorError
from trimtab.optimize import (
    Place,
    Problem,
    angles,
    cosines,
    curvature,
    detection,
    losses_in_full,
    path,
    plane,
    sensitivity,
    suppress,
)
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH


def basis(k: int, size: float = 1.0, layer: int = 1) -> SteeringVector:
    return SteeringVector({layer: size * torch.eye(WIDTH)[k]})


def test_cosines() -> None:
    both = SteeringVector({1: torch.eye(WIDTH)[0] + torch.eye(WIDTH)[1]})
    found = cosines([basis(0), basis(0, -3.0), both, basis(0, layer=2)])
    assert found[0].tolist()[:3] == pytest.approx([1.0, -1.0, 0.5**0.5])
    assert math.isnan(found[0, 3]) and float(found[2, 1]) == pytest.approx(-(0.5**0.5))


def test_a_path_has_the_ends_it_is_given_and_its_barrier_the_right_sign() -> None:
    lm, goal = pico("llama"), suppress(ASK, SAID)
    one, two = (SteeringVector({1: 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(s))}) for s in (0, 1))
    way = path(lm, goal, Place((1,)), one, two, points=7)
    problem = Problem(goal, Place((1,)))
    ends = [float(losses_in_full(lm, problem, v[1][None, None])[0]) for v in (one, two)]
    assert [way.losses[0], way.losses[-1]] == pytest.approx(ends, rel=1e-4)
    worst = max(way.losses[1:-1])
    assert way.barrier == pytest.approx(max(0.0, worst - max(ends)), abs=1e-4) and way.connected == (worst <= max(ends))
    flat = path(lm, goal, Place((1,)), one, one, points=5)
    assert flat.connected or flat.barrier < 1e-4
    with pytest.raises(VectorError, match="opposite"):
        path(lm, goal, Place((1,)), one, SteeringVector({1: -one[1]}), points=3)


def test_a_vector_detects_what_lies_along_it() -> None:
    lm = pico("llama")
    positive, negative = ["tea is good .", "I like tea so ."], ["is it rain ?", "never be rude ."]
    acts = [lm.capture(lm.tokens([p]), lm.tokens([p]).index > 0, [1])[0, 0] for p in (*positive, *negative)]
    along = SteeringVector(
        {1: torch.linalg.lstsq(torch.stack(acts), torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])).solution[:, 0]}
    )
    assert detection(lm, along, positive, negative) == 1.0
    assert detection(lm, along, negative, positive) == 0.0
    assert detection(lm, along, positive, positive) == 0.5


def test_curvature_is_that_of_the_whole_hessian() -> None:
    lm, place = pico("llama"), Place((1,))
    goal = suppress(ASK, SAID)
    v = SteeringVector({1: torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))})

    def loss(x: torch.Tensor) -> torch.Tensor:
        return losses_in_full(lm, Problem(goal, place), x[None, None])[0]

    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        hessian = torch.autograd.functional.hessian(loss, v[1])
    expected = torch.linalg.eigvalsh(hessian.double()).flip(0)[:3].tolist()
    assert curvature(lm, goal, place, v, 3) == pytest.approx(expected, rel=0.05, abs=0.02 * abs(expected[0]))


def test_a_plane_holds_the_losses_at_its_points() -> None:
    lm, place, goal = pico("llama"), Place((1,)), suppress(ASK, SAID)
    center, one, two = basis(0, 2.0), basis(1, 3.0), SteeringVector({1: torch.eye(WIDTH)[1] + torch.eye(WIDTH)[2]})
    grid = plane(lm, goal, place, center, (one, two), reach=0.5, points=3)
    assert grid.shape == (3, 3)
    for i, a in enumerate((-1.0, 0.0, 1.0)):  # half of the center's norm to each side
        for j, b in enumerate((-1.0, 0.0, 1.0)):
            v = center[1] + a * torch.eye(WIDTH)[1] + b * torch.eye(WIDTH)[2]
            assert float(grid[i, j]) == pytest.approx(
                float(losses_in_full(lm, Problem(goal, place), v[None, None])[0]), rel=1e-4
            )


def test_angles_between_spans() -> None:
    one, tilted = [basis(0), basis(1)], SteeringVector({1: torch.eye(WIDTH)[1] + torch.eye(WIDTH)[2]})
    assert angles(one, [basis(1, -2.0), basis(0)]) == pytest.approx((0, 0), abs=1e-5)
    assert angles(one, [basis(0), tilted]) == pytest.approx((0, 45), abs=1e-5)
    assert angles(one, [basis(2), basis(3)]) == pytest.approx((90, 90), abs=1e-5)
    with pytest.raises(VectorError, match="in common"):
        angles(one, [basis(0, layer=2)])
    for nothing in ([], [basis(0, 0.0)]):
        with pytest.raises(VectorError):
            angles(one, nothing)


def test_sensitivity_is_that_of_full_passes() -> None:
    lm, prompt = pico("llama"), "is it rain ?"
    found = sensitivity(lm, 1, [prompt], step=0.001, batch=5)
    assert found.shape == (WIDTH, WIDTH) and torch.allclose(found, found.T, atol=1e-5)
    tokens = lm.tokens([prompt])

    def end(k: int, size: float) -> torch.Tensor:
        with steer(lm, Intervention(basis(k, size), positions="everywhere")):
            return lm.capture(tokens, "last", [lm.n_layers - 1])[0, 0]

    columns = [(end(k, 0.02) - end(k, -0.02)) / 0.04 for k in range(WIDTH)]
    jacobian = torch.stack(columns, 1)
    assert torch.allclose(found, jacobian.T @ jacobian, rtol=0.02, atol=1e-2 * float(found.diagonal().mean()))
    with pytest.raises(VectorError, match="between"):
        sensitivity(lm, 1, [prompt], 1)
