"""Probes."""

from __future__ import annotations

import torch

from trimtab import registry
from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations

METHODS = {k: m for k, m in registry.leaves("method").items() if issubclass(m, ContrastMethod)}


def draw(seed: int, *shape: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_logistic_probe_is_at_the_optimum() -> None:
    """Zero gradient of the penalized loss on both halves of every centered pair."""
    positive, negative = draw(1, 30, 1, 5) + 0.5, draw(2, 30, 1, 5)
    w = METHODS["probe"](C=0.7).directions(Activations(positive, negative, (0,)))[0].double()
    half = ((positive - negative)[:, 0] / 2).double()
    gradient = w - 0.7 * 2 * (torch.sigmoid(-(half @ w)) @ half)
    assert gradient.norm() < 1e-5


def test_the_whitened_probe_is_the_linear_discriminant() -> None:
    """With much data the shrinkage vanishes, and the direction is the inverse covariance times the mean difference."""
    mix = draw(3, 5, 5)
    positive, negative = draw(1, 4000, 5) @ mix + torch.tensor([1.0, 0, 0, 0, 0]), draw(2, 4000, 5) @ mix
    found = METHODS["probe"](kind="whitened").directions(Activations(positive[:, None], negative[:, None], (0,)))[0]
    exact = torch.linalg.solve(mix.T @ mix, torch.tensor([1.0, 0, 0, 0, 0]))
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.95
