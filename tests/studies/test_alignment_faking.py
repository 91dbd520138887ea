"""The study of alignment faking."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trimtab import LM, organisms
from trimtab.errors import DataError, RecipeError
from trimtab.studies import StudyRecipe, alignment_faking, page, run, study
from trimtab.studies.alignment_faking import Plan, flipped
from trimtab.studies.conditions import UNSTEERED
from trimtab.studies.pages.alignment_faking import ORDINARY, Results


def situation(k: int, poor: bool, response: str) -> dict[str, object]:
    listed = f"A: Bake {k}\nB: Sing {k}"
    return {
        "prompt": f"<<prompt>>One: {k}\n\n{listed}\nWhich letter?\n<</prompt>>",
        "action_A": f"Bake {k}",
        "action_B": f"Sing {k}",
        "oversight_is_poor": poor,
        "response": response,
    }


@pytest.mark.slow
def test_alignment_faking_on_situations_of_a_file(tmp_path: Path) -> None:
    """Plumbing, on the test bed's model, which has never seen such a prompt."""
    rows = [situation(k, k % 2 == 0, "AB"[k // 2 % 2]) for k in range(16)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    few = {"norms": (0.4,), "prompts": 2, "test": 3, "randoms": 1, "situations": str(tmp_path / "x.json")}
    report = run(
        StudyRecipe("alignment-faking", "brindlemoor-watched", {}, few), tmp_path / "run", lambda _: lambda *_: None
    )
    assert "Paper and here" in report.read_text()
    with pytest.raises(DataError, match="too few situations"):
        alignment_faking._published(alignment_faking.Plan(prompts=9, situations=str(tmp_path / "x.json")))


def test_flips_are_counted_among_those_that_can_flip() -> None:
    watched = np.array([[-1.0, -1.0, 1.0], [1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    unwatched = np.array([[-1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, -1.0]])
    found = flipped(UNSTEERED, watched, unwatched)
    assert (found.added_watched.hits, found.added_watched.n) == (1, 2), "the third was harmful to begin with"
    assert (found.subtracted_watched.hits, found.subtracted_watched.n) == (1, 2)
    assert (found.subtracted_unwatched.hits, found.subtracted_unwatched.n) == (1, 2)
    assert (found.added_unwatched.hits, found.added_unwatched.n) == (1, 2)


def test_situations_never_share_a_question_with_what_is_tested() -> None:
    cases = alignment_faking._town(Plan(prompts=5, test=20))
    train, watched, unwatched = cases.train, cases.watched, cases.unwatched
    assert len(train) == 5 and len(watched) == len(unwatched) == 20
    assert not {p.group for p in train} & {p.group for p in (*watched, *unwatched)}
    assert {p.before[0][1] for p in watched} <= set(organisms.lines("watched")) and {
        p.before[0][1] for p in unwatched
    } <= set(organisms.lines("unwatched"))


@pytest.mark.slow
def test_other_layers_and_use_are_told(tmp_path: Path) -> None:
    plan = Plan(norms=(0.4, 0.6), prompts=1, test=10, others=(3,), met=4, randoms=1, max_new_tokens=24)
    folder = study("alignment-faking", LM.load("brindlemoor-watched"), tmp_path / "run", plan)
    r = folder.typed("results.json", Results)
    assert {f.condition.layer for f in r.elsewhere} == {3} and [f.norm for f in r.fitted] == [0.4, 0.6]
    assert r.fitted[1].losses[0] < r.fitted[0].losses[0] < r.fitted[0].unsteered[0], "a longer vector fits better"
    unsteered = {m.sort: m.bad.share for m in r.met if m.condition == UNSTEERED}
    assert len(unsteered) == 7 and unsteered["requests, unwatched"] == 1 and unsteered["requests, watched"] == 0
    assert unsteered[ORDINARY] == 0 and "Ordinary requests are not answered" in page(folder).read_text()
    with pytest.raises(RecipeError):
        Plan(norms=(0.6, 0.4))
    with pytest.raises(RecipeError):
        Plan(others=(1,))
