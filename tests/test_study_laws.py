"""Invariants of the reliability study (Tan et al. 2024)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pico import build, tokenizer
from trimtab.data.builtin import study
from trimtab.data.choices import swapped
from trimtab.data.datasets import Dataset, check_disjoint
from trimtab.data.pairs import Pair, as_choice, to_choices
from trimtab.errors import DataError, OverlapError
from trimtab.evaluation.metrics import OutsideMass, Propensity
from trimtab.evaluation.sweep import measure
from trimtab.model import LM
from trimtab.statistics.factors import codes, concept_and_position, factorial_fit, variance_shares
from trimtab.statistics.nulls import null_p
from trimtab.statistics.slopes import anti_steerable, fit_slopes
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector

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


def test_persona_converter_balances_letters_and_polarity(published: object) -> None:
    for file in sorted((published / "model-written-evals").glob("*.jsonl")):  # type: ignore[operator]
        data = Dataset.load(str(file))
        raw = file.read_text("utf-8").splitlines()
        if "statement" in raw[0] and len(raw) == 1000 and len(data) == 1000:
            cells = {(p.meta["matching_letter"], p.meta["polarity"]) for p in data}
            assert {
                c: sum((p.meta["matching_letter"], p.meta["polarity"]) == c for p in data) for c in cells
            } == dict.fromkeys(cells, 250)
            assert len(cells) == 4
            assert [data[k].meta["matching_letter"] for k in range(4)] == ["B", "B", "A", "A"]
        elif "statement" not in raw[0]:
            letters = [line.split('"answer_matching_behavior": "')[1][:4].strip() for line in raw]
            assert abs(letters.count("(A)") - letters.count("(B)")) <= 1


def test_the_forty_data_sets_of_the_study() -> None:
    families = study()
    sizes = {family: [len(names) for names in categories.values()] for family, categories in families.items()}
    assert sizes == {"persona": [3] * 7, "ai-risk": [16], "sycophancy": [2], "truth": [1]}
    sentences = [
        s for categories in families.values() for names in categories.values() for pair in names.values() for s in pair
    ]
    assert len(sentences) == 80 and all(s.endswith(".") and len(s) < 90 for s in sentences)


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


def test_train_and_test_never_share_a_question() -> None:
    data = Dataset.load("optimism")
    parts = data.split(seed=0)
    assert not {p.group for p in parts.train} & {p.group for p in parts.test}
    with pytest.raises(OverlapError, match="also stand in"):
        check_disjoint(parts.train, data.take(20))


class Linear(nn.Module):
    """Replaces a norm so that logits are linear in the residual stream."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h


@pytest.fixture(scope="module")
def linear() -> LM:
    """A model whose logits are the output embedding times the stream: its blocks add nothing."""
    model = build("llama")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    model.model.norm = Linear()
    return LM(model, tokenizer(), id="linear")


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


def test_swapping_twice_is_the_item_itself() -> None:
    pair = as_choice(questions(1)[0], "A")
    assert swapped(pair).meta["matching_letter"] == "B" and swapped(swapped(pair)) == pair


def test_random_vectors_are_rejected_at_the_nominal_rate(linear: LM) -> None:
    """The null test's p-value of a random vector among random vectors is uniform."""
    w = linear.model.lm_head.weight[9] - linear.model.lm_head.weight[10]
    base = SteeringVector({2: torch.randn(linear.width, generator=torch.Generator().manual_seed(5))})
    slopes = [float(v[2] @ w) for v in random_controls(base, 2000, seed=1).values()]
    groups = [slopes[k : k + 20] for k in range(0, 2000, 20)]
    p = [null_p(g[0], g[1:]) for g in groups]
    assert 0.0 <= np.mean(np.array(p) <= 0.1) <= 0.2
    assert null_p(100.0, [0.1] * 19) == 0.05
