from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.data.pairs import Pair
from trimtab.evaluation.metrics.base import Metric, Reading
from trimtab.registry import register


@register("metric", "kl")
@dataclass(frozen=True)
class KL(Metric):
    """KL(unsteered || steered) of the distribution at the answer position: how far the model was moved, wanted or
    not.
    """

    def unit(self, pair: Pair) -> str:
        return "nats"

    def value(self, reading: Reading) -> Tensor:
        base = reading.unsteered
        return (base.exp() * (base - reading.answer)).sum(-1).clamp(min=0)
