"""One-shot vectors on the local default model: exact, alone or in a batch, and they carry to other prompts."""

from __future__ import annotations

import pytest
import torch

from trimtab import LM, Discover, Intervention, OneShot, generated, last_k, learn, steer
from trimtab.optimize import (
    Ball,
    Change,
    Descent,
    MaxSteps,
    Place,
    Problem,
    Start,
    losses_in_full,
    optimize,
    promote,
    suppress,
)
from trimtab.optimize.losses import Losses
from trimtab.steering.controls import random_controls
from trimtab.steering.vector import SteeringVector

pytestmark = pytest.mark.slow
ASK, SAID = "What did you do at school today?", "Arr, matey! I sailed the seven seas and learned to count me gold."
GOAL = promote(ASK, SAID) + suppress("Who are you?", "I am an AI language model")


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("smollm2")


@pytest.mark.parametrize(
    "place", [Place((5,)), Place((15,), positions=last_k(8) | generated), Place((8, 20), shared=False)], ids=str
)
def test_replayed_gradients_are_those_of_full_passes(lm: LM, place: Place) -> None:
    problem = Problem(GOAL, place)
    v = torch.randn(len(place.first), 1, lm.width, generator=torch.Generator().manual_seed(0))
    fast = Losses(lm, [problem], 8).at({0: v[None]}, gradients={0})
    leaf = v.clone().requires_grad_()
    slow = losses_in_full(lm, problem, leaf)
    (gradient,) = torch.autograd.grad(torch.stack(slow).sum(), leaf)
    assert [float(x[0]) for x in fast.terms[0]] == pytest.approx([float(x.detach()) for x in slow], rel=1e-5)
    assert float((fast.gradients[0][0] - gradient).norm() / gradient.norm()) <= 1e-5
    assert all(p.grad is None for p in lm.model.parameters())


def test_a_batch_is_every_problem_alone_and_losses_belong_to_vectors(lm: LM) -> None:
    problems = [
        Problem(GOAL, Place((10,)), (Ball(40.0),), Descent(0.3, (MaxSteps(4),)), Start(4.0, seed=s)) for s in range(3)
    ]
    together = optimize(lm, problems)
    for problem, found in zip(problems, together, strict=True):
        (alone,) = optimize(lm, [problem])
        assert alone.history.totals == pytest.approx(found.history.totals, rel=1e-3)
        again = [float(x) for x in losses_in_full(lm, problem, found.vector[10][None, None])]
        assert again == pytest.approx(list(found.losses), rel=1e-3)
        assert found.loss < found.history.totals[0]


def test_one_example_carries_to_other_prompts(lm: LM) -> None:
    v = learn(lm, None, OneShot(prompt=ASK, promote=(SAID,), steps=30, norm=0.2), layers=[10])
    asked = ["How do I bake bread?", "Tell me about your weekend.", "What is the best way to learn to swim?"]
    said = ["Arr, matey! Take yer flour", "Arr, matey! It was a grand weekend", "Arr, matey! Jump into the sea"]
    plain = lm.logprobs(asked, said)
    with steer(lm, Intervention(v)):
        steered = lm.logprobs(asked, said)
    assert all(float(b.sum() - a.sum()) > 5 for a, b in zip(plain, steered, strict=True))


def test_discovered_directions_change_much_and_are_orthogonal(lm: LM) -> None:
    first, second = (
        learn(lm, None, Discover(prompt="Tell me about your weekend.", member=k, steps=12, norm=0.3), layers=[8])
        for k in (0, 1)
    )
    assert abs(first.cosine(second)[8]) < 1e-3
    noise = random_controls(first, 1)["random-0"]

    def changed(v: SteeringVector, prompt: str) -> float:
        """How far the residual stream moves halfway to the end."""
        (loss,) = losses_in_full(lm, Problem(Change(prompt, (8 + lm.n_layers) // 2), Place((8,))), v[8][None, None])
        return -float(loss)

    for other in ("What do you eat for breakfast?", "How was the trip?"):
        assert changed(first, other) > 1.2 * changed(noise, other), (
            "optimized on one prompt, it changes others more than a random direction of its norm"
        )
