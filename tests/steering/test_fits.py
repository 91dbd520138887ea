"""Does a vector belong to a model? What is told, and what is refused (`test_vector.py` has the shapes)."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from pico import build, pico, tokenizer
from trimtab import LM, Provenance, SteeringVector, steer


def warned(lm: LM, v: SteeringVector, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "trimtab"), steer(lm, v):
        lm.logprobs(["Do you like tea ?"], ["yes"])
    return [r.getMessage() for r in caplog.records]


def test_other_weights_of_the_same_shape_are_told(caplog: pytest.LogCaptureFixture) -> None:
    lm = pico()
    other = LM(copy.deepcopy(lm.model), tokenizer(), id="fine-tune")
    v = SteeringVector({1: torch.ones(lm.width)}, Provenance.of(lm))
    assert warned(lm, v, caplog) == []
    same = LM(copy.deepcopy(lm.model), tokenizer(), id="another-name")
    assert warned(same, v, caplog) == []  # a copy of the same checkpoint under another name
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(0.01)
    (told,) = warned(other, v, caplog)
    assert lm.id in told and "fine-tune, whose weights are others" in told


def test_without_a_hash_the_name_decides(caplog: pytest.LogCaptureFixture) -> None:
    lm = pico()
    assert warned(lm, SteeringVector({1: torch.ones(lm.width)}, Provenance(model=lm.id)), caplog) == []
    assert len(warned(lm, SteeringVector({1: torch.ones(lm.width)}, Provenance(model="other")), caplog)) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_hash_of_weights_outlives_a_change_of_dtype(dtype: torch.dtype) -> None:
    one = LM(build("llama"), tokenizer(), id="a", check=False)
    two = LM(build("llama", dtype=dtype), tokenizer(), id="b", check=False)
    assert one.weights == two.weights and len(one.weights) == 16
    assert one.weights != LM(build("gpt2"), tokenizer(), id="c", check=False).weights
