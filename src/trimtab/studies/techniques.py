"""Every technique of one-shot vectors on the same behaviors and examples: operators, bounds, noise, families, output
constraints, contexts (Dunefsky & Cohan 2025, sections 3 and 4, and the options of their package). Does any of them help
a vector carry over to questions it was not learned on?

A technique is the plain one-shot vector with some of its fields changed. Each is measured as it was trained (same
operator, same positions), beside as many random directions of the plain vectors' norm as there are examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import registry
from trimtab.data.datasets import Dataset, Splits
from trimtab.data.pairs import Form
from trimtab.errors import RecipeError, check_least
from trimtab.evaluation.metrics import Likelihood, Propensity
from trimtab.evaluation.sweep import measure
from trimtab.methods import OneShot, learn
from trimtab.model import LM
from trimtab.optimize import Objective, Promote, cosines, losses_of
from trimtab.progress import Progress
from trimtab.runs import Run, Table
from trimtab.sites import RESID_POST
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies.descents import BEFORE, randoms
from trimtab.studies.pages.techniques import PLAIN, RANDOM, Results, Technique, Vector, compared, random_like
from trimtab.studies.parts import check_names, file_name

ALL: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "suppressed": {"mode": "suppress"},
    "mixed": {"mode": "mixed"},
    "on the sphere": {"bound": "sphere"},
    "no cap": {"bound": "none"},
    "start at the cap": {"start": 1.0},
    "Gaussian noise": {"noise": "gaussian"},
    "fading noise": {"noise": "fading"},
    "tangent noise": {"noise": "tangent"},
    "relu noise": {"noise": "relu"},
    "anti-correlated noise": {"noise": "anti-correlated"},
    "sharpness-aware": {"noise": "sharpness-aware"},
    "clamped": {"operator": "clamp"},
    "affine of rank 1": {"operator": "affine", "rank": 1},
    "matrix alone": {"operator": "affine", "rank": 1, "matrix_alone": True},
    "ablated": {"operator": "ablate"},
    "rotated": {"operator": "rotate"},
    "shortened": {"shorten": 60},
    "L2 penalty": {"penalty": 1.0},
    "second of a family": {"member": 1},
    "third of a family": {"member": 2},
    "in contexts": {"before": list(BEFORE)},
    "anchored": {"anchor": 1.0},
}


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        behaviors: data sets.
        form: free answers, or A/B questions answered by letter; by default what a data set holds. (With letters a
            vector of one example may learn the letter.)
        layer: where the vectors act.
        examples: single examples per behavior; each gives a vector of every technique.
        one: the plain vector.
        techniques: name -> the fields of the plain vector that differ; by default all there are.
        train, val, test: shares of the split.
        most: test questions of a behavior, at most.
        seed: of everything that is drawn.
    """

    behaviors: tuple[str, ...] = ("french-answers", "formality", "agreeing-with-user")
    form: Form | None = None
    layer: int = 10
    examples: int = 4
    one: OneShot = field(default_factory=lambda: OneShot(steps=40, positions="everywhere"))
    techniques: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(ALL))
    train: float = 0.2
    val: float = 0.2
    test: float = 0.6
    most: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("techniques", 1, examples=self.examples, most=self.most)
        check_names(self.behaviors, [Path(b).stem for b in self.behaviors], "behaviors")
        if RANDOM in self.techniques:
            raise RecipeError("the name of the control", given=RANDOM, expected="another name for the technique")
        if len({file_name(name) for name in self.methods}) < len(self.methods):
            raise RecipeError("names that differ in case and signs alone", given=list(self.techniques),
                              expected="names of different letters")  # fmt: skip
        odd = [name for name, m in self.methods.items() if m.site != RESID_POST or m.prompt]
        if odd:
            raise RecipeError("not a technique to compare", given=odd, expected="vectors of examples, at layers")

    @property
    def methods(self) -> dict[str, OneShot]:
        """The plain vector first, and every technique."""
        plain = {k: v for k, v in registry.describe(self.one).items() if k != "name"} | {"seed": self.seed}
        named = {PLAIN: {}, **self.techniques}
        return {name: registry.make("method", {"name": "one-shot", **plain, **some}) for name, some in named.items()}


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any model.

    Raises:
        RecipeError: fewer training pairs than examples.
        LossError: prompts that cannot be put behind a technique's texts.
    """
    lm.layers([plan.layer])
    bench = [_Bench(lm, run, plan, behavior) for behavior in plan.behaviors]
    for b in bench:
        for method in plan.methods.values():
            method.objective(b.parts.train)
    yield Stage("vectors", [
        Unit(f"{b.name}: {t}, example {k + 1}", {"data": b.parts.train.hash}, partial(b.vector, t, k))
        for b in bench
        for t in plan.methods
        for k in range(plan.examples)
    ])  # fmt: skip
    yield Stage("test", [
        Unit(f"{b.name}: {t}", {"data": b.parts.test.hash}, partial(b.measure, t))
        for b in bench
        for t in plan.methods
    ])  # fmt: skip
    techniques = [t for b in bench for t in b.results()]
    changed = {name: dict(some) for name, some in plan.techniques.items()}
    run.write(RESULTS, Results(lm.id, plan.layer, plan.examples, plan.one.norm, plan.seed, changed, techniques))


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

    @cached_property
    def parts(self) -> Splits:
        plan = self.plan
        parts = Dataset.load(self.behavior, form=self.plan.form).split(
            seed=plan.seed, train=plan.train, val=plan.val, test=plan.test
        )
        if len(parts.train) < plan.examples:
            raise RecipeError(f"{self.name}: too few training pairs", given=len(parts.train), expected=plan.examples)
        return replace(parts, test=replace(parts.test.take(plan.most), ask=None))

    def vector(self, technique: str, example: int, progress: Progress | None = None) -> SteeringVector:
        """Learned on one example, the other pairs behind it; kept in the folder."""
        pairs = self.parts.train.pairs
        turned = replace(self.parts.train, pairs=pairs[example:] + pairs[:example])
        file = self.run.file(self.name, f"{file_name(technique)}-{example}.safetensors")
        method = self.plan.methods[technique]
        return kept(file, lambda: learn(self.lm, turned, method, [self.plan.layer], progress=progress))

    def vectors(self, technique: str) -> dict[str, SteeringVector]:
        """Of every example; beside those of each operator that moves along a direction as many random ones, each as
        long as one of them.
        """
        out = {f"example {k + 1}": self.vector(technique, k) for k in range(self.plan.examples)}
        if technique == PLAIN or self.plan.methods[technique].operator not in ("add", "affine"):
            drawn = (next(iter(randoms(v, 1, self.plan.seed + k).values())) for k, v in enumerate(out.values()))
            out |= {f"{RANDOM} {k + 1}": v for k, v in enumerate(drawn)}
        return out

    def measure(self, technique: str, progress: Progress) -> Table:
        """Every vector of a technique on test questions, at -1, 0 and 1."""
        method, vectors = self.plan.methods[technique], self.vectors(technique)
        first, *rest = vectors
        operator = registry.make("operator", method.operator)
        run = measure(
            self.lm,
            Intervention(vectors[first], operator, positions=method.positions),
            self.parts.test,
            [Propensity(), Likelihood()],
            to=self.run.file(self.name),
            part=file_name(technique),
            multipliers=(-1.0, 0.0, 1.0),
            controls={name: vectors[name] for name in rest},
            progress=progress,
        )
        return run.table(file_name(technique))

    # ------------------------------------------------------------ what came out

    def results(self) -> list[Technique]:
        """All techniques, and the random directions."""
        rises: dict[str, dict[str, Mapping[str, Array]]] = {}
        for t in self.plan.methods:
            table, names = self.measure(t, lambda *_: None), list(self.vectors(t))
            for k, name in enumerate(names):
                kind = random_like(t) if k >= self.plan.examples else t
                rises.setdefault(kind, {})[name] = self._rises(table, "vector" if k == 0 else name)
        groups, plain = [p.group for p in self.parts.test], list(rises[PLAIN].values())
        out: list[Technique] = []
        for t, of in rises.items():
            found = [self._described(t, k, effects) for k, effects in enumerate(of.values())]
            beside = np.stack([a["effect"] - b["effect"] for a, b in zip(of.values(), plain, strict=True)], 1)
            out.append(Technique(self.name, t, found, len(groups), compared(beside, groups)))
        return out

    def _described(self, technique: str, k: int, effects: Mapping[str, Array]) -> Vector:
        means = {name: float(values.mean()) for name, values in effects.items()}
        raised = float((effects["effect"] > 0).mean())
        like = {random_like(t): t for t in self.plan.methods}.get(technique)
        if like is not None:
            return Vector(**means, raised=raised, norm=self._norm(like, k))
        v, plain = self.vector(technique, k), self.vector(PLAIN, k)
        own, *others = self._losses(technique, k)
        same = float(cosines([v, plain])[0, 1]) if v[self.plan.layer].ndim == 1 else None
        return Vector(**means, raised=raised, norm=self._norm(technique, k), loss=own, held_out=float(np.mean(others)),
                      cosine=same)  # fmt: skip

    def _losses(self, technique: str, example: int) -> list[float]:
        """-log p of the positive answer under a vector (nats): of its example, and of the next few training pairs; the
        same for every technique, whatever it minimizes.
        """
        method, pairs = self.plan.methods[technique], self.parts.train.pairs
        some = [pairs[(example + k) % len(pairs)] for k in range(1 + min(4, len(pairs) - 1))]
        operator = registry.make("operator", method.operator)
        acting = Intervention(self.vector(technique, example), operator, positions=method.positions)
        goal = Objective(tuple((1.0, Promote(p.asked, p.positive, coldness=1.0)) for p in some))
        return losses_of(self.lm, goal, acting)

    def _rises(self, table: Table, name: str) -> dict[str, Array]:
        """Of propensity at 1 and -1, and of the positive answer's log-probability at 1, by question, in the order of
        the data (the file has that of the batches).
        """

        def curve(metric: str, condition: str) -> Array:
            _, items, values = table.curve(metric, condition, None)
            place = {item: k for k, item in enumerate(items)}
            return values[[place[p.id] for p in self.parts.test]]

        leaning, answer = curve("propensity", name), curve("likelihood", name)
        plain, said = curve("propensity", "vector")[:, 1], curve("likelihood", "vector")[:, 1]
        return {"effect": leaning[:, 2] - plain, "back": leaning[:, 0] - plain, "answer": answer[:, 2] - said}

    def _norm(self, technique: str, k: int) -> float:
        """Of the vector, or of all rows of a map."""
        return float(self.vector(technique, k)[self.plan.layer].norm())
