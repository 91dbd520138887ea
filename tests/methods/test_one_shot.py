"""The one-shot method: a prompt or a few pairs become a vector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pico import pico
from trimtab import registry
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, LossError, RecipeError, UnknownName
from trimtab.methods import OneShot, learn
from trimtab.optimize import (
    AntiCorrelated,
    Ascent,
    Ball,
    Factors,
    Gaussian,
    Match,
    Problem,
    Promote,
    Sphere,
    Suppress,
    Tangent,
)
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector

PAIRS = Dataset(
    "toy",
    (
        Pair("Do you like tea ?", "Yes I like tea .", "No never ."),
        Pair("is it rain ?", "Yes it is .", "No it is not ."),
    ),
)
ASK = "Do you like tea ?"


def test_one_prompt_is_enough() -> None:
    lm = pico("llama")
    v = learn(lm, None, OneShot(prompt=ASK, promote=("Yes I like tea .",), steps=30, norm=1.0), layers=[1, 2])
    assert v.layers == (1, 2) and not v.nulls and not v.made.trained_on
    for layer in (1, 2):
        figures = v.made.figures[str(layer)]
        before = float(lm.logprobs([ASK], ["Yes I like tea ."])[0].sum())
        with steer(lm, Intervention(v.at(layer))):
            after = float(lm.logprobs([ASK], ["Yes I like tea ."])[0].sum())
        assert after > before and figures["steps"] == 30 and figures["reason"] == "MaxSteps"
    again = learn(lm, None, OneShot(prompt=ASK, promote=("Yes I like tea .",), steps=30, norm=1.0), layers=[1, 2])
    assert again.hash == v.hash


def test_layers_alone_and_together_are_different_vectors() -> None:
    lm, method = pico("llama"), OneShot(prompt=ASK, promote=("Yes I like tea .",), steps=5)
    alone = learn(lm, None, method, layers=[1, 2])
    assert alone.at(2).vectors[2].tolist() == pytest.approx(learn(lm, None, method, layers=[2])[2].tolist(), abs=1e-4)
    both = learn(lm, None, OneShot(prompt=ASK, promote=("Yes I like tea .",), steps=5, together=True), layers=[1, 2])
    assert both[1].equal(both[2]) and not both[1].equal(alone[1])


def test_pairs_are_promoted_suppressed_or_both() -> None:
    kinds = {
        mode: [type(t) for _, t in OneShot(mode=mode, examples=2).objective(PAIRS).terms]
        for mode in ("promote", "suppress", "mixed")
    }  # type: ignore[arg-type]
    assert kinds == {"promote": [Promote] * 2, "suppress": [Suppress] * 2, "mixed": [Promote] * 2 + [Suppress] * 2}
    v = learn(pico("llama"), PAIRS, OneShot(steps=3), layers=[1])
    assert v.made.trained_on == (PAIRS[0].group,), "pairs it never looked at stay free for evaluation"
    told = v.made.figures["1"]["signals"]
    assert told["norm"] == pytest.approx(v.norm()[1]) and told["held-out loss"] > 0 and told["neutral kl"] >= 0
    assert SteeringVector.from_bytes(v.to_bytes()).made.figures == v.made.figures


def test_every_technique_is_a_field_of_its_problems() -> None:
    lm, ask = pico("llama"), {"prompt": ASK, "promote": ("Yes I like tea .",)}

    def problem(**fields: object) -> Problem:
        return OneShot(**{**ask, **fields}).problems(lm, None, [1])[0]  # type: ignore[arg-type]

    plain = problem()
    (ball,) = plain.constraints
    assert isinstance(ball, Ball)
    cap = ball.radius
    assert problem(bound="sphere").constraints == (Sphere(cap),) and problem(bound="none").constraints == ()
    assert plain.start.norm == pytest.approx(0.1 * cap) and problem(start=1.0).start.norm == pytest.approx(cap)
    scale = 0.1 * cap / lm.width**0.5
    noises = {
        "none": None,
        "gaussian": Gaussian(scale, 3),
        "tangent": Tangent(scale, 3),
        "relu": Tangent(scale, 3, downhill_only=True),
        "anti-correlated": AntiCorrelated(scale / 2**0.5, 3),
        "sharpness-aware": Ascent(0.1 * cap),
    }
    for name, noise in noises.items():
        assert problem(noise=name, noise_samples=3).descent.noise == noise
    drawn = [noises[k].draw(torch.zeros(1, 1, lm.width), torch.ones(1, 1, lm.width), 0, 1).norm(dim=-1)  # type: ignore
             for k in ("gaussian", "anti-correlated", "sharpness-aware")]  # fmt: skip
    assert all(0.5 * 0.1 * cap < float(x.mean()) < 1.5 * 0.1 * cap for x in drawn), "all are about as long"
    mapped = problem(operator="affine", rank=2)
    assert mapped.place.rank == 2 and mapped.constraints == (Ball(cap), Factors())
    assert problem(operator="affine", rank=2, matrix_alone=True).constraints == (Ball(0.0), Factors())
    assert len(problem(before=("Hello . ",)).goal.terms) == 2
    anchored = problem(anchor=2.0).goal.terms
    assert [w for w, t in anchored if isinstance(t, Match)] == pytest.approx([2.0 / 6] * 6)


def test_a_family_is_orthogonal_and_a_shortened_vector_does_as_well() -> None:
    lm, ask = pico("llama"), {"prompt": ASK, "promote": ("Yes I like tea .",), "steps": 20, "norm": 1.0}
    first = learn(lm, None, OneShot(**ask), layers=[1, 2])  # type: ignore[arg-type]
    third = learn(lm, None, OneShot(**ask, member=2), layers=[1, 2])  # type: ignore[arg-type]
    for layer in (1, 2):
        assert abs(float(first[layer] @ third[layer])) < 1e-3 * float(first[layer].norm() * third[layer].norm())
    far = OneShot(
        prompt=ASK, suppress=("No never .",), norm=3.0, start=0.8, target=0.04
    )  # starts longer than it need be
    long, short = (learn(lm, None, replace(far, shorten=n), layers=[1]) for n in (0, 100))
    assert short.norm()[1] < 0.5 * long.norm()[1]
    assert short.made.figures["1"]["loss"] <= long.made.figures["1"]["loss"] + 0.011


def test_a_family_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    lm = pico("llama")
    ask = {"prompt": ASK, "promote": ("Yes I like tea .",), "steps": 8, "member": 1}
    whole = learn(lm, None, OneShot(**ask), layers=[1])  # type: ignore[arg-type]
    kept = learn(lm, None, OneShot(**ask, resume=str(tmp_path)), layers=[1])  # type: ignore[arg-type]
    again = learn(lm, None, OneShot(**ask, resume=str(tmp_path)), layers=[1])  # type: ignore[arg-type]
    assert kept[1].equal(whole[1]) and again[1].equal(whole[1]) and len(list(tmp_path.iterdir())) == 2


def test_a_target_ends_it_early() -> None:
    lm = pico("llama")
    free = learn(lm, None, OneShot(prompt=ASK, suppress=("No never .",), steps=30, norm=1.0), layers=[1])
    level = free.made.figures["1"]["loss"] * 1.5
    v = learn(lm, None, OneShot(prompt=ASK, suppress=("No never .",), steps=30, norm=1.0, target=level), layers=[1])
    assert v.made.figures["1"]["reached"] and v.made.figures["1"]["steps"] < 30 and v.made.figures["1"]["loss"] <= level


def test_what_cannot_be_learned_is_refused() -> None:
    lm = pico("llama")
    for make, error in (
        (lambda: OneShot(prompt=ASK), RecipeError),
        (lambda: OneShot(promote=("Yes",)), RecipeError),
        (lambda: OneShot(norm=0.0), RecipeError),
        (lambda: OneShot(operator="adds"), UnknownName),
        (lambda: registry.make("method", {"name": "one-shot", "noise": "loud"}), UnknownName),
        (lambda: registry.make("method", {"name": "one-shot", "bound": "box"}), UnknownName),
        (lambda: OneShot(operator="affine"), RecipeError),
        (lambda: OneShot(rank=1), RecipeError),
        (lambda: OneShot(matrix_alone=True), RecipeError),
        (lambda: OneShot(operator="affine", rank=1, member=1), RecipeError),
        (lambda: OneShot(noise_size=0.0), RecipeError),
        (lambda: OneShot(positions="nowhere"), UnknownName),
        (lambda: learn(lm, None, OneShot(), layers=[1]), DataError),
        (
            lambda: learn(lm, None, OneShot(prompt=ASK, promote=("Yes",), positions="span(90, 95)"), layers=[1]),
            LossError,
        ),
    ):
        with pytest.raises(error):
            make()
