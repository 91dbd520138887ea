"""The study of reliability: its statistics on cases with known answers, its contexts, and the whole of it on a small
model.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pico import pico
from trimtab.data.choices import is_listed, options, swapped
from trimtab.data.confounds import confounds
from trimtab.data.contexts import CONTEXTS, SYSTEM, available, in_context
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair, as_choice, to_choices
from trimtab.errors import DataError, OverlapError, RecipeError, RunError, TokenError
from trimtab.evaluation.forecast import Sensitivity, borne_out, sensitivity
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.statistics.factors import (
    cells,
    corrected_cell,
    fit_factors,
    leaning,
    published_cells,
    shapley_shares,
    variance_shares,
)
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
from trimtab.statistics.intervals import bca, crossed, spearman, split_half
from trimtab.statistics.nulls import benjamini_hochberg, null_p
from trimtab.statistics.slopes import at_cost, expected_anti_steerable, fit_slopes, shapes
from trimtab.steering.controls import in_span, shuffled
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from trimtab.studies import study
from trimtab.studies.pages.reliability import headline, page
from trimtab.studies.pages.reliability_results import VECTOR, load, sweep_slopes
from trimtab.studies.pages.reliability_tables import across
from trimtab.studies.parts import cut, effects, folds, leave_one_out
from trimtab.studies.reliability import Plan

reliability = partial(study, "reliability")

GRID = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])


def toy(n: int = 24, name: str = "toy") -> Dataset:
    """A/B questions in words of the pico tokenizer."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    asked = [f"Do you like {a} {b} ?" for a in ("tea", "rain", name) for b in numbers][:n]
    pairs = [
        Pair(
            q, "yes I think so" if k % 2 else "no never", "no never" if k % 2 else "yes I think so", {"polarity": "yes"}
        )
        for k, q in enumerate(asked)
    ]
    return Dataset(name, to_choices(pairs), "choices", {"positive": "I like it .", "negative": "I never like it ."})


# ---------------------------------------------------------------- statistics


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


def test_adjusted_p_values_by_hand_and_on_nulls() -> None:
    assert benjamini_hochberg(np.array([0.01, 0.04, 0.03, np.nan])).tolist()[:3] == pytest.approx([0.03, 0.04, 0.04])
    assert np.isnan(benjamini_hochberg(np.array([0.01, np.nan]))[1])
    rng = np.random.default_rng(0)
    false = [(benjamini_hochberg(rng.uniform(size=50)) <= 0.05).any() for _ in range(400)]
    assert np.mean(false) < 0.09


def test_label_shuffled_and_span_nulls_reject_at_the_nominal_rate() -> None:
    """Without a shared direction the p-value of the mean difference is uniform."""
    found: list[tuple[float, float]] = []
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        deltas, gradient = torch.randn(20, 16, generator=g), torch.randn(16, generator=g)
        drawn = (shuffled(deltas[:, None], 99, seed + 1000)[:, 0], in_span(deltas[:, None], 99, seed + 1000)[:, 0])
        found.append(tuple(null_p(float(deltas.mean(0) @ gradient), (x @ gradient).tolist()) for x in drawn))  # type: ignore[arg-type]
    rates = (np.array(found) <= 0.05).mean(0)
    assert ((rates >= 0.01) & (rates <= 0.11)).all() and (np.max(found, 1) <= 0.05).mean() <= 0.07
    assert torch.linalg.matrix_rank(torch.cat([in_span(deltas[:3, None], 10)[:, 0], deltas[:3]])) == 3


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


def test_factorial_extraction_takes_the_letter_out_of_the_vector() -> None:
    a, y = torch.tensor([1.0, 1, -1, -1] * 5), torch.tensor([1.0, -1, 1, -1] * 5)
    concept, letter, polarity = torch.eye(6)[:3]
    deltas = concept + 4 * a[:, None] * letter - 2 * y[:, None] * polarity
    found = effects(deltas[:-1], a[:-1], y[:-1], (a * y)[:-1])
    assert torch.allclose(found[0], concept, atol=1e-5) and torch.allclose(found[1], 4 * letter, atol=1e-5)
    assert torch.allclose(found[2], -2 * polarity, atol=1e-5) and found[3].norm() < 1e-5
    assert deltas[:-1].mean(0) @ letter != 0, "the plain mean keeps some of it when letters are not balanced"


