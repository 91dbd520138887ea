"""The sanity figures of the published package's tutorial (Gemma-2-2B, layer 10, learning rate 0.1), within a quarter.

They need the model (`huggingface-cli download google/gemma-2-2b`) and about 12 GB of memory: `make hub`. The
published prompt is a short English recipe whose continuation is suppressed and promoted in Spanish; the words here
are our own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from pico import pico
from trimtab import LM
from trimtab.errors import ModelError
from trimtab.optimize import (
    Ball,
    Constraint,
    Descent,
    Factors,
    MaxSteps,
    Place,
    Problem,
    Result,
    Start,
    Stopper,
    Tangent,
    Target,
    optimize,
    promote,
    shorten,
    suppress,
)
from trimtab.optimize.noise import Noise
from trimtab.steering.operators import Affine, Clamp

MODEL = "google/gemma-2-2b"
PROMPT = "Take a large bowl. Mix the flour, the sugar and two eggs. Then add a glass of milk"
ENGLISH, SPANISH = (
    " and stir until the dough is smooth. Put it into the oven.",
    " y mezcla hasta que la masa quede lisa. Ponla en el horno.",
)


@dataclass(frozen=True)
class Row:
    """A line of the table: how it is run, and what was published (updates, loss, norm)."""

    name: str
    updates: int
    loss: float
    norm: float
    place: Place
    stop: tuple[Stopper, ...] = ()
    bounds: tuple[Constraint, ...] = ()
    noise: Noise | None = None


LAYER = Place((9,))  # they count block inputs: their 10 is the output of block 9
RANK = Place((9,), Affine(), rank=2)
TABLE = (
    Row("20 updates", 20, 3.35, 47.7, LAYER, (MaxSteps(20),)),
    Row("norm at most 20", 20, 6.34, 20.0, LAYER, (MaxSteps(20),), (Ball(20.0),)),
    Row("to 3 nats", 22, 2.94, 49.5, LAYER, (Target(3.0),)),
    Row("clamp, to 3 nats", 11, 2.92, 25.4, replace(LAYER, operator=Clamp()), (Target(3.0),)),
    Row("affine, to 2 nats", 14, 1.75, 1.0, RANK, (Target(2.0),), (Ball(1.0), Factors(2.0))),
    Row("each text to 7.58 nats", 9, 4.67 + 7.25, 32.3, LAYER, (Target(7.58, each=True),)),
    Row("noise, to 3 nats", 33, 2.54, 30.0, LAYER, (Target(3.0),), (Ball(30.0),), Tangent(0.1, 5)),
    Row("to 2.5 nats", 24, 2.11, 51.5, LAYER, (Target(2.5),)),
)


def problem(row: Row, lm: LM, most: int) -> Problem:
    goal = suppress(PROMPT, ENGLISH, chat=False) + promote(PROMPT, SPANISH, chat=False)
    place = replace(row.place, layers=tuple(min(k, lm.n_layers - 2) for k in row.place.layers))
    stop = (*row.stop, MaxSteps(most))
    return Problem(goal, place, row.bounds, Descent(0.1, stop, row.noise), Start(1.0))


def solved(lm: LM, most: int = 100) -> list[Result]:
    return optimize(lm, [problem(row, lm, most) for row in TABLE])


@pytest.mark.slow
def test_the_table_runs_on_a_small_model_of_the_same_family() -> None:
    lm = pico("gemma2")
    found = solved(lm, most=2)
    assert all(r.loss <= r.history.totals[0] for r in found)
    shorter = shorten(lm, problem(TABLE[-1], lm, 2), found[-1], rate=0.059, steps=3)
    assert shorter.holds is not None


@pytest.fixture(scope="module")
def gemma() -> LM:
    try:
        return LM.load(MODEL, dtype="float32")
    except (ModelError, OSError) as e:
        pytest.skip(f"{MODEL} cannot be loaded here: {e}")


@pytest.mark.hub
def test_published_figures_within_a_quarter(gemma: LM) -> None:
    found = solved(gemma)
    for row, r in zip(TABLE, found, strict=True):
        assert r.steps == pytest.approx(row.updates, rel=0.25), row.name
        assert float(r.vector.norm()[9]) == pytest.approx(row.norm, rel=0.25), row.name
        assert r.loss <= 1.25 * row.loss, row.name
    shorter = shorten(gemma, problem(TABLE[-1], gemma, 100), found[-1], rate=0.059)
    assert float(shorter.vector.norm()[9]) == pytest.approx(43.4, rel=0.25) and shorter.holds
