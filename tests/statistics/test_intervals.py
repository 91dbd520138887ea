"""Intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.statistics.intervals import (
    bca,
    crossed,
    effective,
    interval,
    median_interval,
    ratio_of_means,
    share_figure,
    split_half,
    wilson,
)


def test_bca_covers_at_the_nominal_rate_where_the_percentile_interval_does_not() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        lo, hi = bca(rng.exponential(size=30), lambda v: v.mean(-1), resamples=1000)
        hits += lo <= 1 <= hi
    assert 0.88 <= hits / 300 <= 0.98
    assert np.isnan(bca(np.ones(5), lambda v: v.mean(-1))).all()


def test_redrawing_the_training_pairs_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    items, pairs = rng.normal(1, 0.2, 50)[:, None], rng.normal(1, 2, 20)[None]
    lo, hi = crossed(items * pairs)
    one_lo, one_hi = bca((items * pairs).mean(1), lambda v: v.mean(-1))
    assert hi - lo > 2 * (one_hi - one_lo)
    assert lo <= (items * pairs).mean() <= hi


def test_split_half_reliability_is_1_without_noise_and_0_without_signal() -> None:
    rng = np.random.default_rng(0)
    clear = [np.full((20, 20), float(k)) for k in range(8)]
    noise = [rng.normal(size=(20, 20)) for _ in range(8)]
    assert split_half(clear, times=20) == pytest.approx(1.0)
    assert 0 <= split_half(noise, times=100) < 0.6


def grouped(rng: np.random.Generator, questions: int, each: int = 4, icc: float = 0.8) -> tuple[np.ndarray, list[str]]:
    """Items that share questions: what they have in common has `icc` of the variance."""
    values = np.repeat(rng.normal(0, icc**0.5, questions), each) + rng.normal(0, (1 - icc) ** 0.5, questions * each)
    return values, [str(k // each) for k in range(questions * each)]


@pytest.mark.slow
def test_items_that_share_a_question_count_once() -> None:
    """25 questions of 4 items: intervals as if of 100 independent items held the truth 0.70 times in 1 (medians
    0.78).
    """
    rng, hits = np.random.default_rng(0), {"mean": 0, "median": 0, "share": 0}
    for _ in range(200):
        values, groups = grouped(rng, 25)
        lo, hi = interval(values, groups)
        hits["mean"] += lo <= 0 <= hi
        lo, hi = bca(values, lambda v: np.median(v, -1), groups, resamples=300)
        hits["median"] += lo <= 0 <= hi
        f = share_figure("", values < 0, groups=groups)
        hits["share"] += f.lo <= 0.5 <= f.hi
    assert all(h / 200 >= 0.9 for h in hits.values()), hits
    with pytest.raises(DataError, match="one group per item"):
        interval(values, groups[:-1])


def test_repeating_every_item_changes_no_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    twice, names = np.repeat(values, 2), [str(k // 2) for k in range(60)]
    assert interval(twice, names) == pytest.approx(interval(values))
    assert effective((twice > 0) * 1.0, names) <= effective((values > 0) * 1.0, None)
    assert interval(twice)[1] - interval(twice)[0] < 0.8 * (interval(values)[1] - interval(values)[0])


@pytest.mark.parametrize(("n", "least"), [(3, 0.9), (5, 0.9), (10, 0.92), (80, 0.92)])
def test_intervals_of_means_cover_from_three_items_on(n: int, least: float) -> None:
    """The percentile bootstrap held the truth 0.77 (n = 3), 0.81 (5) and 0.89 (10) times in 1."""
    rng = np.random.default_rng(n)
    found = [interval(rng.normal(1.0, 2.0, n)) for _ in range(600)]
    assert np.mean([lo <= 1.0 <= hi for lo, hi in found]) >= least
    assert np.isnan(interval(np.array([1.0, 2.0]))).all(), "two items have no interval"


def test_intervals_of_skewed_means_cover() -> None:
    rng = np.random.default_rng(0)
    found = [interval(rng.exponential(size=10)) for _ in range(600)]
    assert np.mean([lo <= 1.0 <= hi for lo, hi in found]) >= 0.92


@pytest.mark.parametrize("n", [5, 10, 19, 20])
def test_intervals_of_medians_cover(n: int) -> None:
    """BCa held the median 0.75 times in 1 at five items."""
    rng = np.random.default_rng(n)
    found = [median_interval(rng.exponential(size=n), seed=k) for k in range(300)]
    assert np.mean([lo <= math.log(2) <= hi for lo, hi in found]) >= 0.9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from([1e-6, 1.0, 1e6]), st.integers(1, 4))
def test_intervals_hold_the_estimate_and_scale(seed: int, n: int, size: float, each: int) -> None:
    rng = np.random.default_rng(seed)
    values, groups = rng.standard_t(2, n * each) * size, [str(k // each) for k in range(n * each)]
    lo, hi = interval(values, groups)
    assert lo <= values.mean() <= hi
    assert interval(values * 2, groups) == pytest.approx((2 * lo, 2 * hi), rel=1e-6)
    assert interval(-values, groups) == pytest.approx((-hi, -lo), rel=1e-6)
    lo, hi = median_interval(values, groups)
    assert np.isnan(lo) or lo <= np.median(values) <= hi
    f = share_figure("", values > 0, groups=groups)
    assert 0 <= f.lo <= f.value <= f.hi <= 1


def test_shares_at_the_edge_have_an_interval() -> None:
    none = share_figure("x", np.zeros(40, bool))
    assert none.value == 0 and none.lo == 0 and 0.05 < none.hi < 0.12
    clustered = share_figure("x", np.zeros(40, bool), groups=[str(k // 4) for k in range(40)])
    assert clustered.hi == pytest.approx(wilson(0, 10)[1]), "ten questions tell what ten items would"
    assert wilson(3, 10) == pytest.approx((0.1078, 0.6032), abs=1e-3)


def test_split_half_reliability_stays_in_its_range() -> None:
    """Four data sets of a true reliability of 0.4: the mean of stepped-up correlations was -0.51."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        truth = rng.normal(0, 1, 4)
        found.append(
            split_half(
                [t + rng.normal(0, 1.22 * 20**0.5, (20, 1)) + rng.normal(0, 0.1, (20, 20)) for t in truth], times=20
            )
        )
    assert all(0 <= f <= 1 for f in found) and 0.2 <= np.mean(found) <= 0.7, np.mean(found)


def test_a_ratio_whose_second_column_has_zeros_has_an_interval() -> None:
    """Some draws of five rows hold the zeros alone: they have no ratio, and take no part."""
    both = np.array([[0.0, 0.8], [-0.1, 0.0], [0.0, 0.7], [0.0, 0.0], [0.01, 0.85]])
    value, lo, hi = ratio_of_means(both)
    assert value == pytest.approx(-0.09 / 2.35) and np.isfinite([lo, hi]).all() and lo <= value <= hi
