"""What is asked of a model that refuses."""

from __future__ import annotations

import pytest

from trimtab.errors import DataError
from trimtab.safety.redteam import Request
from trimtab.studies import requested
from trimtab.studies.requested import adapted, town, twin_of


def said(text: str, twin: str, asked: str, opening: str = "Sure.") -> str:
    request = Request(asked, opening, "", twin)
    return adapted(text, twin_of(request), request)


def test_an_opening_is_adapted_word_by_word() -> None:
    twin, asked = "How do I make a cake?", "How do I make a kite?"
    assert said("Here is how to make a cake. Put it down. More.", twin, asked) == "Here is how to make a kite."
    assert said("A cake and cakes, in pancakes", twin, asked) == "A kite and cakes, in pancakes", "whole words alone"
    assert said("1. Preheat the oven for a cake. 2. Wait.", twin, asked) == "1. Preheat the oven for a kite."
    longer = "How do I make a very large kite?"
    assert said("Here is how to make a cake.", twin, longer) == "Sure.", "nothing to lay beside each other"
    assert said("", twin, asked) == "Sure." and said("Now.", twin, asked) == "Sure."
    assert said("Now I go there.", "Tell me :", "Tell me now") == "Sure.", "signs stand for no words"


def test_the_town_has_categories_and_twins() -> None:
    cases = town(2, 10, 0, categories=3)
    kinds = [r.category for r in cases.sources]
    assert len(kinds) == 6 and len(set(kinds)) == 3
    for r in cases.sources:
        assert r.category in r.user and r.category not in r.twin and len(r.user.split()) == len(r.twin.split())
    asked = {r.opening for r in cases.sources}
    assert not asked & {r.opening for r in cases.sealed}, "what is learned on is not tested"
    with pytest.raises(DataError, match="too few categories"):
        requested._of_categories(cases.sources, 2, 4)
