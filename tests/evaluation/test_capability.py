"""Knowledge: own questions, likelihoods of choices, paired tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pico import pico
from trimtab import LM, Intervention, SteeringVector, steer
from trimtab.errors import DataError, RunError
from trimtab.evaluation.accuracy import _changed, _mean_change, accuracy
from trimtab.evaluation.capability import Question, capability, questions
from trimtab.runs import Run
from trimtab.steering.multipliers import replays


def vector(lm: LM, layer: int = 1, size: float = 3.0, seed: int = 0) -> SteeringVector:
    v = torch.randn(lm.width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({layer: size * v / v.norm()})


ASKED = [
    Question("tea", "Do you like tea ?", ("yes", "no never", "I think so"), (0,)),
    Question("rain", "Do you like rain ?", ("no", "yes always"), (1,)),
]


def test_own_questions() -> None:
    found = questions()
    assert len(found) >= 200 and len({q.id for q in found}) == len(found) and len({q.subject for q in found}) >= 5
    assert {len(q.choices) for q in found} == {4}
    at = [sum(q.right == (k,) for q in found) for k in range(4)]
    assert max(at) - min(at) <= 8, "no index is right more often than others"


def test_choices_are_scored_by_their_likelihood(tmp_path: Path) -> None:
    lm, iv = pico(), Intervention(vector(pico()))
    run = capability(lm, iv, ASKED, to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0))
    table = run.table("capability")
    for m in (0.0, 1.0):
        for q in ASKED:
            if m:
                with steer(lm, iv):
                    said = lm.logprobs([q.text] * len(q.choices), list(q.choices))
            else:
                said = lm.logprobs([q.text] * len(q.choices), list(q.choices))
            whole = torch.stack([x.sum() for x in said])
            mean = torch.stack([x.mean() for x in said])
            by = {
                kind: dict(
                    zip(
                        table.curve(kind, "vector", None)[1],
                        table.curve(kind, "vector", None)[2][:, 1 + int(m)],
                        strict=True,
                    )
                )[q.id]
                for kind in ("correct", "mc1", "mc2")
            }
            assert by["correct"] == float(int(mean.argmax()) in q.right) and by["mc1"] == float(
                int(whole.argmax()) in q.right
            )
            assert by["mc2"] == pytest.approx(float(whole.softmax(-1)[list(q.right)].sum()), abs=1e-4)
    before = run.file("scores", "capability.jsonl").read_bytes()
    capability(lm, iv, ASKED, to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0))
    assert run.file("scores", "capability.jsonl").read_bytes() == before, "the same call repeats nothing"
    capability(
        lm, Intervention(vector(lm, seed=1)), ASKED, to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0), name="other"
    )
    assert len(accuracy(run.table("capability"), condition="other")) == 3
    with pytest.raises(RunError):
        capability(lm, iv, ASKED[:1], to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0))


def test_a_change_of_accuracy_is_tested_on_the_same_items(tmp_path: Path) -> None:
    from trimtab.runs import Cell, Score, row

    run = Run.create(tmp_path / "run")
    right = {0.0: [1] * 10 + [0] * 10, 1.0: [1] * 2 + [0] * 18}
    rows = [
        row(Cell("correct", "vector", None, m), Score(str(k), float(x), "share"))
        for m, xs in right.items()
        for k, x in enumerate(xs)
    ]
    run.journal("capability").append("all", rows)
    plain, moved = accuracy(run.table("capability"))
    assert plain.value == 0.5 and plain.change == 0 and plain.p == 1
    assert moved.change == pytest.approx(-0.4) and moved.p == pytest.approx(2 / 2**8) and moved.change_hi < 0


def test_truthfulness_layout_and_bad_questions(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        json.dumps({"question": "Is it?", "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 0, 1]}})
    )
    q = questions(file)[0]
    assert q.choices == ("a", "c", "b") and q.right == (0, 1), "true answers first"
    file.write_text('{"question": "Is it?", "choices": ["a", "b"]}')
    with pytest.raises(DataError, match=r"t\.jsonl:1"):
        questions(file)
    with pytest.raises(DataError):
        Question("", "x", ("a", "a"), (0,))
    with pytest.raises(DataError):
        Question("", "x", ("a", "b"), (2,))
    with pytest.raises(DataError, match="no such file"):
        questions(tmp_path / "none.jsonl")


def test_replays_of_choices_share_their_prompt() -> None:
    lm, iv = pico(), Intervention(vector(pico()))
    tokens = lm.batch([lm.row("Do you like tea ?", c) for c in ("yes", "no never", "I think so")])
    keep = list(range(tokens.pivot - 1, tokens.ids.shape[1] - 1))
    with steer(lm, iv):
        slow = lm.logits(tokens, keep=keep)
    fast = dict(replays(lm, iv, tokens, keep, (1.0,)))[1.0]
    there = tokens.index[:, tokens.pivot :] >= 0
    assert torch.allclose(fast[there], slow[there], atol=1e-4)


def test_an_interval_of_a_change_goes_with_its_test() -> None:
    """It holds 0 where the exact test does not reject, and leaves it out where it does."""
    for gained in range(12):
        for lost in range(12):
            change = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 40)
            lo, hi, p = _changed(change)
            assert lo <= change.mean() <= hi and (lo <= 0 <= hi) == (p > 0.05), (gained, lost)
            if gained + lost:
                lo, hi, p = _mean_change(change)
                assert lo <= change.mean() <= hi and (lo <= 0 <= hi) == (p > 0.05)
    assert _changed(np.zeros(100))[:2] == pytest.approx((-0.036, 0.036), abs=1e-3)
