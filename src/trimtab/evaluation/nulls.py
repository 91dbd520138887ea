"""compare(): a vector beside hundreds of vectors without the behavior in them, which could choose their layer as it
could.

Where a vector is added, the first-order effect of any vector is its product with the gradient of the propensity
(`forecast.py`), so that a pass over the items foretells all of them. What else an intervention may do (clamp, ablate,
gates) is measured instead, on fewer items, at multipliers -1 and 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.data.datasets import Dataset
from trimtab.evaluation.forecast import sensitivity
from trimtab.evaluation.metrics.base import Metric
from trimtab.evaluation.readings import chunks, values_under
from trimtab.model import LM, Layer, in_pieces
from trimtab.progress import Progress
from trimtab.sites import RESID_POST
from trimtab.statistics.nulls import DRAWS, LEAST, TOGETHER, Compared, Null
from trimtab.steering.controls import FEWEST, more, null_controls, random_controls, stacked, turned
from trimtab.steering.gates import Always
from trimtab.steering.interventions import Intervention
from trimtab.steering.operators import Add, Affine
from trimtab.steering.vector import SteeringVector

log = logging.getLogger("trimtab")
Draw = Callable[[int, int], Tensor]
FORECAST, MEASURED = 100, 24  # items at most, of either way


def compare(
    lm: LM,
    iv: Intervention,
    data: Dataset,
    metric: Metric,
    *,
    layer: Layer | None = None,
    choices: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Compared:
    """Compare an intervention with null vectors: its vector turned at random, and label-shuffled ones where the vector
    brought some.

    Args:
        iv: its vector may hold the layers that `layer` was chosen from: the nulls then have the same choice.
        data: items the vector was not learned on; the first hundred are looked at.
        layer: where it acts; by default at all layers of its vector together.
        choices: how many layers it was chosen from, where the vector holds that one alone.
    """
    compared = (
        _forecast(lm, iv, data.take(FORECAST), metric, layer, draws, seed, progress) if forecastable(iv) else None
    )
    if compared is None:
        compared = _measured(lm, iv, data.take(MEASURED), metric, layer, seed, progress)
        choices = max(choices, 1 if layer is None else len(iv.vector.layers))
    if choices == 1:
        return compared
    nulls = tuple(chosen_among(n, choices, seed) for n in compared.nulls)
    return replace(compared, nulls=nulls)


def forecastable(iv: Intervention) -> bool:
    """Whether the first-order effect of an intervention is its vector's product with a gradient: added to the stream,
    at every token of its positions.
    """
    plain = all(v.ndim == 1 for v in iv.vector.vectors.values())
    return (
        isinstance(iv.operator, Add | Affine) and plain and isinstance(iv.gate, Always) and iv.vector.site == RESID_POST
    )


def _forecast(
    lm: LM,
    iv: Intervention,
    data: Dataset,
    metric: Metric,
    layer: Layer | None,
    draws: int,
    seed: int,
    progress: Progress | None,
) -> Compared | None:
    """None where the model has no backward pass (kernels without one, too little memory)."""
    vector, layers = iv.vector, iv.vector.layers
    try:
        expected = sensitivity(lm, data, metric, positions=iv.positions, progress=progress)
    except (RuntimeError, NotImplementedError) as problem:
        log.warning(
            "no backward pass through %s (%s): null vectors are measured instead", lm.id, str(problem).splitlines()[0]
        )
        return None
    known = ~(expected.unsteered.isnan() | expected.gradients.isnan().flatten(1).any(1))
    gradient = expected.gradients[known].mean(0)[list(layers)]
    rows = stacked([vector], layers)[0]
    own, drawn = (rows * gradient).sum(-1), {"random": null_slopes(partial(turned, rows), gradient, draws, seed)}
    if len(vector.nulls) >= FEWEST:
        seen = (stacked(null_controls(vector).values(), layers) * gradient).sum(-1, keepdim=True)
        # normal combinations of slopes are slopes of normal combinations
        drawn["shuffled"] = more(seen, draws, seed)[..., 0]
    if layer is None:  # effects at several layers add up
        own, layers, drawn = (
            own.sum(0, keepdim=True),
            (TOGETHER,),
            {kind: s.sum(1, keepdim=True) for kind, s in drawn.items()},
        )
    key = TOGETHER if layer is None else layer
    nulls = [Null.of(kind, layers, s.numpy().astype(float)) for kind, s in drawn.items()]
    return Compared(str(key), float(own[layers.index(key)]), int(known.sum()), "forecast", tuple(nulls))


def null_slopes(draw: Draw, gradient: Float[Tensor, "l d"], draws: int, seed: int) -> Float[Tensor, "c l"]:
    """Forecast slopes of null vectors, drawn a few at a time; `draw` gives so many of them, (count, l, d), for a
    seed.
    """
    pieces = (draw(len(piece), 1000 * seed + piece[0]) for piece in in_pieces(range(draws), 64))
    return torch.cat([torch.einsum("cld,ld->cl", piece, gradient) for piece in pieces])


# ---------------------------------------------------------------- what cannot be forecast


def _measured(
    lm: LM, iv: Intervention, data: Dataset, metric: Metric, layer: Layer | None, seed: int, progress: Progress | None
) -> Compared:
    acting = iv if layer is None else replace(iv, vector=iv.vector.at(layer))
    drawn = {"random": list(random_controls(acting.vector, LEAST, seed).values())}
    if len(acting.vector.nulls) >= FEWEST:
        layers = acting.vector.layers
        drawn["shuffled"] = [
            SteeringVector(dict(zip(layers, v, strict=True)), site=acting.vector.site)
            for v in more(stacked(null_controls(acting.vector).values(), layers), LEAST, seed)
        ]
    every = [acting.vector, *(v for vectors in drawn.values() for v in vectors)]
    own, *rest = _slopes(lm, [replace(acting, vector=v) for v in every], data, metric, progress)
    key = TOGETHER if layer is None else str(layer)
    slopes = np.array(rest).reshape(len(drawn), LEAST, 1)
    return Compared(
        key, own, len(data), "measured", tuple(Null.of(kind, [key], s) for kind, s in zip(drawn, slopes, strict=True))
    )


def chosen_among(null: Null, choices: int, seed: int = 0) -> Null:
    """Null vectors known at one layer of several, as if each had so many independent tries (more than it would have at
    layers that are alike).
    """
    tries = np.random.default_rng(seed).integers(0, len(null.largest), (len(null.largest), choices))
    return replace(null, largest=tuple(np.array(null.largest)[tries].max(1).tolist()), tries=choices)


def _slopes(
    lm: LM, ivs: Sequence[Intervention], data: Dataset, metric: Metric, progress: Progress | None
) -> list[float]:
    """Mean over items of half the change of propensity from multiplier -1 to 1, of each intervention."""
    total, count, done = np.zeros(len(ivs)), 0, 0
    batches = chunks(lm, data, [metric], ivs[0].where)
    for _, piece, values, _ in values_under(lm, batches, ivs, metric, (-1.0, 1.0)):
        for k, of in zip(piece, values, strict=True):
            change = (of[:, 1] - of[:, 0])[~of.isnan().any(1)]
            total[k] += float(change.sum()) / 2
            count += len(change) if k == 0 else 0
        done += len(piece)
        if progress:
            progress(done, len(ivs) * len(batches))
    return (total / max(1, count)).tolist()
