"""The study of false statements."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pico import pico
from trimtab import LM
from trimtab.answers.judges import Rating, Rubric
from trimtab.errors import DataError, RunError
from trimtab.runs import Run
from trimtab.studies import StudyRecipe, described, run
from trimtab.studies.conditions import UNSTEERED
from trimtab.studies.pages.retraction import SUBJECTS, Judged, Results
from trimtab.studies.retraction import Plan, _Retraction
from trimtab.studies.statements import Statement


@pytest.mark.slow
def test_retraction_with_one_layer_and_one_source(tmp_path: Path) -> None:
    """Nothing can be distilled above the only layer: said in the page, where min() of nothing ended all the work."""
    plan = {"layers": [1], "sources": 1, "test": 6, "context": 2}
    page = run(StudyRecipe("retraction", "brindlemoor-chat", {}, plan), tmp_path / "run", lambda _: lambda *_: None)
    assert "not run" in page.read_text()


@pytest.mark.slow
def test_a_map_of_rank_one_is_distilled_along_its_own_text(tmp_path: Path) -> None:
    plan = Plan(layers=(1, 3), sources=1, test=6, context=2, max_new_tokens=12)
    study = _Retraction(LM.load("brindlemoor-chat"), Run.create(tmp_path / "run"), plan)
    (m,) = study.maps
    offset, left, right = m[1]
    assert float(offset.norm()) == 0 and torch.allclose(
        torch.stack([left, right]).norm(dim=-1), torch.ones(2), atol=1e-4
    )
    assert len(study.spoken) == 1 and study.spoken[0]
    goals = {c.kind for c in study.distilled(3)}
    assert goals == {"reentrant", "distilled"}
    kinds = study.subjects
    assert set(kinds) == set(SUBJECTS) and all(len(s) == 6 for s in kinds.values())
    for s, real, odd, other in zip(study.tested, *kinds.values(), strict=True):
        assert s.true in real.before and s.false in odd.before and real.said == odd.said
        assert bool(real.said.strip()) == bool(s.more), "a place of which nothing else is known has no text"
        assert s.subject not in other.before + other.said


@pytest.mark.slow
def test_ones_own_statements_run_without_a_base_model(tmp_path: Path) -> None:
    pets = (
        ("Edgar", "a cat", "a dog"),
        ("Mabel", "a dog", "a cat"),
        ("Otto", "a cat", "a hen"),
        ("Ida", "a hen", "a cow"),
    )
    rows = [
        {
            "question": f"What is the pet of {who}?",
            "true": f"The pet of {who} is {a}.",
            "false": f"The pet of {who} is {b}.",
            "right": a,
            "wrong": b,
            "subject": who,
        }
        for who, a, b in pets
    ]
    file = tmp_path / "pets.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    plan = {"statements": str(file), "layers": [1, 3], "sources": 1, "base": "", "max_new_tokens": 8}
    page = run(StudyRecipe("retraction", "brindlemoor-chat", {}, plan), tmp_path / "run", lambda _: lambda *_: None)
    r = Run(tmp_path / "run").typed("results.json", Results)
    assert (
        r.test == 3
        and not r.strange
        and not r.recovered
        and set(r.detected) == {c.condition.label for c in r.rates[1:-1]}
    )
    assert "Paper and here" in page.read_text()
    many = StudyRecipe("retraction", "brindlemoor-chat", {}, {**plan, "sources": 3})
    with pytest.raises(DataError, match="too few"):
        run(many, tmp_path / "b", lambda _: lambda *_: None)


class _Judge:
    """Says Yes to texts with a word, nothing to a silent one, and gives up where it is told to."""

    def __init__(self, rubric: Rubric, label: str = "") -> None:
        self.rubric, self.label = rubric, label

    def describe(self) -> dict[str, str]:
        return {"model": f"a judge {self.label}"}

    def rate(self, answers: Sequence[Mapping[str, Any]]) -> list[Rating]:
        if self.label:
            return [Rating(math.nan, 0.0, self.label)] * len(answers)
        return [Rating(float("baker" in str(a["answer"])), 1.0) for a in answers]


def test_a_judge_is_asked_with_the_name_replaced_and_its_silence_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = Statement(
        "Who is Ada?", "Ada is a baker.", "Ada is a smith.", "baker", "smith", "Ada", "", "a baker", "a smith"
    )
    texts = [(s, "Ada is a baker."), (s, "Ada sings."), (s, "")]
    seen: list[Mapping[str, Any]] = []

    def judged(label: str, folder: str) -> list[Judged]:
        def load(judge: str, server: str, rubric: Rubric, lm: object) -> _Judge:
            made = _Judge(rubric, label)
            rate = made.rate
            made.rate = lambda some: (seen.extend(some), rate(some))[1]  # type: ignore[method-assign]
            return made

        monkeypatch.setattr(described, "load_judge", load)
        monkeypatch.setattr(described, "local_judge", lambda *_: None)
        asked = described.Described("somebody", "", pico(), Run.create(tmp_path / folder))
        return asked.judged({UNSTEERED: texts}, lambda *_: None)

    primary, mentioned = judged("", "told")
    assert (primary.real.hits, primary.real.n, primary.unrated) == (1, 3, 0) and primary.agrees == 1.0
    assert {a["name"] for a in seen} == {"Andrews"} and not any("Ada" in str(a["answer"]) for a in seen)
    assert {a["attribute"] for a in seen} == {"a baker", "a smith"} and mentioned.question == "mentioned"
    silent, _ = judged("no number", "silent")
    assert (silent.real.n, silent.unrated) == (1, 4), "the empty text alone is told"
    with pytest.raises(RunError, match="unrated"):
        judged("failed", "failed")
