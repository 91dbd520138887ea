"""The code blocks of the documentation: what they are, and how they are run."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import ROOT

PAGES = (
    "README.md",
    "docs/index.md",
    "docs/your-model.md",
    "docs/your-data.md",
    "docs/recipes.md",
    "docs/auto.md",
    "docs/dose.md",
    "docs/reading.md",
    "docs/elsewhere.md",
    "docs/studio.md",
    "docs/serving.md",
    "docs/workers.md",
    "docs/choosing.md",
    "docs/coverage.md",
    "docs/exactness.md",
    "docs/statistics.md",
    "docs/format.md",
    "docs/errors.md",
    "docs/api.md",
    "docs/commands.md",
    "docs/reference.md",
    "CONTRIBUTING.md",
    "organisms/brindlemoor/README.md",
    "benchmarks/README.md",
)  # in the order in which they are read: all of them run in one folder, one after the other
RUN = ("python", "sh", "console", "toml")
SHOWN = ("text", "json", "{toctree}", "{eval-rst}", "{include}")
_BLOCK = re.compile(r"(?:<!-- not run: ([^>]+) -->\n)?```([^\n`]*)\n(.*?)```\n?(?:\n*Saved as `([^`]+)`)?", re.DOTALL)
TOLERANCE = 0.2  # of a figure: threads and kernels move the last digits, and a text that turns moves more
WORDS = 3  # of a generated text


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and text, the reason why it is not run, the file it is to be saved as."""

    language: str
    text: str
    mark: str
    saved: str


def blocks(page: str) -> list[Block]:
    found = _BLOCK.findall((ROOT / page).read_text("utf-8"))
    return [Block(language.strip().split(" ")[0], text, mark, saved) for mark, language, text, saved in found]


def follow(page: str, folder: Path) -> None:
    """Run every block of a page that is not marked, in order, in a folder: commands print what is shown, Python does
    not raise, files are saved.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.mark:
            continue
        if block.language == "python":
            with _inside(folder):
                exec(compile(local(block.text), page, "exec", dont_inherit=True), names)
        elif block.language == "sh":
            run(["bash", "-e", "-c", block.text], folder)
        elif block.language == "toml":
            (folder / block.saved).write_text(block.text, "utf-8")
        elif block.language == "console":
            _prints(block.text, folder)


def local(code: str) -> str:
    """The same with the model of the hub replaced by the one on this disk."""
    from trimtab.model.load import local_default

    return code.replace('"HuggingFaceTB/SmolLM2-135M-Instruct"', repr(str(local_default())))


def _prints(text: str, folder: Path) -> None:
    """Every line that is shown is printed by its command, in that order."""
    for part in text.split("$ ")[1:]:
        command, *shown = part.rstrip().split("\n")
        printed = run(shlex.split(command), folder)
        lines = iter(printed.split("\n"))
        for line in shown:
            assert any(alike(p, line) for p in lines), f"{command}\nshown: {line}\nprinted:\n{printed}"


def alike(said: str, shown: str) -> bool:
    """Whether a line begins as the page says: words as they are, figures nearly."""
    one, two = said.split(), shown.split()
    text = shown.strip().startswith(("unsteered:", "steered:"))
    pairs = list(zip(one, two, strict=False))[: 1 + WORDS if text else None]
    return len(one) >= len(two) - 1 and bool(two) == bool(one) and all(_near(a, b) for a, b in pairs)


def _near(a: str, b: str) -> bool:
    a, b = a.strip(",;()%"), b.strip(",;()%")
    try:
        return abs(float(a) - float(b)) <= max(TOLERANCE * abs(float(b)), 0.06)
    except ValueError:
        return a == b


def run(command: list[str], folder: Path) -> str:
    env = os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In another folder, whatever happens there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
