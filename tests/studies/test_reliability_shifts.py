"""What foretells how much is kept in another context: planted, found, and not found in noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from trimtab.statistics.intervals import Figure
from trimtab.studies.pages import reliability_shifts as shifts
from trimtab.studies.pages.reliability_facts import Shift
from trimtab.studies.pages.reliability_results import Study, entered


def points(rng: np.random.Generator, follows: float) -> list[Shift]:
    """Eight data sets, six pairs of contexts each; what is kept follows the cosine, and the gap follows nothing."""
    out: list[Shift] = []
    for k in range(48):
        cosine = float(rng.uniform(0, 1))
        out.append(
            Shift(f"s{k % 8}", "a", "b", float(rng.uniform(0, 2)), cosine, follows * cosine + float(rng.normal(0, 0.1)))
        )
    return out


def test_the_predictor_that_tells_is_named() -> None:
    some = points(np.random.default_rng(0), 1.0)
    figures = shifts._correlations([], some)
    assert (
        figures["cosine of the vectors and share kept"].lo > 0.8
        and figures["behavior gap and share kept"].lo < 0 < figures["behavior gap and share kept"].hi
    )
    study = Study.__new__(Study)
    object.__setattr__(study, "points", some)
    object.__setattr__(study, "figures", figures)
    rows = {r[0]: r for r in shifts.foretold_rows(study)[1:]}
    assert float(rows["cosine of the vectors"][4]) < 0.15 < float(rows["behavior gap"][4])
    assert float(rows["cosine, less minus the gap"][2].split(" to ")[0]) > 0, "the cosine ranks better, for sure"
    assert "cosine of the vectors and share kept at +0.9" in shifts.sentences(study)[0]


def test_nothing_is_found_in_noise() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(8):
        f = shifts._correlations([], points(rng, 0.0))["cosine of the vectors and share kept"]
        wrong += not f.lo < 0 < f.hi
    assert wrong <= 2


def test_moments_over_shifts_leave_out_what_was_not_measured() -> None:
    nan = float("nan")
    assert shifts._mean_of([[1.0, nan], [3.0, nan]])[0] == pytest.approx(2.0)
    assert np.isnan(shifts._mean_of([[1.0, nan], [3.0, nan]])[1])


def test_the_divergence_of_two_answers_is_that_of_their_distributions() -> None:
    one, two = np.array([0.0, 2.0, -50.0]), np.array([0.0, -1.0, 50.0])
    gap, divergence = shifts._between_answers(one, two)
    p, q = 1 / (1 + np.exp(-one)), 1 / (1 + np.exp(-two))
    by_hand = [jensenshannon([a, 1 - a], [b, 1 - b]) ** 2 for a, b in zip(p, q, strict=True)]
    assert gap == pytest.approx(float(np.abs(p - q).mean())) and divergence == pytest.approx(float(np.mean(by_hand)))
    assert by_hand[2] == pytest.approx(np.log(2))


def test_families_of_data_sets_are_clusters_too() -> None:
    into: dict[str, Figure] = {}
    x = [float(k) for k in range(8)]
    entered(into, "alike", x, x, families=["a", "a", "b", "b", "c", "c", "d", "d"])
    assert into["alike"].value == into["alike, by family"].value == pytest.approx(1.0)
    entered(into, "apart", x, x, families=[f"{k}" for k in range(8)])
    assert "apart, by family" not in into, "every data set is its own family"
