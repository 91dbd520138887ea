"""Vectors of a study: descended together, kept by condition, and put on the model one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.model import LM, Positions, everywhere
from trimtab.optimize import (
    Ball,
    Descent,
    MaxSteps,
    Objective,
    Place,
    Problem,
    Start,
    Stopper,
    Target,
    cosines,
    optimize,
)
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.operators import Add
from trimtab.steering.operators.base import Operator
from trimtab.steering.vector import SteeringVector
from trimtab.studies.conditions import UNSTEERED, Condition

BEFORE = ("Hello. ", "One more thing: ", "I have a question. ")  # texts behind which a vector should work too
Vectors = dict[Condition, SteeringVector]
Stacks = dict[Condition, tuple[Intervention, ...]]


def descend(
    lm: LM,
    goals: Mapping[Condition, Objective],
    layer: int,
    norm: float,
    *,
    steps: int = 50,
    positions: Positions | str = everywhere,
    each: bool = False,
    to: str | None = None,
    seed: int = 0,
) -> Vectors:
    """One vector for each objective, as one batch; `norm` is the largest, in medians of the residual norm over the
    objectives' rows.

    Args:
        positions: tokens that are steered while it is trained.
        each: end where every term has reached its own target.
        to: a file for the state; where it is finished, the vectors are read back from it.
    """
    rows = [row for goal in goals.values() for _, term in goal.terms[:2] for row in term.rows(lm)][:16]
    cap = norm * lm.norms(rows, [layer])[layer]
    stop: tuple[Stopper, ...] = (Target(each=True), MaxSteps(steps)) if each else (MaxSteps(steps),)
    how = Descent(0.1 * cap / lm.width**0.5, stop)
    problems = [
        Problem(goal, Place((layer,), positions=positions), (Ball(cap),), how, Start(0.2 * cap, seed=seed + k))
        for k, goal in enumerate(goals.values())
    ]
    return {name: r.vector for name, r in zip(goals, optimize(lm, problems, to=to), strict=True)}


def randoms(vector: SteeringVector, n: int, seed: int) -> Vectors:
    """n random directions, turned from a vector."""
    return {Condition("random", f"{k}"): v for k, v in enumerate(random_controls(vector, n, seed).values())}


def throughout(vector: SteeringVector, operator: Operator | None = None, multiplier: float = 1.0) -> Intervention:
    """A vector at every token of prompt and answer, as the publications steer."""
    return Intervention(vector, operator or Add(), multiplier, everywhere)


def stacks(vectors: Mapping[Condition, SteeringVector], multipliers: float | Mapping[Condition, float] = 1.0) -> Stacks:
    """The unsteered model, and each vector as a condition of its own, at one multiplier or at its own."""
    at = multipliers if isinstance(multipliers, Mapping) else dict.fromkeys(vectors, multipliers)
    return {UNSTEERED: (), **{c: (throughout(v, multiplier=at[c]),) for c, v in vectors.items()}}


def at_strengths(vectors: Mapping[Condition, SteeringVector], multipliers: Sequence[float]) -> Stacks:
    """Each vector at each multiplier, as conditions of their own."""
    return {c.at(m): (throughout(v, multiplier=m),) for c, v in vectors.items() for m in multipliers}


def cosines_apart(vectors: Sequence[SteeringVector]) -> Float[Tensor, " pairs"]:
    """Cosines of each vector with every other one."""
    return cosines(vectors)[~torch.eye(len(vectors), dtype=torch.bool)]
