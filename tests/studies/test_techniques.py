"""The study of techniques, small: a toy behavior on a pico model; and what its page says of known differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pico import pico, reported, toy_pairs
from trimtab import studies
from trimtab.data.datasets import Dataset
from trimtab.errors import RecipeError, UnknownName
from trimtab.methods import OneShot
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.operators import Clamp
from trimtab.steering.vector import SteeringVector
from trimtab.studies.pages.techniques import PLAIN, RANDOM, Results, compared
from trimtab.studies.techniques import ALL, Plan


def test_a_difference_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    questions = [f"q{k}" for k in range(40)]
    noise = rng.normal(0, 0.1, (40, 5))
    assert compared(noise + 0.5, questions).sign == 1 and compared(noise - 0.5, questions).sign == -1
    wrong = sum(compared(rng.normal(0, 0.1, (40, 5)), questions).sign != 0 for _ in range(200))
    assert wrong < 30, "an interval that held 0 in fewer than 85 of 100 null studies would be none"
    apart = compared(np.array([[1.0, -1.0]] * 40) + noise[:, :2] * 0.01, questions)
    assert abs(apart.value) < 0.01, "of two examples the interval is over questions alone"


def test_a_technique_is_refused_before_anything_is_run() -> None:
    with pytest.raises(UnknownName):
        Plan(("a",), techniques={"loud": {"noise": "loud"}})
    with pytest.raises(UnknownName):
        Plan(("a",), techniques={"odd": {"nothing": 1}})
    with pytest.raises(RecipeError, match="control"):
        Plan(("a",), techniques={RANDOM: {}})
    with pytest.raises(RecipeError):
        Plan(())
    with pytest.raises(RecipeError, match="differ in case"):
        Plan(("a",), techniques={"no cap": {}, "No-cap": {"bound": "none"}})
    with pytest.raises(RecipeError, match="at layers"):
        Plan(("a",), techniques={"embedded": {"site": "embeddings"}})
    assert list(Plan(("a",)).methods) == list(ALL), "all that are named, the plain one first"


@pytest.mark.slow
def test_techniques_are_compared_on_the_same_examples(tmp_path: Path) -> None:
    toy = str(toy_pairs(tmp_path / "toy.jsonl"))
    some = {"clamped": {"operator": "clamp"}, "matrix alone": {"operator": "affine", "rank": 1, "matrix_alone": True},
            "noise": {"noise": "gaussian"}}  # fmt: skip
    plan = Plan((toy,), layer=1, examples=2, one=OneShot(steps=4, norm=0.5), techniques=some)
    lm = pico("llama")
    run = studies.study("techniques", lm, tmp_path / "run", plan)
    r = run.typed("results.json", Results)
    of = r.of("toy")
    assert list(of) == [PLAIN, RANDOM, "clamped", "random direction, clamped", "matrix alone", "noise"]
    assert all(len(t.vectors) == 2 for t in of.values())
    with steer(lm, Intervention(SteeringVector.load(run.path / "toy" / "clamped-1.safetensors"), Clamp())):
        p = Dataset.load(toy).split(seed=0, train=0.2, val=0.2, test=0.6).train[1]
        own = -float(lm.logprobs([p.prompt], [p.positive])[0].sum())
    assert of["clamped"].vectors[1].loss == pytest.approx(own, rel=1e-3), "the loss is that of the answer alone"
    assert of[PLAIN].beside.value == 0 and of[PLAIN].vectors[0].cosine == pytest.approx(1)
    assert of["matrix alone"].vectors[0].cosine is None
    for a, b in zip(of[RANDOM].vectors, of[PLAIN].vectors, strict=True):
        assert a.norm == pytest.approx(b.norm) and a.loss is None
    gain = np.mean([v.effect for v in of["clamped"].vectors]) - np.mean([v.effect for v in of[PLAIN].vectors])
    assert of["clamped"].beside.value == pytest.approx(gain, abs=1e-5)
    studies.page(run)
    assert reported(run.path)["findings"]
    before = (run.path / "report.md").read_bytes()
    studies.page(studies.study("techniques", pico("llama"), tmp_path / "run", plan))
    assert (run.path / "report.md").read_bytes() == before
