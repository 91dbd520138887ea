"""Every study of misbehavior in small on the test bed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico import reported
from trimtab import LM
from trimtab.studies import StudyRecipe, names, run

SMALL = {
    "alignment-faking": ("brindlemoor-watched", {"norms": (0.4,), "prompts": 2, "test": 10, "randoms": 1}),
    "refusal": (
        "brindlemoor-chat",
        {"prompts": 2, "test": 6, "randoms": 1, "paths": 2, "max_new_tokens": 24, "epochs": 2, "suffix_tokens": 2},
    ),
    "retraction": ("brindlemoor-chat", {"layers": (1, 3), "sources": 1, "test": 8, "context": 2}),
    "emergent": (
        "brindlemoor-chat",
        {
            "prompts": 1,
            "contexts": (1, 2),
            "questions": 3,
            "samples": 2,
            "strengths": (0.5, 1.0),
            "randoms": 1,
            "steps": 20,
        },
    ),
}


def test_every_study_has_a_page_and_is_reported_in_some_test() -> None:
    elsewhere = {
        "auto",
        "bipo",
        "caa",
        "capability",
        "chains",
        "families",
        "hypotheses",
        "lora",
        "one-shot",
        "personas",
        "quirk",
        "refusal-sources",
        "reliability",
        "tandem",
        "techniques",
        "trainings",
        "transfer",
        "truthfulness",
    }  # in files of their own, with the same `reported`
    assert set(names()) == {*SMALL, *elsewhere}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_study_runs_whole_and_again_without_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = SMALL[name]
    recipe = StudyRecipe(name, model, {}, plan)
    page = run(recipe, tmp_path / "run", lambda _: lambda *_: None)
    text = page.read_text()
    assert "Paper and here" in text and "unsteered" in text.lower()
    assert reported(tmp_path / "run")["findings"]
    before = (tmp_path / "run" / "report.md").read_bytes()

    def never(*args: object, **options: object) -> None:
        raise AssertionError("nothing is generated twice")

    monkeypatch.setattr("trimtab.answers.sampling.decode", never)
    if name != "retraction":  # its sources are answers of the model, which are read again
        monkeypatch.setattr(LM, "generate", never if name == "emergent" else LM.generate)
    run(recipe, tmp_path / "run", lambda _: lambda *_: None)
    assert (tmp_path / "run" / "report.md").read_bytes() == before
