"""How optimized vectors lie to each other: cosines, the loss on the way from one to another, and whether they detect
what they cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from trimtab.errors import VectorError
from trimtab.model import LM, Frame, Layer, Row
from trimtab.model.tokens import Prompt
from trimtab.optimize.losses import Losses
from trimtab.optimize.objectives import Objective, Term
from trimtab.optimize.problems import Place, Problem
from trimtab.steering.vector import SteeringVector


def cosines(vectors: Sequence[SteeringVector]) -> Float[Tensor, "n n"]:
    """Cosine of every pair, over the layers they share one after the other; NaN for a pair that shares none, or a zero
    vector.
    """
    out = torch.full((len(vectors), len(vectors)), float("nan"))
    for i, one in enumerate(vectors):
        for j, two in enumerate(vectors):
            shared = [k for k in one.layers if k in two.vectors and one[k].shape == two[k].shape]
            if not shared:
                continue
            a = torch.cat([one[k].flatten() for k in shared]).double()
            b = torch.cat([two[k].flatten() for k in shared]).double()
            scale = a.norm() * b.norm()
            if scale > 0:
                out[i, j] = float(a @ b / scale)
    return out


@dataclass(frozen=True)
class Path:
    """Losses (nats) on the way from one vector to another.

    Attributes:
        losses: at equally spaced points, both ends included.
        barrier: how far the worst interior point lies above the worse end; 0 if none does.
    """

    losses: tuple[float, ...]
    barrier: float

    @property
    def connected(self) -> bool:
        """No interior point is worse than both ends (Dunefsky & Cohan 2025, mode connectivity; the sign of the text
        is a slip).
        """
        return self.barrier <= 0


def path(
    lm: LM, what: Term | Objective, place: Place, one: SteeringVector, two: SteeringVector, *, points: int = 20
) -> Path:
    """The loss along the geodesic v(s) = |v1| ((1 - s) v1 + s v2) / |(1 - s) v1 + s v2|, with the norm going from |v1|
    to |v2|.

    The published path keeps |v1| throughout; scale `two` to that norm to get it.

    Raises:
        VectorError: a vector that lacks the layer, or two that point in opposite directions.
    """
    a, b = place.rows(one), place.rows(two)
    ends = a.norm(), b.norm()
    steps: list[Tensor] = []
    for s in torch.linspace(0, 1, points).tolist():
        between = (1 - s) * a / ends[0] + s * b / ends[1]
        if between.norm() < 1e-6:
            raise VectorError("no path leads between opposite vectors")
        steps.append(between / between.norm() * ((1 - s) * ends[0] + s * ends[1]))
    losses = Losses(lm, [Problem(what, place)], 32)
    term_losses = losses.at({0: torch.stack(steps)}, gradients=set()).terms[0]
    total = losses.weighted(0, term_losses).tolist()
    return Path(tuple(total), max(0.0, max(total[1:-1], default=total[0]) - max(total[0], total[-1])))


@torch.no_grad()
def detection(
    lm: LM, vector: SteeringVector, positive: Sequence[Prompt], negative: Sequence[Prompt], layer: Layer | None = None
) -> float:
    """Area under the ROC curve of the mean dot product with the residual stream, over the tokens of a prompt but its
    first.

    0.5 is chance: a vector that controls a behavior need not detect it.
    """
    layer = vector.layers[0] if layer is None else layer
    scores: list[Tensor] = []
    for prompts in (positive, negative):
        rows = lm.rows(prompts, [""] * len(prompts))
        products = torch.zeros(len(rows))
        for some in lm.batches(rows, 16):
            tokens = lm.batch([rows[k] for k in some])
            mean = lm.capture(tokens, tokens.index > 0, [layer])[:, 0]
            products[some] = mean @ vector[layer].reshape(-1, vector.width)[0]
        scores.append(products)
    above = (scores[0][:, None] > scores[1]).float() + 0.5 * (scores[0][:, None] == scores[1]).float()
    return float(above.mean())


def angles(one: Sequence[SteeringVector], two: Sequence[SteeringVector]) -> tuple[float, ...]:
    """Principal angles between the spans of two sets of vectors, in degrees, smallest first; over the layers all share.

    Raises:
        VectorError: no vectors, a zero one, or no layer that all of them share.
    """
    if not one or not two:
        raise VectorError("no vectors to span anything", given=(len(one), len(two)), expected="at least one each")
    if any(not x.norm() > 0 for v in (*one, *two) for x in v.vectors.values()):
        raise VectorError("a zero vector spans nothing", expected="vectors that are not 0")
    shared = sorted(set.intersection(*({*v.layers} for v in (*one, *two))))
    if not shared:
        raise VectorError("no layer in common", given=[v.layers for v in (*one, *two)])
    spans = [np.stack([torch.cat([v[k].flatten() for k in shared]).double().numpy() for v in x], 1) for x in (one, two)]
    return tuple(sorted(float(x) for x in np.degrees(subspace_angles(*spans))))


@torch.no_grad()
def sensitivity(
    lm: LM, layer: Layer, prompts: Sequence[Prompt], to: Layer | None = None, *, step: float = 0.01, batch: int = 64
) -> Float[Tensor, "d d"]:
    """How the last prompt token's stream after block `to` (the last, by default) answers to a small addition at every
    token after block `layer`: the mean over prompts of J^T J, of the Jacobian J by central differences.

    For a direction u, sqrt(u^T S u) is how far the stream moves for each unit along it.

    Args:
        step: of the differences, in medians of the residual norm.

    Raises:
        VectorError: `to` is not above `layer`.
    """
    to = lm.n_layers - 1 if to is None else to
    if not layer < to:
        raise VectorError("no block between", given=(layer, to), expected="a layer below the other")
    rows = lm.rows(prompts, [""] * len(prompts))
    length = step * lm.norms(rows, [layer])[layer]
    units = torch.cat([torch.eye(lm.width), -torch.eye(lm.width)]) * length
    total = torch.zeros(lm.width, lm.width)
    for row in rows:
        up, down = torch.cat([_pushed(lm, row, layer, to, some) for some in units.split(batch)]).chunk(2)
        jacobian = (up - down) / (2 * length)  # a row an input: (d, d)
        total += jacobian @ jacobian.T
    return total / len(rows)


def _pushed(lm: LM, row: Row, layer: Layer, to: Layer, by: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The stream of the last token after block `to`, with each addition at every token after block `layer`."""
    ends: list[Tensor] = []

    def push(h: Tensor, _: Frame) -> Tensor:
        return (h.float() + by[:, None].to(h.device)).to(h.dtype)

    def read(h: Tensor, _: Frame) -> Tensor:
        ends.append(h[:, -1].float().cpu())
        return h

    tokens = lm.batch([row] * len(by))
    lm.logits(tokens, {layer: push, to: read}, keep=[tokens.pivot - 1])
    return ends[0]


