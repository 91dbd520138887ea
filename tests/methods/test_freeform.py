"""Freeform: what it reads, and which layer it chooses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pico import pico, toy_pairs
from trimtab import Freeform, learn
from trimtab.data.datasets import Dataset
from trimtab.methods.contrast import Activations, activations
from trimtab.methods.freeform import divergence


@pytest.fixture
def toy(tmp_path: Path) -> Dataset:
    return Dataset.load(str(toy_pairs(tmp_path / "toy.jsonl")))


def test_freeform_says_where_its_divergence_is_saturated(caplog: pytest.LogCaptureFixture) -> None:
    """One coordinate that outweighs all others makes the divergence 0 whatever the answers say."""
    one, two = torch.randn(6, 4, 8), torch.randn(6, 4, 8)
    one[:, 1:, 0] += 200
    two[:, 1:, 0] += 200
    acts = Activations(one, two, (0, 1, 2, 3))
    assert Freeform.mute(acts, 8) == [1, 2, 3] and Freeform.chosen(acts, 8) == 0
    assert "chooses among 1 of 4 layers" in caplog.text
    assert [f["saturated"] for f in Freeform().figures(acts).values()] == [0.0, 1.0, 1.0, 1.0]


def test_freeform_reads_the_last_token_but_one_and_chooses_by_divergence(toy: Dataset) -> None:
    lm = pico()
    acts = activations(lm, toy, read="penultimate")
    row = lm.row(toy[0].prompt, toy[0].positive)
    index = torch.zeros(1, len(row.ids), dtype=torch.bool)
    index[0, len(row.ids) - 2] = True
    assert torch.allclose(acts.positive[0], lm.capture(lm.batch([row]), index)[0], atol=1e-5)
    v = learn(lm, toy, Freeform())
    assert v.made.figures["1"]["divergence"] == pytest.approx(float(divergence(acts)[1]))
    assert Freeform.chosen(acts, lm.n_layers) in range(lm.n_layers // 2 + 1)


def test_divergence_is_jensen_shannon() -> None:
    far = torch.tensor([50.0, 0.0])
    acts = Activations(
        torch.stack([torch.stack([far, torch.zeros(2)])]),
        torch.stack([torch.stack([far.flip(0), torch.zeros(2)])]),
        (0, 1),
    )
    assert divergence(acts).tolist() == pytest.approx([math.log(2), 0.0], abs=1e-6)
