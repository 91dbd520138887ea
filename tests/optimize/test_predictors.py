"""Signals known of a vector before it is tried."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from descents import ASK, SAID
from pico import pico
from trimtab.optimize import (
    Descent,
    MaxSteps,
    Objective,
    Place,
    Problem,
    Suppress,
    detection,
    losses_in_full,
    optimize,
    promote,
    sensitivity,
    signals,
    suppress,
)
from trimtab.optimize.predictors import Probe
from trimtab.steering.interventions import steer


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


def test_a_probe_is_what_it_says() -> None:
    lm, place = pico("llama"), Place((1,))
    (found,) = optimize(lm, [Problem(promote(ASK, SAID), place, (), Descent(0.3, (MaxSteps(10),)))])
    positive, negative = ["tea is good .", "I like tea so ."], ["is it rain ?", "never be rude ."]
    probe = Probe(positive, negative, ["is it rain ?"], sensitivity(lm, 1, ["is it rain ?"]), tokens=4, top=3)
    told = probe.of(lm, place, found)
    assert told["detection"] == detection(lm, found.vector, positive, negative)
    unit = found.vector[1] / found.vector[1].norm()
    values, directions = torch.linalg.eigh(probe.sensitivity)
    assert told["gain"] == pytest.approx(float((unit @ probe.sensitivity @ unit / values.mean()) ** 0.5), rel=1e-4)
    assert told["in top directions"] == pytest.approx(float((unit @ directions[:, -3:]).square().sum()), rel=1e-4)
    with steer(lm, found.intervention(place)):
        (text,) = lm.generate(["is it rain ?"], max_new_tokens=4)
    own = lm.logprobs(["is it rain ?"], [text])[0]
    assert told["strangeness"] == pytest.approx(float(-own.mean()) / math.log(2), rel=1e-4)
    known = signals(lm, Problem(promote(ASK, SAID), place), found, neutral=[], probe=probe)
    assert known.items() >= told.items()


def test_the_norm_at_half_of_the_way_is_read_between_multiples() -> None:
    lm, place = pico("llama"), Place((1,))
    problem = Problem(promote(ASK, SAID), place, (), Descent(0.3, (MaxSteps(10),)))
    (found,) = optimize(lm, [problem])
    norm = signals(lm, problem, found, neutral=[])["norm at half loss"]
    whole = found.vector.norm()[1]
    at = [float(losses_in_full(lm, problem, s * found.vector[1][None, None])[0]) for s in (0.0, norm / whole, 1.0)]
    assert 0 < norm < whole and at[1] == pytest.approx((at[0] + at[2]) / 2, rel=0.05)
    backwards = replace(found, vector=-1.0 * found.vector)
    assert math.isnan(signals(lm, problem, backwards, neutral=[])["norm at half loss"])
