"""Drift of the model from itself, and vectors at equal drift."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pico import pico
from trimtab import LM, Clamp, Intervention, SteeringVector, steer
from trimtab.errors import RecipeError
from trimtab.evaluation.drift import Yardstick, drift, reach


def vector(lm: LM, layer: int = 1, size: float = 3.0, seed: int = 0) -> SteeringVector:
    v = torch.randn(lm.width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({layer: size * v / v.norm()})


def test_drift_is_the_divergence_along_own_answers() -> None:
    lm, iv = pico(), Intervention(vector(pico()))
    found = drift(lm, iv, ["Do you like tea ?", "Do you like the sun ?"], [-1.0, 0.0, 1.0], tokens=5)
    assert found.shape == (2, 3) and (found[:, 1] == 0).all() and (found[:, [0, 2]] > 0).all()
    said = lm.generate(["Do you like tea ?"], max_new_tokens=5, temperature=1.0)
    row = lm.row("Do you like tea ?", said[0])
    tokens = lm.batch([row])
    keep = list(range(row.prompt - 1, len(row.ids) - 1))
    plain = lm.logits(tokens, keep=keep)[0].log_softmax(-1)
    with steer(lm, iv):
        moved = lm.logits(tokens, keep=keep)[0].log_softmax(-1)
    assert float(found[0, 2]) == pytest.approx(float((plain.exp() * (plain - moved)).sum(-1).mean()), rel=1e-3)


@pytest.mark.slow
def test_equal_drift_is_confirmed_where_it_is_said_to_be() -> None:
    """Within 2 % of the budget, along the same answers, both ways; and further than any fixed grid where a vector is
    short.
    """
    lm = pico()
    yardstick = Yardstick.of(lm, ["Do you like tea ?", "Do you like rain ?"], tokens=4)
    for size in (3.0, 0.05):
        iv = Intervention(vector(lm, size=size))
        for sign in (1, -1):
            found = reach(lm, iv, yardstick, 0.05, sign=sign)
            assert found.multiplier * sign > 0 and not found.why
            again = float(yardstick.drift(lm, iv, [found.multiplier]).mean())
            assert again == pytest.approx(0.05, rel=0.02) and found.nats == pytest.approx(again, rel=1e-3)
            assert len(found.probes) <= 14
    assert reach(lm, Intervention(vector(lm, size=0.05)), yardstick, 0.05).multiplier > 8
    nothing = reach(lm, Intervention(SteeringVector({1: torch.zeros(lm.width)})), yardstick, 0.05)
    assert np.isnan(nothing.multiplier) and nothing.why == "not reached by multiplier 4096: 0 nats there"
    leaping = reach(lm, Intervention(vector(lm), Clamp()), yardstick, 1e-4)
    assert np.isnan(leaping.multiplier) and "the drift leaps from" in leaping.why, (
        "clamping at nearly 0 is not doing nothing"
    )
    twice = yardstick.drift(lm, Intervention(vector(lm)), [0.5, 0.5])
    assert torch.equal(twice[:, 0], twice[:, 1])
    with pytest.raises(RecipeError, match="not a drift"):
        reach(lm, Intervention(vector(lm)), yardstick, 0.0)


def test_going_on_ends_where_the_text_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pico()
    yardstick = Yardstick.of(lm, ["Do you like tea ?"], tokens=4)
    monkeypatch.setattr("trimtab.evaluation.drift.breaks", lambda *_: True)
    found = reach(lm, Intervention(vector(lm, size=0.01)), yardstick, 0.05)
    assert np.isnan(found.multiplier) and found.why == "not reached by multiplier 8: the text breaks first"
