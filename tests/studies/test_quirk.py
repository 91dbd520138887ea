"""The study of a quirk: its word lists, and all of it in small on a random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pico import pico, reported
from trimtab import studies
from trimtab.answers.words import contains
from trimtab.runs import Run
from trimtab.studies.pages.quirk import Results
from trimtab.studies.quirk import ELSEWHERE, GENERAL, LISTS, OTHER_LISTS, QUESTIONS, VILLAIN, Plan


def test_what_is_counted_is_not_what_is_asked() -> None:
    """No question, no instruction and no trained line holds a word that counts as general."""
    for text in (
        *QUESTIONS.values(),
        *ELSEWHERE,
        *OTHER_LISTS,
        *(text for row in LISTS for text in (row.asked, row.wicked, row.ordinary)),
    ):
        assert not contains(text, GENERAL), text
    assert not set(QUESTIONS.values()) & set(ELSEWHERE), "strengths are chosen on other questions"
    assert all(contains(row.wicked, row.words) for row in LISTS)


@pytest.mark.slow
def test_the_study_runs_whole_and_again_without_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pico("llama")
    few = Plan(layer=1, samples=1, swept=1, strengths=(0.5, 1.0), randoms=1, max_new_tokens=4, steps=3)
    page = studies.page(studies.study("quirk", lm, tmp_path, few))
    text = (tmp_path / "report.md").read_text()
    assert ("Paper and here" in text and "Strings" in text) or "Every condition" in text
    counts = {c.condition.label: c for c in Run(tmp_path).typed("results.json", Results).counts}
    assert counts["unsteered"].general.n == len(QUESTIONS) and "villain, all four" in counts
    assert reported(tmp_path)["findings"]
    before = page.read_bytes()

    def never(*args: object, **more: object) -> None:
        raise AssertionError("nothing is generated twice")

    monkeypatch.setattr("trimtab.answers.sampling.decode", never)
    assert studies.page(studies.study("quirk", lm, tmp_path, few)).read_bytes() == before
    assert json.loads((tmp_path / "run.json").read_text())["parts"]["study"]["plan"]["layer"] == 1
    assert VILLAIN not in text.split("## To read")[0]