def test_leave_one_out_in_closed_form_and_folds_keep_groups_together() -> None:
    deltas = torch.randn(7, 3)
    for k, v in enumerate(leave_one_out(deltas)):
        assert torch.allclose(v, torch.cat([deltas[:k], deltas[k + 1 :]]).mean(0), atol=1e-6)
    groups = ["a", "b", "a", "c", "d", "e"]
    found = folds(groups, 3)
    assert sorted(i for f in found for i in f) == list(range(6))
    assert next(f for f in found if 0 in f) & {2} == {2}


def test_expected_anti_steerable_share() -> None:
    rng = np.random.default_rng(0)
    slope = rng.normal(1, 1, 4000)
    assert expected_anti_steerable(slope) == pytest.approx((slope <= 0).mean(), abs=0.02)
    assert expected_anti_steerable(np.ones(4)) == 0 and expected_anti_steerable(-np.ones(4)) == 1


def test_audit_warns_of_polarity_letters_and_lengths() -> None:
    biased = [as_choice(Pair(f"q{k}?", "Yes, of course I would do that", "No", {}), "A") for k in range(30)]
    found = confounds(biased)
    assert found.yes_gap == 1 and found.letter_a == 1 and len(found.warnings) == 3
    fair = to_choices([Pair(f"q{k}?", "Yes" if k % 2 else "No", "No" if k % 2 else "Yes", {}) for k in range(40)])
    assert confounds(fair).warnings == () and set(cells(np.ones(40), [p.meta for p in fair])) == {
        "A, no",
        "A, yes",
        "B, no",
        "B, yes",
    }


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


def test_strengths_at_equal_cost() -> None:
    m = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert at_cost(m, m**2, 3 * m, 1.0) == (1.0, 3.0) and at_cost(m, m**2, 3 * m, 2.5) == pytest.approx(
        (2.5**0.5, 3 * 2.5**0.5)
    )
    assert at_cost(m, m**2, 3 * m, 2.5, sign=-1) == pytest.approx((-(2.5**0.5), -3 * 2.5**0.5))
    assert np.isnan(at_cost(m, m**2, 3 * m, 5.0)).all()


# ---------------------------------------------------------------- generalization


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


# ---------------------------------------------------------------- contexts


def test_every_context_asks_the_same_question_and_keeps_its_group() -> None:
    data = toy()
    assert set(available(data)) == set(CONTEXTS)
    for name in CONTEXTS:
        shown = in_context(data, name)
        assert [p.group for p in shown] == [p.group for p in data], name
        assert all(p.question.strip() or name for p in shown)
    base, told = in_context(data, "base")[0], in_context(data, "user-negative")[0]
    assert base.before == (("system", SYSTEM),) and base.prompt == data[0].prompt
    assert told.before == (("system", SYSTEM),) and told.prompt == f"I never like it .\n\n{data[0].prompt}"
    assert in_context(data, "system-positive")[0].before == (("system", "I like it ."),)
    assert in_context(data, "no-system")[0].before == () and in_context(data, "base", system=None)[0].before == ()
    assert [role for role, _ in in_context(data, "two-turns")[0].before] == ["system", "user", "assistant"]
    digits, spoken = in_context(data, "digits")[0], in_context(data, "spoken")[0]
    assert {digits.positive, digits.negative} == {"(1)", "(2)"} and "(1): " in digits.prompt
    assert {spoken.positive, spoken.negative} == {"yes I think so", "no never"} and "(A)" not in spoken.prompt
    assert swapped(swapped(data[0])) == data[0]


def test_contexts_refuse_what_they_cannot_show() -> None:
    plain = Dataset("x", (Pair("What now?", "this", "that"),))
    assert available(plain) == ["base", "no-system", "reworded", "two-turns"]
    for name in ("system-positive", "swapped"):
        with pytest.raises(DataError):
            in_context(plain, name)
    listed = Pair("Go?\n\nAnswers:\n (A) Yes, go\n (B) No", "(B)", "(A)", {"matching_letter": "B"})
    assert options(listed) == ("Go?", "No", "Yes, go") and is_listed(listed)
    assert not is_listed(Pair("Go?\n (A) x\n (B) y\n (C) z", "(A)", "(B)", {"matching_letter": "A"}))


