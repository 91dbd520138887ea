"""Intervals, slopes, nulls and the decision table: the smallest inputs that once gave a wrong answer, and laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.statistics.factors import fit_factors, leaning
from trimtab.statistics.generalization import correlation, partial_correlation, relative
from trimtab.statistics.intervals import (
    Figure,
    band,
    bca,
    correlation_interval,
    effective,
    interval,
    mean_figure,
    median_figure,
    median_interval,
    share_figure,
    split_half,
    wilson,
)
from trimtab.statistics.nulls import Compared, Null, null_p
from trimtab.statistics.slopes import anti_steerable, at_cost, confidence, expected_anti_steerable, fit_slopes, shapes
from trimtab.statistics.verdict import ALPHA, BROKEN, FEWEST, Evidence, decide

GRID = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
NAN = float("nan")


def grouped(rng: np.random.Generator, questions: int, each: int = 4, icc: float = 0.8) -> tuple[np.ndarray, list[str]]:
    """Items that share questions: what they have in common has `icc` of the variance."""
    values = np.repeat(rng.normal(0, icc**0.5, questions), each) + rng.normal(0, (1 - icc) ** 0.5, questions * each)
    return values, [str(k // each) for k in range(questions * each)]


# ---------------------------------------------------------------- not measured


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
    assert confidence(fit_slopes(GRID, holed))[-1] == "ambiguous"
    found = shapes(GRID, holed)
    assert np.isnan(found.curvature[-4:]).all() and np.array_equal(found.spearman[:30], shapes(GRID, values).spearman)
    whole = {("a", "b"): values[:, 0] + 3, ("b", "b"): values[:, 1] + 3}
    partly = {k: np.append(v, NAN) for k, v in whole.items()}
    assert relative(partly, "a", "b").value == relative(whole, "a", "b").value


# ---------------------------------------------------------------- groups


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


def test_an_item_read_in_both_orders_is_one_item() -> None:
    """What is an item's own cancels between its two orders: their interval was 3.4 to 9.8 times too wide."""
    rng = np.random.default_rng(0)
    own, code = rng.normal(0, 2, 40), np.resize([1.0, -1.0], 40)
    one, two = own + 0.3 * code + rng.normal(0, 0.2, 40), own - 0.3 * code + rng.normal(0, 0.2, 40)
    values, codes = np.concatenate([one, two]), np.concatenate([code, -code])
    middle, lo, hi = leaning(values, codes, [*range(40)] * 2)
    half = 1.96 * np.std((one - two) * code / 2, ddof=1) / 40**0.5
    assert middle == pytest.approx(((one - two) * code / 2).mean()) and (hi - lo) / 2 == pytest.approx(half, rel=0.08)
    assert np.isnan(leaning(np.arange(6.0), np.array([1.0, 1, 1, 1, -1, -1]), list("abcdee"))).all(), (
        "one question at B has no spread"
    )
    neither = leaning(np.array([1.0] * 6 + [0.0, 0.1] + [5.0] * 4), np.array([1.0] * 6 + [-1.0] * 2 + [0.0] * 4))
    assert neither[0] == pytest.approx((1 - 0.05) / 2), "items of neither answer are left out"
    wide = leaning(values, codes)
    assert wide[2] - wide[1] > 3 * (hi - lo)
    holed = np.append(values, NAN)
    assert leaning(holed, np.append(codes, 1.0), [*[*range(40)] * 2, 40]) == pytest.approx((middle, lo, hi))


# ---------------------------------------------------------------- few items


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


def test_a_flat_curve_is_called_ambiguous() -> None:
    """Three multipliers leave one degree of freedom: 1.96 standard errors called a flat item sure 15 times in 100,
    seven 5.
    """
    rng = np.random.default_rng(0)
    for k in (3, 5, 7):
        m = np.linspace(-1, 1, k)
        sure = confidence(fit_slopes(m, rng.normal(size=(2000, k)))) != "ambiguous"
        assert 0.03 <= sure.mean() <= 0.07, k
    curves = np.stack([2 * GRID, -2 * GRID, 0 * GRID]) + 0.05 * rng.normal(size=(3, 5))
    assert confidence(fit_slopes(GRID, curves)).tolist() == ["steerable", "anti-steerable", "ambiguous"]
    assert confidence(fit_slopes(np.array([0.0, 1.0]), np.array([[0.0, 1.0]])))[0] == "ambiguous", (
        "two points have no scatter"
    )


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


def test_equal_cost_is_read_off_the_root() -> None:
    """0.1 (m / 1.41)^2 costs 0.1 at 1.41; a straight line between 1 and 2 says 1.329."""
    m = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    cost = 0.1 * (m / 1.41) ** 2
    assert at_cost(m, cost, m, 0.1)[0] == pytest.approx(1.41) and at_cost(m, cost, m, 0.1, sign=-1)[0] == pytest.approx(
        -1.41
    )


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


def test_factors_count_questions() -> None:
    rng = np.random.default_rng(0)
    letter, polarity = np.tile([1.0, 1, -1, -1], 25), np.tile([1.0, -1, 1, -1], 25)
    slope = rng.normal(size=100)
    one = fit_factors(slope, letter, polarity)
    five = fit_factors(
        np.repeat(slope, 5), np.repeat(letter, 5), np.repeat(polarity, 5), np.repeat(np.arange(100), 5).tolist()
    )
    assert five.se["letter"] == pytest.approx(one.se["letter"], rel=0.02) and five.interval("letter") == pytest.approx(
        one.interval("letter"), rel=0.05
    )


# ---------------------------------------------------------------- nulls


