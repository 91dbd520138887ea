"""Cheap figures about an optimized vector, to foresee how far it carries before a large evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.model import LM
from trimtab.optimize.geometry import cosines
from trimtab.optimize.losses import Losses
from trimtab.optimize.objectives import Match, Objective, Term
from trimtab.optimize.problems import Problem, Result
from trimtab.steering.vector import SteeringVector

NEUTRAL = (
    ("Describe the weather in spring.", "In spring the days get longer, rain is frequent and the first flowers open."),
    ("How do I boil an egg?", "Put the egg into boiling water, wait eight minutes, and cool it under cold water."),
    ("What is a bicycle?", "A bicycle is a vehicle with two wheels that is moved by pedals."),
    ("Name three colors.", "Red, green and blue."),
    ("Why do leaves fall?", "Trees drop their leaves to save water and energy during the cold months."),
    ("What does a librarian do?", "A librarian looks after books and helps people to find what they need."),
)


def neutral_ids(lm: LM, texts: Sequence[tuple[str, str]] = NEUTRAL) -> list[tuple[str, tuple[int, ...]]]:
    """Prompts, and the ids of what follows them: no token can fall across the boundary."""
    return [(p, tuple(lm.tokenizer(c, add_special_tokens=False).input_ids)) for p, c in texts]


def signals(
    lm: LM,
    problem: Problem,
    found: Result,
    *,
    held_out: Term | Objective | None = None,
    neutral: Sequence[tuple[str, str]] = NEUTRAL,
    known: Mapping[str, SteeringVector] | None = None,
    draws: int = 8,
    radius: float = 0.1,
) -> dict[str, float]:
    """Figures of one vector, in nats unless their name says otherwise.

    - norm, steps, loss: of the descent.
    - sharpness: mean rise of the loss at random vectors `radius` times the norm away.
    - gradient cosine: mean cosine of the gradients of the problem's terms at the vector (NaN for a single term).
    - neutral kl: mean KL per token to the model as it is, on neutral text.
    - held-out loss: of terms on other prompts, weighted.
    - cosine to NAME: to each known vector.

    Args:
        neutral: prompts and completions that have nothing to do with the behavior.
        draws: random vectors for the sharpness.
    """
    place = problem.place
    v = place.rows(found.vector)
    others = [replace(problem, objective=Match(p, ids)) for p, ids in neutral_ids(lm, neutral)]
    others += [replace(problem, objective=held_out)] if held_out is not None else []
    alone = [replace(problem, objective=Objective(((w, t),))) for w, t in problem.goal.terms]
    losses = Losses(lm, [problem, *alone, *others], 32)
    around = v + _directions(v, draws) * radius * v.norm()
    vectors = {0: torch.cat([v[None], around]), **dict.fromkeys(range(1, len(losses.problems)), v[None])}
    seen = losses.at(vectors, gradients=set(range(1, 1 + len(alone))))
    near = losses.weighted(0, seen.terms[0])
    kls = [float(seen.terms[1 + len(alone) + k][0]) for k in range(len(neutral))]
    out = {
        "norm": float(v.norm()),
        "steps": float(found.steps),
        "loss": found.loss,
        "sharpness": float(near[1:].mean() - near[0]),
        "gradient cosine": _mean_cosine([seen.gradients[k][0].flatten() for k in range(1, 1 + len(alone))]),
        "neutral kl": sum(kls) / len(kls) if kls else math.nan,
    }
    if held_out is not None:
        last = len(losses.problems) - 1
        out["held-out loss"] = float(losses.weighted(last, seen.terms[last])[0])
    return out | {
        f"cosine to {name}": float(cosines([found.vector, other])[0, 1]) for name, other in (known or {}).items()
    }


def _directions(v: Tensor, n: int) -> Tensor:
    drawn = torch.randn(n, *v.shape, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.flatten(1).norm(dim=-1)[:, None, None, None]


def _mean_cosine(gradients: Sequence[Tensor]) -> float:
    if len(gradients) < 2:
        return math.nan
    unit = torch.stack([g / g.norm().clamp(min=1e-12) for g in gradients])
    gram = unit @ unit.T
    n = len(gradients)
    return float((gram.sum() - gram.diagonal().sum()) / (n * (n - 1)))
