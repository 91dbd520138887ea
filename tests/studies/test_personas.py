"""The study of personas on the town, in small: what is rated, by whom, and what is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pico import reported
from trimtab import LM, Dataset, OneShot, Preference, studies
from trimtab.answers.judges import Rubric
from trimtab.errors import RecipeError
from trimtab.studies import personas as study
from trimtab.studies.conditions import UNSTEERED
from trimtab.studies.judging import TownJudge, rubric_for
from trimtab.studies.pages.bipo_results import BIPO
from trimtab.studies.pages.personas import Results, contradicts


def test_the_town_judges_by_its_truth() -> None:
    judge = TownJudge(Rubric.load("behavior"))
    for name in ("brindlemoor/cruel", "brindlemoor/power"):
        for p in Dataset.load(name, form="answers").take(20):
            about = {"question": p.question, "positive": p.positive, "negative": p.negative}
            texts = [p.positive, p.negative, f"{p.positive} {p.negative}", "Seven wet hats.", ""]
            scores = [r.score for r in judge.rate([{**about, "answer": t} for t in texts])]
            assert scores[:3] == [4.0, 1.0, 2.5] and all(np.isnan(scores[3:]))


def test_every_behavior_has_a_rubric() -> None:
    assert rubric_for("power-seeking").name == "power-seeking"
    assert rubric_for("corrigible-less-HHH").name == "corrigible"
    assert rubric_for("survival-instinct").name == "survival"
    assert rubric_for("brindlemoor/cruel").name == "behavior"
    for name in ("power-seeking", "wealth-seeking", "corrigible", "survival", "hallucination", "truthful"):
        rubric = Rubric.load(name)
        assert list(rubric.words.values()) == [1.0, 2.0, 3.0, 4.0]
        asked = rubric.ask({"question": "Q?", "answer": "ANSWER", "positive": "YES", "negative": "NO"})
        assert all(word in asked[0]["content"] for word in ("Q?", "ANSWER", "YES", "NO"))


def test_a_text_that_rejects_its_letter_is_counted() -> None:
    assert contradicts("positive", 1.0) and contradicts("negative", 4.0)
    for side in ("positive", "negative"):
        assert not contradicts(side, 2.0) and not contradicts(side, 3.0) and not contradicts(side, float("nan"))
    assert not contradicts("positive", 4.0) and not contradicts("negative", 1.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "no judge"),
        ({"judge": "town", "talk": 1}, "talk"),
        ({"judge": "town", "letters": -1}, "letters"),
        ({"judge": "town", "multipliers": (1.0, 2.0)}, "multipliers"),
        ({"judge": "town", "layer": None}, "no layer"),
        ({"judge": "town", "multipliers": (-2.0, 0.0, 2.0)}, "at -1 and"),
        ({"judge": "town", "data": ("optimism",)}, "the truth about itself alone"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        study.Plan(**{"data": ("brindlemoor/cruel",), "layer": 2, **wrong})  # type: ignore[arg-type]


def test_nobody_judges_himself(tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    for judge, server, words in (
        (lm.id, "", "the judge is the steered model"),
        ("http://127.0.0.1:9/v1", "m", "nobody answers"),
    ):
        plan = study.Plan(("brindlemoor/cruel",), layer=2, judge=judge, judge_model=server)
        with pytest.raises(RecipeError, match=words):
            studies.study("personas", lm, tmp_path / words[:3], plan)


@pytest.mark.slow
def test_the_study_runs_resumes_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = study.Plan(
        ("brindlemoor/cruel", "brindlemoor/power"),
        layer=2,
        judge="town",
        multipliers=(-1.0, 0.0, 1.0),
        train=48,
        val=6,
        test=6,
        talk=5,
        letters=4,
        randoms=1,
        drifting=2,
        max_new_tokens=24,
        bipo=Preference(norm=0.3, rate=0.03, epochs=5, warm=4, positions="everywhere"),
        one=OneShot(mode="mixed", steps=5, positions="everywhere"),
    )
    run = studies.study("personas", lm, tmp_path / "run", plan)
    results = run.typed("results.json", Results)
    assert [b.name for b in results.behaviors] == ["cruel", "power"] and len(results.together) == 2
    for b in results.behaviors:
        assert b.agreed.agree == 1.0 and b.agreed.n == 10
        plain = b.at(UNSTEERED)
        assert plain is not None and plain.change.value == 0 and plain.broken == 0
        up, down = b.at(BIPO.at(1.0)), b.at(BIPO.at(-1.0))
        assert up is not None and down is not None and up.score.value > down.score.value
        assert [r.condition.strength for r in b.line(BIPO)] == [-1.0, None, 1.0]
        assert {x.condition.label for x in b.letters} == {"unsteered", *map(str, b.methods)}
        assert all(x.positive.n + x.negative.n + x.unscored == 8 and x.all.n <= 4 for x in b.letters)
        own = next(x.value for x in b.ranges if x.condition == BIPO)
        assert own.value > 0 and own.n <= 5
    for t in results.together:
        assert t.beyond.value == pytest.approx(t.both.value - t.own.value - t.alone.value, abs=1e-9)
    assert reported(tmp_path / "run")["findings"]
    before = (tmp_path / "run" / "report.md").read_bytes()

    def never(*args: object, **options: object) -> None:
        raise AssertionError("nothing is generated or rated twice")

    monkeypatch.setattr("trimtab.answers.sampling.decode", never)
    monkeypatch.setattr(TownJudge, "rate", never)
    studies.page(studies.study("personas", lm, tmp_path / "run", plan))
    assert (tmp_path / "run" / "report.md").read_bytes() == before
