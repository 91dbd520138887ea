"""A stopped descent goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from descents import ASK, SAID, many
from pico import pico
from trimtab.errors import LossError
from trimtab.optimize import Ball, Descent, Match, MaxSteps, Place, Problem, Start, optimize


def test_a_stopped_descent_goes_on_where_it_was(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def stop(done: int, total: int, words: str) -> None:
        if done >= 14:
            raise Killed

    lm, file = pico("llama"), tmp_path / "state.safetensors"
    undisturbed = optimize(lm, many())
    with pytest.raises(Killed):
        optimize(lm, many(), to=file, progress=stop, save_every=0.0)
    assert file.is_file()
    steps: list[int] = []
    resumed = optimize(lm, many(), to=file, progress=lambda done, total, words: steps.append(done))
    assert min(steps) > 5
    for a, b in zip(undisturbed, resumed, strict=True):
        assert a.history.totals == pytest.approx(b.history.totals, rel=1e-5, abs=1e-6)
    assert [r.history.totals for r in optimize(lm, many(), to=file)] == [r.history.totals for r in resumed]
    with pytest.raises(LossError, match="other problems"):
        optimize(lm, many()[:2], to=file)


def test_a_finished_descent_is_read_back_and_nothing_is_run(tmp_path: Path) -> None:
    lm, file, passes = pico("llama"), tmp_path / "state.safetensors", 0
    # what the teacher says takes a pass of its own, before the descent
    problems = [Problem(Match(ASK, SAID), Place((1,)), (Ball(4.0),), Descent(0.1, (MaxSteps(3),)), Start(1.0))]

    def counted(*_: object) -> None:
        nonlocal passes
        passes += 1

    handle = lm.model.model.layers[0].mlp.register_forward_hook(counted)
    try:
        made = optimize(lm, problems, to=file)
        assert passes > 0
        written, passes = file.read_bytes(), 0
        again = optimize(lm, problems, to=file)
    finally:
        handle.remove()
    assert passes == 0 and file.read_bytes() == written
    for one, two in zip(made, again, strict=True):
        assert (one.steps, one.reason, one.reached, one.losses) == (two.steps, two.reason, two.reached, two.losses)
        assert one.vector.hash == two.vector.hash
