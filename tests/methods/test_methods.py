"""The laws of methods."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pico import pico
from trimtab import registry
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import VectorError
from trimtab.methods import learn
from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations, activations
from zoo import WIDTH

METHODS = {k: m for k, m in registry.leaves("method").items() if issubclass(m, ContrastMethod)}


scale = st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e3])


def draw(seed: int, *shape: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def toy_pairs(n: int = 6) -> Dataset:
    colors, numbers = (
        ["red", "blue", "green"],
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    )
    pairs = [
        Pair(f"Do you like {colors[k % 3]} tea {numbers[k]} ?", f"yes good {colors[k % 3]}", f"no bad {colors[k % 3]}")
        for k in range(n)
    ]
    return Dataset("toy", tuple(pairs))


@pytest.fixture(scope="module")
def toy_acts() -> Activations:
    return activations(pico("llama"), toy_pairs())


@pytest.mark.parametrize("name", METHODS)
def test_method_laws(name: str, toy_acts: Activations) -> None:
    lm, data, method = pico("llama"), toy_pairs(), METHODS[name]()
    acts = toy_acts if method.read == "auto" else activations(lm, data, read=method.read)
    v = learn(lm, data, method, acts=acts)
    again = learn(lm, data, method)
    mean = acts.mean_difference()
    assert v.layers == tuple(range(lm.n_layers)) and v.width == WIDTH
    for layer in v.layers:
        if name != "label-shuffled":  # which has the norm it comes out with
            assert torch.allclose(v[layer].norm(), mean[layer].norm(), rtol=1e-4), (
                "rescaled to the mean difference's norm"
            )
        assert torch.allclose(v[layer], again[layer], rtol=1e-4, atol=1e-6), "deterministic"
    assert registry.make("method", v.made.method) == method
    assert v.made.data["hash"] == data.hash and len(v.made.trained_on) == len(data)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(2, 12),
    size=scale,
    shift=st.sampled_from([0.0, 1.0, 100.0]),
    coarse=st.booleans(),
)
def test_method_laws_on_any_activations(name: str, seed: int, n: int, size: float, shift: float, coarse: bool) -> None:
    """Finite, of the mean difference's norm, and in units of the activations: from two pairs on, in bf16 steps, far
    from the origin.
    """
    positive, negative = (size * (draw(seed + k, n, 2, 6) + shift + k) for k in (1, 0))
    if coarse:
        positive, negative = positive.bfloat16().float(), negative.bfloat16().float()
    acts, method = Activations(positive, negative, (0, 1)), METHODS[name]()
    assume(not torch.allclose(acts.deltas[0], acts.deltas[1]))
    mean = acts.mean_difference()
    if name == "label-shuffled":
        mean = acts.by_coin(method.seed).mean_difference()
    found = method.fit_activations(acts)
    for layer in (0, 1):
        assert torch.isfinite(found[layer]).all()
        assert torch.allclose(found[layer].norm(), mean[layer].norm(), rtol=1e-4)
    if name in ("mean-diff", "pca", "random-direction", "label-shuffled"):
        doubled = method.fit_activations(Activations(2 * positive, 2 * negative, (0, 1)))
        assert torch.allclose(doubled[1], 2 * found[1], rtol=1e-3, atol=1e-6 * size)


def test_methods_refuse_activations_without_a_difference() -> None:
    same = draw(0, 4, 2, 6)
    for method in METHODS.values():
        with pytest.raises(VectorError, match="no direction"):
            method().fit_activations(Activations(same, same, (0, 1)))


@pytest.mark.parametrize("name", ["mean-diff", "pca", "probe"])
def test_learned_directions_flip_with_the_labels(name: str, toy_acts: Activations) -> None:
    method = METHODS[name]()
    flipped = Activations(toy_acts.negative, toy_acts.positive, toy_acts.layers)
    for layer, v in method.fit_activations(toy_acts).items():
        assert torch.allclose(method.fit_activations(flipped)[layer], -v, rtol=1e-3, atol=1e-5)
