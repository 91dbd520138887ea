"""What contrastive activation addition looks at, whole and small."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico import pico, reported, toy_listed
from trimtab import studies
from trimtab.errors import RecipeError
from trimtab.studies.caa import Plan
from trimtab.studies.pages.caa import Results, Source


@pytest.fixture
def place(tmp_path: Path) -> Path:
    asked = [f"Do you like {a} {b} ?" for a in ("tea", "rain") for b in ("one", "two", "three", "four", "five", "six")]
    toy_listed(tmp_path / "tea.json", asked)
    lm = pico()
    lm.model.save_pretrained(tmp_path / "relative")
    lm.tokenizer.save_pretrained(tmp_path / "relative")
    return tmp_path


@pytest.mark.slow
def test_the_study_runs_resumes_and_reports(place: Path) -> None:
    lm = pico()
    plan = Plan((str(place / "tea.json"),), str(place / "relative"), train=5, test=5, layers=(1, 3), randoms=1)
    run = studies.study("caa", lm, place / "run", plan)
    r = run.typed("results.json", Results)
    s = r.sets[0]
    assert r.layers == [1, 3] and [c.layer for c in s.clusters] == [1, 3]
    assert s.relative == pytest.approx([1.0, 1.0], abs=1e-4), "the relative is the model itself"
    own, theirs = s.slopes("own"), s.slopes("relative")
    assert [x.value for x in theirs] == pytest.approx([x.value for x in own], abs=1e-3)
    assert s.slopes("layer", 1)[0].value == pytest.approx(own[0].value, abs=1e-4)
    assert s.cosines[0][0] == pytest.approx(1.0) and s.cosines[0][1] == pytest.approx(s.cosines[1][0])
    assert {m.source for m in s.moved} == {
        Source("own"), Source("layer", 1), Source("layer", 3), Source("relative"), Source("random", 0)
    }  # fmt: skip
    assert abs(sum(t.along for t in s.tokens)) < 1e-3 and len(s.words[0]) == len(s.words[1]) == 6
    page = studies.page(run).read_text()
    assert "Words that a vector points to" in page
    assert reported(place / "run")["findings"]
    before = run.file("results.json").read_bytes()
    studies.study("caa", lm, place / "run", plan)
    assert run.file("results.json").read_bytes() == before


def test_a_relative_has_the_same_shape(place: Path) -> None:
    plan = Plan((str(place / "tea.json"),), "brindlemoor-chat", train=5, test=5)
    with pytest.raises(RecipeError, match="no relative"):
        studies.study("caa", pico(), place / "run", plan)
    with pytest.raises(RecipeError):
        Plan(())
