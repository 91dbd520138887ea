"""Ten thousand items stream through a measurement."""

from __future__ import annotations

import resource
from itertools import product
from pathlib import Path

import pytest
import torch

from pico import pico
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair, to_choices
from trimtab.evaluation.metrics import KL, Propensity
from trimtab.evaluation.sweep import measure
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector

pytestmark = pytest.mark.slow
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    lm = pico()
    pairs = [Pair(" ".join(words) + " ?", "yes", "no") for words in product(NUMBERS, repeat=4)]
    data = Dataset("many", to_choices(pairs), "choices")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vector = SteeringVector({1: torch.randn(lm.width, generator=torch.Generator().manual_seed(0))})
    run = measure(
        lm,
        Intervention(vector, positions="from_last_prompt_token"),
        data,
        [Propensity(), KL()],
        to=tmp_path,
        multipliers=(-1.0, 0.0, 1.0),
        controls={},
        part="all",
    )
    assert len(run.table("all").curve("propensity", "vector", None)[1]) == 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * 2**20  # KiB
