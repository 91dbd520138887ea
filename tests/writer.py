"""What another process does to a journal: importable, so that it can be spawned."""

from __future__ import annotations

from pathlib import Path

from trimtab.journal import Journal


def write(path: Path, name: str) -> None:
    """Twenty units of five rows."""
    journal = Journal(path)
    for k in range(20):
        journal.append(f"{name}{k}", [{"from": name, "k": k}] * 5)
