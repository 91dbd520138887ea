"""How many orthogonal vectors do the same? (Goldman-Wetzler & Turner 2024, cited by Dunefsky & Cohan 2025.)

One vector is promoted on an example. Then two families, each member orthogonal to all before it and as long: of vectors
that make the example as likely as they can, and of vectors that echo the first one's change of activations further up.
All are measured on held-out questions, beside random directions of that length: how many do what the first does?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from trimtab.data.datasets import Dataset, Splits
from trimtab.errors import RecipeError, check_least
from trimtab.evaluation.metrics import Likelihood, Propensity
from trimtab.evaluation.sweep import measure
from trimtab.model import LM, Layer
from trimtab.optimize import (
    Ball,
    Descent,
    Echo,
    MaxSteps,
    Objective,
    Orthogonal,
    Place,
    Problem,
    Promote,
    Result,
    Sphere,
    Start,
    optimize,
)
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array
from trimtab.steering.vector import SteeringVector
from trimtab.studies.descents import randoms, throughout
from trimtab.studies.pages.families import ECHO, FIRST, LOSS, RANDOM, Family, Member, Results
from trimtab.studies.parts import check_names

FAMILIES = (LOSS, ECHO)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        behaviors: data sets with free answers; the first training pair of each is the example.
        layer: where the vectors act.
        reads: where the first one's effect is echoed; by default half way from there to the last block.
        members: of each family, beside the first vector; fewer than the width of the model.
        norm: of the vectors, in medians of the residual norm.
        steps: of a descent.
        randoms: random directions.
        most: test questions of a behavior, at most.
        seed: of everything that is drawn.
    """

    behaviors: tuple[str, ...] = ("french-answers",)
    layer: int = 10
    reads: int | None = None
    members: int = 40
    norm: float = 0.1
    steps: int = 50
    randoms: int = 20
    most: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("families", 1, members=self.members, steps=self.steps, randoms=self.randoms, most=self.most)
        check_least("families", 0, above=True, norm=self.norm)
        check_names(self.behaviors, [Path(b).stem for b in self.behaviors], "behaviors")


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any model.

    Raises:
        ModelError, RecipeError: a layer that is none, or more members than the model has room for.
    """
    lm.layers([plan.layer])
    if plan.members + 1 > lm.width:
        raise RecipeError("too many members", given=plan.members, expected=f"fewer than the width, {lm.width}")
    bench = [_Bench(lm, run, plan, b) for b in plan.behaviors]
    if not plan.layer < bench[0].reads < lm.n_layers:
        raise RecipeError("nothing is read there", given=bench[0].reads,
                          expected=f"a layer above {plan.layer}, below {lm.n_layers}")  # fmt: skip
    yield Stage("vectors", [Unit(f"{b.name}: the first", {"data": b.parts.train.hash}, b.first) for b in bench])
    yield Stage("families", [
        Unit(f"{b.name}: {f}", {"first": b.first(silent("")).vector.hash}, partial(b.family, f))
        for b in bench
        for f in FAMILIES
    ])  # fmt: skip
    yield Stage("test", [Unit(f"{b.name}: measure", {"data": b.parts.test.hash}, b.effects) for b in bench])
    families = [f for b in bench for f in b.results()]
    run.write(RESULTS, Results(lm.id, lm.width, plan.layer, bench[0].reads, plan.norm, plan.seed, families))


@dataclass(frozen=True)
class _Bench:
    """The pieces of work for one behavior; each reads back what it has already done."""

    lm: LM
    run: Run
    plan: Plan
    behavior: str

    @property
    def name(self) -> str:
        return Path(self.behavior).stem

    @property
    def reads(self) -> Layer:
        """Where the effect of the first vector is echoed."""
        plan = self.plan
        return (plan.layer + self.lm.n_layers) // 2 if plan.reads is None else plan.reads

    @cached_property
    def parts(self) -> Splits:
        parts = Dataset.load(self.behavior, form="answers").split(seed=self.plan.seed)
        Run.create(self.run.file(self.name)).claim("data", {"train": parts.train.hash, "test": parts.test.hash})
        return replace(parts, test=replace(parts.test.take(self.plan.most), ask=None))

    @cached_property
    def length(self) -> float:
        """The first vector's norm at most; all others have the norm it comes out with."""
        pair, layer = self.parts.train[0], self.plan.layer
        return self.plan.norm * self.lm.norms([self.lm.row(pair.prompt, pair.positive)], [layer])[layer]

    @cached_property
    def goal(self) -> Objective:
        pair = self.parts.train[0]
        return Objective(((1.0, Promote(pair.asked, pair.positive, coldness=1.0)),))

    def first(self, progress: Progress) -> Result:
        """The vector promoted on the example."""
        return self._descended("first", self.goal, [], progress)

    def family(self, kind: str, progress: Progress) -> list[Result]:
        """One after the other, each orthogonal to the first vector and to all before it."""
        first, out = self.first(silent("")).vector, list[Result]()
        goal = self.goal if kind == LOSS else self._echo(first)
        for k in range(self.plan.members):
            before = [first, *(r.vector for r in out)]
            out.append(self._descended(f"{kind}-{k + 1}", goal, before, silent("")))
            progress(k + 1, self.plan.members)
        return out

    def _echo(self, first: SteeringVector) -> Objective:
        """The first vector's change further up, after the example's prompt and answer."""
        pair = self.parts.train[0]
        acting = (throughout(first),)
        return Objective(((1.0, Echo(pair.asked, self.reads, acting, pair.positive)),))

    def _descended(self, name: str, goal: Objective, apart: Sequence[SteeringVector], progress: Progress) -> Result:
        """One vector, orthogonal to others; kept in the folder."""
        plan = self.plan
        length = apart[0].norm()[plan.layer] if apart else self.length
        how = Descent(0.1 * length / self.lm.width**0.5, (MaxSteps(plan.steps),))
        bounds = (Orthogonal(tuple(apart)), Sphere(length)) if apart else (Ball(length),)
        start = Start(length if apart else 0.1 * length, seed=plan.seed + len(apart))
        problem = Problem(goal, Place((plan.layer,)), bounds, how, start)
        to = self.run.file(self.name, f"{name}.safetensors")
        return optimize(self.lm, [problem], to=to, progress=progress)[0]

    # ------------------------------------------------------------ what came out

    @cached_property
    def found(self) -> dict[str, list[Result]]:
        """All descents, by family; the first vector has none before it. Losses are of the example in nats, or of the
        echo in units of the first one's change.
        """
        quiet = silent("")
        return {FIRST: [self.first(quiet)], **{f: self.family(f, quiet) for f in FAMILIES}}

    @cached_property
    def members(self) -> dict[str, list[SteeringVector]]:
        """All vectors, by family, and random directions."""
        made = {family: [r.vector for r in some] for family, some in self.found.items()}
        return {**made, RANDOM: list(randoms(made[FIRST][0], self.plan.randoms, self.plan.seed).values())}

    def effects(self, progress: Progress) -> Mapping[str, list[tuple[Array, Array]]]:
        """Of every vector at multiplier 1: rise of propensity and of the positive answer, by question."""
        named = {f"{family} {k}": v for family, some in self.members.items() for k, v in enumerate(some)}
        top, *rest = named
        run = measure(
            self.lm, throughout(named[top]), self.parts.test, [Propensity(), Likelihood()],
            to=self.run.file(self.name, "test"), part="test", multipliers=(0.0, 1.0),
            controls={name: named[name] for name in rest}, progress=progress,
        )  # fmt: skip
        table = run.table("test")

        def rise(metric: str, name: str) -> Array:
            plain = table.curve(metric, "vector", None)[2][:, 0]
            return table.curve(metric, "vector" if name == top else name, None)[2][:, -1] - plain

        return {
            family: [
                (rise("propensity", f"{family} {k}"), rise("likelihood", f"{family} {k}")) for k in range(len(some))
            ]
            for family, some in self.members.items()
        }

    def results(self) -> list[Family]:
        out: list[Family] = []
        for family, some in self.effects(silent("")).items():
            seen = [r.loss for r in self.found[family]] if family in self.found else [None] * len(some)
            members = [
                Member(float(leaning.mean()), float(answer.mean()), float(np.mean(leaning > 0)), loss)
                for (leaning, answer), loss in zip(some, seen, strict=True)
            ]
            out.append(Family(self.name, family, members, len(self.parts.test)))
        return out
