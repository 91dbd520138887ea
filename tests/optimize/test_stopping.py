"""When a descent ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from descents import ASK, SAID
from pico import pico
from trimtab.optimize import (
    Descent,
    MaxSteps,
    Place,
    Plateau,
    Problem,
    Target,
    losses_in_full,
    optimize,
    promote,
)
from trimtab.optimize.stopping import History


def history(*totals: float, targets: tuple[float | None, ...] = (None,)) -> History:
    return History(targets, list(totals), [[t] for t in totals], [0.0] * len(totals))


def test_stoppers() -> None:
    assert not MaxSteps(2).done(history(3, 2)) and MaxSteps(2).done(history(3, 2, 1))
    assert Target(1.0).done(history(3, 1)) and not Target(1.0, patience=2).done(history(3, 1))
    assert Target(1.0, patience=2).done(history(3, 1, 0.5)) and not Target(1.0, patience=2).done(history(1, 2, 1))
    assert Target(each=True).done(history(3, 0.4, targets=(0.5,))) and not Target(each=True).done(
        history(3, 0.6, targets=(0.5,))
    )
    assert not Target(each=True).done(history(0.0))
    assert Plateau(0.1).done(history(3, 1, 1.05)) and not Plateau(0.1, 2).done(history(3, 2.95, 1, 1.05)), (
        "a counter starts again"
    )


def test_the_vector_that_reached_the_target_is_returned() -> None:
    lm = pico("llama")
    free = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.3, (MaxSteps(30),)))])[0]
    level = 0.5 * (free.history.totals[0] + free.loss)
    found = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.3, (Target(level), MaxSteps(30))))])[0]
    assert found.reached and found.reason == "Target" and found.loss <= level and found.steps < 30
    missed = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.3, (Target(-1.0), MaxSteps(5))))])[0]
    assert missed.reached is False and missed.reason == "MaxSteps" and missed.loss == min(missed.history.totals)


def test_the_history_of_vectors_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.2, (MaxSteps(6),)))
    (plain,), (found,) = optimize(lm, [problem]), optimize(lm, [problem], vectors=True)
    assert not plain.history.vectors and len(found.history.vectors) == 7
    assert [float(v[0, 0].norm()) for v in found.history.vectors] == pytest.approx(found.history.norms)
    again = losses_in_full(lm, problem, found.history.vectors[3])
    assert float(again[0]) == pytest.approx(found.history.totals[3], rel=1e-4)

    def stop(done: int, steps: int, words: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(lm, [problem], vectors=True, to=tmp_path / "state.safetensors", progress=stop, save_every=0.0)
    (resumed,) = optimize(lm, [problem], vectors=True, to=tmp_path / "state.safetensors", save_every=0.0)
    assert torch.equal(torch.stack(resumed.history.vectors), torch.stack(found.history.vectors))
