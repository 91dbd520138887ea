"""Letter and polarity as spurious factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trimtab.data.choices import swapped
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair, to_choices
from trimtab.errors import DataError
from trimtab.evaluation.metrics import OutsideMass, Propensity
from trimtab.evaluation.sweep import measure
from trimtab.model import LM
from trimtab.statistics.factors import (
    cells,
    codes,
    concept_and_position,
    corrected_cell,
    factorial_fit,
    fit_factors,
    leaning,
    published_cells,
    shapley_shares,
    variance_shares,
)
from trimtab.statistics.slopes import anti_steerable, fit_slopes
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector


def test_letter_share_of_a_balanced_factor_is_half_the_gap_squared() -> None:
    rng = np.random.default_rng(0)
    a = np.tile([1.0, -1.0], 200)
    slope = rng.normal(size=400) + 0.7 * a
    shares = variance_shares(slope, {"letter": a})
    gap = (slope[a > 0].mean() - slope[a < 0].mean()) / 2
    assert np.isclose(shares.explained["letter"], gap**2 * 400 / 399)
    assert np.isclose(shares.unexplained + shares.explained["letter"], shares.total)


def test_factorial_fit_recovers_planted_effects() -> None:
    rng = np.random.default_rng(1)
    a, y = np.tile([1.0, -1.0], 300), np.repeat([1.0, -1.0], 300)
    slope = 1.2 + 0.5 * a - 0.8 * y + 0.3 * a * y + rng.normal(size=600) * 0.01
    found = factorial_fit(slope, a, y)
    assert np.allclose(
        [found[k] for k in ("concept", "letter", "polarity", "interaction")], [1.2, 0.5, -0.8, 0.3], atol=0.01
    )
    with pytest.raises(DataError, match="identifiable"):
        factorial_fit(slope[:30], a[:30], np.repeat([1.0, -1.0], 15))


def questions(n: int) -> tuple[Pair, ...]:
    numbers, colors = (
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        ["red", "blue", "green", "tea", "coffee", "rain", "sun"],
    )
    return tuple(
        Pair(f"Do you like {colors[k % 7]} {numbers[k % 10]} {numbers[k // 7 % 10]} ?", "yes", "no") for k in range(n)
    )


def test_planted_concept_gives_the_analytic_slope(linear: LM, tmp_path: object) -> None:
    data = Dataset("toy", to_choices(questions(20)), "choices")
    a, b = (linear.tokenizer.convert_tokens_to_ids(x) for x in "AB")
    w = linear.model.lm_head.weight
    v = torch.randn(linear.width, generator=torch.Generator().manual_seed(0))
    run = measure(
        linear,
        Intervention(SteeringVector({2: v})),
        data,
        [Propensity(), OutsideMass()],
        to=str(tmp_path),
        controls={},
        part="test",
    )
    m, items, values = run.table("test").curve("propensity", "vector", None)
    slopes = fit_slopes(m, values)
    towards = float((w[a] - w[b]) @ v)
    by_id = {p.id: p for p in data}
    expected = np.array([towards if by_id[i].meta["matching_letter"] == "A" else -towards for i in items])
    assert np.allclose(slopes.slope, expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(slopes.r2, 1, atol=1e-6)


def test_a_pure_position_vector_is_unmasked_by_swapping_the_options(linear: LM, tmp_path: object) -> None:
    """Steering towards the letter A: half of the items look anti-steerable, and the order-free slope is zero."""
    data = Dataset("toy", to_choices(questions(20)), "choices")
    other = Dataset("toy", tuple(swapped(p) for p in data), "choices")
    a, b = (linear.tokenizer.convert_tokens_to_ids(x) for x in "AB")
    w = linear.model.lm_head.weight
    iv = Intervention(SteeringVector({2: w[a] - w[b]}))
    found: list[np.ndarray] = []
    for k, items in enumerate((data, other)):
        run = measure(linear, iv, items, [Propensity()], to=f"{tmp_path}/{k}", controls={}, part="test")
        m, ids, values = run.table("test").curve("propensity", "vector", None)
        order = [ids.index(p.id) for p in items]
        found.append(fit_slopes(m, values).slope[order])
    assert anti_steerable(found[0]).mean() == 0.5
    is_a = codes([p.meta for p in data], "matching_letter", "A") > 0
    at_a, at_b = np.where(is_a, found[0], found[1]), np.where(is_a, found[1], found[0])
    concept, position = concept_and_position(at_a, at_b)
    assert np.allclose(concept, 0, atol=1e-3 * np.abs(position).mean())
    assert (position > 0).all()


def test_a_planted_lean_is_found_and_no_other() -> None:
    """A model that prefers letter A by 0.8 nats whatever is asked, and Yes not at all."""
    rng = np.random.default_rng(1)
    a, y = np.repeat([1.0, -1.0], 100), np.tile([1.0, -1.0], 100)
    m = 0.3 + 0.8 * a + rng.normal(0, 0.5, 200)
    lean, low, high = leaning(m, a)
    assert (
        lean == pytest.approx(0.8, abs=0.1)
        and low < 0.8 < high
        and high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(200), rel=0.2)
    )
    assert leaning(m, y)[1] < 0 < leaning(m, y)[2]


def test_factors_recovered_with_robust_errors_and_order_free_shares() -> None:
    rng = np.random.default_rng(0)
    a, y = np.repeat([1.0, -1.0], 200), np.tile([1.0, -1.0], 200)
    slope = 0.5 + 0.8 * a - 0.3 * y + 0.1 * a * y + rng.normal(0, 0.2, 400)
    fit = fit_factors(slope, a, y)
    assert fit.beta == pytest.approx({"concept": 0.5, "letter": 0.8, "polarity": -0.3, "interaction": 0.1}, abs=0.04)
    assert fit.se["letter"] == pytest.approx(0.2 / 20, rel=0.2) and fit.p["letter"] < 1e-6
    assert sum(fit.shares.values()) == pytest.approx(
        1 - slope.var() ** -1 * (slope - 0.5 - 0.8 * a + 0.3 * y - 0.1 * a * y).var(), abs=0.01
    )
    assert fit.omega2 == pytest.approx(sum(fit.shares.values()), abs=0.02)
    noise = rng.normal(size=400)
    assert abs(fit_factors(noise, a, y).omega2) < 0.03
    turned = shapley_shares(slope, {"y": y, "a": a})
    assert turned["a"] == pytest.approx(shapley_shares(slope, {"a": a, "y": y})["a"])


def test_the_published_mislabelled_cell_and_its_correction() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        Pair("q", "yes", "no", {"matching_letter": a, "polarity": y})
        for a in "AB"
        for y in ("yes", "no")
        for _ in range(25)
    ]
    slope = rng.normal(size=100)
    true, shown = cells(slope, [p.meta for p in pairs]), published_cells(slope, [p.meta for p in pairs])
    assert shown["A, yes"] == true["A, yes"][0] and shown["B, no"] != pytest.approx(true["B, no"][0])
    assert corrected_cell(shown, {k: n for k, (_, n) in true.items()}) == pytest.approx(true["B, no"][0])
    # the corrected means of myopic-reward on Llama-2 give its published variance
    at_a, at_b = np.full(50, 3.75), np.full(50, -1.72)
    share = variance_shares(np.concatenate([at_a, at_b]), {"letter": np.repeat([1.0, 0.0], 50)}).explained["letter"]
    assert share == pytest.approx(7.48, rel=0.02)


NAN = float("nan")


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
