"""p-values beside null vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trimtab.model import LM
from trimtab.statistics.nulls import Compared, Null, benjamini_hochberg, null_p
from trimtab.steering.controls import in_span, random_controls, shuffled
from trimtab.steering.vector import SteeringVector


def test_random_vectors_are_rejected_at_the_nominal_rate(linear: LM) -> None:
    """The null test's p-value of a random vector among random vectors is uniform."""
    w = linear.model.lm_head.weight[9] - linear.model.lm_head.weight[10]
    base = SteeringVector({2: torch.randn(linear.width, generator=torch.Generator().manual_seed(5))})
    slopes = [float(v[2] @ w) for v in random_controls(base, 2000, seed=1).values()]
    groups = [slopes[k : k + 20] for k in range(0, 2000, 20)]
    p = [null_p(g[0], g[1:]) for g in groups]
    assert 0.0 <= np.mean(np.array(p) <= 0.1) <= 0.2
    assert null_p(100.0, [0.1] * 19) == 0.05


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
