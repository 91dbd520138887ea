"""Journal: rows on disk in units that are there wholly or not at all, whoever writes them, however they are stopped.

Every writer has a part of its own, and nothing is ever cut or overwritten, so that two processes on one folder (or on
a network disk, where locks do not hold) cannot harm each other. What is read is the union of all parts; a unit that
two writers finished counts once.

    scores/test.jsonl      rows of test/0, {"complete": "test/0"}, and rows of test/1, over which the first writer was
                           killed: those are not read
    scores/test~2.jsonl    rows of test/1 and {"complete": "test/1"}, of the run that went on
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from trimtab.errors import RunError


@dataclass
class _Part:
    """The part this process writes of one journal, and how long it should be."""

    path: Path
    bytes: int = 0


first = 1  # number of the first part that this process begins; where it cannot see those of others, one of its own
_mine: dict[tuple[int, str], _Part] = {}
_lock = threading.Lock()


class Journal:
    """An append-only table of rows, written in units.

    Attributes:
        path: of the first part; the others are numbered beside it.
        done: names of the units that are complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = set(self._names())

    def append(self, unit: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a unit, and see it on disk.

        Raises:
            RunError: a row that JSON cannot hold.
        """
        if any("complete" in r for r in rows):
            raise RunError(
                f"unit {unit!r} holds a row with the key 'complete'", expected="another key: it marks the end of a unit"
            )
        try:
            text = _lines(unit, rows)
        except (ValueError, TypeError) as problem:
            raise RunError(
                f"unit {unit!r} holds a number that JSON does not have",
                given=str(problem),
                expected="null for what was not measured",
            ) from problem
        raw = text.encode()
        with _lock:  # of this process; others have parts of their own
            part = self._part()
            with part.path.open("ab") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            part.bytes += len(raw)
        self.done.add(unit)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows of complete units, each unit once.

        Raises:
            RunError: a whole line that is not a row, with its file and number.
        """
        seen: set[str] = set()
        for unit, rows in self._units():
            if unit not in seen:
                seen.add(unit)
                yield from rows

    def tidy(self, order: Callable[[str, Sequence[Mapping[str, Any]]], Any] | None = None) -> None:
        """Make one part of all, with each complete unit once: what one writer would have written who was never
        stopped. Not while others write.

        Args:
            order: what the units are sorted by, from a unit's name and rows; by default they stay as they were begun.
        """
        parts = self._parts()
        units: dict[str, list[dict[str, Any]]] = {}
        for unit, rows in self._units():
            units.setdefault(unit, rows)
        some = sorted(units.items(), key=lambda item: order(*item)) if order else list(units.items())
        text = "".join(_lines(unit, rows) for unit, rows in some)
        if not units or (parts == [self.path] and self.path.read_text("utf-8") == text):
            return
        with whole(self.path) as aside:
            aside.write_text(text, "utf-8")
        for part in parts:
            if part != self.path:
                part.unlink(missing_ok=True)

    def _names(self) -> Iterator[str]:
        """Names of complete units; rows are not taken apart yet."""
        for path in self._parts():
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.startswith(b'{"complete":') or (
                        line.endswith(b"\n") and not (line.startswith(b"{") and line.endswith(b"}\n"))
                    ):
                        row = _read(line, path, number) if line.endswith(b"\n") else {}
                        yield from [str(row["complete"])] if "complete" in row else []

    def _units(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for path in self._parts():
            pending: list[dict[str, Any]] = []
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break  # being written now, or left by a writer that was stopped
                    row = _read(line, path, number)
                    if "complete" in row:
                        yield str(row["complete"]), pending
                        pending = []
                    else:
                        pending.append(row)

    def _parts(self) -> list[Path]:
        """All parts there are, in the order they were begun."""
        parts = [(1, self.path)] if self.path.is_file() else []
        begin, end = f"{self.path.stem}~", self.path.suffix
        for path in self.path.parent.iterdir() if self.path.parent.is_dir() else ():
            number = path.name[len(begin) : len(path.name) - len(end)]
            if path.name.startswith(begin) and path.name.endswith(end) and number.isdecimal():
                parts.append((int(number), path))
        return [path for _, path in sorted(parts)]

    def _part(self) -> _Part:
        """The part of this process: begun here if it has none, or another one has touched it."""
        name = (os.getpid(), str(self.path.resolve()))
        part = _mine.get(name)
        if part is None or not part.path.is_file() or part.path.stat().st_size != part.bytes:
            part = _mine[name] = _Part(self._begun())
        return part

    def _begun(self) -> Path:
        """A new file that no other writer has: creating it fails if it is there."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise RunError(
                f"cannot write to {self.path}", given=problem.strerror, do="choose another path"
            ) from problem
        number = first
        while True:
            path = self.path if number == 1 else self.path.with_name(f"{self.path.stem}~{number}{self.path.suffix}")
            try:
                with path.open("xb"):
                    return path
            except FileExistsError:
                number += 1
            except OSError as problem:
                raise RunError(f"cannot write to {path}", given=problem.strerror, do="choose another path") from problem


def _lines(unit: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A unit as it stands in a file."""
    return "".join(json.dumps(r, allow_nan=False) + "\n" for r in (*rows, {"complete": unit}))


def _read(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not an object")
        return row
    except ValueError as problem:
        raise RunError(
            f"{path}:{number}: not a row of a journal ({problem})",
            given=line[:80],
            do="something else has written to this file: remove it, and the same command measures its units again",
        ) from problem


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """Where to write a file that is to be there wholly or not at all: beside it, and moved when the block ends."""
    aside = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")  # of its own: others may write the same file now
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def plain(value: Any, missing: Any = None) -> Any:
    """A value as JSON has it: dataclasses become objects, tuples lists, numbers of numpy plain ones, and what is not
    finite `missing`, or for "kept" an object that `Run.read` turns back.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v, missing) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, missing) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else {"float": str(float(value))} if missing == "kept" else missing
    return int(value) if isinstance(value, np.integer) else value


def numbers_back(table: dict[str, Any]) -> Any:
    """What `plain` kept, as a number again (an `object_hook`)."""
    return float(table["float"]) if table.keys() == {"float"} and isinstance(table["float"], str) else table
