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
from trimtab.studies.judging import load_judge, local_judge
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
        """By condition and question, the shares of texts that are found to say so; texts that say nothing count as
        not.
        """
        out: list[Judged] = []
        for n, (condition, texts) in enumerate(said.items()):
            for question in QUESTIONS:
                real, fictitious = (self._said(question, texts, true=true) for true in (True, False))
                known = [s.right in t for s, t in texts]
                agrees = share(a == b for a, b in zip(real, known, strict=True)).share
                out.append(Judged(condition, question, share(real), share(fictitious), agrees))
            progress(n + 1, len(said))
        return out

    def _said(self, question: str, texts: Texts, *, true: bool) -> list[bool]:
        about = [
            {
                "answer": text.replace(s.subject, ALIAS).strip(),
                "name": ALIAS,
                "attribute": s.attribute(true=true).replace(s.subject, ALIAS),
            }
            for s, text in texts
        ]
        scores = [r.score for r in self._raters[question].rate(about)]
        return [not math.isnan(x) and x > 0.5 for x in scores]
