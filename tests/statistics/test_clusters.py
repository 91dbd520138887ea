"""Silhouettes and principal axes, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trimtab.statistics.clusters import principal, silhouette


def slow(points: np.ndarray, labels: list[str]) -> float:
    out: list[float] = []
    for i in range(len(points)):
        by: dict[str, list[float]] = {}
        for j in range(len(points)):
            if i != j:
                by.setdefault(labels[j], []).append(math.dist(points[i], points[j]))
        if labels[i] not in by:
            out.append(0.0)
            continue
        a = sum(by[labels[i]]) / len(by[labels[i]])
        b = min(sum(v) / len(v) for k, v in by.items() if k != labels[i])
        out.append((b - a) / max(a, b))
    return sum(out) / len(out)


@pytest.mark.parametrize("kinds", [2, 3])
def test_silhouettes_are_those_of_the_definition(kinds: int) -> None:
    g = np.random.default_rng(kinds)
    labels = [str(g.integers(kinds)) for _ in range(20)] + ["alone"]
    points = g.normal(size=(21, 3)) + np.array([hash(k) % 3 for k in labels])[:, None]
    assert silhouette(points, labels) == pytest.approx(slow(points, labels))


def test_apart_mixed_and_none() -> None:
    far = np.array([[0.0, 0], [0.1, 0], [9, 0], [9.1, 0]])
    assert silhouette(far, ["a", "a", "b", "b"]) > 0.95 and silhouette(far, ["a", "b", "a", "b"]) < 0
    assert math.isnan(silhouette(far, ["a"] * 4)) and silhouette(np.zeros((4, 2)), ["a", "a", "b", "b"]) == 0


def test_principal_axes_keep_the_variance_they_say() -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(50, 4)) * np.array([5.0, 2.0, 0.1, 0.1])
    spots, shares = principal(x)
    total = ((x - x.mean(0)) ** 2).sum()
    np.testing.assert_allclose((spots**2).sum(0) / total, shares)
    assert shares[0] > shares[1] and shares.sum() > 0.99
    np.testing.assert_allclose(principal(np.ones((3, 2)))[1], 0.0)