def test_a_context_changes_the_id_of_an_item_and_not_its_training_guard(tmp_path: Path) -> None:
    data, lm = toy(), pico()
    shown = in_context(data, "system-positive")
    assert {p.id for p in shown}.isdisjoint({p.id for p in data})
    v = SteeringVector({1: torch.randn(lm.width)})
    seen = SteeringVector(v.vectors, v.made.__class__(trained_on=tuple(p.group for p in data)))
    with pytest.raises(OverlapError):
        measure(lm, Intervention(seen), shown, [Propensity()], to=tmp_path)


# ---------------------------------------------------------------- forecast


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3"])
@pytest.mark.parametrize("context", ["base", "spoken"])
def test_the_forecast_is_the_slope_of_a_small_vector(name: str, context: str, tmp_path: Path) -> None:
    """Measured with a finite multiplier at every layer, by the ordinary sweep."""
    lm, data = pico(name), in_context(toy(8), context, system=None)
    vector = SteeringVector(
        {k: 0.02 * torch.randn(lm.width, generator=torch.Generator().manual_seed(k)) for k in range(lm.n_layers)}
    )
    expected = sensitivity(lm, data)
    run = measure(
        lm,
        Intervention(vector, positions="from_last_prompt_token"),
        data,
        [Propensity()],
        to=tmp_path,
        multipliers=(-1.0, 0.0, 1.0),
        layers=list(range(lm.n_layers)),
        part="x",
    )
    for layer, forecast in expected.slopes(vector).items():
        multipliers, items, values = run.table("x").curve("propensity", "vector", layer)
        truth = dict(zip(items, fit_slopes(multipliers, values).slope, strict=True))
        there = np.array([truth[i] for i in expected.items])
        assert np.abs(there - forecast).max() <= 0.02 * np.abs(there).max() + 2e-4, (name, layer)
    expected.save(tmp_path / "f.safetensors")
    assert torch.equal(Sensitivity.load(tmp_path / "f.safetensors").gradients, expected.gradients)
    assert borne_out(forecast, there)["sign"] > 0.7


# ---------------------------------------------------------------- the study


