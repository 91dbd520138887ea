"""One descent under way: where its vector stands, what it has seen, why it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import LossError
from trimtab.model import LM
from trimtab.optimize.constraints import projected
from trimtab.optimize.problems import Problem, Result, adam
from trimtab.optimize.stopping import History, Stopper, stopped_by
from trimtab.steering.vector import Provenance


@dataclass
class Walk:
    """One problem under way.

    Attributes:
        v: the vector it stands on, (l, r, d).
        first, second: Adam's moments.
        best: the vector with the lowest loss so far, and its place in the history.
        reason: why it ended, once it has.
    """

    problem: Problem
    v: Tensor
    first: Tensor
    second: Tensor
    best: Tensor
    best_at: int = 0
    history: History = field(default_factory=History)
    reason: str = ""
    stopper: Stopper | None = None
    remembers: bool = False

    @classmethod
    def begin(cls, problem: Problem, lm: LM, remembers: bool = False) -> Walk:
        v = projected(_start(problem, lm), problem.constraints, problem.place.first)
        targets = tuple(t.target for _, t in problem.goal.terms)
        return cls(
            problem,
            v,
            torch.zeros_like(v),
            torch.zeros_like(v),
            v.clone(),
            history=History(targets, penalty=problem.descent.penalty),
            remembers=remembers,
        )

    def note(self, losses: Sequence[float], raw: Sequence[float]) -> None:
        """Take down the losses of the vector it stands on; end if a stopper says so."""
        history = self.history
        total = self.problem.goal.weighted(losses)
        if not math.isfinite(total):
            if not history.totals:
                raise LossError(
                    "the loss is not a number at the start",
                    given=self.problem.describe()["objective"],
                    do="look at the prompt and the start norm",
                )
            self.reason = f"the loss was not a number after step {history.steps + 1}; the best vector before it is kept"
            return
        history.totals.append(total)
        history.losses.append(list(losses))
        history.raw.append(list(raw))
        if self.remembers:
            history.vectors.append(self.v.clone())
        history.norms.append(float(self.v[:, 0].norm()))
        if history.worth(history.steps) < history.worth(self.best_at) or len(history.totals) == 1:
            self.best, self.best_at = self.v.clone(), history.steps
        self.stopper = stopped_by(self.problem.descent.stop, history)
        if self.stopper is not None:
            self.reason = type(self.stopper).__name__
            if self.stopper.reaches:
                self.best, self.best_at = self.v.clone(), history.steps

    def step(self, gradient: Float[Tensor, "l r d"]) -> None:
        """One update of Adam, then the constraints."""
        problem, t = self.problem, self.history.steps + 1
        if problem.descent.penalty:
            gradient = torch.cat([gradient[:, :1] + 2 * problem.descent.penalty * self.v[:, :1], gradient[:, 1:]], 1)
        for constraint in problem.constraints:
            gradient = constraint.tangent(gradient, problem.place.first)
        if problem.descent.clip is not None:
            gradient = gradient * (problem.descent.clip / gradient.norm().clamp(min=problem.descent.clip))
        self.first, self.second, move = adam(gradient, self.first, self.second, t)
        self.v = projected(self.v - problem.descent.rate_at(t - 1) * move, problem.constraints, problem.place.first)

    def result(self, lm: LM) -> Result:
        """The best vector with its own losses."""
        history, problem = self.history, self.problem
        targets = [s for s in problem.descent.stop if s.reaches]
        reached = (self.stopper in targets) if targets else None
        made = Provenance.of(lm, method={"name": "optimize", **problem.describe()}, version=version("trimtab"))
        at = self.best_at
        return Result(
            problem.place.vector(self.best, made),
            history.totals[at],
            tuple(history.losses[at]),
            history,
            history.steps,
            self.reason,
            reached,
            raw=tuple(history.raw[at]),
        )


def _start(problem: Problem, lm: LM) -> Float[Tensor, "l r d"]:
    place = problem.place
    if problem.start.vector is not None:
        return place.rows(problem.start.vector)
    drawn = torch.randn(
        len(place.first), 1 + 2 * place.rank, lm.width, generator=torch.Generator().manual_seed(problem.start.seed)
    )
    drawn /= drawn.norm(dim=-1, keepdim=True)
    drawn[:, 0] *= problem.start.norm
    return drawn
