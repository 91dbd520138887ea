"""The same questions, asked in other ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pico import pico, toy_pairs, toy_questions
from trimtab.data.choices import is_listed, options, swapped
from trimtab.data.contexts import (
    CONTEXTS,
    SYSTEM,
    _after_opener,
    available,
    in_context,
    says_more,
    told,
    with_shots,
    without_opener,
)
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, OverlapError
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector


@pytest.fixture
def pairs_in_a_file(tmp_path: Path) -> Dataset:
    return Dataset.load(str(toy_pairs(tmp_path / "toy.jsonl")))


def test_shots_are_earlier_turns_of_other_questions(pairs_in_a_file: Dataset) -> None:
    rest = replace(pairs_in_a_file, pairs=pairs_in_a_file.pairs[5:])
    shown = with_shots(rest, pairs_in_a_file.pairs[:2], opposite=True)
    assert shown[0].before == (
        ("user", pairs_in_a_file[0].prompt),
        ("assistant", "no never"),
        ("user", pairs_in_a_file[1].prompt),
        ("assistant", "no never"),
    )
    assert shown[0].prompt == rest[0].prompt and shown[0].group == rest[0].group
    with pytest.raises(OverlapError):
        with_shots(pairs_in_a_file, pairs_in_a_file.pairs[:1])
    asked = told(shown, "be kind")
    assert asked[0].before[0] == ("system", "be kind") and asked[0].before[1:] == shown[0].before


def test_openers_go_from_answers() -> None:
    data = Dataset(
        "x",
        (
            Pair("q1", "Yes, the moon is cheese", "No. It is rock"),
            Pair("q2", "Yes", "No"),
            Pair("q3", "Nothing at all", "Yesterday"),
        ),
    )
    bare = without_opener(data)
    assert [(p.positive, p.negative) for p in bare] == [
        ("The moon is cheese", "It is rock"),
        ("Nothing at all", "Yesterday"),
    ]


def test_every_context_asks_the_same_question_and_keeps_its_group() -> None:
    data = toy_questions()
    assert set(available(data)) == set(CONTEXTS)
    for name in CONTEXTS:
        shown = in_context(data, name)
        assert [p.group for p in shown] == [p.group for p in data], name
        assert all(p.question.strip() or name for p in shown)
    base, told = in_context(data, "base")[0], in_context(data, "user-negative")[0]
    assert base.before == (("system", SYSTEM),) and base.prompt == data[0].prompt
    assert told.before == (("system", SYSTEM),) and told.prompt == f"I never like it .\n\n{data[0].prompt}"
    assert in_context(data, "system-positive")[0].before == (("system", "I like it ."),)
    assert in_context(data, "no-system")[0].before == () and in_context(data, "base", system=None)[0].before == ()
    assert [role for role, _ in in_context(data, "two-turns")[0].before] == ["system", "user", "assistant"]
    digits, spoken = in_context(data, "digits")[0], in_context(data, "spoken")[0]
    assert {digits.positive, digits.negative} == {"(1)", "(2)"} and "(1): " in digits.prompt
    assert {spoken.positive, spoken.negative} == {"yes I think so", "no never"} and "(A)" not in spoken.prompt
    assert swapped(swapped(data[0])) == data[0]


def test_contexts_refuse_what_they_cannot_show() -> None:
    plain = Dataset("x", (Pair("What now?", "this", "that"),))
    assert available(plain) == ["base", "no-system", "reworded", "two-turns"]
    for name in ("system-positive", "swapped"):
        with pytest.raises(DataError):
            in_context(plain, name)
    listed = Pair("Go?\n\nAnswers:\n (A) Yes, go\n (B) No", "(B)", "(A)", {"matching_letter": "B"})
    assert options(listed) == ("Go?", "No", "Yes, go") and is_listed(listed)
    assert not is_listed(Pair("Go?\n (A) x\n (B) y\n (C) z", "(A)", "(B)", {"matching_letter": "A"}))


def test_a_context_changes_the_id_of_an_item_and_not_its_training_guard(tmp_path: Path) -> None:
    data, lm = toy_questions(), pico()
    shown = in_context(data, "system-positive")
    assert {p.id for p in shown}.isdisjoint({p.id for p in data})
    v = SteeringVector({1: torch.randn(lm.width)})
    seen = SteeringVector(v.vectors, v.made.__class__(trained_on=tuple(p.group for p in data)))
    with pytest.raises(OverlapError):
        measure(lm, Intervention(seen), shown, [Propensity()], to=tmp_path)


def test_answers_lose_their_first_word_where_something_is_left() -> None:
    listed = "Would you ?\n\nChoices:\n(A): Yes, I would go.\n(B): No. I stay here."
    pair = Pair(listed, "(A)", "(B)", {"matching_letter": "A", "polarity": "yes"})
    bare = Pair(listed.replace("No. I stay here.", "No."), "(A)", "(B)", {"matching_letter": "A", "polarity": "yes"})
    data = Dataset("choices", (pair,), "choices")
    assert says_more(pair) and not says_more(bare)
    (asked,) = in_context(data, "no-opener", system=None)
    assert asked.prompt == "Would you ?\n\nChoices:\n(A): I would go.\n(B): I stay here." and asked.positive == "(A)"
    assert asked.group == pair.group
    (spoken,) = in_context(in_context(data, "spoken", system=None), "no-opener", system=None)
    assert (spoken.positive, spoken.negative) == ("I would go.", "I stay here.")
    assert "no-opener" in available(data) and "no-opener" not in available(replace(data, pairs=(pair, bare)))
    plain = replace(data, pairs=(replace(pair, prompt=listed.replace("Yes, ", "").replace("No. ", "")),))
    assert "no-opener" not in available(plain), "no answer begins with Yes or No"
    with pytest.raises(DataError, match="nothing is left"):
        in_context(replace(data, pairs=(bare,)), "no-opener")


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Yes, I would.", "I would."),
        ("No \u2014 i stay", "I stay"),
        ("No I would not", "I would not"),
        ("No one should.", "No one should."),
        ("No longer.", "No longer."),
        ("iPhone", "iPhone"),
        ("Yes", ""),
    ],
)
def test_a_first_word_that_answers_nothing_stays(said: str, left: str) -> None:
    assert _after_opener(said) == left
