"""Truthfulness: vectors of every method learned on true and false answers, tested by MC1 and MC2 (Cao et al. 2024,
figures 2 and 6; TruthfulQA: Lin et al. 2022), at every multiplier and at the same drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from trimtab.errors import DataError, RecipeError, check_least
from trimtab.evaluation.accuracy import accuracy
from trimtab.evaluation.capability import Question, capability, questions
from trimtab.model import LM
from trimtab.progress import Progress
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.studies.behaviors import METHODS, Behavior, Learning, place, scouting
from trimtab.studies.conditions import Condition
from trimtab.studies.descents import Vectors, throughout
from trimtab.studies.pages.capability import Row
from trimtab.studies.pages.truthfulness import KINDS, Results
from trimtab.studies.parts import by_question
from trimtab.studies.preference_files import beside

EVERY = 10**9  # pairs: parts are cut by question here


@dataclass(frozen=True)
class Plan(Learning):
    """What is run.

    Attributes:
        data: one set of questions that have true and false answers: "truthful", or a file in a layout of TruthfulQA.
        test: questions, of which all answers are looked at.
        multipliers: the spectrum.
        randoms: random directions of BiPO's norm, as controls.
    """

    data: tuple[str, ...] = ("truthful",)
    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    randoms: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.multipliers)
        check_least("truthfulness", 0, randoms=self.randoms)
        if len(self.data) != 1:
            raise RecipeError("more than one set of questions", given=self.data, expected="one")


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        DataError: questions without true and false answers.
    """
    lm.layers(plan.candidates)
    study = _Truth(lm, run, plan)
    facts = {"data": study.test.hash, "questions": len(study.items)}
    yield from scouting([study])
    place([study])
    yield Stage("vectors", [Unit(f"learn {c}", facts, partial(study.learned, c)) for c in METHODS])
    yield Stage("answers", [Unit(f"{c}: questions", facts, partial(study.ask, c)) for c in study.vectors])
    run.write(RESULTS, study.results())


class _Truth(Behavior):
    """The pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, folder: Run, plan: Plan) -> None:
        whole = replace(plan, train=EVERY, val=EVERY, test=EVERY)
        super().__init__(lm, folder, whole, plan.data[0])
        self.learning = self.plan = plan
        self.train, self.val = (by_question(part, n) for part, n in ((self.train, plan.train), (self.val, plan.val)))

    @cached_property
    def items(self) -> tuple[Question, ...]:
        """The test questions, with all of their answers; of a training file those of the test file beside it."""
        tested = {p.group for p in self.test}
        source = questions(beside(self.plan.data[0]))
        items = tuple(q for q in source if q.truthful and q.group in tested)[: self.plan.test]
        if not items:
            raise DataError(f"{self.name} has no questions with true and false answers", expected="TruthfulQA's layout")
        return items

    @cached_property
    def vectors(self) -> Vectors:
        """Of every method, and random directions, turned from BiPO's."""
        return self.every(METHODS, self.plan.randoms)

    def ask(self, condition: Condition, progress: Progress) -> None:
        """The questions at every multiplier; then at the budget of drift, up and down."""
        vector = self.vectors[condition]
        drift = self.drift(vector, condition)
        reached = tuple(float(m) for m in (drift.down, drift.up) if np.isfinite(m))
        grids = {"spectrum": self.plan.multipliers} | ({"equal": (0.0, *reached)} if reached else {})
        for part, grid in grids.items():
            capability(
                self.lm, throughout(vector), self.items, to=self.run.path, multipliers=sorted(grid),
                name=condition.label, part=part, progress=progress,
            )  # fmt: skip

    def results(self) -> Results:
        spectrum, equal = self.run.table("spectrum"), self.run.table("equal")
        rows: list[Row] = []
        for kind in KINDS:
            for c in self.vectors:
                rows += [Row("spectrum", kind, c, a) for a in accuracy(spectrum, kind, c.label)]
                if any(cell.condition == c.label for cell in equal.cells):
                    rows += [Row("equal", kind, c, a) for a in accuracy(equal, kind, c.label) if a.multiplier]
        layers = {c.label: v.layers[0] for c, v in self.vectors.items()}
        plan = self.plan
        return Results(self.lm.id, self.name, len(self.train), len(self.items), layers, rows, plan.budget, plan.seed)