def curvature(
    lm: LM, what: Term | Objective, place: Place, vector: SteeringVector, count: int = 3, *, step: float = 1e-2
) -> tuple[float, ...]:
    """The largest eigenvalues of the Hessian of a loss at a vector, in nats per squared norm, largest first: how
    steeply it rises in the steepest directions.

    By Lanczos on central differences of the gradient.

    Args:
        count: how many; fewer than the width.
        step: of the differences, in norms of the vector.
    """
    losses, v = Losses(lm, [Problem(what, place)], 32), place.rows(vector)
    apart = step * max(float(v.norm()), 1e-6)

    def product(x: NDArray[np.float64]) -> NDArray[np.float64]:
        along = torch.as_tensor(x.reshape(v.shape), dtype=v.dtype)
        move = along / along.norm().clamp(min=1e-12) * apart
        up, down = losses.at({0: torch.stack([v + move, v - move])}, gradients={0}).gradients[0]
        return ((up - down) / (2 * apart) * along.norm()).flatten().double().cpu().numpy()

    operator = LinearOperator((v.numel(), v.numel()), matvec=product, dtype=np.float64)  # type: ignore[call-arg]
    start = np.random.default_rng(0).normal(size=v.numel())
    found = eigsh(operator, k=count, which="LA", v0=start, tol=1e-2, maxiter=50, return_eigenvectors=False)  # type: ignore[arg-type]
    return tuple(sorted((float(x) for x in found), reverse=True))


def plane(
    lm: LM,
    what: Term | Objective,
    place: Place,
    center: SteeringVector,
    axes: tuple[SteeringVector, SteeringVector],
    *,
    reach: float = 1.0,
    points: int = 9,
) -> Float[Tensor, "points points"]:
    """Losses (nats) around a vector in the plane of two others: rows go along the first axis, columns along the part of
    the second that is orthogonal to it.

    Args:
        reach: how far it goes to each side, in norms of the center.
        points: along each axis.
    """
    v, one, two = (place.rows(x) for x in (center, *axes))
    one = one / one.norm()
    two = two - (two * one).sum() * one
    two = two / two.norm().clamp(min=1e-12)
    ticks = torch.linspace(-reach, reach, points) * v.norm()
    grid = torch.stack([v + a * one + b * two for a in ticks for b in ticks])
    losses = Losses(lm, [Problem(what, place)], 32)
    return losses.weighted(0, losses.at({0: grid}, gradients=set()).terms[0]).reshape(points, points)
