"""Is somebody described as having an attribute? A judge is asked, of every text, about the real and the fictitious one:
does most of it say so (primary), and does it say so at all (mentioned; Dunefsky & Cohan 2025, section 5).

The subject's name is replaced first, or a judge might know the answer by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from trimtab.answers.judges import Recorded, Rubric
from trimtab.model import LM
from trimtab.progress import Progress
from trimtab.runs import Run
from trimtab.statistics.counts import share
from trimtab.studies.conditions import Condition
from trimtab.studies.judging import load_judge, local_judge, unrated
from trimtab.studies.pages.retraction import Judged
from trimtab.studies.statements import Statement

ALIAS = "Andrews"
QUESTIONS = {"primary": "described", "mentioned": "mentioned"}  # and the rubric that asks it
Texts = Sequence[tuple[Statement, str]]


class Described:
    """A judge of texts about the subjects of statements; what it has said is kept in the folder."""

    def __init__(self, judge: str, server_model: str, steered: LM, run: Run) -> None:
        """
        Args:
            judge: a model's name, or the URL of a server that has `server_model`.

        Raises:
            RecipeError: the steered model itself.
        """
        self.judge, self.server_model, self.steered, self.run = judge, server_model, steered, run

    @cached_property
    def _raters(self) -> dict[str, Recorded]:
        lm = local_judge(self.judge, self.steered)
        rubrics = {question: Rubric.load(name) for question, name in QUESTIONS.items()}
        return {
            q: Recorded(load_judge(self.judge, self.server_model, r, lm), self.run.file(f"{q}.jsonl"))
            for q, r in rubrics.items()
        }

    def judged(self, said: Mapping[Condition, Texts], progress: Progress) -> list[Judged]:
        """By condition and question, the shares of texts that are found to say so, of those the judge answers about;
        texts that say nothing count as not.

        Raises:
            RunError: the judge's server gave up on some.
        """
        out: list[Judged] = []
        for n, (condition, texts) in enumerate(said.items()):
            out += [self._judged(condition, question, texts) for question in QUESTIONS]
            progress(n + 1, len(said))
        return out

    def _judged(self, condition: Condition, question: str, texts: Texts) -> Judged:
        real, fictitious = (self._said(question, texts, true=true) for true in (True, False))
        known = [s.right in t for s, t in texts]
        same = [a == b for a, b in zip(real, known, strict=True) if a is not None]
        one, two = (share(x for x in found if x is not None) for found in (real, fictitious))
        silent = sum(x is None for x in (*real, *fictitious))
        return Judged(condition, question, one, two, share(same).share if same else math.nan, silent)

    def _said(self, question: str, texts: Texts, *, true: bool) -> list[bool | None]:
        """Whether each text says so; None where the judge answers neither Yes nor No. An empty text does not."""
        about = [
            {
                "answer": text.replace(s.subject, ALIAS).strip(),
                "name": ALIAS,
                "attribute": s.attribute(true=true).replace(s.subject, ALIAS),
            }
            for s, text in texts
        ]
        ratings = self._raters[question].rate(about)
        if any(r.label == "failed" for r in ratings):
            raise unrated(self.judge)
        return [
            False if not a["answer"] else None if math.isnan(r.score) else r.score > 0.5
            for a, r in zip(about, ratings, strict=True)
        ]
