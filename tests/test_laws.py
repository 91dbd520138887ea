"""Laws that hold for every registered operator and method; a new leaf is tested by being registered."""

from __future__ import annotations

from typing import Any

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
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH

OPERATORS = registry.leaves("operator")
METHODS = {k: m for k, m in registry.leaves("method").items() if issubclass(m, ContrastMethod)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
scale = st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e3])


def draw(seed: int, *shape: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), hs=scale, vs=scale, dtype=st.sampled_from(DTYPES), m=st.floats(-3, 3, width=32))
def test_operator_laws(name: str, seed: int, hs: float, vs: float, dtype: torch.dtype, m: float) -> None:
    op = OPERATORS[name]()
    h, v = draw(seed, 2, 3, 8, size=hs).to(dtype), draw(seed + 1, 8, size=vs)
    before = h.clone()
    out = op(h, v, m)
    assert out.dtype == dtype and out.shape == h.shape
    assert torch.equal(h, before), "the input is not written to"
    assert torch.isfinite(out).all()
    assert torch.equal(op(h, v, 0.0), h), "multiplier 0 is the identity"
    per_row = op(h, v, torch.tensor([0.0, m])[:, None, None])
    assert torch.equal(per_row[0], h[0])
    assert torch.equal(per_row[1], op(h[1:], v, m)[0]) or torch.allclose(
        per_row[1].float(), op(h[1:], v, m)[0].float(), rtol=1e-5
    )


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_operator_poles(name: str, dtype: torch.dtype) -> None:
    """Zero stream, zero vector, stream along the vector, stream exactly against it: all finite."""
    op, v = OPERATORS[name](), draw(0, 8)
    for h in (torch.zeros(1, 1, 8), v[None, None], -v[None, None], draw(1, 1, 1, 8)):
        for w in (v, torch.zeros(8)):
            for m in (0.0, 1.0, -1.0):
                assert torch.isfinite(op(h.to(dtype), w, m)).all()


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_remade_from_its_description(name: str) -> None:
    op = OPERATORS[name]()
    assert registry.make("operator", registry.describe(op)) == op


def test_add_is_linear_and_ablate_and_clamp_set_the_component() -> None:
    h, v = draw(0, 4, 8), draw(1, 8, size=3.0)
    u = v / v.norm()
    assert torch.allclose(OPERATORS["add"]()(h, v, 2.0), h + 2 * v)
    assert torch.allclose(OPERATORS["ablate"]()(h, v, 1.0) @ u, torch.zeros(4), atol=1e-5)
    assert torch.allclose(OPERATORS["clamp"]()(h, v, -2.0) @ u, -2 * v.norm().expand(4), rtol=1e-5)
    turned = OPERATORS["rotate"]()(h, v, 1.0)
    assert torch.allclose(turned.norm(dim=-1), h.norm(dim=-1), rtol=1e-5)
    assert ((turned @ u) > (h @ u)).all()


def test_affine_is_the_low_rank_map() -> None:
    h, rows = draw(0, 2, 3, 8), draw(1, 5, 8)
    expected = h + 0.5 * (h @ (rows[3:].T @ rows[1:3]) + rows[0])
    assert torch.allclose(OPERATORS["affine"]()(h, rows, 0.5), expected, atol=1e-5)
    assert torch.equal(OPERATORS["affine"]()(h, rows[0], 0.5), OPERATORS["add"]()(h, rows[0], 0.5))


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


@pytest.mark.parametrize("name", ["mean-diff", "pca", "probe"])
def test_learned_directions_flip_with_the_labels(name: str, toy_acts: Activations) -> None:
    method = METHODS[name]()
    flipped = Activations(toy_acts.negative, toy_acts.positive, toy_acts.layers)
    for layer, v in method.fit_activations(toy_acts).items():
        assert torch.allclose(method.fit_activations(flipped)[layer], -v, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["gate"])
def test_gates_are_remade_from_their_description(kind: str) -> None:
    for cls in registry.leaves(kind).values():
        gate: Any = cls()
        iv = Intervention(SteeringVector({0: draw(0, 8)}), gate=gate, positions="last_k(2) | generated")
        assert Intervention.from_json(iv.to_json()).describe() == iv.describe()


def test_every_leaf_has_a_docstring_and_is_frozen() -> None:
    for kind in registry.HOMES:
        for name, cls in registry.leaves(kind).items():
            assert (cls.__doc__ or "").strip(), f"{kind} {name}"
            assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
