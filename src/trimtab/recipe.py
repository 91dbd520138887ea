"""Recipes: one experiment, in TOML. Plain data, no torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trimtab import registry
from trimtab.errors import RecipeError, UnknownName, check_least

LOADING = ("dtype", "device", "chat", "separator", "template", "bits")
FARTHEST = 1e6  # the largest multiplier
GRID = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


SHIPPED = (Path(__file__).parent / "recipes", Path(__file__).parents[2] / "recipes")  # of a wheel, of a checkout


def shipped() -> dict[str, Path]:
    """Recipes that come with trimtab, by name."""
    return {file.stem: file for folder in SHIPPED for file in sorted(folder.glob("*.toml"))}


def located(recipe: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with trimtab.

    Raises:
        RecipeError: neither.
    """
    path = Path(recipe)
    if not path.is_file() and str(recipe) not in shipped():
        raise RecipeError(f"no such recipe: {recipe}", expected=f"a .toml file, or one of {', '.join(shipped())}")
    return path if path.is_file() else shipped()[str(recipe)]


@dataclass(frozen=True)
class Recipe:
    """One experiment. Read from TOML; every key is a field here.

    Attributes:
        model, dtype, device, chat, separator, template, bits: as for `LM.load`.
        data: a built-in behavior, a file, or an `hf:` address.
        form: "answers", "choices", or what the file holds.
        method, operator: a table with `name` and the fields of the leaf.
        vector: a vector's file, or, with `vectors`, a line such as "0.6 pirate + formal" over the vectors of that
            folder: it is measured at the layers, positions and with the operator it says, and nothing is learned.
        vectors: the folder.
        layers: layers to sweep on the validation part; empty for all.
        layer: use this one and sweep nothing.
        multipliers: the grid; must hold 0.
        positions: which tokens are steered.
        metrics: names or tables.
        seed: of the split and of the controls.
        controls: how many random directions and label-shuffled vectors to measure beside the vector.
        draws: how many null vectors of a kind to compare with by forecast; the verdict needs 199.
        limit: use at most this many pairs.
        generate: prompts to complete at several multipliers.
        samples: so many prompts are completed, the first test questions beside those of `generate`; the quality of the
            text is judged by them.
        max_new_tokens: longest answer.
        ask: sentences that ask for the behavior ("positive") and against it ("negative"), for the prompt baseline.
        dose: measure what each multiplier costs and brings, and recommend one.
    """

    data: str
    model: str = "smollm2"
    dtype: str | None = None
    device: str | None = None
    chat: bool = True
    separator: str | None = None
    template: Mapping[str, Any] | None = None
    bits: int | None = None
    form: Literal["answers", "choices"] | None = None
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "mean-diff"})
    vector: str = ""
    vectors: str = ""
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
    dose: bool = True

    def __post_init__(self) -> None:
        grid = tuple(float(m) for m in self.multipliers)
        object.__setattr__(self, "multipliers", grid)
        check_grid(grid)
        check_least("recipe", 0, controls=self.controls, draws=self.draws, samples=self.samples)
        check_least("recipe", 0, layers=min(self.layers, default=0), layer=self.layer or 0)
        check_least("recipe", 1, max_new_tokens=self.max_new_tokens)
        check_least("recipe", 1, limit=1 if self.limit is None else self.limit)
        if self.vectors and not self.vector:
            raise RecipeError("a folder of vectors, and no line", expected='vector = "0.6 pirate + formal"')
        plain = (dict(self.operator) == {"name": "add"}, self.positions == "from_last_prompt_token", not self.layers)
        if self.vector and not all(plain):
            raise RecipeError(
                "a recipe that is given a vector", given="operator, positions or layers",
                expected="none of them: the vector's file says how it is used", do="set them in the file: trimtab dose",
            )  # fmt: skip
        for name in self.ask or ():
            if name not in ("positive", "negative"):
                raise UnknownName("key of ask", name, ("positive", "negative"))
        if "propensity" not in [m.get("name") if isinstance(m, Mapping) else m for m in self.metrics]:
            raise RecipeError(
                "the metrics lack propensity, by which layers are chosen and the verdict is made",
                given=list(self.metrics),
                expected='metrics = ["propensity", ...]',
            )

    @property
    def loading(self) -> dict[str, Any]:
        """How the model is loaded: keywords of `LM.load`."""
        return {k: getattr(self, k) for k in LOADING}

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML file, by its path or by the name of a recipe that comes with trimtab.

        Raises:
            RecipeError: missing, not TOML (with the line), or with wrong values.
            UnknownName: a key that is no field.
        """
        path = located(path)
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise RecipeError(f"{path}: not valid TOML", given=str(problem)) from problem
        return registry.build(cls, table, where=f"recipe {path.name}")

    def to_toml(self) -> str:
        """A file that `load` reads back to an equal recipe."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        tables = {k: v for k, v in plain.items() if isinstance(v, Mapping)}
        lines = [f"{k} = {as_toml(v)}" for k, v in plain.items() if k not in tables]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{k} = {as_toml(v)}" for k, v in table.items() if v is not None)]
        return "\n".join(lines) + "\n"


def check_grid(multipliers: Sequence[float]) -> None:
    """Refuse a grid without 0 or slope.

    Raises:
        RecipeError: fewer than two distinct multipliers, repeats, no 0, or not finite.
    """
    grid = list(multipliers)
    if len(grid) < 2 or len(set(grid)) != len(grid) or 0 not in grid or not (np.abs(grid) <= FARTHEST).all():
        raise RecipeError(
            "not a grid of multipliers",
            given=grid,
            expected="at least two different numbers up to a million, 0 (the unsteered model) among them",
        )


def as_toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(as_toml(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {as_toml(v)}" for k, v in value.items() if v is not None) + " }"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
