"""Writes docs/reference.md from the registered leaves: their fields, defaults and docstrings. `--check` only
compares.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from trimtab import registry
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
            lines += ["", f"### {name}", "", " ".join((cls.__doc__ or "").split()), *fields(cls)]
    return "\n".join([*lines, "", "## Recipe", "", *recipe_keys()]) + "\n"


def fields(cls: type) -> list[str]:
    rows = [f"| `{f.name}` | {str(f.type).replace('|', 'or')} | `{default(f)}` |" for f in dataclasses.fields(cls)]
    return ["", "| field | type | default |", "|---|---|---|", *rows] if rows else []


def default(f: dataclasses.Field[object]) -> str:
    if f.default is not dataclasses.MISSING:
        return repr(f.default)
    return repr(f.default_factory()) if f.default_factory is not dataclasses.MISSING else "required"


def recipe_keys() -> list[str]:
    return [" ".join((Recipe.__doc__ or "").split("Attributes:")[0].split()), *fields(Recipe)]


if __name__ == "__main__":
    text = reference()
    if "--check" in sys.argv:
        sys.exit(
            0 if TARGET.is_file() and TARGET.read_text() == text else "docs/reference.md is out of date: run make docs"
        )
    TARGET.write_text(text)
    print(TARGET)
