"""What refusal vectors are made from, small."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico import reported
from trimtab import LM, studies
from trimtab.errors import RecipeError
from trimtab.studies.pages.refusal_sources import FREQUENT, LONG, LONG_LAST, OWN, PROMOTED, Results
from trimtab.studies.refusal_sources import Plan


def test_plans_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match="more requests"):
        Plan(categories=1, each=2, guarded=3)


@pytest.mark.slow
@pytest.mark.parametrize("few", [{}, {"strengths": (), "categories": 1, "each": 1, "randoms": 0, "guarded": 1}])
def test_vectors_of_every_kind_are_made_and_told(few: dict[str, object], tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = Plan(**{"categories": 2, "each": 1, "test": 6, "randoms": 1, "guarded": 1, "max_new_tokens": 24, **few})  # type: ignore[arg-type]
    run = studies.study("refusal-sources", lm, tmp_path / "run", plan)
    r = run.typed("results.json", Results)
    n = plan.categories * plan.each
    assert {k: len(r.of("sealed", k)) for k in (PROMOTED, FREQUENT, OWN, LONG, LONG_LAST)} == {
        PROMOTED: n, FREQUENT: n, OWN: n, LONG: 1, LONG_LAST: 1
    }  # fmt: skip
    (plain,) = r.of("sealed", "unsteered")
    assert plain.complied.share == 0 and plain.refused.share == 1 and plain.broken == 0
    assert r.of("open", "unsteered")[0].complied.share == 1 and r.twins == n
    assert max(o.complied.share for o in r.of("sealed", PROMOTED)) > 0.5, "a twin's opening ends refusal"
    studies.page(run)
    assert reported(run.path)["findings"]
