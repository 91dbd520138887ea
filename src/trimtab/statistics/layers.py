"""Every choice of a layer: by how steep its slopes are for sure, or by how likely its answers become both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trimtab.statistics.intervals import Array, Groups, by_group, known, mean_figure


@dataclass(frozen=True)
class Sweep:
    """Slopes of the validation items of one data set at each layer, (n,) each; and the question of each item."""

    slopes: Mapping[int, Array]
    groups: Groups = None

    def bound(self, layer: int) -> float:
        """Lower 95 % bound of the mean slope; the mean itself, where there are too few questions for a bound."""
        f = mean_figure("", self.slopes[layer], "", groups=self.groups)
        return f.value if np.isnan(f.lo) else f.lo


def steepest(sweeps: Sequence[Sweep], cost: Mapping[int, float] | None = None, budget: float = float("inf")) -> int:
    """The layer with the highest lower bound of the mean slope over data sets, among those that cost at most `budget`
    (or all, if none is that cheap). Where no bound is above 0, the one with the highest mean: a layer that does nothing
    is sure of it, and would have the highest bound.

    The bound is that of the mean over data sets, whose errors are independent, and not the mean of their bounds: with
    six questions each, the bounds of twelve data sets that steer are all below 0, and that of their mean is not.

    Args:
        cost: of each layer, such as nats of KL from the unsteered model.
    """
    layers = list(dict.fromkeys(layer for sweep in sweeps for layer in sweep.slopes))
    cheap = [k for k in layers if cost is None or cost[k] <= budget] or layers
    figures = {k: _over([s for s in sweeps if k in s.slopes], k) for k in cheap}
    sure = [k for k in cheap if figures[k][1] > 0]
    return max(sure, key=lambda k: figures[k][1]) if sure else max(cheap, key=lambda k: figures[k][0])


def _over(sweeps: Sequence[Sweep], layer: int) -> tuple[float, float]:
    """Mean slope over data sets, and its lower 95 % bound: of one data set its own; of several Student's t, with the
    variances of their means added.
    """
    means = [float(np.nanmean(s.slopes[layer])) for s in sweeps]
    if len(sweeps) == 1:
        return means[0], sweeps[0].bound(layer)
    questions = [by_group(*known(s.slopes[layer], s.groups))[0] for s in sweeps]
    freedom = sum(len(q) - 1 for q in questions)
    mean, variance = float(np.mean(means)), sum(float(q.var(ddof=1)) / len(q) for q in questions if len(q) > 1)
    if not freedom:
        return mean, mean
    return mean, mean - float(stats.t.ppf(0.975, freedom)) * variance**0.5 / len(sweeps)


def likeliest(positive: Mapping[int, Array], negative: Mapping[int, Array]) -> int:
    """The layer at which answers become likeliest both ways: the positive ones with the vector added, the negative ones
    with it subtracted.

    (Margins, and slopes, would reward a vector that breaks the model; see LOG.md.)

    Args:
        positive, negative: (n, 3) log-probabilities per token at multipliers -1, 0 and 1, of each layer.
    """

    def gain(layer: int) -> float:
        up, down = positive[layer], negative[layer]
        return float((up[:, 2] - up[:, 1] + down[:, 0] - down[:, 1]).mean())

    return max(positive, key=gain)
