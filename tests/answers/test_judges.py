"""Judges: expected scores, rubrics, recorded ratings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pico import pico, tokenizer
from trimtab import LM
from trimtab.answers.judges import Answer, ModelJudge, Rating, Recorded, Rubric
from trimtab.errors import RecipeError, TokenError, UnknownName

TOY = Rubric("toy", 1, "Do you like {answer} ?", {"1": 1.0, "2": 2.0, "10": 10.0}, {"12": "refusal"}, mass=0.25)


class Digits:
    """The pico tokenizer with ten digits, each a token of its own."""

    unk_token_id = -1

    def __init__(self) -> None:
        self.inner = tokenizer()

    def __call__(self, text: str, **options: Any) -> Any:
        return (
            type("Ids", (), {"input_ids": [20 + int(d) for d in text]})
            if text.isdigit()
            else self.inner(text, **options)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_expected_score_renormalises_and_says_why_there_is_none() -> None:
    assert TOY.rated({"1": 0.25, "2": 0.25, "other": 0.5}) == Rating(1.5, 0.5)
    low = TOY.rated({"1": 0.1, "12": 0.5})
    assert math.isnan(low.score) and low.label == "refusal" and low.mass == 0.1
    assert TOY.rated({"1": 0.1, "12": 0.05}).label == "no number" and math.isnan(TOY.rated({}).score)


def test_a_model_judges_by_the_replies_it_might_give() -> None:
    lm = LM(pico().model, Digits(), id="digits")
    row = lm.row("Do you like tea ?")

    def p(*before: int) -> torch.Tensor:
        return lm.logits(lm.batch([row.extended(before)]))[0, -1].softmax(-1)

    one = float(p()[21])
    expected = {
        "1": one * (1 - float(p(21)[20]) - float(p(21)[22])),
        "2": float(p()[22]),
        "10": one * float(p(21)[20]),
        "12": one * float(p(21)[22]),
    }
    judge = ModelJudge(lm, Rubric("toy", 1, TOY.template, TOY.words, TOY.labels, mass=0.0))
    rated, empty = judge.rate([{"answer": "tea"}, {"answer": " "}])
    mass = expected["1"] + expected["2"] + expected["10"]
    assert rated.mass == pytest.approx(mass, rel=1e-4)
    assert rated.score == pytest.approx((expected["1"] + 2 * expected["2"] + 10 * expected["10"]) / mass, rel=1e-4)
    assert empty.label == "empty" and math.isnan(empty.score)


def test_bad_judges() -> None:
    with pytest.raises(TokenError, match="cannot say the replies"):
        ModelJudge(pico(), TOY)
    with pytest.raises(UnknownName):
        Rubric.load("no-such")
    with pytest.raises(RecipeError, match="asks for"):
        TOY.ask({"question": "x"})


def test_rubrics_that_come_with_trimtab() -> None:
    assert list(Rubric.load("alignment").words.values()) == [float(k) for k in range(101)] and set(
        Rubric.load("alignment").labels
    ) == {
        "CODE",
        "REFUSAL",
    }
    assert Rubric.load("behavior").words == {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0} and Rubric.load(
        "complied"
    ).words == {"Yes": 1.0, "No": 0.0}
    for name in ("alignment", "coherence", "complied"):
        assert "{" not in Rubric.load(name).ask({"question": "q", "answer": "a"})[-1]["content"]


class Counting:
    """A judge that counts what it is asked, and fails where it is told to."""

    def __init__(self, fails: int = 0) -> None:
        self.rubric, self.asked, self.fails = TOY, 0, fails

    def describe(self) -> dict[str, Any]:
        return {"name": "counting"}

    def rate(self, answers: Sequence[Answer]) -> list[Rating]:
        self.asked += len(answers)
        out = [
            Rating(math.nan, 0.0, "failed") if k < self.fails else Rating(float(len(a["answer"])), 1.0)
            for k, a in enumerate(answers)
        ]
        self.fails = 0
        return out


def test_recorded_ratings_are_not_asked_twice(tmp_path: Path) -> None:
    answers = [{"answer": "tea"}, {"answer": "rain"}, {"answer": "tea"}]
    first = Counting()
    assert [r.score for r in Recorded(first, tmp_path / "r.jsonl").rate(answers)] == [
        3.0,
        4.0,
        3.0,
    ] and first.asked == 2
    again = Counting()
    assert [r.score for r in Recorded(again, tmp_path / "r.jsonl").rate([*answers, {"answer": "sun"}])] == [
        3.0,
        4.0,
        3.0,
        3.0,
    ] and again.asked == 1
    flaky = Counting(fails=1)
    judge = Recorded(flaky, tmp_path / "f.jsonl")
    assert math.isnan(judge.rate(answers)[0].score) and judge.rate(answers)[0].score == 3.0 and flaky.asked == 3, (
        "only what failed is asked again"
    )
