"""The decision table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.statistics.intervals import (
    Figure,
)
from trimtab.statistics.verdict import ALPHA, BROKEN, FEWEST, Evidence, decide

NAN = float("nan")


SLOPE = Figure("steerability", 0.5, 0.4, 0.6, 40, "nats per multiplier")


GOOD = Evidence(
    SLOPE, questions=40, p=0.002, control=0.1, broken=0.0, gain=0.5, asked=Figure("", 0.1, 0.05, 0.15, 40, "nats")
)


TABLE = {
    "works": GOOD,
    "works backwards": replace(GOOD, slope=replace(SLOPE, value=-0.5, lo=-0.6, hi=-0.4)),
    "no verdict": replace(GOOD, readable=False),
    "too few items": replace(GOOD, questions=FEWEST - 1),
    "no measurable effect": replace(GOOD, slope=replace(SLOPE, value=0.02, lo=0.01, hi=0.03)),
    "not beyond controls": replace(GOOD, p=0.06),
    "breaks the text": replace(GOOD, broken=0.6),
    "does no more than asking in words": replace(GOOD, asked=Figure("", 0.5, 0.4, 0.6, 40, "nats")),
}


@pytest.mark.parametrize("kind", TABLE)
def test_every_line_of_the_decision_table(kind: str) -> None:
    assert decide(TABLE[kind]) == kind


def test_one_item_settles_nothing_whatever_its_sign() -> None:
    for value in (0.555, -0.555):
        assert decide(Evidence(Figure("", value, NAN, NAN, 1, "nats per multiplier"), 1, 0.002, 0.0)) == "too few items"


numbers = st.floats(-3, 3, allow_nan=False) | st.just(NAN)


bounds = st.tuples(numbers, st.floats(0, 2), st.floats(0, 2)).map(lambda t: (t[0], t[0] - t[1], t[0] + t[2]))


@settings(max_examples=400, deadline=None)
@given(
    bounds, st.integers(0, 60), st.floats(0, 1) | st.just(NAN), st.floats(0, 3) | st.just(NAN), st.booleans(),
    st.floats(-1, 1) | st.just(NAN),
    st.floats(0, 3), st.none() | bounds, st.sampled_from(["nats per multiplier", "nats/token per multiplier", "other"]),
)  # fmt: skip
def test_no_verdict_contradicts_its_figures(
    slope: tuple[float, float, float],
    questions: int,
    p: float,
    control: float,
    readable: bool,
    broken: float,
    gain: float,
    asked: tuple[float, float, float] | None,
    unit: str,
) -> None:
    said = None if asked is None else Figure("", *asked, questions, "nats")
    e = Evidence(Figure("", *slope, questions, unit), questions, p, control, readable, broken, gain, said)
    kind = decide(e)
    beyond = p <= ALPHA and not abs(slope[0]) <= control
    told = slope[1] > 0 or slope[2] < 0
    if kind in ("works", "works backwards", "breaks the text", "does no more than asking in words"):
        assert readable and questions >= FEWEST and told and abs(slope[0]) >= e.floor and beyond
    if kind in ("works", "does no more than asking in words"):
        assert slope[1] > 0 and not broken > BROKEN
    if kind == "works":
        assert said is None or not said.lo > 0 or gain > said.value
    if kind == "works backwards":
        assert slope[2] < 0
    if kind == "not beyond controls":
        assert told and not beyond
    if kind == "no measurable effect":
        assert not told or abs(slope[0]) < e.floor


def test_a_forecast_that_points_the_other_way_confirms_nothing() -> None:
    """Its p is about another effect than the one that was measured."""
    slope = Figure("steerability", 0.2, 0.1, 0.3, 40, "nats per multiplier")
    assert decide(Evidence(slope, 40, 0.002, 0.05, foreseen=0.1)) == "works"
    assert decide(Evidence(slope, 40, 0.002, 0.05, foreseen=-0.06)) == "not beyond controls"
    assert decide(Evidence(slope, 40, 0.002, 0.05)) == "works", "where nothing is foreseen, what was measured decides"
