"""The shortest vector that does no worse."""

from __future__ import annotations

import pytest

from descents import ASK, OTHER, SAID
from pico import pico
from trimtab.optimize import (
    Change,
    Descent,
    MaxSteps,
    Place,
    Problem,
    Start,
    losses_in_full,
    optimize,
    promote,
    shorten,
    suppress,
)


@pytest.mark.slow
def test_a_shorter_vector_does_no_worse_and_says_so() -> None:
    lm = pico("llama")
    problem = Problem(
        promote(ASK, SAID) + suppress("is it rain ?", OTHER),
        Place((1,)),
        (),
        Descent(0.5, (MaxSteps(40),), None),
        Start(norm=8.0),
    )
    (found,) = optimize(lm, [problem])
    level = max(found.losses) * 1.3
    short = shorten(lm, problem, found, target=None, slack=level - max(found.losses), steps=150, rate=0.05)
    assert short.holds and "every output constraint holds" in short.reason
    assert short.vector.norm()[1] < 0.97 * found.vector.norm()[1]
    again = [float(x) for x in losses_in_full(lm, problem, short.vector[1][None, None])]
    assert again == pytest.approx(list(short.losses), rel=1e-4) and all(x <= level + 1e-3 for x in again)
    impossible = shorten(lm, problem, found, target=-1.0, steps=3)
    assert impossible.holds is False and "do not hold" in impossible.reason


def test_another_aim_under_output_constraints_does_not_grow() -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.5, (MaxSteps(20),)))
    (found,) = optimize(lm, [problem])
    moved = shorten(lm, problem, found, instead=Change(ASK, 3), steps=40, slack=2.0)
    assert moved.holds and moved.vector.norm()[1] <= found.vector.norm()[1] * 1.0001
    assert min(moved.history.totals) < moved.history.totals[0]


@pytest.mark.slow
def test_shortened_as_cited_and_with_moving_constraints() -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.5, (MaxSteps(20),)))
    (found,) = optimize(lm, [problem])
    cited, moving = (
        shorten(lm, problem, found, target=max(found.losses) + 0.5, slack=0.5, steps=60, moving=m)
        for m in (False, True)
    )
    assert cited.holds and moving.holds and cited.history.norms != moving.history.norms
    strict = shorten(lm, problem, found, steps=5)
    assert all(x <= y + 2e-6 for x, y in zip(strict.losses, found.losses, strict=True)), (
        "by default nothing may rise by more than 1e-6 nats"
    )
