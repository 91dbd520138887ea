"""Leaves by name."""

from __future__ import annotations

from trimtab import registry


def test_every_leaf_has_a_docstring_and_is_frozen() -> None:
    for kind in registry.HOMES:
        for name, cls in registry.leaves(kind).items():
            assert (cls.__doc__ or "").strip(), f"{kind} {name}"
            assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
