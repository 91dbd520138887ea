"""Vectors in other contexts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from trimtab.statistics.generalization import (
    closer,
    correlation,
    left_out,
    linear,
    mean_only,
    partial_correlation,
    relative,
    relatives,
)
from trimtab.statistics.intervals import (
    Figure,
    correlation_interval,
    median_interval,
    spearman,
    split_half,
)
from trimtab.statistics.verdict import Evidence, decide


def test_relative_steerability_is_guarded_and_has_an_interval() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(2, 0.5, 100)
    grid = {("a", "a"): own, ("b", "b"): rng.normal(0, 1, 100), ("b", "a"): own / 2, ("a", "b"): own}
    half = relative(grid, "b", "a")
    assert half.value == pytest.approx(0.5) and half.lo == pytest.approx(0.5) and half.hi == pytest.approx(0.5)
    assert np.isnan(relative(grid, "a", "b").value), "a denominator that is not told from 0 gives no ratio"
    assert [(r.train, r.test) for r in relatives(grid)] == [("b", "a"), ("a", "b")], "no context with itself"


def test_correlations_are_those_of_scipy_and_are_compared_in_pairs() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    y, z = x + rng.normal(size=60) / 2, rng.normal(size=60)
    found = correlation("x", [*x, np.nan], [*y, 1.0])
    assert (
        found.value == pytest.approx(stats.spearmanr(x, y).statistic)
        and found.n == 60
        and found.lo < found.value < found.hi
    )
    better, lo, hi = closer(x.tolist(), z.tolist(), y.tolist())
    assert better == pytest.approx(spearman(x, y) - spearman(z, y)) and 0 < lo < hi
    assert abs(partial_correlation(x.tolist(), y.tolist(), x.tolist())) < 0.01 or np.isnan(
        partial_correlation(x.tolist(), y.tolist(), x.tolist())
    )
    wide = correlation("x", x.tolist(), y.tolist(), clusters=[k // 20 for k in range(60)])
    assert wide.value == found.value


def test_leave_one_data_set_out_beats_the_mean_only_where_there_is_something_to_learn() -> None:
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(60, 1)), [str(k // 10) for k in range(60)]
    y = 3 * x[:, 0] + rng.normal(size=60) / 10
    assert (
        np.abs(left_out(x, y, groups, linear) - y).mean() < 0.2 < np.abs(left_out(x, y, groups, mean_only) - y).mean()
    )


NAN = float("nan")


def test_partial_correlations_rank_ties_alike() -> None:
    x, y, given = [1.0, 1.0, 1.0, 2.0, 2.0, 3.0], [3.0, 1.0, 2.0, 5.0, 4.0, 6.0], [1.0, 1.0, 2.0, 2.0, 1.0, 2.0]
    order = [4, 0, 3, 5, 1, 2]
    shuffled = [[v[k] for k in order] for v in (x, y, given)]
    assert partial_correlation(x, y, given) == pytest.approx(partial_correlation(*shuffled)), (
        "the order of the rows is no information"
    )


def test_a_perfect_rank_correlation_of_few_points_is_not_certain() -> None:
    lo, hi = correlation_interval(1.0, 5)
    assert lo < 0.8 and hi == 1.0
    assert np.isnan(correlation_interval(0.5, 4)).all()


def test_what_cannot_be_told_is_not_told() -> None:
    """One or two questions: no interval of any kind; equal values: no width."""
    grid = {("a", "b"): np.array([1.0, 2.0, 3.0]), ("b", "b"): np.array([2.0, 2.0, 2.5])}
    assert np.isnan(relative(grid, "a", "b", groups=["x"] * 3).lo) and np.isnan(
        relative({k: v * NAN for k, v in grid.items()}, "a", "b").value
    )
    assert np.isnan(correlation("", [1.0, 2, 3, 4, 5, 6], [1.0, 3, 2, 5, 4, 6], ["a"] * 3 + ["b"] * 3).lo)
    assert np.isnan(split_half([np.ones((2, 4))] * 3, [["a", "a"]] * 3))
    assert median_interval(np.ones(19)) == median_interval(np.ones(20)) == (1.0, 1.0)
    assert decide(Evidence(replace(SLOPE, lo=NAN, hi=NAN), 12, 0.002, 0.1)) == "too few items", (
        "twelve questions, nearly all items in one"
    )


SLOPE = Figure("steerability", 0.5, 0.4, 0.6, 40, "nats per multiplier")
