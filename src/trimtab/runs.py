"""Runs (folders), scores (rows) and tables of them. Plain data, no torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import msgspec
import numpy as np

from trimtab.errors import RunError
from trimtab.journal import Journal, numbers_back, plain, whole

T = TypeVar("T")


@dataclass(frozen=True)
class Score:
    """One measured number. NaN means "not measured", never 0."""

    item: str
    value: float
    unit: str
    n: int = 1


@dataclass(frozen=True)
class Cell:
    """Where a score stands: which metric, condition (the vector or a control), layer and multiplier. Layer None is "all
    its layers".
    """

    metric: str
    condition: str
    layer: int | None
    multiplier: float


Role = Literal["vector", "random", "shuffled", "control", "asked"]


@dataclass(frozen=True)
class Condition:
    """Under what a part was scored: the vector, a control ("random" direction, label-"shuffled" vector, or another), or
    the unsteered model "asked" in words.
    """

    name: str
    role: Role


@dataclass(frozen=True)
class Scored:
    """A metric of a part: its name among the metrics, and its label, which tells two of one name apart."""

    name: str
    label: str


class Run:
    """A folder that holds one run. Scores are appended in complete units and never changed, so a run can be killed and
    resumed.

    Attributes:
        writer: number of this process among several that write to one folder: its plans and facts then go into a
            manifest of its own, `run~3.json`, and what is read is the union. 0 for a process that is alone.
    """

    writer: ClassVar[int] = 0

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        parts = ", ".join(self.manifest.get("parts", {})) or "nothing scored yet"
        return f"<Run {self.path}: {parts}>"

    @classmethod
    def create(cls, path: str | Path) -> Run:
        """The folder, made if needed.

        Raises:
            RunError: cannot be written to.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=run.path, prefix=".writable-"):
                pass
        except OSError as problem:
            raise RunError(
                f"cannot write to the run folder {path}", given=problem.strerror, do="choose another folder"
            ) from problem
        return run

    def file(self, *names: str) -> Path:
        return self.path.joinpath(*names)

    def read(self, name: str, default: Any = None) -> Any:
        """A JSON file of the run; numbers that are none come back as they were written.

        Raises:
            RunError: not JSON.
        """
        path = self.file(name)
        try:
            return json.loads(path.read_text("utf-8"), object_hook=numbers_back) if path.is_file() else default
        except ValueError as problem:
            raise RunError(
                f"{path} is not JSON", given=str(problem), do="restore it, or choose another folder"
            ) from problem

    def write(self, name: str, value: Any) -> Path:
        """A JSON (or text) file of the run, replaced in one step. JSON has no NaN: {"float": "nan"} stands for it."""
        text = (
            value
            if isinstance(value, str)
            else json.dumps(plain(value, "kept"), indent=1, sort_keys=True, allow_nan=False) + "\n"
        )
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as aside:
            aside.write_text(text, "utf-8")
        return path

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What a JSON file of the run holds; made and written first where it is not there. What another machine, or
        number of threads, may round differently is computed once.
        """
        if self.read(name) is None:
            self.write(name, make())
        return self.read(name)

    def typed(self, name: str, cls: type[T]) -> T:
        """A file that `write` made of a dataclass, as that dataclass again.

        Raises:
            RunError: not there, or of another shape.
        """
        table = self.read(name)
        try:
            return msgspec.convert(table, cls, str_keys=True)
        except msgspec.ValidationError as problem:
            lacking = "is not there" if table is None else "has another shape"
            raise RunError(
                f"{self.path / name} {lacking}",
                given=str(problem),
                expected=cls.__name__,
                do="run the same command again: it writes the file",
            ) from problem

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run: one plan per part, the model, the vector; of all who write to this folder."""
        one = self._manifest("run.json")
        for path in sorted(self.path.glob("run~*.json")):
            other = self._manifest(path.name)
            joined = {k: {**one[k], **other[k]} for k in JOINED if k in one and k in other}
            one = {**one, **other, **joined}
        return one

    def _manifest(self, name: str) -> dict[str, Any]:
        table = self.read(name, {})
        if not isinstance(table, dict):
            raise RunError(
                f"{self.path / name} is not the manifest of a run",
                given=type(table).__name__,
                do="restore it, or choose another folder",
            )
        return table

    @property
    def _own(self) -> str:
        """Name of the manifest that this process writes."""
        return f"run~{self.writer}.json" if self.writer else "run.json"

    def claim(self, part: str, plan: Mapping[str, Any]) -> None:
        """Enter the plan of a part, or check that it is the one that stands there.

        Raises:
            RunError: the folder holds another plan for this part; names the first difference.
        """
        plan = json.loads(json.dumps(plain(plan, "kept")), object_hook=numbers_back)
        there = self.manifest.get("parts", {}).get(part)
        if there is not None and there != plan:
            key, now, before = _difference(plan, there)
            raise RunError(
                f"{self.path} holds another run: {WORDS.get(key, key)}",
                given=now,
                expected=f"{before}, as when the folder was begun",
                do="choose another folder, or say what was said then",
            )
        own = self._manifest(self._own)
        self.write(self._own, {**own, "parts": {**own.get("parts", {}), part: plan}})

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.write(self._own, {**self._manifest(self._own), **facts})

    def check_trained(self, data: str) -> None:
        """Refuse other training data than what the folder's vectors were learned on ("trained" in the manifest).

        Raises:
            RunError: it is other data.
        """
        there = self.manifest.get("trained")
        if there not in (None, data):
            raise RunError(
                f"{self.path} holds a vector of other training data", given=data, expected=there,
                do="choose another folder, or restore the data",
            )  # fmt: skip

    def tidy(self) -> None:
        """Leave what one process alone would have left that nobody ever stopped: one manifest in every folder, one part
        of every journal, its units in order. Not while others write.
        """
        for folder in {path.parent for path in self.path.rglob("run~*.json")}:
            run = Run(folder)
            run.write("run.json", run.manifest)
            for path in folder.glob("run~*.json"):
                path.unlink()
        for path in {p.with_name(f"{p.stem.partition('~')[0]}.jsonl") for p in self.path.rglob("*.jsonl")}:
            Journal(path).tidy(_in_order)
        for path in self.path.rglob("*.part"):
            path.unlink()

    def conditions(self, part: str) -> list[Condition]:
        """Of a part, the vector first."""
        return [Condition(c["name"], c["role"]) for c in self.manifest["parts"][part]["conditions"]]

    def metrics(self, part: str) -> list[Scored]:
        """Of a part, in the order they were asked for."""
        return [Scored(m["name"], m["label"]) for m in self.manifest["parts"][part]["metrics"]]

    def journal(self, part: str) -> Journal:
        return Journal(self.file("scores", f"{part}.jsonl"))

    def table(self, part: str) -> Table:
        """All scores of a part."""
        return Table(self.journal(part).rows())


