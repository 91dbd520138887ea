"""What a vector costs in knowledge and truthfulness, beside random directions of its norm: multiple choice by
likelihood, MC1 and MC2 (Lin et al. 2022), and tasks of lm-eval such as MMLU (the utility test of Cao et al. 2024).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

from trimtab.errors import DataError, RecipeError, check_least
from trimtab.evaluation.accuracy import accuracy
from trimtab.evaluation.capability import KINDS, Question, capability, harness_scores, questions
from trimtab.model import LM
from trimtab.progress import Progress
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.notation import vector_of
from trimtab.steering.vector import SteeringVector
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.capability import Results, Row

VECTOR = Condition("vector")


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        vector: a vector's file, which says at which layer, where and how strongly it acts; or, with `vectors`, a line
            such as "0.6 pirate + formal" over the vectors of that folder.
        vectors: the folder.
        questions: "knowledge" and "truthful" come with trimtab; or files of questions.
        pairs: sets, or files, that are asked with two answers each, the best right one and the first wrong one, and
            told by subject: how much of the probability of both is on the right one (Rimsky et al. 2024).
        tasks: names of lm-eval tasks, such as "mmlu"; needs the extra `eval`, and the hub for published ones.
        task_folder: where task files of one's own lie; then the published ones are not looked at.
        limit: questions of each set, and documents of each task, at most.
        multipliers: the grid; by default up to the recommended dose, both ways.
        randoms: random directions of the vector's norm at its layers.
        seed: of the random directions.
    """

    vector: str
    questions: tuple[str, ...] = ("knowledge", "truthful")
    pairs: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_folder: str = ""
    limit: int | None = None
    multipliers: tuple[float, ...] = ()
    randoms: int = 2
    seed: int = 0
    vectors: str = ""

    def __post_init__(self) -> None:
        check_least("capability", 0, randoms=self.randoms)
        check_least("capability", 1, limit=1 if self.limit is None else self.limit)
        if self.multipliers:
            check_grid(self.multipliers)
        if self.tasks and find_spec("lm_eval") is None:
            raise RecipeError("lm-eval is not installed", given=self.tasks, do="pip install 'trimtab[eval]'")
        if self.task_folder and not Path(self.task_folder).is_dir():
            raise RecipeError(f"no such folder: {self.task_folder}", expected="a folder of lm-eval task files")
        if not self.questions and not self.tasks and not self.pairs:
            raise RecipeError("nothing to ask", expected='questions = ["knowledge"], or tasks = ["mmlu"]')


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """One stage for questions, one for tasks; a unit is one set under one condition."""
    study = _Cost(lm, run, plan)
    asked = [
        Unit(f"{name}, {c}", {"vector": study.file, "set": [q.id for q in some]}, partial(study.ask, name, c))
        for name, some in study.sets.items()
        for c in study.interventions
    ]
    yield Stage("questions", asked)
    tried = [
        Unit(f"tasks, {c}", {"vector": study.file, "tasks": plan.tasks}, partial(study.try_tasks, c))
        for c in study.interventions
        if plan.tasks
    ]
    yield Stage("tasks", tried)
    run.write(RESULTS, study.results())


@dataclass(frozen=True)
class _Cost:
    """The pieces of work; each reads back what it has already done."""

    lm: LM
    run: Run
    plan: Plan

    @cached_property
    def vector(self) -> SteeringVector:
        return vector_of(self.plan.vector, self.plan.vectors or None)

    @cached_property
    def file(self) -> str:
        """Hash of the vector as it is in its file: another vector of the same name is another study."""
        return hashlib.sha256(self.vector.to_bytes()).hexdigest()[:16]

    @cached_property
    def interventions(self) -> dict[Condition, Intervention]:
        """The vector as its file says, and random directions in its place."""
        iv = Intervention.recommended(self.vector)
        out = {VECTOR: iv}
        for k, v in enumerate(random_controls(iv.vector, self.plan.randoms, self.plan.seed).values()):
            out[Condition("random", source=str(k))] = replace(iv, vector=v)
        return out

    @property
    def multipliers(self) -> tuple[float, ...]:
        known = () if self.vector.use is None else self.vector.use.grid
        return self.plan.multipliers or known or (-1.0, 0.0, 1.0)

    @property
    def sets(self) -> dict[str, tuple[Question, ...]]:
        """All that is asked, by name."""
        return self.whole | self.paired

    @cached_property
    def whole(self) -> dict[str, tuple[Question, ...]]:
        """By name, a file has that of its stem: the questions the vector was not learned on."""
        return {Path(source).stem: self._unseen(source)[: self.plan.limit] for source in self.plan.questions}

    @cached_property
    def paired(self) -> dict[str, tuple[Question, ...]]:
        """By set and subject: such questions with two answers each."""
        out: dict[str, tuple[Question, ...]] = {}
        for source in self.plan.pairs:
            of: dict[str, list[Question]] = {}
            for q in self._unseen(source):
                of.setdefault(q.subject, []).append(_of_two(q))
            out |= {f"{Path(source).stem}: {subject}": tuple(some[: self.plan.limit]) for subject, some in of.items()}
        return out

    def _unseen(self, source: str) -> tuple[Question, ...]:
        """The questions of a set that the vector was not learned on."""
        seen = set(self.vector.made.trained_on)
        unseen = tuple(q for q in questions(source) if q.group not in seen)
        if not unseen:
            raise DataError(f"the vector was learned on every question of {source}", do="ask others")
        return unseen

    def ask(self, name: str, condition: Condition, progress: Progress) -> None:
        iv, items = self.interventions[condition], self.sets[name]
        capability(
            self.lm, iv, items, to=self.run.path, multipliers=self.multipliers, name=str(condition), part=name,
            progress=progress,
        )  # fmt: skip

    def try_tasks(self, condition: Condition, progress: Progress) -> None:
        plan, iv = self.plan, self.interventions[condition]
        harness_scores(
            self.lm, iv, plan.tasks, self.run, multipliers=self.multipliers, name=str(condition), limit=plan.limit,
            folder=plan.task_folder or None, progress=progress,
        )  # fmt: skip

    def results(self) -> Results:
        rows = [
            row
            for name, some in self.whole.items()
            for row in self._rows(name, KINDS if any(q.truthful for q in some) else KINDS[:1])
        ]
        subjects = [row for name in self.paired for row in self._rows(name, KINDS[2:])]
        if self.plan.tasks:
            table = self.run.table("tasks")
            for task in sorted({cell.metric for cell in table.cells}):
                for c in self.interventions:
                    rows += [Row(task, "correct", c, a) for a in accuracy(table, task, str(c))]
        layers = list(self.interventions[VECTOR].vector.layers)
        behavior = str(self.vector.made.data.get("name", ""))
        return Results(self.lm.id, behavior, layers, rows, self.plan.seed, subjects)

    def _rows(self, name: str, kinds: Sequence[str]) -> list[Row]:
        """Of a set that was asked, under every condition."""
        table = self.run.table(name)
        return [
            Row(name, kind, c, a) for c in self.interventions for kind in kinds for a in accuracy(table, kind, str(c))
        ]


def _of_two(question: Question) -> Question:
    """With its best right answer and its first wrong one alone."""
    right = question.choices[question.right[0]]
    wrong = next(c for k, c in enumerate(question.choices) if k not in question.right)
    return replace(question, choices=(right, wrong), right=(0,), truthful=True)
