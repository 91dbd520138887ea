"""How preference vectors are trained, small: a toy behavior on a pico model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pico import pico, reported, toy_pairs
from trimtab import Preference, studies
from trimtab.errors import RecipeError, RunError
from trimtab.optimize import Prefer, losses_of
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector
from trimtab.studies.pages.trainings import PLAIN, PUBLISHED, Results
from trimtab.studies.trainings import ALL, Plan, _Bench, _largest

FEW = {"one direction": {"signs": "one"}, PUBLISHED: {"published": True}, "prompt alone": {"positions": "prompt"}}


def test_settings_are_refused_before_anything_is_run() -> None:
    assert list(Plan(("a",), 1).methods) == [PLAIN, *ALL]
    with pytest.raises(RecipeError, match="taken"):
        Plan(("a",), 1, settings={"largest 10% of coordinates": {}})
    with pytest.raises(RecipeError, match="taken"):
        Plan(("a",), 1, settings={"random 1": {}})
    with pytest.raises(RecipeError, match="shares"):
        Plan(("a",), 1, kept=(1.5,))
    with pytest.raises(RecipeError, match="different names"):
        Plan(("a/x.csv", "b/x.csv"), 1)


def test_the_largest_coordinates_are_kept_as_they_are() -> None:
    v = SteeringVector({1: torch.tensor([3.0, -4.0, 0.5, 1.0, -2.0])})
    assert _largest(v, 0.4)[1].tolist() == [3.0, -4.0, 0.0, 0.0, 0.0]


def test_trainings_are_looked_at_after_every_epoch_and_compared_at_one_norm(tmp_path: Path) -> None:
    lm, toy = pico("llama"), str(toy_pairs(tmp_path / "toy.jsonl"))
    plain = Preference(norm=0.5, rate=0.05, epochs=3, patience=1000, positions="everywhere")
    plan = Plan((toy,), 1, layers=(0, 2), plain=plain, settings=FEW, published_epochs=2, train=6, val=4, test=6,
                kept=(0.5,), randoms=2)  # fmt: skip
    run = studies.study("trainings", lm, tmp_path / "run", plan)
    r = run.typed("results.json", Results)
    (b,) = r.behaviors
    assert [s.name for s in b.settings] == [PLAIN, *FEW, "largest 50% of coordinates", "random 1", "random 2"]
    assert [len(x.epochs) for x in b.looked] == [3, 3, 2, 3] and [x.layer for x in b.layers] == [0, 2]
    assert all(e.up == e.up for x in b.looked for e in x.epochs), "all were looked at"
    one = _Bench(lm, run, plan, toy)
    lengths = {name: v.norm()[1] for name, v in one.even.items()}
    assert all(n == pytest.approx(lengths[PLAIN], rel=1e-4) for name, n in lengths.items() if "largest" not in name)
    changes: list[float] = []
    for p in one.test:
        margins: list[float] = []
        for m in (1.0, 0.0):
            with steer(lm, Intervention(one.own["one direction"], multiplier=m, positions="everywhere")):
                sides = lm.logprobs([p.asked] * 2, [p.positive, p.negative])
            margins.append(float(sides[0].sum() - sides[1].sum()))
        changes.append(margins[0] - margins[1])
    assert b.setting("one direction").up.value == pytest.approx(sum(changes) / len(changes), abs=1e-3)
    watched = [Prefer(p.asked, p.positive, p.negative, form="margin", end=True) for p in one.val]
    published = next(x for x in b.looked if x.name == PUBLISHED).epochs[-1].up
    acting = Intervention(one.own[PUBLISHED], positions="everywhere")
    seen = [losses_of(lm, term, acting)[0] for term in watched]
    assert published == pytest.approx(-sum(seen) / len(seen), abs=1e-3), "on validation pairs"
    toy_file = Path(toy)
    whole = toy_file.read_text()
    toy_file.write_text(whole.replace("Do you like", "Do you want"))
    with pytest.raises(RunError, match="another run"):
        studies.study("trainings", lm, tmp_path / "run", plan)
    toy_file.write_text(whole)
    studies.page(run)
    assert reported(run.path)["findings"]
    before = (run.path / "report.md").read_bytes()
    studies.page(studies.study("trainings", pico("llama"), tmp_path / "run", plan))
    assert (run.path / "report.md").read_bytes() == before
