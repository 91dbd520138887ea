"""What the pages of studies share: published figures beside ours, shares in words, and what every condition said, to be
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, INK, WARN, Plot, picture
from trimtab.reports.page import one_line
from trimtab.statistics.counts import Count
from trimtab.studies.conditions import Condition

COLORS = (WARN, ACCENT, INK, "#4d7c4a", "#8a5a9e")  # of the methods of a study, one line each


@dataclass(frozen=True)
class Finding:
    """A published headline, and the same here: on this model, for the controls, over how many."""

    what: str
    paper: str
    here: str
    controls: str


def finding_rows(findings: Sequence[Finding]) -> list[list[str]]:
    """A table of findings, its head first."""
    return [["what", "paper", "here", "controls"], *([f.what, f.paper, f.here, f.controls] for f in findings)]


def told(count: Count) -> str:
    """A share in words."""
    return f"{count.share:.0%} ({count.lo:.0%} to {count.hi:.0%}, n {count.n})" if count.n else "nothing to count"


def spread(values: Sequence[float], unit: str = "vectors") -> str:
    """Median and range over vectors."""
    x = np.asarray(values, float)
    return f"{np.median(x):.0%} ({x.min():.0%} to {x.max():.0%}, {len(x)} {unit})" if len(x) else "none"


@dataclass(frozen=True)
class Answer:
    """What was said, to be read."""

    condition: Condition
    prompt: str
    text: str


def some_answers(
    said: Mapping[tuple[str, Condition], Sequence[str]],
    prompts: Mapping[str, str],
    conditions: Sequence[Condition],
    few: int = 3,
) -> list[Answer]:
    """Answers to a few prompts under each condition."""
    out: list[Answer] = []
    for c in conditions:
        answered = [p for p in prompts if (p, c) in said]
        out += [Answer(c, prompts[p], said[p, c][0]) for p in answered[:few]]
    return out


def answer_rows(answers: Sequence[Answer]) -> list[list[str]]:
    """A table of answers, its head first."""
    return [
        ["condition", "prompt", "answer"],
        *([a.condition.label, one_line(a.prompt, 90), one_line(a.text, 240)] for a in answers),
    ]


def by_multiplier(strengths: Sequence[Any], words: str) -> dict[float, Count]:
    """The share of answers with a family of words, by multiplier: a field of that name at each strength."""
    return {s.multiplier: getattr(s, words) for s in strengths}


def strengths_plot(families: Mapping[str, Mapping[float, Count]]) -> Plot:
    """Shares of answers by multiplier, one line a family of words or deeds: family -> multiplier -> count."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for (family, counts), color in zip(families.items(), (WARN, INK, ACCENT), strict=False):
            ax.plot(list(counts), [c.share for c in counts.values()], "o-", color=color, label=family)
        ax.set_xlabel("multiplier")
        ax.set_ylabel("share of answers")
        ax.legend(frameon=False)

    return picture(
        paint, (5.6, 3.5), "General and narrow, by strength", "Answers to open questions, all vectors of one example."
    )
