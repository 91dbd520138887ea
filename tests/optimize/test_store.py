"""A stopped descent goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pico import pico
from trimtab.errors import LossError
from trimtab.model import last_k
from trimtab.optimize import (
    Ball,
    Descent,
    Factors,
    Gaussian,
    MaxSteps,
    Place,
    Problem,
    Sphere,
    Start,
    Tangent,
    Target,
    optimize,
    promote,
    suppress,
)
from trimtab.steering.operators import Affine, Clamp

ASK, SAID, OTHER = "Do you like tea ?", "Yes I like tea .", "No , never ."


def many() -> list[Problem]:
    """Runs that differ in everything a batch may mix."""
    descent = Descent(0.1, (MaxSteps(6),))
    base = Problem(promote(ASK, SAID), Place((1,)), (Ball(4.0),), descent)
    return [
        base,
        replace(base, start=Start(seed=1), descent=Descent(0.3, (MaxSteps(3),))),
        replace(base, objective=suppress("is it rain ?", OTHER) + promote(ASK, SAID)),
        replace(base, place=Place((2,)), constraints=(Sphere(2.0),)),
        replace(base, place=Place((1,), Clamp())),
        replace(base, place=Place((1,), positions=last_k(2)), descent=Descent(0.1, (MaxSteps(6),), Gaussian(0.1, 3))),
        replace(base, place=Place((0, 2), shared=False), descent=Descent(0.1, (MaxSteps(4),), Tangent(0.1, 2))),
        replace(base, descent=Descent(0.2, (Target(1e9), MaxSteps(6)))),
        replace(base, place=Place((1,), Affine(), rank=1), constraints=(Ball(0.0), Factors(1.0, equal=True))),
        replace(base, objective=promote(ASK, SAID) + promote(ASK, SAID, negated=True)),
    ]


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
