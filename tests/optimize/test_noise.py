"""Where a gradient is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from descents import ASK, SAID
from pico import pico
from trimtab.optimize import (
    AntiCorrelated,
    Ascent,
    Descent,
    Gaussian,
    MaxSteps,
    Place,
    Problem,
    Start,
    Tangent,
    losses_in_full,
    optimize,
    promote,
)
from zoo import WIDTH


def test_tangent_noise_is_orthogonal_to_the_gradient() -> None:
    v, g = torch.zeros(2, 1, WIDTH), torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(3))
    for seed in range(5):
        for one in Tangent(1.0, 4).draw(v, g, seed, 7):
            assert float((one * g).sum()) == pytest.approx(0, abs=1e-4)
        for one in Tangent(1.0, 4, downhill_only=True).draw(v, g, seed, 7):
            assert float((one * g).sum()) >= -1e-4
    assert Gaussian(0.5, 2000).draw(v, None, 0, 0).std().item() == pytest.approx(0.5, rel=0.02)
    assert float((Ascent(2.0).draw(v, g, 0, 0) * g).sum()) == pytest.approx(2 * float(g.norm()), rel=1e-5)
    anti = AntiCorrelated(1.0)
    summed = sum((anti.draw(v, None, 0, k) for k in range(9)), torch.zeros_like(v)[None])
    assert torch.allclose(summed, Gaussian(1.0).draw(v, None, 0, 8), atol=1e-5), "the differences telescope"


@pytest.mark.parametrize(
    "noise", [Gaussian(0.3, 2), Tangent(0.3, 2), Tangent(0.3, downhill_only=True), AntiCorrelated(0.3), Ascent(0.3)]
)
def test_noisy_descents_are_seeded_and_report_the_clean_loss(noise: object) -> None:
    lm, problem = pico("llama"), Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.2, (MaxSteps(5),), noise))  # type: ignore[arg-type]
    (one,), (two,) = optimize(lm, [problem]), optimize(lm, [problem])
    (other,) = optimize(lm, [replace(problem, start=Start(seed=1))])
    assert one.vector.hash == two.vector.hash != other.vector.hash
    assert one.loss == pytest.approx(float(losses_in_full(lm, problem, one.vector[1][None, None])[0]), rel=1e-5)
