"""The method of preferences."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico import pico, toy_pairs
from trimtab import LM, Intervention, Preference, learn, steer
from trimtab.data.datasets import Dataset
from trimtab.optimize import Prefer


def gap(lm: LM, data: Dataset) -> float:
    """Summed log-probability of the positive answers minus that of the negative ones."""
    asked = [p.prompt for p in data]
    said = [
        sum(float(x.sum()) for x in lm.logprobs(asked, answers))
        for answers in ([p.positive for p in data], [p.negative for p in data])
    ]
    return said[0] - said[1]


def test_the_method_steers_both_ways_and_tells_its_margins(tmp_path: Path) -> None:
    lm, data, seen = pico(), Dataset.load(str(toy_pairs(tmp_path / "toy.jsonl"))), list[str]()
    v = learn(
        lm,
        data,
        Preference(epochs=4, rate=0.05, norm=0.5, warm=2),
        layers=[0, 1],
        progress=lambda *a: seen.append(str(a[-1])),
    )
    assert v.layers == (0, 1) and any("margins" in s for s in seen)
    assert v.made.figures["1"]["margin up"] > 0 and v.made.figures["1"]["margin down"] > 0
    plain = gap(lm, data)
    with steer(lm, Intervention(v.at(1))):
        assert gap(lm, data) > plain
    with steer(lm, Intervention(v.at(1), multiplier=-1.0)):
        assert gap(lm, data) < plain


def test_the_published_preset_of_the_method(tmp_path: Path) -> None:
    lm, data = pico(), Dataset.load(str(toy_pairs(tmp_path / "toy.jsonl")))
    how = Preference(published=True, norm=0.1, rate=9.0, signs="both", epochs=2, validation=0.5)
    training = how.training(7.0)
    assert (training.rate, training.warm, training.cold, training.signs, training.keep, training.decay) == (
        5e-4,
        100,
        True,
        "batch",
        "last",
        0.0,
    )
    assert [training.rate_at(t, 5) for t in (0, 1, 99)] == pytest.approx([0.0, 5e-6, 4.95e-4])
    v = learn(lm, data, how, [1])
    assert v.made.figures["1"]["steps"] == 2 * 5 and v.made.figures["1"]["epoch"] == 2, (
        "all pairs are trained on, and the last vector is kept"
    )
    ends = Prefer("Do you like tea ?", "yes", "no", end=True).rows(lm)
    assert all(row.ids[-1] == lm.tokenizer.eos_token_id for row in ends)
