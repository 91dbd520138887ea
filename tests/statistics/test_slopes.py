"""Slopes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.statistics.generalization import (
    relative,
)
from trimtab.statistics.intervals import (
    band,
    mean_figure,
    median_figure,
    share_figure,
)
from trimtab.statistics.slopes import (
    anti_steerable,
    at_cost,
    bimodality,
    confidence,
    expected_anti_steerable,
    fit_slopes,
    shapes,
    slopes_of_known,
)

GRID = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_slope_laws(seed: int) -> None:
    m = np.random.default_rng(seed).normal(size=(9, 7)) * 5
    slopes = fit_slopes(GRID, m).slope
    assert np.isclose(fit_slopes(GRID, m.mean(0, keepdims=True)).slope[0], slopes.mean()), (
        "slope of the mean is the mean of slopes"
    )
    six = GRID != 0
    assert np.allclose(fit_slopes(GRID[six], m[:, six]).slope, slopes), "multiplier 0 has no weight on a symmetric grid"
    closed = (1.5 * (m[:, 6] - m[:, 0]) + (m[:, 5] - m[:, 1]) + 0.5 * (m[:, 4] - m[:, 2])) / 7
    assert np.allclose(closed, slopes)
    assert np.allclose([np.polyfit(GRID, row, 1)[0] for row in m], slopes), "a generic least-squares fit agrees"


def test_shape_of_known_curves() -> None:
    curve = np.stack([2 * GRID + 3 * GRID**2 + 1, -GRID, np.zeros_like(GRID)])
    found = shapes(GRID, curve)
    assert (
        np.allclose(found.curvature, [3, 0, 0])
        and np.allclose(found.local, [2, -1, 0])
        and np.allclose(found.unsteered, [1, 0, 0])
    )
    assert found.spearman[1] == pytest.approx(-1) and np.isnan(found.spearman[2])
    assert np.isnan(shapes(np.array([-1.0, 0.0, 1.0]), curve[:, :3]).local).all()


def test_expected_anti_steerable_share() -> None:
    rng = np.random.default_rng(0)
    slope = rng.normal(1, 1, 4000)
    assert expected_anti_steerable(slope) == pytest.approx((slope <= 0).mean(), abs=0.02)
    assert expected_anti_steerable(np.ones(4)) == 0 and expected_anti_steerable(-np.ones(4)) == 1


def test_strengths_at_equal_cost() -> None:
    m = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert at_cost(m, m**2, 3 * m, 1.0) == (1.0, 3.0) and at_cost(m, m**2, 3 * m, 2.5) == pytest.approx(
        (2.5**0.5, 3 * 2.5**0.5)
    )
    assert at_cost(m, m**2, 3 * m, 2.5, sign=-1) == pytest.approx((-(2.5**0.5), -3 * 2.5**0.5))
    assert np.isnan(at_cost(m, m**2, 3 * m, 5.0)).all()


FIVE = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


NAN = float("nan")


def test_not_measured_is_not_anti_steerable() -> None:
    """20 of 60 items without a slope: they are in neither share, and the median is that of the others."""
    slope = np.array([1.0] * 40 + [NAN] * 20)
    figure = share_figure("anti", anti_steerable(slope))
    assert figure.value == 0 and figure.n == 40
    assert median_figure("median", slope, "nats").value == 1 and median_figure("median", slope, "nats").n == 40
    assert mean_figure("x", np.array([1.0, NAN, 3.0, 2.0]), "nats").value == 2.0 and math.isnan(
        mean_figure("x", np.array([NAN]), "nats").value
    )
    assert math.isnan(share_figure("x", np.zeros(0, bool)).value)
    assert expected_anti_steerable(np.array([1.0, NAN, 3.0])) < 0.5
    assert anti_steerable(np.array([1.0, 0.0, -1.0, NAN])).tolist()[:3] == [0, 1, 1]


def test_rows_that_were_not_measured_leave_the_others_as_they_are() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 5))
    holed = np.concatenate([values, np.full((4, 5), NAN)])
    holed[-1, :3] = 1.0
    groups = [str(k // 2) for k in range(34)]
    assert all(np.array_equal(a, b) for a, b in zip(band(holed, groups), band(values, groups[:30]), strict=True))
    assert confidence(fit_slopes(FIVE, holed))[-1] == "ambiguous"
    found = shapes(FIVE, holed)
    assert np.isnan(found.curvature[-4:]).all() and np.array_equal(found.spearman[:30], shapes(FIVE, values).spearman)
    whole = {("a", "b"): values[:, 0] + 3, ("b", "b"): values[:, 1] + 3}
    partly = {k: np.append(v, NAN) for k, v in whole.items()}
    assert relative(partly, "a", "b").value == relative(whole, "a", "b").value


def test_a_flat_curve_is_called_ambiguous() -> None:
    """Three multipliers leave one degree of freedom: 1.96 standard errors called a flat item sure 15 times in 100,
    seven 5.
    """
    rng = np.random.default_rng(0)
    for k in (3, 5, 7):
        m = np.linspace(-1, 1, k)
        sure = confidence(fit_slopes(m, rng.normal(size=(2000, k)))) != "ambiguous"
        assert 0.03 <= sure.mean() <= 0.07, k
    curves = np.stack([2 * FIVE, -2 * FIVE, 0 * FIVE]) + 0.05 * rng.normal(size=(3, 5))
    assert confidence(fit_slopes(FIVE, curves)).tolist() == ["steerable", "anti-steerable", "ambiguous"]
    assert confidence(fit_slopes(np.array([0.0, 1.0]), np.array([[0.0, 1.0]])))[0] == "ambiguous", (
        "two points have no scatter"
    )


def test_equal_cost_is_read_off_the_root() -> None:
    """0.1 (m / 1.41)^2 costs 0.1 at 1.41; a straight line between 1 and 2 says 1.329."""
    m = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    cost = 0.1 * (m / 1.41) ** 2
    assert at_cost(m, cost, m, 0.1)[0] == pytest.approx(1.41) and at_cost(m, cost, m, 0.1, sign=-1)[0] == pytest.approx(
        -1.41
    )


def test_a_slope_over_what_was_rated_is_that_of_the_whole_curve_where_all_was() -> None:
    grid, rng = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.random.default_rng(0)
    values = rng.normal(size=(6, 5))
    assert slopes_of_known(grid, values) == pytest.approx(fit_slopes(grid, values).slope)
    values[0, 1] = np.nan
    known = [0, 2, 3, 4]
    assert slopes_of_known(grid, values)[0] == pytest.approx(np.polyfit(grid[known], values[0, known], 1)[0])
    values[1, :3] = np.nan
    assert np.isnan(slopes_of_known(grid, values)[1]), "two points are no line"
    constant = np.repeat(rng.uniform(1, 4, (200, 1)), 5, axis=1)
    assert (slopes_of_known(grid, constant) == 0).all(), "what never moves goes no way"


def test_bimodality_is_that_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    assert bimodality(rng.normal(size=20_000)) == pytest.approx(1 / 3, abs=0.02)
    assert bimodality(rng.uniform(size=20_000)) == pytest.approx(5 / 9, abs=0.02)
    two = np.concatenate([rng.normal(-3, 0.5, 500), rng.normal(3, 0.5, 500), [np.nan]])
    assert bimodality(two) > 0.8
    assert np.isnan(bimodality(np.ones(9))) and np.isnan(bimodality(np.array([1.0, 2.0, np.nan])))
