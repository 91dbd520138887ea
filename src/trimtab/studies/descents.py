"""Vectors of a study: descended together, kept by condition, and put on the model one at a time."""

from __future__ import annotations

from collections.abc import Mapping

from trimtab.model import LM
from trimtab.optimize import Ball, Descent, MaxSteps, Objective, Place, Problem, Start, Stopper, Target, optimize
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from trimtab.studies.conditions import UNSTEERED, Condition

Stacks = dict[Condition, tuple[Intervention, ...]]


def descend(
    lm: LM,
    goals: Mapping[Condition, Objective],
    layer: int,
    norm: float,
    *,
    steps: int = 50,
    each: bool = False,
    to: str | None = None,
    seed: int = 0,
) -> dict[Condition, SteeringVector]:
    """One vector for each objective, as one batch; `norm` is the largest, in medians of the residual norm over the
    objectives' rows.

    Args:
        each: end where every term has reached its own target.
        to: a file for the state; where it is finished, the vectors are read back from it.
    """
    rows = [row for goal in goals.values() for _, term in goal.terms[:2] for row in term.rows(lm)][:16]
    cap = norm * lm.norms(rows, [layer])[layer]
    stop: tuple[Stopper, ...] = (Target(each=True), MaxSteps(steps)) if each else (MaxSteps(steps),)
    how = Descent(0.1 * cap / lm.width**0.5, stop)
    problems = [
        Problem(goal, Place((layer,)), (Ball(cap),), how, Start(0.2 * cap, seed=seed + k))
        for k, goal in enumerate(goals.values())
    ]
    return {name: r.vector for name, r in zip(goals, optimize(lm, problems, to=to), strict=True)}


def stacks(vectors: Mapping[Condition, SteeringVector], multiplier: float = 1.0) -> Stacks:
    """The unsteered model, and each vector as a condition of its own."""
    return {UNSTEERED: (), **{c: (Intervention(v, multiplier=multiplier),) for c, v in vectors.items()}}
