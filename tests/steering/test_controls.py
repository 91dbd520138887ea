"""Vectors without the behavior in them: the law of every kind, how often one is called an effect, and that many cost
little.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pico import pico, toy_questions
from trimtab.data.datasets import Dataset
from trimtab.errors import VectorError
from trimtab.evaluation.forecast import sensitivity
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.nulls import compare
from trimtab.evaluation.sweep import measure
from trimtab.methods import PCA, LabelShuffled, MeanDiff, RandomDirection, learn
from trimtab.methods.base import Method
from trimtab.methods.contrast import Activations, activations
from trimtab.model import LM
from trimtab.runs import Run
from trimtab.statistics.nulls import Compared, null_p
from trimtab.steering.controls import coins, in_span, more, null_controls, random_controls, shuffled, turned
from trimtab.steering.interventions import Intervention
from trimtab.steering.operators import Ablate, Clamp
from trimtab.steering.vector import SteeringVector


def agreeing(seed: int = 0, n: int = 40, d: int = 24, size: float = 3.0) -> torch.Tensor:
    """Differences (n, 1, d) that share a direction, and differ in size along it."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(d, generator=g)
    return (torch.randn(n, d, generator=g) + (size + torch.rand(n, 1, generator=g)) * shared / shared.norm())[:, None]


