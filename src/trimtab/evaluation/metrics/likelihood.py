from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trimtab.data.pairs import Pair
from trimtab.evaluation.metrics.base import Metric, Reading
from trimtab.registry import register


@register("metric", "likelihood")
@dataclass(frozen=True)
class Likelihood(Metric):
    """Log-probability per token of one completion: shows whether a change of propensity raises the one or sinks the
    other.

    Attributes:
        of: which completion.
    """

    of: Literal["positive", "negative"] = "positive"

    def whole(self, pair: Pair) -> bool:
        return True

    def unit(self, pair: Pair) -> str:
        return "nats/token"

    def value(self, reading: Reading) -> Tensor:
        logp = reading.positive if self.of == "positive" else reading.negative
        assert logp is not None
        return logp.mean(-1)
