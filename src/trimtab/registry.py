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

import msgspec

from trimtab.errors import RecipeError, UnknownName

T = TypeVar("T")
LARGEST = 1e9  # what is beyond is a slip
HOMES = {
    "method": "trimtab.methods",
    "operator": "trimtab.steering.operators",
    "metric": "trimtab.evaluation.metrics",
    "gate": "trimtab.steering.gates",
    "exporter": "trimtab.exporters",
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
    if not isinstance(spec, str | Mapping):
        raise RecipeError(f"not a {kind}", given=spec, expected='a name, or a table { name = "..." }')
    table = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = table.pop("name", None)
    known = leaves(kind)
    if name is None:
        raise RecipeError(f"a {kind} needs a name", given=dict(table), expected=f"name = one of {', '.join(known)}")
    if not isinstance(name, str) or name not in known:
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
    made = cls(**{key: _coerce(value, types[key], f"{where}, {key!r}") for key, value in table.items()})
    check_numbers(made, where)
    return made


def describe(leaf: Any) -> dict[str, Any]:
    """The table that `make` turns back into `leaf`; values are plain JSON."""
    table: dict[str, Any] = {"name": leaf.registered_name}
    for f in fields(leaf):
        value = getattr(leaf, f.name)
        table[f.name] = list(value) if isinstance(value, tuple) else value if _plain(value) else str(value)
    return table


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | dict)


def check_numbers(leaf: Any, where: str) -> None:
    """Refuse numbers that are none, or so large that they are slips, in a dataclass and those inside it.

    Raises:
        RecipeError: which field, and what was given.
    """
    for f in fields(leaf):
        value = getattr(leaf, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            check_numbers(value, where)
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, float) and not abs(x) <= LARGEST:
                few = f"from -{LARGEST:g} to {LARGEST:g}"
                raise RecipeError(f"{where}: {f.name} is not a number one can use", given=x, expected=few)


def _coerce(value: Any, expected: Any, where: str) -> Any:
    """A value of a table as a field wants it: lists become tuples, whole numbers floats, tables dataclasses."""
    options = get_args(expected) if get_origin(expected) is not tuple else ()
    options = tuple(inner for o in options for inner in (get_args(o) or (o,)))  # Literal[...] | None
    words = [o for o in options if isinstance(o, str)]
    if isinstance(value, str) and words and value not in words:
        raise UnknownName(where, value, words)
    if isinstance(value, Mapping) and isinstance(expected, type) and is_dataclass(expected):
        return build(expected, {k: v for k, v in value.items() if k != "name"}, where=where)
    try:
        return msgspec.convert(value, expected)
    except msgspec.ValidationError as problem:
        wanted = getattr(expected, "__name__", "") if isinstance(expected, type) else str(expected)
        plain = wanted.replace("typing.", "").replace("collections.abc.", "")
        raise RecipeError(f"wrong type for {where}", given=value, expected=plain) from problem
    except TypeError:
        return value  # a type of our own, which checks itself
