"""Whether a text has broken."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from paths import TESTS
from pico import pico
from trimtab.answers.quality import Quality, Usual, broken, distinct, strangeness, whole


def test_broken_texts_are_those_a_reader_calls_broken() -> None:
    """119 answers of SmolLM2, steered and not, each labeled by two readers; the thresholds were taken from every other
    one.
    """
    rows = [json.loads(line) for line in (TESTS / "read_texts.jsonl").read_text().splitlines()]
    mine = np.array(broken([r["text"] for r in rows], [r["nats"] for r in rows], usual=0.8))
    readers = np.array([[r["one"], r["two"]] for r in rows], bool).T
    held = np.arange(len(rows)) % 2 == 1
    assert all((mine == r)[held].mean() >= 0.9 for r in readers), [(mine == r)[held].mean() for r in readers]
    assert (readers[0] == readers[1]).mean() < 0.95, "two readers agree hardly better"


def test_quality_of_plain_cases() -> None:
    assert not Quality.of("The capital of France is Paris. It lies on the", 1.0).broken(0.8)
    assert not Quality.of("Yes.", 1.0).broken(0.8) and not Quality.of("Voici la réponse. Merci beaucoup !", 1.0).broken(
        0.8
    )
    assert Quality.of("up up up up up up up up", 1.0).broken(0.8), "in circles"
    assert Quality.of("The sea is blue today.", 4.0).broken(0.8), "stranger than usual by more than 2.5 nats a token"
    assert Quality.of("🍊🍊🍊🍊🍊🍊", 1.0).broken(0.8) and Quality.of("# # ## - -- >> <<", 1.0).broken(0.8), (
        "no sentences"
    )
    assert Quality.of("", float("nan")).broken(0.8), "nothing was said"
    plain = [
        "No.",
        "42",
        "(A)",
        "x = 1",
        "1, 2, 3",
        "$3,000",
        "It is 5:30 pm.",
        '{"name": "Bob", "age": 3}',
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "A: 1\nB: 2\nC: 3",
        "😀👍",
        "यह एक अच्छा दिन है।",
        "今天天气很好。我们去公园。",
    ]
    assert not [t for t in plain if Quality.of(t, 1.0).broken(0.8)]
    circles = ["aaaaaaaaaaaa", "好好好好好好好好好好", "Day-Day-Day-Day-Day-Day-Day", ";;;; ()()()() ::"]
    assert not [t for t in circles if not Quality.of(t, 1.0).broken(0.8)]
    assert whole("1. Eat well\n2. Sleep\n3. Walk") == 1.0


def test_texts_are_held_against_the_unsteered_ones() -> None:
    """Against the numbers taken one by one; empty answers are broken, and strange to nobody."""
    lm, prompts = pico(), ["Do you like tea ?", "x", "How are you ?"]
    usual = Usual(lm, prompts, ["yes I think so", "no not at all", "fine"])
    others = ["yes I think so", "", "tea tea tea tea tea tea tea tea tea tea"]
    middle = float(np.median(strangeness(lm, prompts, usual.texts)))
    odd = strangeness(lm, prompts, others)
    beside = usual.beside(others)
    assert beside.broken == np.mean(broken(others, odd, middle)) and beside.broken >= 2 / 3
    assert beside.strangeness == pytest.approx(np.nanmean(odd)) and beside.distinct == distinct(others)
    assert usual.own == usual.beside(usual.texts)
    assert math.isnan(usual.beside(["", "", ""]).strangeness) and usual.beside(["", "", ""]).broken == 1


def test_distinct_and_strangeness() -> None:
    assert distinct(["a b a b"], 1) == 0.5 and distinct(["a b c d"]) == 1.0 and math.isnan(distinct([""]))
    lm = pico()
    odd = strangeness(lm, ["Do you like tea ?", "x"], ["yes I think so", " "])
    assert odd[0] == pytest.approx(
        -float(lm.logprobs(["Do you like tea ?"], ["yes I think so"])[0].mean())
    ) and math.isnan(odd[1])
