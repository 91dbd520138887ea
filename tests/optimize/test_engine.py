"""optimize(): many descents at once, each as if alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from descents import ASK, OTHER, SAID, many
from pico import pico
from trimtab.model import from_last_prompt_token
from trimtab.optimize import (
    Ball,
    Descent,
    MaxSteps,
    Place,
    Problem,
    Start,
    losses_in_full,
    optimize,
    promote,
)
from trimtab.steering.interventions import Intervention, steer
from zoo import WIDTH


def test_a_batch_of_runs_is_every_run_alone() -> None:
    lm, problems = pico("llama"), many()
    together = optimize(lm, problems)
    for problem, found in zip(problems, together, strict=True):
        (alone,) = optimize(lm, [problem])
        assert alone.steps == found.steps and alone.reason == found.reason
        assert alone.history.totals == pytest.approx(found.history.totals, rel=1e-4, abs=1e-4)
        for layer, v in alone.vector.vectors.items():
            assert float((v - found.vector[layer]).norm() / v.norm()) < 2e-3


def test_the_returned_loss_is_that_of_the_returned_vector() -> None:
    lm = pico("llama")
    for problem, found in zip(many(), optimize(lm, many()), strict=True):
        v = torch.stack([found.vector[layer].reshape(-1, WIDTH) for layer in problem.place.first])
        again = losses_in_full(lm, problem, v)
        assert [float(x) for x in again] == pytest.approx(list(found.losses), rel=1e-4, abs=1e-4)
        assert found.loss <= min(found.history.totals) + 1e-9 or found.reached


def test_no_parameter_ever_holds_a_gradient() -> None:
    lm = pico("llama")
    before = [p.requires_grad for p in lm.model.parameters()]
    lm.model.requires_grad_(True)
    try:
        optimize(lm, many()[:2])
        assert all(p.grad is None for p in lm.model.parameters())
        assert all(p.requires_grad for p in lm.model.parameters())
    finally:
        for p, was in zip(lm.model.parameters(), before, strict=True):
            p.requires_grad_(was)


def test_a_descent_goes_down_and_steers() -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (Ball(20.0),), Descent(0.5, (MaxSteps(40),)))
    (found,) = optimize(lm, [problem])
    assert found.loss < 0.8 * found.history.totals[0]
    (plain,) = lm.logprobs([ASK], [SAID])
    with steer(lm, found.intervention(problem.place)):
        (steered,) = lm.logprobs([ASK], [SAID])
    assert steered.sum() > plain.sum()
    assert found.vector.norm()[1] <= 20.001 and found.vector.made.fingerprint == lm.fingerprint


def test_negated_examples_learn_opposite_effects() -> None:
    lm = pico("llama")
    both = promote(ASK, SAID) + promote("is it rain ?", OTHER, negated=True)
    (found,) = optimize(lm, [Problem(both, Place((1,)), (), Descent(0.5, (MaxSteps(40),)))])
    with steer(lm, Intervention(found.vector, multiplier=-1.0)):
        away = lm.logprobs(["is it rain ?"], [OTHER])[0].sum()
    assert away > lm.logprobs(["is it rain ?"], [OTHER])[0].sum()


def test_a_loss_that_stops_being_a_number_names_the_step_and_keeps_the_best() -> None:
    lm = pico("llama")
    (found,) = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(1e38, (MaxSteps(9),)))])
    assert "not a number after step" in found.reason
    assert math.isfinite(found.loss) and found.reached is None


def test_a_descent_that_blows_up_leaves_its_neighbors_alone() -> None:
    lm = pico("llama")
    good = Problem(promote(ASK, SAID), Place((1,), positions=from_last_prompt_token), (), Descent(0.3, (MaxSteps(6),)))
    bad = replace(good, descent=Descent(1e38, (MaxSteps(6),)))
    alone, (one, lost, two) = optimize(lm, [good])[0], optimize(lm, [good, bad, replace(good, start=Start(seed=1))])
    assert "not a number" in lost.reason and one.reason == two.reason == "MaxSteps"
    assert one.history.totals == pytest.approx(alone.history.totals, rel=1e-4)