def component(control: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """How much of the vector a control holds, 1 for the whole of it."""
    return (control * mean).sum(-1) / mean.square().sum(-1)


def test_no_control_holds_the_vector() -> None:
    """Where differences agree, label-shuffled means as long as the vector held 0.9 of it, and so did combinations of
    centered differences.
    """
    deltas = agreeing()
    mean = deltas.mean(0)
    assert component(in_span(deltas, 200), mean).abs().max() < 1e-5
    coin = component(shuffled(deltas, 400), mean)[:, 0]
    assert coin.mean().abs() < 0.03 and coin.square().mean().sqrt() < 1.3 / 40**0.5
    assert component(turned(mean, 400), mean).square().mean().sqrt() == pytest.approx(24**-0.5, rel=0.15)
    assert torch.allclose(in_span(deltas, 5).norm(dim=-1), mean.norm(dim=-1).expand(5, 1))
    with pytest.raises(VectorError, match="one direction"):
        in_span(torch.ones(6, 1, 4) * torch.arange(1.0, 7.0)[:, None, None], 1)


def test_controls_of_a_real_data_set_do_not_hold_the_vector() -> None:
    """The chat model of the test bed, `cruel`, layer 2: label-shuffled vectors held 0.92 of the vector (median of 20
    seeds), spans of centered differences 0.91.

    Its differences are mostly the answer's letter, which is balanced: what is left at this layer is little, and a
    coin that may lean to a letter draws as much again.
    """
    lm, data = LM.load("brindlemoor-chat"), Dataset.load("brindlemoor/cruel").split(seed=0)
    acts = activations(lm, data.train, [2], read="role")
    v = MeanDiff().fit_activations(acts)[2]
    held = {
        kind: np.median([abs(float(component(make(seed).fit_activations(acts)[2], v))) for seed in range(20)])
        for kind, make in {
            "shuffled": LabelShuffled,
            "span": lambda s: RandomDirection(s, within_span=True),
            "random": RandomDirection,
        }.items()
    }
    assert held["shuffled"] < 0.4 and held["span"] < 1e-5 and held["random"] < 0.2, held
    free = component(shuffled(acts.deltas, 400, tied=acts.tied)[:, 0], v)
    assert abs(float(free.mean())) < 3 * float(free.std()) / 400**0.5, "as often towards the vector as away from it"


def test_one_maker_serves_methods_and_measurements() -> None:
    deltas = agreeing()
    acts = Activations(deltas, torch.zeros_like(deltas), (0,))
    assert torch.allclose(LabelShuffled(7).fit_activations(acts)[0], shuffled(deltas, 1, 7)[0, 0], atol=1e-6)
    assert torch.allclose(
        RandomDirection(7, within_span=True).fit_activations(acts)[0], in_span(deltas, 1, 7)[0, 0], atol=1e-6
    )
    v = SteeringVector({0: deltas.mean(0)[0]})
    drawn = random_controls(v, 3, 5)
    assert [x.norm()[0] == pytest.approx(v.norm()[0]) for x in drawn.values()] == [True] * 3 and drawn.keys() == {
        "random-0",
        "random-1",
        "random-2",
    }
    assert abs(RandomDirection(0).fit_activations(acts)[0] @ drawn["random-0"][0]) < 0.9 * float(v[0] @ v[0]), (
        "no method draws what a control is"
    )
    assert coins(9, 50).abs().min() == 1


def test_random_controls_are_the_vector_turned() -> None:
    """Norms and angles between layers, and between the rows of an affine map, are the vector's own."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 1, 16, generator=g).cumsum(0)[:, 0]
    v = SteeringVector(dict(enumerate(rows)))
    for control in random_controls(v, 3).values():
        mine = torch.stack([control[k] for k in range(4)])
        assert torch.allclose(mine @ mine.T, rows @ rows.T, rtol=1e-4, atol=1e-4) and not torch.allclose(
            mine, rows, atol=0.5
        )
    affine = SteeringVector(
        {0: torch.stack([9 * torch.randn(16, generator=g), *0.1 * torch.randn(2, 16, generator=g)])}
    )
    (one,) = random_controls(affine, 1).values()
    assert one[0].shape == (3, 16) and torch.allclose(one[0].norm(dim=-1), affine[0].norm(dim=-1), rtol=1e-4)
    assert turned(torch.randn(6, 4, generator=g), 2).shape == (2, 6, 4), "more layers than dimensions"


def test_a_direction_at_all_layers_at_once_is_no_effect() -> None:
    """The same random direction at six layers that look alike: nulls drawn apart for each layer called it one in 4 of
    10.
    """
    rng, found = np.random.default_rng(0), []
    for seed in range(200):
        shared = torch.tensor(rng.normal(size=32)).float()
        gradient = (shared + 0.3 * torch.tensor(rng.normal(size=(6, 32))).float())[None]
        v = torch.tensor(rng.normal(size=32)).float().expand(6, 32)
        nulls = (turned(v, 199, seed) * gradient).sum((-1, -2))
        found.append(null_p(float((v * gradient[0]).sum()), nulls.tolist()))
    assert 0.015 <= np.mean(np.array(found) <= 0.05) <= 0.09


def test_arithmetic_on_a_vector_is_arithmetic_on_its_nulls() -> None:
    v = learn(pico(), toy_questions(10), MeanDiff())
    assert torch.equal((v * -2.0).nulls["shuffled-3"][1], -2.0 * v.nulls["shuffled-3"][1])
    assert torch.allclose(v.unit().nulls["shuffled-3"][1], v.nulls["shuffled-3"][1] / v.norm()[1])
    assert torch.allclose((v + v).nulls["shuffled-3"][1], 2 * v.nulls["shuffled-3"][1])
    assert not (v + SteeringVector(v.vectors)).nulls and v.at(1).made.among == len(v.layers) and v.made.among == 0
    assert SteeringVector.from_bytes(v.at(1).to_bytes()).made.among == len(v.layers)
    with pytest.raises(VectorError, match="does not go with the vector"):
        SteeringVector(v.vectors, nulls={"shuffled-0": {0: v[0]}})


@pytest.mark.parametrize("method", [MeanDiff(), PCA()])
def test_label_shuffled_vectors_are_what_the_same_learner_finds(method: Method) -> None:
    lm, data = pico(), toy_questions(10)
    v = learn(lm, data, method, [1])
    assert list(null_controls(v, 3)) == ["shuffled-0", "shuffled-1", "shuffled-2"] and len(v.nulls) == 16
    acts = activations(lm, data, [1])
    again = method.fit_activations(acts.by_coin(11))  # type: ignore[attr-defined]
    assert torch.allclose(again[1], v.nulls["shuffled-11"][1], atol=1e-6)
    assert torch.equal(acts.by_coin(3).by_coin(3).positive, acts.positive)


def test_more_nulls_are_drawn_from_a_few_as_wide_as_they_may_be() -> None:
    """From k draws of a normal distribution, p-values of another draw are uniform: Student's t, not the normal
    distribution.
    """
    g = torch.Generator().manual_seed(0)
    found = []
    for seed in range(400):
        kept, own = torch.randn(16, 1, 1, generator=g), float(torch.randn(1, generator=g))
        found.append(null_p(own, more(kept, 199, seed)[:, 0, 0].tolist()))
    assert 0.025 <= np.mean(np.array(found) <= 0.05) <= 0.08


def test_coins_keep_letters_balanced_and_questions_together() -> None:
    tied = [("q0", "A"), ("q0", "B"), *((f"q{k}", "AB"[k % 2]) for k in range(1, 13)), ("q13", "A")]
    drawn = coins(len(tied), 300, 0, tied)
    letters = torch.tensor([{"A": 1.0, "B": -1.0}[x] for _, x in tied])
    assert (drawn[:, 0] == drawn[:, 1]).all(), "one question, one coin"
    assert ((drawn @ letters).abs() <= 1).all(), (
        "seven A and seven B, and one A more: a swap of A comes with a swap of B"
    )
    assert drawn.mean(0).abs().max() < 0.2 and len({tuple(r) for r in drawn.tolist()}) > 60
    lean = 5 * letters[:, None, None] * torch.ones(1, 1, 3)
    assert shuffled(lean, 50, 0, tied).abs().max() < 0.4 < shuffled(lean, 50, 0).abs().max(), (
        "what the letter does is not drawn"
    )


# ---------------------------------------------------------------- compare


def data_and_vector(lm: LM) -> tuple[Dataset, SteeringVector]:
    data = toy_questions(24)
    return replace(data, pairs=data.pairs[12:]), learn(lm, replace(data, pairs=data.pairs[:12]), MeanDiff())


def test_the_comparison_is_of_forecast_slopes() -> None:
    lm = pico()
    data, v = data_and_vector(lm)
    expected = sensitivity(lm, data, positions="from_last_prompt_token")
    one = Intervention(v.at(1), positions="from_last_prompt_token")
    found = compare(lm, one, data, Propensity(), layer=1, draws=199)
    assert (
        found.slope == pytest.approx(expected.slopes(v)[1].mean(), rel=1e-4)
        and found.how == "forecast"
        and found.layer == "1"
    )
    assert {n.kind: len(n.largest) for n in found.nulls} == {"random": 199, "shuffled": 199}
    assert len(found.nulls[0].scale) == 1
    chosen = compare(lm, replace(one, vector=v), data, Propensity(), layer=1, draws=199)
    assert (
        chosen.slope == pytest.approx(found.slope) and len(chosen.nulls[0].scale) == lm.n_layers and chosen.p >= found.p
    )
    together = compare(lm, replace(one, vector=v), data, Propensity(), draws=199)
    assert together.layer == "all" and together.slope == pytest.approx(
        sum(s.mean() for s in expected.slopes(v).values()), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("operator", [Ablate(), Clamp()])
def test_what_cannot_be_forecast_is_measured(operator: object, tmp_path: Path) -> None:
    lm = pico()
    data, v = data_and_vector(lm)
    iv = Intervention(v.at(1), operator, positions="from_last_prompt_token")  # type: ignore[arg-type]
    found = compare(lm, iv, data, Propensity(), layer=1)
    assert found.how == "measured" and {n.kind: len(n.largest) for n in found.nulls} == {"random": 199, "shuffled": 199}
    run = measure(lm, iv, data, [Propensity()], to=tmp_path, multipliers=(-1.0, 0.0, 1.0), controls={})
    m, _, values = run.table(data.part).curve("propensity", "vector", None)
    assert found.slope == pytest.approx(
        float((values[:, list(m).index(1.0)] - values[:, list(m).index(-1.0)]).mean()) / 2, abs=1e-5
    )
    tried = compare(lm, replace(iv, vector=v), data, Propensity(), layer=1)
    assert (
        tried.nulls[0].tries == lm.n_layers
        and tried.p >= found.p
        and tried.slope == pytest.approx(found.slope, abs=1e-6)
    )


def test_a_model_without_a_backward_pass_is_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = pico()
    data, v = data_and_vector(lm)

    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("derivative for this kernel is not implemented")

    monkeypatch.setattr("trimtab.evaluation.nulls.sensitivity", none)
    found = compare(lm, Intervention(v.at(1), positions="from_last_prompt_token"), data, Propensity(), layer=1)
    assert found.how == "measured" and "no backward pass" in caplog.text


def test_measure_compares_once_and_only_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pico()
    data, v = data_and_vector(lm)
    iv = Intervention(v.at(1), positions="from_last_prompt_token")
    run = measure(lm, iv, data, [Propensity()], to=tmp_path / "a", multipliers=(-1.0, 0.0, 1.0))
    assert Compared.from_json(run.read("nulls/all.json")).layer == "1"
    names = [c["name"] for c in run.manifest["parts"]["all"]["conditions"]]
    assert names[:6] == ["vector", "random-0", "random-1", "random-2", "shuffled-0", "shuffled-1"]
    monkeypatch.setattr(sys.modules["trimtab.evaluation.sweep"], "compare", None)
    assert measure(lm, iv, data, [Propensity()], to=tmp_path / "a", multipliers=(-1.0, 0.0, 1.0)).path == run.path
    monkeypatch.undo()
    cut = measure(lm, iv, data, [Propensity()], to=tmp_path / "d", multipliers=(-1.0, 0.0, 1.0))
    assert Compared.from_json(cut.read("nulls/all.json")).nulls[0].tries == lm.n_layers, (
        "the vector was cut down to one of its layers"
    )
    measure(
        lm,
        Intervention(v, positions="from_last_prompt_token"),
        data,
        [Propensity()],
        to=tmp_path / "c",
        multipliers=(0.0, 1.0),
        layers=v.layers,
        part="val",
    )
    swept = measure(lm, iv, data, [Propensity()], to=tmp_path / "c", multipliers=(-1.0, 0.0, 1.0), part="test")
    assert Compared.from_json(swept.read("nulls/test.json")).nulls[0].tries == lm.n_layers, (
        "a sweep in the folder counts, whoever chose from it"
    )
    given = measure(
        lm, iv, data, [Propensity()], to=tmp_path / "b", multipliers=(-1.0, 0.0, 1.0), controls={"x": v.at(1)}
    )
    assert isinstance(given, Run) and not given.file("nulls").exists()
    json.loads((tmp_path / "a" / "nulls" / "all.json").read_text())
