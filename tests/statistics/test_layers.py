"""Every choice of a layer: the steepest for sure, and not the one that is surely nothing."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.statistics.layers import Sweep, steepest


def sweep(by_layer: dict[int, list[float]]) -> Sweep:
    return Sweep({k: np.array(v) for k, v in by_layer.items()})


def test_one_data_set_takes_the_highest_lower_bound() -> None:
    steady, wild = [0.9, 1.0, 1.1, 1.0], [3.0, -1.0, 4.0, 0.0]
    assert steepest([sweep({3: steady, 5: wild})]) == 3


def test_a_layer_that_does_nothing_is_not_steep() -> None:
    """Its bound is the highest where those of all others are below 0."""
    nothing, noisy = [1e-6, -1e-6, 0.0, 0.0, 1e-6, -1e-6], [1.2, -0.4, 0.9, -0.2, 1.1, 0.3]
    assert steepest([sweep({3: noisy, 27: nothing})]) == 3


def test_over_data_sets_the_bound_is_that_of_the_mean() -> None:
    """Twelve data sets of six questions that vary much: each alone could be anything, all together are sure."""
    draw = np.random.default_rng(0)
    sets = [Sweep({18: 0.4 + draw.normal(0, 0.6, 6), 26: 0.05 + draw.normal(0, 0.01, 6)}) for _ in range(12)]
    assert np.mean([s.bound(18) for s in sets]) < np.mean([s.bound(26) for s in sets])
    assert steepest(sets) == 18


@pytest.mark.parametrize("seed", range(5))
def test_null_layers_are_chosen_alike(seed: int) -> None:
    """Where nothing steers no layer is favored by its place."""
    draw = np.random.default_rng(seed)
    chosen = [steepest([Sweep({k: draw.normal(0, 1, 6) for k in range(4)}) for _ in range(3)]) for _ in range(200)]
    counts = np.bincount(chosen, minlength=4)
    assert counts.min() > 25


def test_what_costs_too_much_is_left_out_if_anything_is_cheap() -> None:
    one = sweep({1: [0.2, 0.21, 0.2], 2: [0.9, 0.91, 0.9]})
    assert steepest([one], {1: 0.1, 2: 0.9}, 0.5) == 1
    assert steepest([one], {1: 0.7, 2: 0.9}, 0.5) == 2


def test_one_question_has_no_bound() -> None:
    assert steepest([sweep({1: [0.2], 2: [0.5]})]) == 2
    assert steepest([sweep({1: [0.2], 2: [0.5]}), sweep({1: [0.1], 2: [0.6]})]) == 2
