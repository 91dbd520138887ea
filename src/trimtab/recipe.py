"""Recipes (TOML), runs (folders) and scores (rows): plain data, no torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trimtab import registry
from trimtab.errors import RecipeError, RunError
from trimtab.journal import Journal, numbers_back, plain

LOADING = ("dtype", "device", "chat", "separator", "template")
GRID = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Score:
    """One measured number. NaN means "not measured", never 0."""

    item: str
    value: float
    unit: str
    n: int = 1


@dataclass(frozen=True)
class Cell:
    """Where a score stands: which metric, condition (the vector or a control), layer and multiplier. Layer None is "all its layers"."""

    metric: str
    condition: str
    layer: int | None
    multiplier: float


@dataclass(frozen=True)
class Recipe:
    """One experiment. Read from TOML; every key is a field here.

    Attributes:
        model, dtype, device, chat, separator, template: as for `LM.load`.
        data: a built-in behavior, a file, or an `hf:` address.
        form: "answers", "choices", or what the file holds.
        method, operator: a table with `name` and the fields of the leaf.
        layers: layers to sweep on the validation part; empty for all.
        layer: use this one and sweep nothing.
        multipliers: the grid; must hold 0.
        positions: which tokens are steered.
        metrics: names or tables.
        seed: of the split and of the controls.
        controls: how many random directions and label-shuffled vectors to measure beside the vector.
        draws: how many null vectors of a kind to compare with by forecast; the verdict needs 199.
        limit: use at most this many pairs.
        generate: prompts to complete at several multipliers; the first test questions are added up to
        samples: so many, by which the quality of the text is judged.
    """

    data: str
    model: str = "smollm2"
    dtype: str | None = None
    device: str | None = None
    chat: bool = True
    separator: str | None = None
    template: Mapping[str, Any] | None = None
    form: Literal["answers", "choices"] | None = None
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "mean-diff"})
    operator: Mapping[str, Any] = field(default_factory=lambda: {"name": "add"})
    layers: tuple[int, ...] = ()
    layer: int | None = None
    multipliers: tuple[float, ...] = GRID
    positions: str = "from_last_prompt_token"
    metrics: tuple[Any, ...] = ("propensity", "likelihood", "kl", "outside-mass")
    seed: int = 0
    controls: int = 3
    draws: int = 499
    limit: int | None = None
    generate: tuple[str, ...] = ()
    samples: int = 12
    max_new_tokens: int = 40
    ask: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        grid = tuple(float(m) for m in self.multipliers)
        object.__setattr__(self, "multipliers", grid)
        check_grid(grid)
        for name, least in (("controls", 0), ("draws", 0), ("samples", 0), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is too small", given=getattr(self, name), expected=f"at least {least}")

    @property
    def loading(self) -> dict[str, Any]:
        """How the model is loaded: keywords of `LM.load`."""
        return {k: getattr(self, k) for k in LOADING}

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML file.

        Raises:
            RecipeError: missing, not TOML (with the line), or with wrong values.
            UnknownName: a key that is no field.
        """
        path = Path(path)
        if not path.is_file():
            raise RecipeError(f"no such recipe: {path}", expected="a .toml file")
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise RecipeError(f"{path}: not valid TOML", given=str(problem)) from problem
        return registry.build(cls, table, where=f"recipe {path.name}")

    def to_toml(self) -> str:
        """A file that `load` reads back to an equal recipe."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        tables = {k: v for k, v in plain.items() if isinstance(v, Mapping)}
        lines = [f"{k} = {_toml(v)}" for k, v in plain.items() if k not in tables]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items() if v is not None)]
        return "\n".join(lines) + "\n"


def check_grid(multipliers: Sequence[float]) -> None:
    """Refuse a grid without 0 or slope.

    Raises:
        RecipeError: fewer than two distinct multipliers, repeats, no 0, or not finite.
    """
    grid = list(multipliers)
    if len(grid) < 2 or len(set(grid)) != len(grid) or 0 not in grid or not np.isfinite(grid).all():
        raise RecipeError(
            "not a grid of multipliers", given=grid, expected="at least two different finite numbers, 0 (the unsteered model) among them"
        )


class Run:
    """A folder that holds one run. Scores are appended in complete units and never changed, so a run can be killed and resumed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path) -> Run:
        """The folder, made if needed.

        Raises:
            RunError: cannot be written to.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            probe = run.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as problem:
            raise RunError(f"cannot write to the run folder {path}", given=problem.strerror, do="choose another folder") from problem
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
            raise RunError(f"{path} is not JSON", given=str(problem), do="restore it, or choose another folder") from problem

    def write(self, name: str, value: Any) -> Path:
        """A JSON (or text) file of the run, replaced in one step. JSON has no NaN: {"float": "nan"} stands for it."""
        text = value if isinstance(value, str) else json.dumps(plain(value, "kept"), indent=1, sort_keys=True, allow_nan=False) + "\n"
        return write_whole(self.file(name), text)

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run: one plan per part, the model, the vector."""
        table = self.read("run.json", {})
        if not isinstance(table, dict):
            raise RunError(
                f"{self.path / 'run.json'} is not the manifest of a run", given=type(table).__name__, do="restore it, or choose another folder"
            )
        return table

    def claim(self, part: str, plan: Mapping[str, Any]) -> None:
        """Enter the plan of a part, or check that it is the one that stands there.

        Raises:
            RunError: the folder holds another plan for this part; names the first difference.
        """
        manifest = self.manifest
        plan = json.loads(json.dumps(plain(plan, "kept")), object_hook=numbers_back)
        there = manifest.get("parts", {}).get(part)
        if there is not None and there != plan:
            key = next(k for k in sorted({*there, *plan}) if there.get(k) != plan.get(k))
            raise RunError(
                f"{self.path} holds another run", given=f"{key} = {plan.get(key)}", expected=f"{key} = {there.get(key)}", do="choose another folder"
            )
        manifest.setdefault("parts", {})[part] = plan
        self.write("run.json", manifest)

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.write("run.json", {**self.manifest, **facts})

    def journal(self, part: str) -> Journal:
        return Journal(self.file("scores", f"{part}.jsonl"))

    def table(self, part: str) -> Table:
        """All scores of a part."""
        return Table(self.journal(part).rows())


