"""Where a gradient is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from descents import ASK, SAID
from pico import pico
from trimtab.errors import LossError, RecipeError
from trimtab.methods import OneShot
from trimtab.optimize import (
    AntiCorrelated,
    Ascent,
    Descent,
    Gaussian,
    History,
    MaxSteps,
    Place,
    Plateau,
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
    fading, plain = Gaussian(1.0, fading=4), Gaussian(1.0)
    for step, left in enumerate((1.0, 0.75, 0.5, 0.25, 0.0, 0.0)):
        assert torch.allclose(fading.draw(v, None, 0, step), left * plain.draw(v, None, 0, step)), step


@pytest.mark.parametrize(
    "noise",
    [
        Gaussian(0.3, 2),
        Tangent(0.3, 2),
        Tangent(0.3, downhill_only=True),
        AntiCorrelated(0.3),
        Ascent(0.3),
        Gaussian(0.3, fading=3),
    ],
)
def test_noisy_descents_are_seeded_and_report_the_clean_loss(noise: object) -> None:
    lm, problem = pico("llama"), Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.2, (MaxSteps(5),), noise))  # type: ignore[arg-type]
    (one,), (two,) = optimize(lm, [problem]), optimize(lm, [problem])
    (other,) = optimize(lm, [replace(problem, start=Start(seed=1))])
    assert one.vector.hash == two.vector.hash != other.vector.hash
    assert one.loss == pytest.approx(float(losses_in_full(lm, problem, one.vector[1][None, None])[0]), rel=1e-5)


def test_a_penalty_makes_the_vector_shorter_and_is_counted_where_the_best_is_chosen() -> None:
    lm, how = pico("llama"), Descent(0.1, (MaxSteps(60),))
    free = Problem(promote(ASK, SAID), Place((1,)), (), how)
    (long,) = optimize(lm, [free])
    (short,) = optimize(lm, [replace(free, descent=replace(how, penalty=0.05))])
    assert short.vector.norm()[1] < 0.8 * long.vector.norm()[1]
    again = float(losses_in_full(lm, free, short.vector[1][None, None])[0])
    assert short.loss == pytest.approx(again, rel=1e-5), "the loss is told without the penalty"
    worth = [x + 0.05 * n**2 for x, n in zip(short.history.totals, short.history.norms, strict=True)]
    assert short.history.totals[int(torch.tensor(worth).argmin())] == pytest.approx(short.loss)
    with pytest.raises(LossError, match="penalty"):
        Descent(penalty=-1.0)
    with pytest.raises(LossError, match="steps"):
        Gaussian(1.0, fading=-1)


def test_a_plateau_is_one_of_what_is_minimized() -> None:
    history = History(totals=[5.0, 5.0, 5.0], norms=[3.0, 2.0, 1.0], penalty=1.0)
    assert not Plateau(1e-3, 2).done(history) and Plateau(1e-3, 2).done(replace(history, penalty=0.0))
    with pytest.raises(RecipeError, match="penalty"):
        OneShot(penalty=1.0, bound="sphere")
