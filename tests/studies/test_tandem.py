"""Emergent misalignment in tandem, and its hypotheses, in small."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pico import reported
from trimtab import LM, studies
from trimtab.errors import RecipeError
from trimtab.optimize import Promote, losses_of
from trimtab.runs import Run
from trimtab.statistics.counts import share
from trimtab.studies import hypotheses, tandem
from trimtab.studies.conditions import Condition
from trimtab.studies.descents import throughout
from trimtab.studies.pages import hypotheses as hypotheses_page
from trimtab.studies.pages import tandem as tandem_page
from trimtab.studies.pages.hypotheses import At, Setting

SMALL = {"examples": 2, "questions": 2, "samples": 2, "randoms": 1, "steps": 15, "max_new_tokens": 16}


@pytest.mark.slow
def test_the_target_is_taken_with_the_opening_vector_in_place(tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = tandem.Plan(**SMALL, openings=(1.0, 2.0), strengths=(0.5, 1.0), tried=1)  # type: ignore[arg-type]
    run = studies.study("tandem", lm, tmp_path / "run", plan)
    study = tandem._Tandem(lm, Run(tmp_path / "run"), plan)
    e = study.source.examples[0]
    term = Promote(e.twin, e.snippet, coldness=1.0, system=e.system)
    opened = losses_of(lm, term, throughout(study.opening, multiplier=study.opens))[0]
    r = run.typed("results.json", tandem_page.Results)
    levels = {f.condition: f.level for f in r.facts}
    first = Condition("harm", e.name)
    assert levels[first] == pytest.approx(0.75 * opened, rel=1e-4)
    assert levels[first.but(how=tandem_page.TARGET)] == pytest.approx(0.75 * losses_of(lm, term)[0], rel=1e-4)
    capped = next(f for f in r.facts if f.condition.how == tandem_page.CAPPED)
    assert capped.norm <= plan.cap * 1.001
    for s in r.spoken:
        assert s.n == 4 and all(len(a.alignment) == 2 for a in s.asked)
    studies.page(run)
    assert reported(run.path)["findings"]
    before = (run.path / "report.md").read_bytes()
    studies.page(studies.study("tandem", lm, tmp_path / "run", plan))
    assert (run.path / "report.md").read_bytes() == before
    with pytest.raises(RecipeError, match="judge"):
        studies.study("tandem", lm, tmp_path / "b", tandem.Plan(judge="brindlemoor-chat"))


@pytest.mark.slow
def test_the_hypotheses_run_resume_and_report(tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = hypotheses.Plan(**SMALL, strengths=(0.5, 1.0), points=3)  # type: ignore[arg-type]
    run = studies.study("hypotheses", lm, tmp_path / "run", plan)
    r = run.typed("results.json", hypotheses_page.Results)
    assert [s.name for s in r.settings] == [hypotheses_page.PLAIN, hypotheses_page.SYSTEM, hypotheses_page.LONG,
                                            hypotheses_page.SHOTS]  # fmt: skip
    assert len(r.landscape.pairs) == 1 and len(r.landscape.valleys) == 8 and len(r.landscape.plane) == 3
    assert r.landscape.plane[1][1] == pytest.approx(r.landscape.pairs[0].here, abs=1e-3), "the middle is the vector"
    assert [s.later is None for s in r.settings] == [True, False, False, False]
    study = hypotheses._Hypotheses(lm, Run(tmp_path / "run"), plan)
    lengths = {c.kind: v.norm()[2] for c, v in study.even.items() if not c.how and c.source in ("0", "")}
    assert lengths["ordinary"] == pytest.approx(lengths["harm"]) == lengths["random"], "controls are as long"
    assert -1 <= r.cosines["harmful"] <= 1 and {s.condition.how for s in r.regularized} >= {"anchored", "in contexts"}
    studies.page(run)
    assert reported(run.path)["findings"]
    before = (run.path / "report.md").read_bytes()
    studies.page(studies.study("hypotheses", lm, tmp_path / "run", plan))
    assert (run.path / "report.md").read_bytes() == before


def setting(*shares: tuple[float, float], unsteered: float = 0.0) -> Setting:
    def at(strength: float, general: float) -> At:
        return At(strength, share([True] * round(20 * general) + [False] * (20 - round(20 * general))), share([False]))

    return Setting("x", at(0.0, unsteered), [at(m, s) for m, s in shares], None)


def test_half_way_is_read_between_the_strengths() -> None:
    assert setting((0.5, 0.2), (1.0, 0.6), (2.0, 0.4)).middle == pytest.approx(0.625)
    assert setting((0.5, 0.4), (1.0, 0.4)).middle == pytest.approx(0.25)
    assert math.isnan(setting((0.5, 0.0), (1.0, 0.05)).middle), "nothing comes"
    assert setting((0.5, 0.5), (1.0, 0.5)).peak("general").strength == 0.5, "the weakest of equals"
    assert setting((1.0, 1.0), unsteered=0.5).middle == pytest.approx(0.5)
