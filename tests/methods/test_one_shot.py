"""The one-shot method: a prompt or a few pairs become a vector."""

from __future__ import annotations

import pytest

from pico import pico
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, LossError, RecipeError, UnknownName
from trimtab.methods import OneShot, learn
from trimtab.optimize import Promote, Suppress
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
        (lambda: OneShot(positions="nowhere"), UnknownName),
        (lambda: learn(lm, None, OneShot(), layers=[1]), DataError),
        (
            lambda: learn(lm, None, OneShot(prompt=ASK, promote=("Yes",), positions="span(90, 95)"), layers=[1]),
            LossError,
        ),
    ):
        with pytest.raises(error):
            make()
