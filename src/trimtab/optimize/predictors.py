"""Cheap figures about an optimized vector, to foresee how far it carries before a large evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.model import LM
from trimtab.model.tokens import Prompt
from trimtab.optimize.geometry import cosines, detection
from trimtab.optimize.losses import Losses
from trimtab.optimize.objectives import Match, Objective, Term
from trimtab.optimize.problems import Place, Problem, Result
from trimtab.steering.interventions import steer
from trimtab.steering.operators import Add
from trimtab.steering.vector import SteeringVector

SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)  # multiples of a vector at which its loss is looked at
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
    probe: Probe | None = None,
    draws: int = 8,
    radius: float = 0.1,
) -> dict[str, float]:
    """Figures of one vector, in nats unless their name says otherwise.

    - norm, steps, loss: of the descent.
    - norm at half loss: of the shortest multiple at which the loss has fallen half way (NaN if it never does,
      or does not act by addition).
    - sharpness: mean rise of the loss at random vectors `radius` times the norm away.
    - gradient cosine: mean cosine of the gradients of the problem's terms at the vector (NaN for a single term).
    - neutral kl: mean KL per token to the model as it is, on neutral text.
    - held-out loss: of terms on other prompts, weighted.
    - cosine to NAME: to each known vector.
    - detection, strangeness, gain, in top directions: see `Probe`.

    Args:
        neutral: prompts and completions that have nothing to do with the behavior.
        draws: random vectors for the sharpness.
    """
    place = problem.place
    v, added = place.rows(found.vector), isinstance(place.operator, Add)
    others = [replace(problem, objective=Match(p, ids)) for p, ids in neutral_ids(lm, neutral)]
    others += [replace(problem, objective=held_out)] if held_out is not None else []
    alone = [replace(problem, objective=Objective(((w, t),))) for w, t in problem.goal.terms]
    losses = Losses(lm, [problem, *alone, *others], 32)
    around = v + _directions(v, draws) * radius * v.norm()
    shorter = torch.stack([s * v for s in SHARES])
    vectors = {0: torch.cat([v[None], around, shorter]), **dict.fromkeys(range(1, len(losses.problems)), v[None])}
    seen = losses.at(vectors, gradients=set(range(1, 1 + len(alone))))
    near = losses.weighted(0, seen.terms[0])
    kls = [float(seen.terms[1 + len(alone) + k][0]) for k in range(len(neutral))]
    half = _half_way(near[1 + draws :].tolist(), near[0].item(), float(v.norm()))
    out = {
        "norm": float(v.norm()),
        "steps": float(found.steps),
        "loss": found.loss,
        "sharpness": float(near[1 : 1 + draws].mean() - near[0]),
        "norm at half loss": half if added else math.nan,
        "gradient cosine": _mean_cosine([seen.gradients[k][0].flatten() for k in range(1, 1 + len(alone))]),
        "neutral kl": sum(kls) / len(kls) if kls else math.nan,
    }
    if held_out is not None:
        last = len(losses.problems) - 1
        out["held-out loss"] = float(losses.weighted(last, seen.terms[last])[0])
    if probe is not None:
        out |= probe.of(lm, place, found)
    return out | {
        f"cosine to {name}": float(cosines([found.vector, other])[0, 1]) for name, other in (known or {}).items()
    }


@dataclass(frozen=True)
class Probe:
    """What else may be asked of a vector before it is tried, with texts and a Jacobian that many vectors share.

    Attributes:
        positive, negative: prompts with answers that show the behavior, and that do not.
        asked: prompts that are answered under the vector.
        sensitivity: of the stream after the last block to the vector's layer; see `geometry.sensitivity`. None where no
            block lies between.
        tokens: longest answer.
        top: directions the stream answers to most.
    """

    positive: Sequence[Prompt]
    negative: Sequence[Prompt]
    asked: Sequence[Prompt]
    sensitivity: Float[Tensor, "d d"] | None
    tokens: int = 16
    top: int = 10

    @cached_property
    def directions(self) -> Float[Tensor, "d top"]:
        """The top directions."""
        assert self.sensitivity is not None
        return torch.linalg.eigh(self.sensitivity)[1][:, -self.top :]

    def of(self, lm: LM, place: Place, found: Result) -> dict[str, float]:
        """- detection: how well its dot product tells positive from negative answers (area under the ROC curve).
        - strangeness: bits per token of what the model says under it, for the model without it (NaN if it says
          nothing).
        - gain: how far the last stream moves for each unit along it, beside a random direction.
        - in top directions: share of its squared length in the directions the stream answers to most.
        """
        out = {
            "detection": detection(lm, found.vector, self.positive, self.negative),
            "strangeness": self._strangeness(lm, place, found),
        }
        if self.sensitivity is None:
            return out
        unit = place.rows(found.vector)[0, 0]
        unit = unit / unit.norm().clamp(min=1e-12)
        gain = unit @ self.sensitivity @ unit / self.sensitivity.diagonal().mean()
        inside = (unit @ self.directions).square().sum()
        return {**out, "gain": float(gain.sqrt()), "in top directions": float(inside)}

    def _strangeness(self, lm: LM, place: Place, found: Result) -> float:
        with steer(lm, found.intervention(place)):
            texts = lm.generate(self.asked, max_new_tokens=self.tokens)
        said = [(p, t) for p, t in zip(self.asked, texts, strict=True) if t.strip()]
        if not said:
            return math.nan
        nats = torch.cat([x.flatten() for x in lm.logprobs([p for p, _ in said], [t for _, t in said])])
        return float(-nats.mean()) / math.log(2)


def _half_way(losses: Sequence[float], at_end: float, norm: float) -> float:
    """Where the loss crosses half of its way down, read between multiples of a vector; NaN if it does not fall."""
    shares, values = (*SHARES, 1.0), (*losses, at_end)
    half = (values[0] + at_end) / 2
    for k in range(1, len(values)):
        if at_end < values[0] and values[k] <= half:
            step = (values[k - 1] - half) / (values[k - 1] - values[k])
            return norm * (shares[k - 1] + step * (shares[k] - shares[k - 1]))
    return math.nan


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