def test_a_null_that_is_the_vector_is_a_tie() -> None:
    """All of them plus or minus the vector, but for rounding: p is 1, not 0.002."""
    nulls = [0.5 * (1 + 1e-8 * k) * (-1) ** k for k in range(-250, 250)]
    assert null_p(0.5 * (1 + 1e-6), nulls) == 1.0


def test_a_layer_that_was_chosen_is_tested_against_nulls_that_chose_theirs() -> None:
    """Random directions at the best of 30 layers: 71 in 100 were beyond four controls at that layer."""
    rng, claims = np.random.default_rng(0), []
    for _ in range(300):
        scale = np.exp(rng.normal(0, 1, 30))
        own, drawn = rng.normal(0, 1, 30) * scale, rng.normal(0, 1, (199, 30)) * scale
        best = int(np.abs(own / scale).argmax())
        claims.append(Null.of("random", range(30), drawn).p(own[best], best) <= 0.05)
    assert np.mean(claims) <= 0.085
    four = rng.normal(0, 1, (300, 4))
    assert min(null_p(9.0, row.tolist()) for row in four) == 0.2, "beside four controls no p-value is below 0.2"


def test_too_few_nulls_settle_nothing_and_label_shuffled_ones_decide() -> None:
    calm, wild = (
        Null.of(kind, [3], np.random.default_rng(0).normal(0, s, (499, 1)))
        for kind, s in (("random", 0.1), ("shuffled", 2.0))
    )
    few = Null.of("random", [3], np.random.default_rng(0).normal(0, 1, (4, 1)))
    assert math.isnan(Compared("3", 9.0, 40, "forecast", (few,)).p)
    assert Compared("3", 1.0, 40, "forecast", (calm,)).p == pytest.approx(1 / 500)
    both = Compared("3", 1.0, 40, "forecast", (calm, wild))
    assert both.decisive == "shuffled" and both.p > 0.5 and both.beside("random") == pytest.approx(1 / 500)
    assert math.isnan(Compared("3", 1.0, 40, "forecast", ()).p) and math.isnan(both.beside("span"))
    assert math.isnan(calm.p(1.0, 4)), "a layer nobody looked at"
    nothing = Null.of("random", [3], np.zeros((499, 1)))
    assert math.isnan(nothing.p(0.0, 3))
    assert Null.from_json(calm.to_json()) == calm


# ---------------------------------------------------------------- the decision table

SLOPE = Figure("steerability", 0.5, 0.4, 0.6, 40, "nats per multiplier")
GOOD = Evidence(
    SLOPE, questions=40, p=0.002, control=0.1, broken=0.0, gain=0.5, asked=Figure("", 0.1, 0.05, 0.15, 40, "nats")
)

TABLE = {
    "works": GOOD,
    "works backwards": replace(GOOD, slope=replace(SLOPE, value=-0.5, lo=-0.6, hi=-0.4)),
    "no verdict": replace(GOOD, readable=False),
    "too few items": replace(GOOD, questions=FEWEST - 1),
    "no measurable effect": replace(GOOD, slope=replace(SLOPE, value=0.02, lo=0.01, hi=0.03)),
    "not beyond controls": replace(GOOD, p=0.06),
    "breaks the text": replace(GOOD, broken=0.6),
    "does no more than asking in words": replace(GOOD, asked=Figure("", 0.5, 0.4, 0.6, 40, "nats")),
}


@pytest.mark.parametrize("kind", TABLE)
def test_every_line_of_the_decision_table(kind: str) -> None:
    assert decide(TABLE[kind]) == kind


def test_one_item_settles_nothing_whatever_its_sign() -> None:
    for value in (0.555, -0.555):
        assert decide(Evidence(Figure("", value, NAN, NAN, 1, "nats per multiplier"), 1, 0.002, 0.0)) == "too few items"


numbers = st.floats(-3, 3, allow_nan=False) | st.just(NAN)
bounds = st.tuples(numbers, st.floats(0, 2), st.floats(0, 2)).map(lambda t: (t[0], t[0] - t[1], t[0] + t[2]))


@settings(max_examples=400, deadline=None)
@given(
    bounds, st.integers(0, 60), st.floats(0, 1) | st.just(NAN), st.floats(0, 3) | st.just(NAN), st.booleans(),
    st.floats(-1, 1) | st.just(NAN),
    st.floats(0, 3), st.none() | bounds, st.sampled_from(["nats per multiplier", "nats/token per multiplier", "other"]),
)  # fmt: skip
def test_no_verdict_contradicts_its_figures(
    slope: tuple[float, float, float],
    questions: int,
    p: float,
    control: float,
    readable: bool,
    broken: float,
    gain: float,
    asked: tuple[float, float, float] | None,
    unit: str,
) -> None:
    said = None if asked is None else Figure("", *asked, questions, "nats")
    e = Evidence(Figure("", *slope, questions, unit), questions, p, control, readable, broken, gain, said)
    kind = decide(e)
    beyond = p <= ALPHA and not abs(slope[0]) <= control
    told = slope[1] > 0 or slope[2] < 0
    if kind in ("works", "works backwards", "breaks the text", "does no more than asking in words"):
        assert readable and questions >= FEWEST and told and abs(slope[0]) >= e.floor and beyond
    if kind in ("works", "does no more than asking in words"):
        assert slope[1] > 0 and not broken > BROKEN
    if kind == "works":
        assert said is None or not said.lo > 0 or gain > said.value
    if kind == "works backwards":
        assert slope[2] < 0
    if kind == "not beyond controls":
        assert told and not beyond
    if kind == "no measurable effect":
        assert not told or abs(slope[0]) < e.floor
