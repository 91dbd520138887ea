"""optimize(): many vectors at once by gradient descent through replays, each as if it were alone.

Problems whose vectors act in the same way at the same layers form a group. Every row of tokens a group needs is run
once; then each step replays the blocks above the first trained layer, with a slot (a condition of the replay) for
every vector that looks at a row. Weights are frozen and gradients are taken with respect to the vectors alone, so no
parameter of the model ever holds one. `losses_in_full` computes the same with full passes and hooks: the oracle of
the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from trimtab.errors import LossError
from trimtab.model import LM
from trimtab.optimize.losses import Found, Losses
from trimtab.optimize.problems import Problem, Result
from trimtab.optimize.stopping import MaxSteps
from trimtab.optimize.store import restore, save
from trimtab.optimize.walk import Walk
from trimtab.progress import Progress

TOKENS = 256  # of a pass: more are no faster on a CPU, and are all remembered for the gradient


def optimize(
    lm: LM,
    problems: Sequence[Problem],
    *,
    to: str | Path | None = None,
    progress: Progress | None = None,
    batch: int = 32,
    save_every: float = 2.0,
    vectors: bool = False,
) -> list[Result]:
    """Optimize one vector per problem, all of them together. Result k is what problem k alone would give.

    Args:
        to: a file for the state (safetensors); if it is there, the descent goes on from it. It must be of the same
            problems.
        progress: called with (steps done, steps at most, the lowest losses in words), over all problems.
        batch: rows of a pass.
        save_every: seconds between two saves.
        vectors: keep every vector it stood on, in the history of each result.

    Raises:
        LossError: no problems; a term, layer or start that does not fit; a loss that is not a number at the start; a
            state of other problems.
        TokenError: a prompt or completion that cannot be used.
    """
    if not problems:
        raise LossError("no problems", expected="at least one")
    for problem in problems:
        problem.check(lm)
    # one walk a problem; they share passes, and nothing else: each has its own moments, noise and end
    walks = [Walk.begin(problem, lm, vectors) for problem in problems]
    keep = restore(walks, lm, to) if to is not None else None
    if all(w.reason for w in walks):  # read back, whole: nothing is run
        return [w.result(lm) for w in walks]
    losses = Losses(lm, problems, batch, tokens=TOKENS)
    most = sum(_most_steps(problem) for problem in problems)
    while active := [k for k, w in enumerate(walks) if not w.reason]:
        _step(losses, walks, active)
        if progress:
            done = sum(_most_steps(w.problem) if w.reason else w.history.steps for w in walks)
            progress(done, most, f"loss {sum(w.history.totals[w.best_at] for w in walks) / len(walks):.3g}")
        if keep is not None and keep.due(save_every):
            save(walks, keep)
    if keep is not None:
        save(walks, keep)
    return [w.result(lm) for w in walks]


def _step(losses: Losses, walks: Sequence[Walk], active: list[int]) -> None:
    """Losses where every active problem stands; then an update of those that go on."""
    at = {k: walks[k].v[None] for k in active}  # (1, l, r, d) each
    wanted = {k for k in active if _gradient_here(walks[k])}
    evaluation = _alone_if_lost(losses, at, wanted, losses.at(at, gradients=wanted))
    for k in active:
        walks[k].note([float(x[0]) for x in evaluation.terms[k]], [float(x[0]) for x in evaluation.raw[k]])
    # a stopper looks at losses alone, so the last gradient of a walk that ends here goes unused
    going = [k for k in active if not walks[k].reason]
    here = {k: evaluation.gradients[k][0] for k in going if k in wanted}
    there = {k: _perturbed(walks[k], here.get(k)) for k in going if walks[k].problem.descent.noise is not None}
    # with noise the step follows the mean gradient of the n perturbed vectors, (n, l, r, d) -> (l, r, d)
    if there:
        near = _alone_if_lost(losses, there, set(there), losses.at(there, gradients=set(there))).gradients
        here |= {k: near[k].mean(0) for k in there}
    for k in going:
        walks[k].step(here[k])


def _alone_if_lost(losses: Losses, at: dict[int, Tensor], wanted: set[int], evaluation: Found) -> Found:
    """What is not a number may spoil what it shares a pass with: then every problem is looked at alone."""
    numbers = [*evaluation.gradients.values(), *(x for terms in evaluation.terms.values() for x in terms)]
    if len(at) == 1 or all(bool(x.isfinite().all()) for x in numbers):
        return evaluation
    alone = [losses.at({k: v}, gradients=wanted & {k}) for k, v in at.items()]
    terms: dict[int, list[Tensor]] = {}
    gradients: dict[int, Tensor] = {}
    raw: dict[int, list[Tensor]] = {}
    for one in alone:
        terms |= one.terms
        gradients |= one.gradients
        raw |= one.raw
    return Found(terms, gradients, raw)


def _gradient_here(walk: Walk) -> bool:
    noise = walk.problem.descent.noise
    return noise is None or noise.needs_gradient


def _perturbed(walk: Walk, gradient: Tensor | None) -> Float[Tensor, "n l r d"]:
    noise = walk.problem.descent.noise
    assert noise is not None
    return walk.v + noise.draw(walk.v, gradient, walk.problem.start.seed, walk.history.steps)


def _most_steps(problem: Problem) -> int:
    return min(s.steps for s in problem.descent.stop if isinstance(s, MaxSteps))
