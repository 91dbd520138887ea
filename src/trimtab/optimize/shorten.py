"""shorten(): the shortest vector that does no worse than one already found (output-constrained steering)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.errors import LossError
from trimtab.model import LM
from trimtab.optimize.constraints import projected
from trimtab.optimize.engine import TOKENS
from trimtab.optimize.losses import Losses
from trimtab.optimize.objectives import Objective, Term
from trimtab.optimize.problems import Problem, Result
from trimtab.optimize.stopping import History
from trimtab.progress import Progress, silent


def shorten(
    lm: LM,
    problem: Problem,
    found: Result,
    *,
    target: float | None = None,
    instead: Term | Objective | None = None,
    steps: int = 100,
    rate: float = 0.05,
    damping: float = 1.0,
    slack: float = 1e-6,
    moving: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Minimize the norm while every term's loss stays at or below min(target, what it was + slack).

    By the modified differential method of multipliers (Platt & Barr 1987; output-constrained steering in the paper).

    Args:
        found: what `optimize` gave for the problem.
        target: a loss (nats) for every term; by default the largest that was found.
        instead: minimize this instead of the norm, which may then not grow (a `Change`: MELBO under constraints).
        rate: learning rate, per coordinate; sensitive.
        damping: of the constraints.
        slack: nats that a loss may rise above what it was.
        moving: weigh the constraints in every step by the norm it has come to (ours: less sensitive to the rate);
            else by the norm it began with (as published).
        progress: called with (done, in all).

    Returns:
        The best vector on the way at which every constraint holds; `holds` says whether there is one.

    Raises:
        LossError: settings that make no sense.
    """
    _check(steps, rate, slack)
    bounded = len(problem.goal.terms)
    level = max(found.losses) if target is None else target
    limits = torch.tensor([min(level, loss + slack) for loss in found.losses])
    whole = replace(problem, objective=problem.goal if instead is None else problem.goal + Objective.of(instead))
    whole.check(lm)
    losses, place = Losses(lm, [whole], 32, tokens=TOKENS), problem.place
    v = place.rows(found.vector)
    most = float(v.norm())
    terms = _Multipliers(limits, torch.tensor(found.losses), damping, [w for w, _ in whole.goal.terms[bounded:]])
    down, up = torch.optim.Adamax([v, terms.room], lr=rate), torch.optim.Adamax([terms.lam], lr=rate, maximize=True)
    best, history = _Best(limits), History(tuple(float(x) for x in limits))
    for done in range(steps + 1):
        (progress or silent(""))(done, steps)
        terms.scale = (float(v.norm()) if moving else most) / (1e-6 + abs(level))
        seen = losses.at({0: v[None]}, gradients={0}, total=terms.of)
        values = [float(x[0]) for x in seen.terms[0]]
        best.look(v, float(v.norm()) if instead is None else terms.beyond(values), values[:bounded], history)
        v.grad = seen.gradients[0][0] + (v / v.norm().clamp(min=1e-12) if instead is None else 0)
        terms.room.grad, terms.lam.grad = -2 * terms.room * terms.pull, terms.scale * terms.gap
        down.step()
        up.step()
        allowed = projected(v, problem.constraints, place.first)
        v.copy_(allowed if instead is None else allowed * min(1.0, most / max(float(allowed.norm()), 1e-12)))
    return best.result(found, problem, history)


def _check(steps: int, rate: float, slack: float) -> None:
    if steps < 1 or not rate > 0 or not slack >= 0:
        raise LossError(
            "cannot be shortened like this",
            given={"steps": steps, "rate": rate, "slack": slack},
            expected="steps >= 1, rate > 0, slack >= 0",
        )


class _Multipliers:
    """The output constraints g = limit - loss - room^2 = 0, each with its multiplier, and what they add to the
    Lagrangian.
    """

    def __init__(self, limits: Tensor, losses: Tensor, damping: float, extra: Sequence[float]) -> None:
        self.limits, self.damping, self.extra = limits, damping, extra
        self.room = (limits - losses).clamp(min=0).sqrt()
        self.lam, self.gap = torch.zeros_like(limits), torch.zeros_like(limits)
        self.scale = 1.0

    @property
    def pull(self) -> Tensor:
        """d/dg of scale (lam g + damping g^2 / 2)."""
        return self.scale * (self.lam + self.damping * self.gap)

    def beyond(self, losses: Sequence[float]) -> float:
        """The weighted terms behind the bounded ones."""
        return sum(w * x for w, x in zip(self.extra, losses[len(self.limits) :], strict=True))

    def of(self, _: int, losses: Sequence[Tensor]) -> Tensor:
        """What the vector is moved by: its losses, pulled by the multipliers, and the weighted terms behind them."""
        n = len(self.limits)
        bounded = torch.stack(list(losses[:n]))[:, 0]
        self.gap = self.limits - bounded.detach().cpu() - self.room**2
        pulled = (-self.pull.to(bounded.device) * bounded).sum()
        return torch.stack([pulled, *(w * x[0] for w, x in zip(self.extra, losses[n:], strict=True))]).sum()[None]


class _Best:
    """The best vector at which every constraint holds; the least wrong one until there is one."""

    def __init__(self, limits: Tensor) -> None:
        self.limits = limits.tolist()
        self.v: Tensor | None = None
        self.key = (float("inf"), float("inf"))
        self.losses: list[float] = []

    def look(self, v: Tensor, aim: float, losses: list[float], history: History) -> None:
        history.totals.append(aim)
        history.losses.append(losses)
        history.norms.append(float(v.norm()))
        over = sum(max(0.0, x - limit - 1e-6) for x, limit in zip(losses, self.limits, strict=True))
        if (over, aim) < self.key:
            self.key, self.v, self.losses = (over, aim), v.clone(), losses

    def result(self, found: Result, problem: Problem, history: History) -> Result:
        assert self.v is not None
        vector = problem.place.vector(self.v, found.vector.made)
        broken = [k for k, (x, limit) in enumerate(zip(self.losses, self.limits, strict=True)) if x > limit + 1e-6]
        reason = "every output constraint holds" if not broken else f"output constraints of terms {broken} do not hold"
        return Result(
            vector,
            problem.goal.weighted(self.losses),
            tuple(self.losses),
            history,
            history.steps,
            reason,
            found.reached,
            not broken,
        )