def small(*names: str, **changes: object) -> Plan:
    beyond = ("no-system", "two-turns", "swapped")
    return Plan(
        data=names,
        beyond=beyond,
        train=8,
        val=2,
        test=8,
        system=None,
        draws=199,
        nulls=1,
        folds=2,
        multipliers=(-1.0, 0.0, 1.0),
        **changes,
    )  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Two data sets as published files have them."""
    out: list[str] = []
    for name in ("snow", "tea"):
        rows = [
            {
                "question": f"{p.question}\n\nChoices:\n (A) {one}\n (B) {two}",
                "answer_matching_behavior": f" {p.positive}",
                "answer_not_matching_behavior": f" {p.negative}",
            }
            for p in toy(24, name)
            for one, two in [options(p)[1:] if p.positive == "(A)" else options(p)[:0:-1]]
        ]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        out.append(str(path))
    return out[0], out[1]


def test_the_whole_study_on_a_small_model_resumes_and_reports(files: tuple[str, str], tmp_path: Path) -> None:
    lm = pico()
    plan = small(*files)
    run = reliability(lm, tmp_path / "study", plan)
    text = page(run).read_text()
    before = {p: p.read_bytes() for p in sorted((tmp_path / "study").rglob("*")) if p.is_file()}
    page(reliability(lm, tmp_path / "study", plan))
    assert {p: p.read_bytes() for p in before} == before, "a second call changes nothing"
    whole = load(run)
    assert {s.name for s in whole.sets} == {"snow", "tea"} and whole.layer in range(lm.n_layers)
    for s in whole.sets:
        assert s.position is not None, "options were read in both orders"
        assert s.curves[VECTOR, "base"].values.shape == (8, 3) and len(s.fold_slopes) == 8
        assert {str(v) for v, c in s.curves if c == "base"} >= {"vector", "span-0", "shuffled-0", "unrelated"}
        assert 0 < s.p <= 1
    with (tmp_path / "study" / "items.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(c.values.size for s in whole.sets for c in s.curves.values())
    assert "Ranking" in text and "(q ≤ 0.05)." in headline(whole)[0]
    assert "<script" not in text and "<link" not in text and "src=" not in text
    assert across(whole, whole)[0].value == pytest.approx(1.0) or len(whole.sets) < 4
    other = reliability(lm, tmp_path / "spoken", small(*files, form="spoken", words=2, layer=1))
    assert load(other).sets[0].position is None and page(other).is_file()
    with pytest.raises(RunError):
        reliability(lm, tmp_path / "study", small(*files, seed=1))


def test_a_sweep_is_read_in_the_order_of_its_questions(tmp_path: Path) -> None:
    """Rows are written batch by batch, near in length; a short vector does to every question what the forecast says of
    that question.
    """
    lm = pico()
    pairs = [
        Pair(f"Do you {'really ' * (k % 4)}like {w} ?", "yes I think so", "no never")
        for k, w in enumerate(("tea", "rain", "snow", "sun", "coffee", "red"))
    ]
    data = Dataset("toy", to_choices(pairs), "choices")
    v = SteeringVector({k: 1e-2 * torch.randn(lm.width, generator=torch.Generator().manual_seed(k)) for k in (0, 2)})
    run = measure(
        lm,
        Intervention(v, positions="from_last_prompt_token"),
        data,
        [Propensity()],
        to=tmp_path,
        part="val-base",
        layers=[0, 2],
        multipliers=(-1.0, 0.0, 1.0),
        controls={},
    )
    assert run.table("val-base").curve("propensity", "vector", 0)[1] != [p.id for p in data], (
        "another order in the file"
    )
    expected = sensitivity(lm, data).slopes(v)
    for layer, slopes in sweep_slopes(run, {"base": [p.id for p in data], "swapped": []}).items():
        assert slopes == pytest.approx(expected[layer], rel=0.05, abs=1e-5)


def test_the_legacy_split_tests_what_it_trained_on_and_says_so(files: tuple[str, str], tmp_path: Path) -> None:
    plan = Plan(
        data=files[:1],
        train=20,
        val=2,
        test=20,
        system=None,
        draws=20,
        nulls=1,
        folds=0,
        multipliers=(-1.0, 0.0, 1.0),
        legacy=True,
        layer=1,
        contexts=("base",),
        beyond=(),
    )
    run = reliability(pico(), tmp_path / "legacy", plan)
    page(run)
    assert "LEGACY" in (tmp_path / "legacy" / "report.md").read_text()


def test_bad_data_is_refused_before_anything_runs(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "open.jsonl").write_text('{"prompt": "Who?", "positive": "me", "negative": "you"}\n')
    with pytest.raises(DataError, match="not A/B questions"):
        reliability(pico(), tmp_path / "a", small(str(tmp_path / "open.jsonl")))
    rows = [
        {
            "question": f"Is {k} it?\n\nChoices:\n (A) Yes\n (B) No",
            "answer_matching_behavior": " (A)",
            "answer_not_matching_behavior": " (B)",
        }
        for k in range(12)
    ]
    (tmp_path / "one-sided.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="same letter"):
        reliability(pico(), tmp_path / "b", small(str(tmp_path / "one-sided.json")))
    with pytest.raises(TokenError, match="same tokens"):  # the tokenizer has no digits
        reliability(pico(), tmp_path / "c", replace(small(files[0]), beyond=("digits",)))
    with pytest.raises(RecipeError):
        small("x", "x")
    with pytest.raises(RunError):
        load(tmp_path)


def test_spoken_options_are_cut_where_they_differ() -> None:
    def shortened(one: str, two: str, words: int) -> tuple[str, str]:
        found = cut(Pair("?", one, two), words)
        return found.positive, found.negative

    assert shortened("Yes, I would do it", "No, I would not", 2) == ("Yes, I", "No, I")
    assert shortened("I would do it now", "I would not do it", 2) == ("I would do", "I would not")
    assert shortened("I would do", "I would do it", 2) == ("I would do", "I would do it")
