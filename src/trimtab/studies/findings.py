"""What the studies of misbehavior share: published figures beside ours, shares with intervals, and what every condition said, to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.model import LM
from trimtab.optimize import Ball, Descent, MaxSteps, Objective, Place, Problem, Start, Stopper, Target, optimize
from trimtab.reports.figures import ACCENT, INK, WARN, Plot, picture
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from trimtab.strings import Count


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


def share(flags: Iterable[bool]) -> Count:
    """Share of True, with its interval."""
    found = list(flags)
    return Count.of(sum(map(bool, found)), len(found))


def told(count: Count) -> str:
    """A share in words."""
    return f"{count.share:.0%} ({count.lo:.0%} to {count.hi:.0%}, n {count.n})" if count.n else "nothing to count"


def spread(values: Sequence[float], unit: str = "vectors") -> str:
    """Median and range over vectors."""
    x = np.asarray(values, float)
    return f"{np.median(x):.0%} ({x.min():.0%} to {x.max():.0%}, {len(x)} {unit})" if len(x) else "none"


def off_diagonal(gram: Sequence[Sequence[float]]) -> np.ndarray:
    """The cosines between different vectors."""
    found = np.asarray(gram, float)
    return found[~np.eye(len(found), dtype=bool)]


def descend(
    lm: LM, goals: Mapping[str, Objective], layer: int, norm: float, *, steps: int = 50, each: bool = False, to: str | None = None, seed: int = 0
) -> dict[str, SteeringVector]:
    """One vector for each objective, as one batch; `norm` is the largest, in medians of the residual norm over the objectives' rows.

    Args:
        each: end where every term has reached its own target.
    """
    rows = [row for goal in goals.values() for _, term in goal.terms[:2] for row in term.rows(lm)][:16]
    cap = norm * lm.norms(rows, [layer])[layer]
    stop: tuple[Stopper, ...] = (Target(each=True), MaxSteps(steps)) if each else (MaxSteps(steps),)
    how = Descent(0.1 * cap / lm.width**0.5, stop)
    problems = [Problem(goal, Place((layer,)), (Ball(cap),), how, Start(0.2 * cap, seed=seed + k)) for k, goal in enumerate(goals.values())]
    return {name: r.vector for name, r in zip(goals, optimize(lm, problems, to=to), strict=True)}


def stacks(vectors: Mapping[str, SteeringVector], multiplier: float = 1.0) -> dict[str, tuple[Intervention, ...]]:
    """Each vector as a condition of its own, and the unsteered model."""
    made = {name: (Intervention(v, multiplier=multiplier),) for name, v in vectors.items()}
    return {"unsteered": (), **made}


def transcript(said: Mapping[tuple[str, str], Sequence[str]], prompts: Mapping[str, str], conditions: Sequence[str], few: int = 3) -> list[list[str]]:
    """What was said, to be read: a few prompts of each condition."""
    rows = [["condition", "prompt", "answer"]]
    for c in conditions:
        for p in [p for p in prompts if (p, c) in said][:few]:
            rows.append([c, " ".join(prompts[p].split())[:90].replace("|", "/"), " ".join(said[p, c][0].split())[:240].replace("|", "/")])
    return rows


def strengths_plot(families: Mapping[str, Mapping[float, Count]]) -> Plot:
    """Shares of answers by multiplier, one line a family of words or deeds: family -> multiplier -> count."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for (family, counts), color in zip(families.items(), (WARN, INK, ACCENT), strict=False):
            ax.plot(list(counts), [c.share for c in counts.values()], "o-", color=color, label=family)
        ax.set_xlabel("multiplier")
        ax.set_ylabel("share of answers")
        ax.legend(frameon=False)

    return picture(paint, (5.6, 3.5), "General and narrow, by strength", "Answers to open questions, all vectors of one example.")
