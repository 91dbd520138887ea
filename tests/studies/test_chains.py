"""Whether a chain of thought is causal, small: a toy behavior on a pico model."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from pico import pico, reported, toy_pairs
from trimtab import studies
from trimtab.errors import RecipeError, UnknownName
from trimtab.steering.interventions import steer
from trimtab.studies.chains import Plan, _Bench, _messages
from trimtab.studies.pages.chains import OTHER, PLAIN, STEERED, Results


def test_plans_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UnknownName):
        Plan(("a",), 1, method={"name": "nothing"})
    with pytest.raises(RecipeError):
        Plan(("a/x.csv", "b/x.csv"), 1)


def test_answers_are_read_behind_each_chain(tmp_path: Path) -> None:
    lm, toy = pico("llama"), str(toy_pairs(tmp_path / "toy.jsonl"))
    plan = Plan((toy,), 1, multiplier=3.0, tokens=4, train=6, val=4, test=6, think="so think .", conclude="so .")
    run = studies.study("chains", lm, tmp_path / "run", plan)
    (b,) = run.typed("results.json", Results).behaviors
    assert b.change(PLAIN, PLAIN).value == 0 and b.questions == 6
    one = _Bench(lm, run, plan, toy)
    chains = one.chains(lambda *_: None)
    assert chains[OTHER] == [*chains[STEERED][1:], chains[STEERED][0]]
    with steer(lm, *one.acting[STEERED]):
        asked = _messages([("user", f"{one.parts.test[0].prompt}\n\nso think .")])
        assert lm.generate([asked], max_new_tokens=4)[0].strip() == chains[STEERED][0]
    changes: list[float] = []
    for p, chain, plain in zip(one.parts.test, chains[STEERED], chains[PLAIN], strict=True):
        margins: list[float] = []
        for text, stack in ((chain, one.acting[STEERED]), (plain, ())):
            said = [("user", f"{p.prompt}\n\nso think ."), ("assistant", f"{text}\n\nso .")]
            with steer(lm, *stack) if stack else nullcontext():
                sides = lm.logprobs([_messages(said)] * 2, [f" {p.positive}", f" {p.negative}"])
            margins.append(float(sides[0].mean() - sides[1].mean()))
        changes.append(margins[0] - margins[1])
    assert b.change(STEERED, STEERED).value == pytest.approx(sum(changes) / len(changes), abs=1e-4)
    studies.page(run)
    assert reported(run.path)["findings"]
