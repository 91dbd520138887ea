"""Vectors beside each other: norms and cosines, the loss on the way from one to another, whether they detect what they
cause, and what more examples bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trimtab.data.datasets import Dataset
from trimtab.errors import DataError, VectorError
from trimtab.methods import OneShot
from trimtab.model import LM, Layer
from trimtab.model.tokens import Prompt
from trimtab.optimize import Objective, Place, Promote, cosines, detection, losses_of, optimize, path
from trimtab.progress import Progress
from trimtab.statistics.intervals import interval
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector


def geometry(vectors: Sequence[SteeringVector]) -> dict[str, Any]:
    """Norms by layer, and the matrix of cosines.

    Raises:
        VectorError: vectors of several widths.
    """
    if len({v.width for v in vectors}) > 1:
        raise VectorError(
            "vectors of different models",
            given=[f"width {v.width} ({v.made.model or 'unknown'})" for v in vectors],
            expected="one width",
        )
    return {
        "norm": [v.norm() for v in vectors],
        "cosine": [_rounded(row) for row in cosines(vectors).tolist()],
    }


def _rounded(row: Sequence[float]) -> list[float]:
    """The numbers to four decimals."""
    return [round(x, 4) for x in row]


def paths(lm: LM, goal: Objective, vectors: Sequence[SteeringVector], points: int = 20) -> dict[str, dict[str, Any]]:
    """Losses and barriers on the way from every vector to every earlier one: a barrier of 0 means that the two are
    connected (Dunefsky & Cohan 2025).
    """
    out: dict[str, dict[str, Any]] = {}
    for i, one in enumerate(vectors):
        for j in range(i):
            way = path(lm, goal, Place(one.layers), one, vectors[j], points=points)
            out[f"{i}-{j}"] = {"losses": list(way.losses), "barrier": way.barrier, "connected": way.connected}
    return out


def detections(
    lm: LM, vectors: Sequence[SteeringVector], positive: Sequence[Prompt], negative: Sequence[Prompt]
) -> list[float]:
    """Of every vector the area under the ROC curve as a detector of the positive prompts; 0.5 is chance."""
    return [detection(lm, v, positive, negative) for v in vectors]


@dataclass(frozen=True)
class Size:
    """Vectors of so many examples: on pairs they were not learned from, the rise of the positive answer's
    log-probability (nats per token).

    `values` has one mean for each vector; `lo` and `hi` bound their mean (95 %, over vectors).
    """

    examples: int
    values: tuple[float, ...]
    mean: float
    lo: float
    hi: float


def size_curve(
    lm: LM,
    data: Dataset,
    method: OneShot,
    layer: Layer,
    *,
    sizes: Sequence[int] = (1, 2, 4),
    draws: int = 3,
    held_out: int = 20,
    progress: Progress | None = None,
) -> list[Size]:
    """What more examples bring: vectors of 1, 2, 4, ... examples by one recipe, each number from several draws, all
    tried on the same other pairs.

    Raises:
        DataError: too few pairs for the largest number of examples and the pairs to try them on.
    """
    if len(data) < max(sizes) + 2:
        raise DataError(
            f"{data.name} has too few pairs for this curve", given=len(data), expected=f"at least {max(sizes) + 2}"
        )
    tried = data.pairs[-min(held_out, len(data) - max(sizes)) :]
    free = data.pairs[: len(data) - len(tried)]
    rng = np.random.default_rng(method.seed)
    terms = [Promote(p.asked, p.positive, coldness=1.0, per_token=True) for p in tried]
    plain = np.array([losses_of(lm, t)[0] for t in terms])
    out: list[Size] = []
    for n in sizes:
        values: list[float] = []
        for k in range(draws):
            some = tuple(free[j] for j in rng.permutation(len(free))[:n])
            (problem,) = replace(method, examples=n).problems(lm, replace(data, pairs=some), [layer])
            (result,) = optimize(lm, [problem])
            steered = np.array(
                [losses_of(lm, t, Intervention(result.vector, positions=method.positions))[0] for t in terms]
            )
            values.append(float((plain - steered).mean()))
            if progress:
                progress(len(out) * draws + k + 1, len(sizes) * draws)
        out.append(Size(n, tuple(values), float(np.mean(values)), *interval(np.array(values))))
    return out