class Table:
    """Scores as matrices."""

    def __init__(self, rows: Iterator[Mapping[str, Any]]) -> None:
        self.cells: dict[Cell, dict[str, float]] = {}
        self.units: dict[str, str] = {}
        for r in rows:
            if not {"metric", "condition", "layer", "multiplier", "item", "value", "unit"} <= r.keys():
                raise RunError(
                    "a row that is no score", given=dict(r), do="something else has written to this folder: remove the row's file and measure again"
                )
            cell = Cell(r["metric"], r["condition"], r["layer"], r["multiplier"])
            self.cells.setdefault(cell, {})[r["item"]] = float("nan") if r["value"] is None else r["value"]
            self.units[r["metric"]] = r["unit"]

    def values(self, name: str) -> list[Any]:
        """Distinct metrics, conditions, layers or multipliers, in order of appearance."""
        return list(dict.fromkeys(getattr(c, name) for c in self.cells))

    def curve(self, metric: str, condition: str, layer: int | None) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Multipliers (K,), item ids, and the scores (n, K) of one condition. Items keep the order of the file."""
        found = sorted((c for c in self.cells if (c.metric, c.condition, c.layer) == (metric, condition, layer)), key=lambda c: c.multiplier)
        items = list(self.cells[found[0]]) if found else []
        matrix = np.array([[self.cells[c].get(i, np.nan) for c in found] for i in items])
        return np.array([c.multiplier for c in found]), items, matrix.reshape(len(items), len(found))


def row(cell: Cell, score: Score) -> dict[str, Any]:
    """A line of the journal; NaN is written as null."""
    value = None if np.isnan(score.value) else score.value
    return {**asdict(cell), "item": score.item, "value": value, "unit": score.unit, "n": score.n}


def write_whole(path: Path, text: str) -> Path:
    """Write a text file through a temporary one, so that it is there wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, "utf-8")
    aside.replace(path)
    return path


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items() if v is not None) + " }"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