def check_held(where: str, held: Iterable[str], marks: Iterable[str]) -> None:
    """Refuse a place that holds something else than a run.

    Args:
        held: names at its top, hidden ones left out.
        marks: names that tell a run.

    Raises:
        RunError: it holds something, and no mark.
    """
    names = sorted(held)
    if names and not {*marks} & {*names}:
        raise RunError(
            f"{where} is not the folder of a run", given=names[:8], expected="an empty folder, or that of a run",
            do="choose another folder",
        )  # fmt: skip


JOINED = ("parts", "groups")  # tables of a manifest that several processes add to


def _in_order(unit: str, rows: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Units of a measurement (test/3/12) by batch and layer, those of a stage by number; others stay as they are."""
    if rows and "number" in rows[0]:
        return (int(rows[0]["number"]),)
    numbers = unit.split("/")[1:]
    numbers = [n.replace("None", "0") for n in numbers]
    measured = len(numbers) == 2 and all(n.lstrip("-").isdecimal() for n in numbers)
    return tuple(int(n) for n in numbers) if measured else ()


# what people say first, where two plans differ in several keys, and what to call what they do not
TOLD = ("model", "data", "multipliers", "layers", "metrics", "conditions", "plan")
WORDS = {
    "batches": "its items are others, or in another order",
    "tokens": "its items are rendered otherwise (chat template, tokenizer)",
    "conditions": "its vector, controls or prompts are others",
}


def _difference(plan: Mapping[str, Any], there: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The first key in which two plans differ, down to the one inside of it, and both values."""
    keys = [k for k in (*TOLD, *sorted({*there, *plan} - {*TOLD})) if there.get(k) != plan.get(k)]
    now, before = plan.get(keys[0]), there.get(keys[0])
    if isinstance(now, dict) and isinstance(before, dict):
        inner, now, before = _difference(now, before)
        return f"{keys[0]}, {inner}", now, before
    return keys[0], now, before


class Table:
    """Scores as matrices."""

    def __init__(self, rows: Iterator[Mapping[str, Any]]) -> None:
        self.cells: dict[Cell, dict[str, float]] = {}
        self.units: dict[str, str] = {}
        for r in rows:
            if not {"metric", "condition", "layer", "multiplier", "item", "value", "unit"} <= r.keys():
                raise RunError(
                    "a row that is no score",
                    given=dict(r),
                    do="something else has written to this folder: remove the row's file and measure again",
                )
            cell = Cell(r["metric"], r["condition"], r["layer"], r["multiplier"])
            self.cells.setdefault(cell, {})[r["item"]] = float("nan") if r["value"] is None else r["value"]
            self.units[r["metric"]] = r["unit"]

    def values(self, name: str) -> list[Any]:
        """Distinct metrics, conditions, layers or multipliers, in order of appearance."""
        return list(dict.fromkeys(getattr(c, name) for c in self.cells))

    def curve(self, metric: str, condition: str, layer: int | None) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Multipliers (K,), item ids, and the scores (n, K) of one condition. Items keep the order of the file."""
        cells = sorted(
            (c for c in self.cells if (c.metric, c.condition, c.layer) == (metric, condition, layer)),
            key=lambda c: c.multiplier,
        )
        items = list(self.cells[cells[0]]) if cells else []
        matrix = np.array([[self.cells[c].get(i, np.nan) for c in cells] for i in items])
        return np.array([c.multiplier for c in cells]), items, matrix.reshape(len(items), len(cells))


def row(cell: Cell, score: Score) -> dict[str, Any]:
    """A line of the journal; NaN is written as null."""
    value = None if np.isnan(score.value) else score.value
    return {**asdict(cell), "item": score.item, "value": value, "unit": score.unit, "n": score.n}
