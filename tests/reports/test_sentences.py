"""The verdict in words: what it says, beside what, and what to do next."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from trimtab.reports.curves import Curve
from trimtab.reports.page import sentences_of
from trimtab.reports.sentences import NEXT, in_words, needed, verdict
from trimtab.statistics.intervals import Figure, share_figure
from trimtab.statistics.slopes import anti_steerable, fit_slopes
from trimtab.statistics.verdict import Evidence, Kind

GRID = np.array([-1.0, 0.0, 1.0])


def curve(slopes: list[float]) -> Curve:
    values = np.array(slopes)[:, None] * GRID
    names, none = [f"q{k}" for k in range(len(slopes))], np.zeros(3)
    return Curve("vector", GRID, names, names, values, fit_slopes(GRID, values), none, none, none, none)


def said(kind: Kind, slopes: list[float]) -> str:
    c = curve(slopes)
    slope = Figure("steerability", float(np.mean(slopes)), 0.1, 0.2, len(slopes), "nats per multiplier")
    wrong = share_figure("anti-steerable share", anti_steerable(c.slopes.slope))
    return verdict(kind, Evidence(slope, len(slopes), 0.01, 0.0), c, wrong)


def test_inputs_are_counted_and_bounded() -> None:
    assert said("works", [1.0] * 7) == "Works: it raises the behavior on all 7 inputs (at least 65%)."
    assert said("works", [1.0] * 43 + [-1.0]).startswith("Works: it raises the behavior on 43 of 44 inputs (at least 8")
    assert said("works", [1.0, 1.0, -1.0] * 4).startswith("Works on average, but reverses on 33% of inputs")


def test_too_few_items_says_how_many_would_do() -> None:
    few = said("too few items", [1.0, 2.0, -1.5, 1.0, 0.5, 2.5, -0.5])
    n = needed(curve([1.0, 2.0, -1.5, 1.0, 0.5, 2.5, -0.5]))
    assert few == f"Too few items to say: 7 questions; {n} or more are needed for this spread."
    assert needed(curve([1.0, 1.1, 0.9])) == 10 and needed(curve([1.0, -0.9, 1.1, -1.0])) > 100
    assert needed(curve([0.0])) == 10


def test_the_number_needed_is_about_right() -> None:
    """With so many draws of this mean and spread, an interval of two standard errors mostly leaves 0 out."""
    rng = np.random.default_rng(0)
    c = curve([2.0, -1.5, 1.0, -0.5, 1.5, -1.0, 2.5, -0.5, 0.0])
    mean, spread = float(c.slopes.slope.mean()), float(c.slopes.slope.std(ddof=1))
    n = needed(c)
    assert n > 10
    drawn = rng.normal(mean, spread, (500, n))
    told = np.abs(drawn.mean(1)) > 2 * drawn.std(1, ddof=1) / n**0.5
    assert 0.35 < told.mean() < 0.75


def test_the_slope_in_plain_words() -> None:
    assert in_words(curve([np.log(1.6)]), "nats/token per multiplier") == (
        "At multiplier 1 the positive answer beside the negative one becomes 1.6 times as likely per token."
    )
    assert in_words(curve([1e-4]), "nats per multiplier").endswith("is as likely as before."), "not 1 times as likely"
    assert "the matching letter beside the other becomes 2 times" in in_words(curve([np.log(2)]), "nats per multiplier")


def test_every_verdict_says_what_to_do_next() -> None:
    assert NEXT.keys() == set(get_args(Kind)) and all(text[-1] in ".?" for text in NEXT.values())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("One. Two is cut sh", "One. …"),
        ("All of it.", "All of it."),
        ("no end at all", "no end at all …"),
        ('He said "yes." And th', 'He said "yes." …'),
        ("Mix. 1. Salt", "Mix. …"),
        ("", " …"),
    ],
)
def test_texts_are_shown_in_whole_sentences(text: str, shown: str) -> None:
    assert sentences_of(text) == shown
