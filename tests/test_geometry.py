"""Geometry of vectors, the figures kept with them, and discovery without a behavior."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pico import pico, toy_pairs
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, ModelError, RecipeError, VectorError
from trimtab.evaluation.comparison import detections, geometry, paths, size_curve
from trimtab.methods import Discover, OneShot, learn
from trimtab.optimize import (
    Change,
    Descent,
    MaxSteps,
    Objective,
    Place,
    Problem,
    Promote,
    Suppress,
    cosines,
    detection,
    losses_in_full,
    optimize,
    path,
    promote,
    signals,
    suppress,
)
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH

ASK, SAID = "Do you like tea ?", "Yes I like tea ."


def basis(k: int, size: float = 1.0, layer: int = 1) -> SteeringVector:
    return SteeringVector({layer: size * torch.eye(WIDTH)[k]})


def test_cosines() -> None:
    both = SteeringVector({1: torch.eye(WIDTH)[0] + torch.eye(WIDTH)[1]})
    found = cosines([basis(0), basis(0, -3.0), both, basis(0, layer=2)])
    assert found[0].tolist()[:3] == pytest.approx([1.0, -1.0, 0.5**0.5])
    assert math.isnan(found[0, 3]) and float(found[2, 1]) == pytest.approx(-(0.5**0.5))


def test_a_path_has_the_ends_it_is_given_and_its_barrier_the_right_sign() -> None:
    lm, goal = pico("llama"), suppress(ASK, SAID)
    one, two = (SteeringVector({1: 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(s))}) for s in (0, 1))
    way = path(lm, goal, Place((1,)), one, two, points=7)
    problem = Problem(goal, Place((1,)))
    ends = [float(losses_in_full(lm, problem, v[1][None, None])[0]) for v in (one, two)]
    assert [way.losses[0], way.losses[-1]] == pytest.approx(ends, rel=1e-4)
    worst = max(way.losses[1:-1])
    assert way.barrier == pytest.approx(max(0.0, worst - max(ends)), abs=1e-4) and way.connected == (worst <= max(ends))
    flat = path(lm, goal, Place((1,)), one, one, points=5)
    assert flat.connected or flat.barrier < 1e-4
    with pytest.raises(VectorError, match="opposite"):
        path(lm, goal, Place((1,)), one, SteeringVector({1: -one[1]}), points=3)


def test_a_vector_detects_what_lies_along_it() -> None:
    lm = pico("llama")
    positive, negative = ["tea is good .", "I like tea so ."], ["is it rain ?", "never be rude ."]
    acts = [lm.capture(lm.tokens([p]), lm.tokens([p]).index > 0, [1])[0, 0] for p in (*positive, *negative)]
    along = SteeringVector(
        {1: torch.linalg.lstsq(torch.stack(acts), torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])).solution[:, 0]}
    )
    assert detection(lm, along, positive, negative) == 1.0
    assert detection(lm, along, negative, positive) == 0.0
    assert detection(lm, along, positive, positive) == 0.5


def test_signals_are_what_they_say() -> None:
    lm = pico("llama")
    problem = Problem(
        promote(ASK, SAID) + suppress("is it rain ?", "No never ."), Place((1,)), (), Descent(0.3, (MaxSteps(10),))
    )
    (found,) = optimize(lm, [problem])
    neutral = [("the sun is good .", "so I think .")]
    told = signals(
        lm,
        problem,
        found,
        held_out=Suppress("Do you like rain ?", SAID),
        neutral=neutral,
        known={"itself": found.vector},
        radius=0.2,
    )
    assert told["norm"] == pytest.approx(found.vector.norm()[1]) and told["cosine to itself"] == pytest.approx(1.0)
    held = Problem(Objective.of(Suppress("Do you like rain ?", SAID)), Place((1,)))
    assert told["held-out loss"] == pytest.approx(
        float(losses_in_full(lm, held, found.vector[1][None, None])[0]), rel=1e-4
    )
    assert told["neutral kl"] > 0 and -1 <= told["gradient cosine"] <= 1 and math.isfinite(told["sharpness"])
    alone = signals(lm, Problem(promote(ASK, SAID), Place((1,))), found, neutral=neutral)
    assert math.isnan(alone["gradient cosine"]) and "held-out loss" not in alone


def test_discovery_changes_what_comes_after_and_its_members_are_orthogonal() -> None:
    lm = pico("llama")
    members = [learn(lm, None, Discover(prompt=ASK, member=k, steps=20), layers=[1]) for k in range(3)]
    norms = [m.norm()[1] for m in members]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)
    for k, one in enumerate(members):
        for two in members[k + 1 :]:
            assert abs(one.cosine(two)[1]) < 1e-3
    problem = Problem(Objective.of(Change(ASK, 2)), Place((1,)))
    random = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
    random *= norms[0] / random.norm(dim=-1, keepdim=True)
    change = [-float(losses_in_full(lm, problem, v[None, None])[0]) for v in (members[0][1], *random)]
    assert change[0] > max(change[1:])


def test_discovery_refuses_what_it_cannot_do() -> None:
    lm, data = pico("llama"), Dataset("toy", (Pair(ASK, "Yes .", "No ."),))
    assert learn(lm, data, Discover(steps=2), layers=[0]).layers == (0,)
    for make, error in (
        (lambda: Discover(member=-1), RecipeError),
        (lambda: learn(lm, None, Discover(), layers=[0]), DataError),
        (lambda: learn(lm, data, Discover(), layers=[3]), ModelError),
        (lambda: learn(lm, data, Discover(target_layer=1), layers=[1]), ModelError),
    ):
        with pytest.raises(error):
            make()


def test_more_examples_are_tried_on_the_same_other_pairs(tmp_path: Path) -> None:
    lm, data = pico(), Dataset.load(str(toy_pairs(tmp_path / "toy.jsonl")))
    found = size_curve(lm, data, OneShot(steps=6, norm=0.5), 1, sizes=(1, 3), draws=3, held_out=4)
    assert [s.examples for s in found] == [1, 3] and all(len(s.values) == 3 and s.lo <= s.mean <= s.hi for s in found)
    assert found[1].mean > 0, "the toy answers are all alike, so they carry over"
    with pytest.raises(DataError, match="too few pairs"):
        size_curve(lm, data.take(3), OneShot(), 1, sizes=(1, 4))


def test_geometry_paths_and_detection_in_one_place() -> None:
    lm = pico()
    g = torch.Generator().manual_seed(0)
    one, two = (SteeringVector({1: torch.randn(lm.width, generator=g)}) for _ in range(2))
    facts = geometry([one, two])
    assert facts["cosine"][0][0] == 1.0 and facts["norm"][1] == two.norm()
    ways = paths(lm, Objective.of(Promote("Do you like tea ?", "yes")), [one, two], points=5)
    assert (
        list(ways) == ["1-0"]
        and len(ways["1-0"]["losses"]) == 5
        and ways["1-0"]["connected"] == (ways["1-0"]["barrier"] <= 0)
    )
    assert all(0 <= a <= 1 for a in detections(lm, [one, two], ["Do you like tea ?"], ["yes I think so"]))
