"""The decision table of a vector made from a sentence: every line of it, and null vectors do not get through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trimtab.statistics.intervals import Figure, mean_figure
from trimtab.statistics.shipping import HELP, Trial, decide


def figure(value: float, half: float = 0.1) -> Figure:
    return Figure("", value, value - half, value + half, 12, "")


GOOD = Trial(40, 60, figure(0.5), 0.1, True, 0.0, figure(0.5), figure(0.8), 0.1, figure(0.0))
NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "ship it"),
        ({"contrasts": 11}, "cannot be shown here"),
        ({"rise": None}, "cannot be shown here"),
        ({"ship": False}, "cannot be steered here"),
        ({"control": 0.45}, "cannot be steered here"),
        ({"rise": figure(-0.5)}, "cannot be steered here"),
        ({"broken": 0.5}, "breaks the text"),
        ({"broken": NAN}, "breaks the text"),
        ({"control": NAN}, "cannot be steered here"),
        ({"text": None}, "cannot be judged here"),
        ({"asked": figure(0.05)}, "cannot be judged here"),
        ({"asked": figure(0.08, 0.01)}, "cannot be judged here"),
        ({"text_control": NAN}, "moves the text but not the behavior"),
        ({"text_control": 0.75}, "moves the text but not the behavior"),
        ({"text": figure(0.12, 0.01), "text_control": 0.0}, "moves the text but not the behavior"),
        ({"text": figure(0.3)}, "does no more than asking in words"),
        ({"text": figure(0.3), "gain": figure(0.3)}, "ship it"),
        ({"text": figure(0.3), "gain": figure(0.3), "gain_control": 0.25}, "does no more than asking in words"),
        ({"text": figure(0.3), "gain": figure(0.3), "gain_broken": 0.5}, "does no more than asking in words"),
    ],
)
def test_every_line_of_the_table(changes: dict[str, object], kind: str) -> None:
    assert decide(replace(GOOD, **changes)) == kind  # type: ignore[arg-type]
    assert kind in HELP


def test_vectors_that_do_nothing_are_not_shipped() -> None:
    """A vector and twenty controls of one kind, sixteen items, twelve answers: at most one in twenty."""
    rng, shipped = np.random.default_rng(0), 0
    for _ in range(400):
        effects = rng.normal(0, 0.3, 21)  # of the vector, and of twenty controls: all do something, none on purpose
        items = effects[:1, None] + rng.normal(0, 0.3, (1, 16))
        text = effects[0] / 2 + rng.normal(0, 0.5, 12)
        trial = Trial(
            40, 60, mean_figure("", items[0], ""), float(np.abs(effects[1:]).max()), True, 0.0, figure(0.5),
            mean_figure("", text, ""), float(np.abs(effects[1:5] / 2).max()), None,
        )  # fmt: skip
        shipped += decide(trial) == "ship it"
    assert shipped <= 20
