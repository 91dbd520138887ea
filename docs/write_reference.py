"""Writes docs/reference.md from the registered leaves (their fields, defaults and docstrings), and docs/commands.md
from what every command says of itself. `--check` only compares.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import docstring_parser

from trimtab import cli, registry, studies
from trimtab.recipe import Recipe

TARGET = Path(__file__).parent / "reference.md"
COMMANDS = Path(__file__).parent / "commands.md"
TITLES = {"method": "Methods", "operator": "Operators", "gate": "Gates", "metric": "Metrics", "exporter": "Exporters"}


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


def commands() -> str:
    """Every command with its flags, as `--help` prints them 110 columns wide."""
    lines = ["# Commands", "", "What `trimtab COMMAND --help` prints, for every command. Written by `make docs`."]
    lines += ["", "```text", cli.USAGE.strip(), "```"]
    for name in cli.COMMANDS:
        if name != "list":
            lines += ["", f"## {name}", "", "```text", helped([name]), "```"]
    for command, kind in (("learn", "method"), ("export", "exporter")):
        for leaf in sorted(registry.leaves(kind)):
            lines += ["", f"## {command} {leaf}", "", "```text", helped([command, leaf]), "```"]
    return "\n".join(lines) + "\n"


def helped(command: Sequence[str]) -> str:
    """What a command prints when it is asked for help; its colors and trailing blanks left out."""
    before, printed = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = "110"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([*command, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return "\n".join(line if len(line) <= 110 else textwrap.fill(line, 110) for line in lines)


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
    for target, text in ((TARGET, reference()), (COMMANDS, commands())):
        if "--check" not in sys.argv:
            target.write_text(text)
            print(target)
        elif not target.is_file() or target.read_text() != text:
            sys.exit(f"docs/{target.name} is out of date: run make docs")
