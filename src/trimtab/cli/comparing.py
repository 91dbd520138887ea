"""Commands that put vectors beside each other: one job each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from trimtab.cli.flags import Common, ForOutput, ModelFlags, OnModel, numbers, part, show
from trimtab.errors import RecipeError, check_least


@dataclass(frozen=True)
class Compare:
    """Cosines and norms of vectors."""

    vectors: Positional[tuple[Path, ...]]
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.evaluation.comparison import geometry
        from trimtab.steering.vector import SteeringVector

        vectors = [SteeringVector.load(p) for p in self.vectors]
        facts: dict[str, Any] = {"vectors": [str(p) for p in self.vectors], **geometry(vectors)}
        named = enumerate(zip(self.vectors, vectors, strict=True))
        lines = [f"{k}  {path}  norm {numbers(v.norm().values())}" for k, (path, v) in named]
        lines += ["cosines", *(f"{k}  {numbers(row)}" for k, row in enumerate(facts["cosine"]))]
        show(facts, self.common.json, lines)


@dataclass(frozen=True)
class Paths:
    """Does a path lead from one vector to another on which the loss does not rise?"""

    vectors: Positional[tuple[Path, ...]]
    prompt: str
    """Losses are taken on this prompt."""
    promote: tuple[str, ...] = ()
    suppress: tuple[str, ...] = ()
    points: int = 20
    """Vectors on the way."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.evaluation.comparison import paths
        from trimtab.optimize import Objective, Promote, Suppress
        from trimtab.steering.vector import SteeringVector

        check_least("paths", 2, points=self.points, vectors=len(self.vectors))
        terms = [*(Promote(self.prompt, t) for t in self.promote), *(Suppress(self.prompt, t) for t in self.suppress)]
        if not terms:
            raise RecipeError("no loss to follow", expected="--promote TEXT or --suppress TEXT, or both")
        goal = Objective(tuple((1.0, t) for t in terms))
        vectors = [SteeringVector.load(p) for p in self.vectors]
        ways = paths(self.on.of(vectors[0]).load(self.common.json), goal, vectors, self.points)
        lines: list[str] = []
        for name, way in ways.items():
            ends = numbers((way["losses"][0], way["losses"][-1]))
            lines.append(f"path {name}: losses {ends}, barrier {way['barrier']:.3f} nats")
        show({"vectors": [str(p) for p in self.vectors], "paths": ways}, self.common.json, lines)


@dataclass(frozen=True)
class Detect:
    """Do vectors tell prompts that should bring out a behavior from others?"""

    vectors: Positional[tuple[Path, ...]]
    positive: Path
    """Prompts the vectors should detect, one a line."""
    negative: Path
    """Others."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.evaluation.comparison import detections
        from trimtab.steering.vector import SteeringVector

        self.on.check()
        vectors, sides = [SteeringVector.load(p) for p in self.vectors], [_lines(self.positive), _lines(self.negative)]
        auc = detections(self.on.of(vectors[0]).load(self.common.json), vectors, *sides)
        lines = [f"{path}  detects with an AUC of {a:.3f}" for path, a in zip(self.vectors, auc, strict=True)]
        show({"vectors": [str(p) for p in self.vectors], "auc": auc}, self.common.json, lines)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise RecipeError(f"no such file: {file}", expected="prompts, one a line")
    try:
        lines = [line for line in file.read_text("utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as problem:
        raise RecipeError(f"{file}: not UTF-8 text", given=f"byte {problem.start}") from problem
    if not lines:
        raise RecipeError(f"{file} holds no prompts", expected="prompts, one a line")
    return lines


@dataclass(frozen=True)
class Sizes:
    """What do more examples bring to a one-shot vector?"""

    data: Positional[str]
    sizes: tuple[int, ...] = (1, 2, 4)
    """Numbers of examples."""
    layer: int = 10
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.cli.bars import bars
        from trimtab.evaluation.comparison import size_curve
        from trimtab.methods import OneShot

        self.on.check()
        check_least("sizes", 1, sizes=min(self.sizes, default=0))
        check_least("sizes", 0, layer=self.layer)
        data = part(self.data, "answers", 0, "all")
        lm = self.on.load(self.common.json)
        with bars(not self.common.json) as watch:
            progress = watch("learn and try")
            curve = size_curve(lm, data, OneShot(), self.layer, sizes=self.sizes, progress=progress)
        lines: list[str] = []
        for s in curve:
            between = f"{s.lo:+.3f} to {s.hi:+.3f}, {len(s.values)} vectors"
            lines.append(f"{s.examples:3} examples: {s.mean:+.3f} nats per token ({between})")
        show({"sizes": [dataclasses.asdict(s) for s in curve]}, self.common.json, lines)
