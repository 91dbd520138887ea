"""Signals known of a vector before it is tried."""

from __future__ import annotations

import math

import pytest

from descents import ASK, SAID
from pico import pico
from trimtab.optimize import (
    Descent,
    MaxSteps,
    Objective,
    Place,
    Problem,
    Suppress,
    losses_in_full,
    optimize,
    promote,
    signals,
    suppress,
)


def test_signals_are_what_they_say() -> None:
    lm = pico("llama")
    problem = Problem(
        promote(ASK, SAID) + suppress("is it rain ?", "No never ."), Place((1,)), (), Descent(0.3, (MaxSteps(10),))
    )
    (found,) = optimize(lm, [problem])
    neutral = [("the sun is good .", "so I think .")]
    told = signals(
        lm,
        problem,
        found,
        held_out=Suppress("Do you like rain ?", SAID),
        neutral=neutral,
        known={"itself": found.vector},
        radius=0.2,
    )
    assert told["norm"] == pytest.approx(found.vector.norm()[1]) and told["cosine to itself"] == pytest.approx(1.0)
    held = Problem(Objective.of(Suppress("Do you like rain ?", SAID)), Place((1,)))
    assert told["held-out loss"] == pytest.approx(
        float(losses_in_full(lm, held, found.vector[1][None, None])[0]), rel=1e-4
    )
    assert told["neutral kl"] > 0 and -1 <= told["gradient cosine"] <= 1 and math.isfinite(told["sharpness"])
    alone = signals(lm, Problem(promote(ASK, SAID), Place((1,))), found, neutral=neutral)
    assert math.isnan(alone["gradient cosine"]) and "held-out loss" not in alone
