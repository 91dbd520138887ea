"""Orthogonal families, small: a toy behavior on a pico model."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from pico import pico, reported, toy_pairs
from trimtab import studies
from trimtab.errors import RecipeError
from trimtab.steering.interventions import Intervention, steer
from trimtab.studies.families import Plan
from trimtab.studies.pages.families import ECHO, FIRST, LOSS, RANDOM, Family, Member, Results


def test_a_member_does_the_same_if_it_does_half() -> None:
    members = [Member(x, 0.0, 1.0) for x in (0.5, 0.49, 1.2, -1.0)]
    assert Family("b", LOSS, members, 3).alike(1.0) == [True, False, True, False]
    assert not any(Family("b", LOSS, members, 3).alike(-0.1)), "half of nothing is nothing"
    with pytest.raises(RecipeError):
        Plan(("a/x.csv", "b/x.csv"))


def test_members_are_orthogonal_and_as_long(tmp_path: Path) -> None:
    lm, toy = pico("llama"), str(toy_pairs(tmp_path / "toy.jsonl"))
    plan = Plan((toy,), layer=1, reads=3, members=3, norm=0.5, steps=4, randoms=4, most=6)
    for k, wrong in enumerate((Plan((toy,), layer=1, members=lm.width), Plan((toy,), layer=1, reads=1))):
        with pytest.raises(RecipeError):
            studies.study("families", lm, tmp_path / f"wrong-{k}", wrong)
    run = studies.study("families", lm, tmp_path / "run", plan)
    r = run.typed("results.json", Results)
    of = r.of("toy")
    assert {name: len(f.members) for name, f in of.items()} == {FIRST: 1, LOSS: 3, ECHO: 3, RANDOM: 4}

    from trimtab.studies.families import _Bench

    bench = _Bench(lm, run, plan, toy)
    first = bench.members[FIRST][0]
    for family in (LOSS, ECHO):
        vectors = [first[1], *(v[1] for v in bench.members[family])]
        for a, b in combinations(vectors, 2):
            assert abs(float(torch.nn.functional.cosine_similarity(a, b, dim=0))) < 1e-4
        assert [float(v.norm()) for v in vectors[1:]] == pytest.approx([float(first[1].norm())] * 3, rel=1e-4)
    second, pairs = bench.members[ECHO][1], bench.parts.test.pairs
    rises: list[float] = []
    for steered in (True, False):
        with steer(lm, Intervention(second, multiplier=float(steered), positions="everywhere")):
            sides = [
                lm.logprobs([p.asked for p in pairs], [getattr(p, s) for p in pairs]) for s in ("positive", "negative")
            ]
        rises.append(sum(float(a.mean() - b.mean()) for a, b in zip(*sides, strict=True)) / len(pairs))
    assert of[ECHO].members[1].effect == pytest.approx(rises[0] - rises[1], abs=1e-4)
    studies.page(run)
    assert reported(run.path)["findings"]
