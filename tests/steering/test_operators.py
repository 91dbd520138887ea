"""The laws of operators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import registry

OPERATORS = registry.leaves("operator")


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
