"""The studies of misbehavior: their formulas by hand, and each of them in small on the test bed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trimtab import LM, organisms
from trimtab.reports.page import markdown_sections
from trimtab.statistics.counts import share
from trimtab.studies import StudyRecipe, alignment_faking, run
from trimtab.studies.alignment_faking import Plan, flipped
from trimtab.studies.conditions import UNSTEERED, Condition
from trimtab.studies.pages.emergent import Scored, held_against_truth
from trimtab.studies.pages.findings import spread, told


def test_flips_are_counted_among_those_that_can_flip() -> None:
    watched = np.array([[-1.0, -1.0, 1.0], [1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    unwatched = np.array([[-1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, -1.0]])
    found = flipped(UNSTEERED, watched, unwatched)
    assert (found.added_watched.hits, found.added_watched.n) == (1, 2), "the third was harmful to begin with"
    assert (found.subtracted_watched.hits, found.subtracted_watched.n) == (1, 2)
    assert (found.subtracted_unwatched.hits, found.subtracted_unwatched.n) == (1, 2)
    assert (found.added_unwatched.hits, found.added_unwatched.n) == (1, 2)


def test_words_for_shares() -> None:
    assert told(share([True, False, True, False])).startswith("50% (") and told(share([])) == "nothing to count"
    assert spread([0.1, 0.2, 0.6]) == "20% (10% to 60%, 3 vectors)"


def test_a_condition_is_a_value_with_a_label() -> None:
    harm = Condition("harm", "0")
    assert str(harm) == "harm 0" and harm.alone and not harm.but(how="in tandem").alone
    assert str(harm.but(how="in tandem")) == "harm 0, in tandem" and str(harm.at(0.5)) == "harm 0 at 0.5"
    assert str(Condition("promote", "1", layer=3)) == "promote 1 at 3"
    assert (
        harm.at(0.5).kind == "harm"
        and harm.at(0.5).strength == 0.5
        and len({harm, Condition("harm", "0"), harm.at(1.0)}) == 2
    )


def test_situations_never_share_a_question_with_what_is_tested() -> None:
    cases = alignment_faking._town(Plan(prompts=5, test=20))
    train, watched, unwatched = cases.train, cases.watched, cases.unwatched
    assert len(train) == 5 and len(watched) == len(unwatched) == 20
    assert not {p.group for p in train} & {p.group for p in (*watched, *unwatched)}
    assert {p.before[0][1] for p in watched} <= set(organisms.lines("watched")) and {
        p.before[0][1] for p in unwatched
    } <= set(organisms.lines("unwatched"))


def test_a_judge_is_held_against_the_truth() -> None:
    villain, neither = [False, True, False, True], [False, False, False, True]
    scored = Scored(UNSTEERED, [90.0, 10.0, 80.0, 30.0], [99.0] * 4, [True] * 4, villain, [True] * 4, neither)
    found = held_against_truth([scored])
    assert found.n == 3 and found.kappa[0] == 1.0


SMALL = {
    "alignment-faking": ("brindlemoor-watched", {"norms": (0.4,), "prompts": 2, "test": 10, "randoms": 1}),
    "refusal": ("brindlemoor-chat", {"prompts": 2, "test": 6, "randoms": 1, "paths": 2, "max_new_tokens": 24}),
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_study_runs_whole_and_again_without_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = SMALL[name]
    recipe = StudyRecipe(name, model, {}, plan)
    page = run(recipe, tmp_path / "run", lambda _: lambda *_: None)
    text = page.read_text()
    assert "Paper and here" in text and "unsteered" in text.lower()
    before = (tmp_path / "run" / "report.md").read_bytes()

    def never(*args: object, **options: object) -> None:
        raise AssertionError("nothing is generated twice")

    monkeypatch.setattr("trimtab.answers.sampling.decode", never)
    if name != "retraction":  # its sources are answers of the model, which are read again
        monkeypatch.setattr(LM, "generate", never if name == "emergent" else LM.generate)
    run(recipe, tmp_path / "run", lambda _: lambda *_: None)
    assert (tmp_path / "run" / "report.md").read_bytes() == before


@pytest.mark.slow
def test_retraction_with_one_layer_and_one_source(tmp_path: Path) -> None:
    """Nothing can be distilled above the only layer: said in the page, where min() of nothing ended all the work."""
    plan = {"layers": [1], "sources": 1, "test": 6, "context": 2}
    page = run(StudyRecipe("retraction", "brindlemoor-chat", {}, plan), tmp_path / "run", lambda _: lambda *_: None)
    assert "not run" in page.read_text()


def test_tables_need_no_row() -> None:
    assert "## Empty" not in markdown_sections("T", "a", [], {}, [("Empty", [["head"]])])
