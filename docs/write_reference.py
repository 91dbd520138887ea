"""Writes docs/reference.md from the registered leaves: their fields, defaults and docstrings. `--check` only
compares.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import docstring_parser

from trimtab import registry, studies
from trimtab.recipe import Recipe

TARGET = Path(__file__).parent / "reference.md"
TITLES = {"method": "Methods", "operator": "Operators", "gate": "Gates", "metric": "Metrics"}


def reference() -> str:
    lines = [
        "# Reference",
        "",
        "Written from the code by `make docs`. Every leaf is a frozen dataclass: its fields are the keys of a "
        "recipe's table and,",
        "for methods, the flags of `trimtab learn`.",
    ]
    for kind, title in TITLES.items():
        lines += ["", f"## {title}"]
        for name, cls in sorted(registry.leaves(kind).items()):
            lines += ["", f"### {name}", "", about(cls), *fields(cls)]
    lines += ["", "## Recipe", "", about(Recipe), *fields(Recipe), "", "## Studies", ""]
    lines += [
        "A recipe with a `study` key runs one; it also has `model`, and how that is loaded: the keys of a Recipe."
    ]
    for name in studies.names():
        plan, module = studies.planned(name)
        lines += ["", f"### {name}", "", (module.__doc__ or "").strip().split("\n\n")[0], *fields(plan)]
    return "\n".join(lines) + "\n"


def about(cls: type) -> str:
    """What a class is: its docstring without the attributes."""
    return " ".join((cls.__doc__ or "").split("Attributes:")[0].split())


def described(cls: type) -> dict[str, str]:
    """What its docstring, and those of the classes below it, say of every field."""
    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        told = docstring_parser.parse(base.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE).params
        out |= {name.strip(): " ".join((p.description or "").split()) for p in told for name in p.arg_name.split(",")}
    return out


def fields(cls: type) -> list[str]:
    """A table of its fields.

    Raises:
        KeyError: a field its docstring says nothing of.
    """
    told = described(cls)
    rows = [
        f"| `{f.name}` | {str(f.type).replace('|', 'or')} | `{default(f)}` | {told[f.name].replace('|', 'or')} |"
        for f in dataclasses.fields(cls)
    ]
    return ["", "| field | type | default | what it is |", "|---|---|---|---|", *rows] if rows else []


def default(f: dataclasses.Field[object]) -> str:
    """The default of a field; of a dataclass what differs from its own defaults."""
    if f.default is not dataclasses.MISSING:
        return repr(f.default)
    if f.default_factory is dataclasses.MISSING:
        return "required"
    value = f.default_factory()
    if not dataclasses.is_dataclass(value):
        return repr(value)
    mine = {g.name: getattr(value, g.name) for g in dataclasses.fields(value)}
    changed = [f"{g.name}={mine[g.name]!r}" for g in dataclasses.fields(value) if mine[g.name] != g.default]
    return f"{type(value).__name__}({', '.join(changed)})"


if __name__ == "__main__":
    text = reference()
    if "--check" in sys.argv:
        sys.exit(
            0 if TARGET.is_file() and TARGET.read_text() == text else "docs/reference.md is out of date: run make docs"
        )
    TARGET.write_text(text)
    print(TARGET)
