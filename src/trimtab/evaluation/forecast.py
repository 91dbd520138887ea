"""Forecast: how far any vector steers each item at every layer, from one backward pass per item, before any sweep.

The slope of propensity against the multiplier at 0 is the gradient of propensity with respect to the residual stream,
times the vector, summed over the steered tokens. It is exact for small multipliers; saturation is what it misses
(specification of Tan et al. 2024's successor studies).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.data.confounds import confounds
from trimtab.data.datasets import Dataset
from trimtab.evaluation.cards import Card, Coherence
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.metrics.base import Metric
from trimtab.evaluation.readings import Chunk, Readings, chunks
from trimtab.journal import whole
from trimtab.methods.contrast import Activations
from trimtab.model import LM, Frame, Layer, Positions, from_last_prompt_token
from trimtab.progress import Progress
from trimtab.statistics.intervals import Array, Groups, mean_figure, share_figure, spearman
from trimtab.statistics.slopes import anti_steerable
from trimtab.steering.vector import SteeringVector


@dataclass(frozen=True)
class Sensitivity:
    """Gradient of each item's propensity with respect to the residual stream, summed over the steered tokens.

    Attributes:
        items: ids of the pairs, in the order of the data.
        gradients: (n, l, d) fp32, in units of propensity per unit of residual stream.
        unsteered: (n,) propensity at multiplier 0.
    """

    items: tuple[str, ...]
    gradients: Float[Tensor, "n l d"]
    unsteered: Float[Tensor, " n"]

    def slopes(self, vector: SteeringVector) -> dict[Layer, Array]:
        """The forecast: slope of every item at each layer of the vector, (n,) each."""
        return {k: (self.gradients[:, k] @ v.float()).numpy().astype(float) for k, v in vector.vectors.items()}

    def along(self, directions: Float[Tensor, "m d"], layer: Layer) -> Array:
        """(n, m) slopes along many directions at one layer."""
        return (self.gradients[:, layer] @ directions.float().T).numpy().astype(float)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"gradients": self.gradients, "unsteered": self.unsteered}
        with whole(path) as aside:
            save_file(tensors, aside, {"items": " ".join(self.items)})

    @classmethod
    def load(cls, path: Path) -> Sensitivity:
        with safe_open(path, "pt") as file:
            return cls(
                tuple(file.metadata()["items"].split(" ")), file.get_tensor("gradients"), file.get_tensor("unsteered")
            )


def sensitivity(
    lm: LM,
    data: Dataset,
    metric: Metric | None = None,
    *,
    positions: Positions | str = from_last_prompt_token,
    progress: Progress | None = None,
) -> Sensitivity:
    """One forward and backward pass over the items of a data set, for all layers at once.

    Args:
        metric: what is differentiated; by default `Propensity()`.
        positions: the tokens that will be steered.
        progress: called with (items done, items in all).
    """
    metric, where = metric or Propensity(), Positions.parse(positions)
    gradients: dict[str, Tensor] = {}
    unsteered: dict[str, float] = {}
    for chunk in chunks(lm, data, [metric], where):
        values, by_pair = _backward(lm, chunk, metric, where)
        for j, pair in enumerate(chunk.pairs):
            gradients[pair.id], unsteered[pair.id] = by_pair[j], values[j]
        if progress:
            progress(len(gradients), len(data))
    ids = tuple(p.id for p in data)
    return Sensitivity(ids, torch.stack([gradients[k] for k in ids]), torch.tensor([unsteered[k] for k in ids]))


def _backward(lm: LM, chunk: Chunk, metric: Metric, where: Positions) -> tuple[list[float], Float[Tensor, "n l d"]]:
    """Propensity of every pair of a batch, and its gradient."""
    n, start = len(chunk.pairs), chunk.start(where)
    values: list[float] = []

    def score(logits: Float[Tensor, "b k v"]) -> Tensor:
        reading = Readings.of(chunk, logits[None])
        each = [metric.value(reading.at(j, reading))[0] for j in range(n)]
        values.extend(float(x.detach()) for x in each)
        return torch.stack(each).sum()

    gradients = lm.gradient(chunk.tokens, score, start, keep=chunk.keep)
    frame = Frame(chunk.tokens.index[:, start:], chunk.tokens.rows)
    steered = where.select(frame.index, frame.rows)[..., None].cpu()
    rows = torch.stack([(gradients[k].cpu() * steered).sum(1) for k in sorted(gradients)], 1)
    mine = [sorted({chunk.place[j], chunk.place[n + j]}) for j in range(n)]
    return values, torch.stack([rows[k].sum(0) for k in mine])


def coherence(acts: Activations, layer: Layer) -> Coherence:
    """Agreement of the training pairs at one layer."""
    at = acts.at([layer])
    delta = at.deltas[:, 0]
    v = delta.mean(0)
    cosine = float(torch.nn.functional.cosine_similarity(delta, v[None], dim=-1).mean())
    one, two = at.positive[:, 0] @ v, at.negative[:, 0] @ v
    spread = float(((one.var() + two.var()) / 2).sqrt())
    return Coherence(cosine, abs(float(one.mean() - two.mean())) / spread if spread > 0 else float("nan"))


def card(
    expected: Sensitivity, vector: SteeringVector, layer: Layer, acts: Activations, data: Dataset, groups: Groups = None
) -> Card:
    """Forecast of one vector at one layer on the items of `expected` (with the question of each), with warnings about
    the training data.
    """
    slopes = expected.slopes(vector.at(layer))[layer]
    confounders, agree = confounds(data), coherence(acts, layer)
    slope = mean_figure("forecast steerability", slopes, "per multiplier", groups=groups)
    warnings = list(confounders.warnings)
    if slope.lo <= 0 <= slope.hi:
        warnings.append("the forecast slope is not told apart from 0")
    if agree.cosine < 0.1:
        warnings.append(f"the training pairs hardly agree on a direction (mean cosine {agree.cosine:.2f})")
    return Card(
        slope,
        share_figure("forecast anti-steerable share", anti_steerable(slopes), groups=groups),
        agree,
        confounders,
        tuple(warnings),
    )


def borne_out(forecast: Array, truth: Array) -> dict[str, float]:
    """How good a forecast of slopes was: rank correlation over items, ratio of the means, and share of signs that
    agree.
    """
    known = ~(np.isnan(forecast) | np.isnan(truth))
    a, b = forecast[known], truth[known]
    ratio = float(b.mean() / a.mean()) if len(a) and a.mean() != 0 else float("nan")
    return {
        "spearman": spearman(a, b),
        "ratio": ratio,
        "sign": float((np.sign(a) == np.sign(b)).mean()) if len(a) else float("nan"),
        "n": len(a),
    }
