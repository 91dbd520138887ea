"""The study of truthfulness, in small: other questions than those learned on, all methods, both ways of counting."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico import reported
from trimtab import LM, OneShot, Preference, studies
from trimtab.errors import RecipeError, UnknownName
from trimtab.runs import Run
from trimtab.studies import truthfulness as study
from trimtab.studies.behaviors import METHODS
from trimtab.studies.pages.truthfulness import KINDS, Results


def small(**changes: object) -> study.Plan:
    plan = {
        "layer": 2,
        "train": 8,
        "val": 4,
        "test": 6,
        "drifting": 2,
        "randoms": 1,
        "multipliers": (-1.0, 0.0, 1.0),
        "bipo": Preference(norm=0.3, rate=0.03, epochs=1, warm=1, positions="everywhere"),
        "one": OneShot(mode="mixed", steps=3, positions="everywhere"),
    }
    return study.Plan(**{**plan, **changes})  # type: ignore[arg-type]


def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="more than one set"):
        small(data=("truthful", "optimism"))
    lm, plan = LM.load("brindlemoor-chat"), small(data=("brindlemoor/cruel",))
    with pytest.raises(UnknownName, match="set of questions"):
        next(study.stages(lm, Run.create(tmp_path / "run"), plan))


@pytest.mark.slow
def test_the_study_runs_resumes_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LM.load("brindlemoor-chat")
    run = studies.study("truthfulness", lm, tmp_path / "run", small())
    results = run.typed("results.json", Results)
    assert results.train == 8 and results.questions == 6
    assert results.learned == list(METHODS) and len(results.conditions) == len(METHODS) + 1
    for kind in KINDS:
        plain = {c: [a.value for a in results.of("spectrum", kind, c) if a.multiplier == 0] for c in results.conditions}
        assert len({tuple(v) for v in plain.values()}) == 1, "unsteered is the same for all"
        for c in results.conditions:
            assert [a.multiplier for a in results.of("spectrum", kind, c)] == [-1.0, 0.0, 1.0]
            assert all(0 <= a.value <= 1 and a.n == 6 for a in results.of("spectrum", kind, c))
    assert reported(tmp_path / "run")["findings"]
    before = (tmp_path / "run" / "report.md").read_bytes()

    def never(*args: object, **options: object) -> None:
        raise AssertionError("nothing is learned or asked twice")

    monkeypatch.setattr("trimtab.studies.behaviors.learn", never)
    monkeypatch.setattr(study, "capability", never)
    studies.page(studies.study("truthfulness", lm, tmp_path / "run", small()))
    assert (tmp_path / "run" / "report.md").read_bytes() == before
