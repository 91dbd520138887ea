"""Vectors beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pico import pico, toy_pairs
from trimtab.data.datasets import Dataset
from trimtab.errors import DataError
from trimtab.evaluation.comparison import detections, geometry, paths, size_curve
from trimtab.methods import OneShot
from trimtab.optimize import (
    Objective,
    Promote,
)
from trimtab.steering.vector import SteeringVector


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
