"""Slopes from one backward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pico import pico, toy_questions
from trimtab.data.contexts import in_context
from trimtab.evaluation.forecast import Sensitivity, borne_out, sensitivity
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.statistics.slopes import fit_slopes
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3"])
@pytest.mark.parametrize("context", ["base", "spoken"])
def test_the_forecast_is_the_slope_of_a_small_vector(name: str, context: str, tmp_path: Path) -> None:
    """Measured with a finite multiplier at every layer, by the ordinary sweep."""
    lm, data = pico(name), in_context(toy_questions(8), context, system=None)
    vector = SteeringVector(
        {k: 0.02 * torch.randn(lm.width, generator=torch.Generator().manual_seed(k)) for k in range(lm.n_layers)}
    )
    expected = sensitivity(lm, data)
    run = measure(
        lm,
        Intervention(vector, positions="from_last_prompt_token"),
        data,
        [Propensity()],
        to=tmp_path,
        multipliers=(-1.0, 0.0, 1.0),
        layers=list(range(lm.n_layers)),
        part="x",
    )
    for layer, forecast in expected.slopes(vector).items():
        multipliers, items, values = run.table("x").curve("propensity", "vector", layer)
        truth = dict(zip(items, fit_slopes(multipliers, values).slope, strict=True))
        there = np.array([truth[i] for i in expected.items])
        assert np.abs(there - forecast).max() <= 0.02 * np.abs(there).max() + 2e-4, (name, layer)
    expected.save(tmp_path / "f.safetensors")
    assert torch.equal(Sensitivity.load(tmp_path / "f.safetensors").gradients, expected.gradients)
    assert borne_out(forecast, there)["sign"] > 0.7
