"""Vectors on other models."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from pico import pico
from trimtab import Intervention, OneShot, SteeringVector, learn, steer
from trimtab.errors import VectorError
from trimtab.steering.transfer import Map, onto


def test_a_vector_is_carried_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    one, two = pico("llama"), pico("qwen2")
    v = learn(one, None, OneShot(prompt="Do you like tea ?", promote=("yes",), steps=2), layers=[1])
    with pytest.raises(VectorError), steer(two, Intervention(v)):
        two.generate(["Do you like tea ?"], max_new_tokens=1)
    with caplog.at_level(logging.WARNING, "trimtab"):
        carried = onto(v, two)
    assert "measure it there" in caplog.text and torch.equal(carried[1], v[1])
    with steer(two, Intervention(carried)):
        two.generate(["Do you like tea ?"], max_new_tokens=1)
    with pytest.raises(VectorError, match="learn a map"):
        onto(SteeringVector({99: torch.ones(one.width)}), two)


def test_a_map_between_models() -> None:
    """From a model to itself the map is the identity, on what its streams span."""
    lm = pico()
    words = ["tea", "coffee", "rain", "sun", "red", "blue", "green", "one", "two", "three", "four", "five"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 6)) for _ in range(80)]
    found = Map.fit(lm, lm, texts, 1, 1)
    assert found.explained > 0.95
    streams = torch.stack([lm.capture(lm.batch([lm.row(t, chat=False)]), "everywhere", [1])[0, 0] for t in texts[:2]])
    step = SteeringVector({1: streams[0] - streams[1]})
    assert found.carry(step).cosine(step)[1] > 0.9
    with pytest.raises(VectorError, match="too few"):
        Map.fit(lm, lm, texts[:5], 1, 1)
