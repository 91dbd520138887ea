"""The command that says what a vector costs in knowledge and truthfulness."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from trimtab.cli.flags import Common, ForOutput, ModelFlags, OnModel, run_folder, say_report


@dataclass(frozen=True)
class Capability:
    """What a vector costs: knowledge, truthfulness, and tasks of lm-eval, beside random directions of its norm."""

    vector: Positional[Path]
    """A vector's file; with --vectors, a line such as "0.6 pirate + formal"."""
    to: Path
    """The run folder; the same command resumes."""
    vectors: Path | None = None
    """Folder of vectors, which a line calls by the names of their files."""
    questions: tuple[str, ...] = ("knowledge", "truthful")
    """Sets that come with trimtab, or files of questions with choices (TruthfulQA, or question, choices, answer)."""
    pairs: tuple[str, ...] = ()
    """Sets, or files, that are asked with two answers each, and told by subject."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval, such as mmlu."""
    task_folder: str = ""
    """Where task files of your own lie."""
    limit: int | None = None
    """Questions of each set at most."""
    multipliers: tuple[float, ...] = ()
    """Times the stored vector, 0 among them; by default up to the recommended dose both ways."""
    randoms: int = 2
    """Random directions of its norm."""
    seed: int = 0
    """Of the random directions."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        self.on.check()
        from trimtab import studies
        from trimtab.cli.bars import bars
        from trimtab.evaluation.capability import questions
        from trimtab.steering.interventions import Intervention, check_stack
        from trimtab.steering.notation import vector_of
        from trimtab.studies.capability import Plan

        plan = Plan(
            str(self.vector), self.questions, self.pairs, self.tasks, self.task_folder, self.limit, self.multipliers,
            self.randoms, self.seed, str(self.vectors or ""),
        )  # fmt: skip
        iv = Intervention.recommended(vector_of(self.vector, self.vectors))
        for source in (*self.questions, *self.pairs):
            questions(source)
        run_folder(self.to)
        lm = self.on.of(iv.vector).load(self.common.json)
        check_stack(lm, iv)
        with bars(not self.common.json) as watch:
            studies.page(studies.study("capability", lm, self.to, plan, watch))
        say_report(self.to, self.common.json)
