"""Every choice of a layer: by how steep its slopes are for sure, or by how likely its answers become both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.statistics.intervals import Array, Groups, mean_figure


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
    """The layer with the highest lower bound of the mean slope, averaged over data sets, among those that cost at most
    `budget` (or all, if none is that cheap).

    Args:
        cost: of each layer, such as nats of KL from the unsteered model.
    """
    layers = list(dict.fromkeys(layer for sweep in sweeps for layer in sweep.slopes))
    cheap = [k for k in layers if cost is None or cost[k] <= budget] or layers
    return max(cheap, key=lambda k: float(np.mean([s.bound(k) for s in sweeps if k in s.slopes])))


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
