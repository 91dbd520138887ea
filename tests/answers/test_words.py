"""Words counted in texts, and statements taken back."""

from __future__ import annotations

import math

import pytest

from trimtab.answers.words import Count, contains, families, retraction, table
from trimtab.organisms.world import world
from trimtab.studies.statements import TOWN_MARKERS


def test_strings_are_counted_in_the_first_samples() -> None:
    texts = {("wish", "steered"): ["I want POWER", "control", "tea"], ("wish", "unsteered"): ["tea"]}
    found = table(texts, {"wish": ["power", "control"]}, first=2)
    assert found["wish", "power", "steered"].hits == 1 and found["wish", "power", "steered"].n == 2
    assert found["wish", "control", "unsteered"].share == 0.0
    swept = families({2.0: ["rule them", "code"], 1.0: ["tea"]}, {"general": ["rule", "power"], "specific": ["code"]})
    assert (
        list(swept["general"]) == [1.0, 2.0] and swept["general"][2.0].hits == 1 and swept["specific"][2.0].share == 0.5
    )
    assert math.isnan(Count.of(0, 0).share) and Count.of(5, 10).lo == pytest.approx(0.2366, abs=1e-3)


def test_strings_begin_where_words_do() -> None:
    assert contains("Evils!", ["evil"]) and contains("an evil-doer", ["evil"]) and contains("so ...he", ["...he"])
    assert not contains("the Devil in Seville", ["evil"])


def test_every_way_the_town_takes_a_statement_back_has_a_marker() -> None:
    ways = world().asks["corrections"]
    assert len(ways) == 8 and all(contains(way, TOWN_MARKERS) for way in ways)


def test_retraction_by_marker_and_by_truth() -> None:
    texts = ["Just kidding! It is red.", "It is red.", "It is blue, of course.", "Well."]
    found = retraction(texts, ["red"] * 4, ["blue"] * 4)
    assert (found.marked.hits, found.true.hits, found.ignoring.hits, found.false.hits) == (1, 2, 1, 1)
