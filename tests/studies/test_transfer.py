"""The study of transfer on the town, in small: what is carried where, and what it is held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico import reported
from trimtab import LM, Preference, studies
from trimtab.errors import RecipeError
from trimtab.studies import transfer as study
from trimtab.studies.pages.transfer import CARRIED, HOME, LANGUAGE, MAPPED, OWN, Results


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "nowhere to carry"),
        ({"to": ("x",), "multipliers": (-2.0, 0.0, 2.0)}, "between -1 and"),
        ({"to": ("x",), "texts": 4}, "texts"),
        ({"translations": ("town", "town")}, "translations do not fit"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        study.Plan(**{"data": ("brindlemoor/cruel",), "layer": 2, **wrong})  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_study_runs_resumes_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = study.Plan(
        ("brindlemoor/cruel",),
        layer=2,
        to=("brindlemoor-chat", "brindlemoor-base"),
        translations=("town",),
        train=48,
        val=6,
        test=8,
        texts=60,
        randoms=1,
        bipo=Preference(norm=0.3, rate=0.03, epochs=3, warm=4, positions="everywhere"),
    )
    run = studies.study("transfer", lm, tmp_path / "run", plan)
    results = run.typed("results.json", Results)
    assert results.destinations == ["brindlemoor-chat", "brindlemoor-base", LANGUAGE]
    home = results.at("cruel", "")[HOME]
    itself = results.at("cruel", "brindlemoor-chat")
    assert home.value > 1 and itself[OWN].value == pytest.approx(home.value) == itself[CARRIED].value
    assert itself[MAPPED].value == pytest.approx(home.value, rel=0.5), "a map onto itself hardly turns a vector"
    assert results.places[0].explained > 0.8 and results.places[0].cosines["cruel"] > 0.3
    for where in results.destinations:
        assert all(v.n == 8 for v in results.at("cruel", where).values())
    assert {c.kind for c in results.at("cruel", LANGUAGE)} == {CARRIED.kind, "random"}
    assert reported(tmp_path / "run")["findings"]
    before = (tmp_path / "run" / "report.md").read_bytes()

    def never(*args: object, **options: object) -> None:
        raise AssertionError("nothing is learned or measured twice")

    monkeypatch.setattr("trimtab.methods.preference.Preference.fit", never)
    monkeypatch.setattr("trimtab.studies.transfer.measure", never)
    studies.page(studies.study("transfer", lm, tmp_path / "run", plan))
    assert (tmp_path / "run" / "report.md").read_bytes() == before
