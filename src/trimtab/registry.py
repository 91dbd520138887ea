"""Registered leaves: methods, operators, gates and metrics, each a frozen dataclass with a name.

A leaf is made from a name, or from a table `{"name": ..., field: value, ...}`, and written back the same way. Its
fields are the keys of a recipe and the flags of the command line.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from trimtab.errors import RecipeError, UnknownName

T = TypeVar("T")
HOMES = {
    "method": "trimtab.methods",
    "operator": "trimtab.steering.operators",
    "metric": "trimtab.evaluation.metrics",
    "gate": "trimtab.steering.gates",
}
_leaves: dict[str, dict[str, type]] = {kind: {} for kind in HOMES}


def register(kind: str, name: str) -> Callable[[type[T]], type[T]]:
    """Class decorator that makes a frozen dataclass known as `name` among the leaves of `kind`."""

    def add(cls: type[T]) -> type[T]:
        if not is_dataclass(cls):
            raise TypeError(f"{cls.__name__} must be a dataclass")
        _leaves[kind][name] = cls
        cls.registered_name = name  # type: ignore[attr-defined]
        return cls

    return add


def leaves(kind: str) -> Mapping[str, type]:
    """All leaves of a kind by name; imports the folder they live in."""
    home = importlib.import_module(HOMES[kind])
    for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
        importlib.import_module(f"{HOMES[kind]}.{module.name}")
    return _leaves[kind]


def named(kind: str) -> list[str]:
    """Names of all leaves of a kind, read from the sources of the folder they live in: nothing is imported."""
    home = Path(__file__).parent.joinpath(*HOMES[kind].split(".")[1:])
    files = sorted(home.glob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
    called = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    return sorted(
        str(name.value)
        for node in called
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register"
        for which, name in [node.args]
        if isinstance(which, ast.Constant) and isinstance(name, ast.Constant) and which.value == kind
    )


def make(kind: str, spec: str | Mapping[str, Any]) -> Any:
    """The leaf that `spec` describes.

    Raises:
        UnknownName: no such leaf, or no such field.
        RecipeError: a field has the wrong type.
    """
    table = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = table.pop("name", None)
    known = leaves(kind)
    if name is None:
        raise RecipeError(f"a {kind} needs a name", given=dict(table), expected=f"name = one of {', '.join(known)}")
    if name not in known:
        raise UnknownName(kind, str(name), known)
    return build(known[name], table, where=f"{kind} {name!r}")


def build(cls: type[T], table: Mapping[str, Any], *, where: str) -> T:
    """A dataclass from a table: unknown keys, missing keys and wrong types are refused with the key's name."""
    types = get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise UnknownName(f"key of {where}", key, known)
    missing = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in table]
    if missing:
        raise RecipeError(f"{where} lacks {missing[0]!r}", given=dict(table))
    return cls(**{key: _coerce(value, types[key], f"{where}, {key!r}") for key, value in table.items()})


def describe(leaf: Any) -> dict[str, Any]:
    """The table that `make` turns back into `leaf`; values are plain JSON."""
    table: dict[str, Any] = {"name": leaf.registered_name}
    for f in fields(leaf):
        value = getattr(leaf, f.name)
        table[f.name] = list(value) if isinstance(value, tuple) else value if _plain(value) else str(value)
    return table


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | dict)


def _coerce(value: Any, expected: Any, where: str) -> Any:
    options = get_args(expected) if get_origin(expected) is not tuple else ()
    options = tuple(inner for o in options for inner in (get_args(o) or (o,)))  # Literal[...] | None
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, Mapping) and isinstance(expected, type) and is_dataclass(expected):
        return build(expected, {k: v for k, v in value.items() if k != "name"}, where=where)
    if isinstance(value, int) and not isinstance(value, bool) and (expected is float or float in options):
        return float(value)
    if isinstance(expected, type) and expected in (int, float, str, bool):
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise RecipeError(f"wrong type for {where}", given=value, expected=expected.__name__)
    elif any(isinstance(o, str) for o in options) and value is not None and value not in options:
        raise UnknownName(where, str(value), [o for o in options if isinstance(o, str)])
    return value
