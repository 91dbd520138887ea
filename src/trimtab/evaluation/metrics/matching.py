from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.data.pairs import Pair
from trimtab.evaluation.metrics.base import Metric, Reading, is_choice
from trimtab.registry import register


@register("metric", "matching")
@dataclass(frozen=True)
class Matching(Metric):
    """How likely the behavior's answer is beside the other one: the probability of the matching letter among the two
    (Rimsky et al. 2024, and the code published with Tan et al. 2024), or of the positive completion among the two.

    Attributes:
        hard: whether it is the likelier of the two, 1 or 0, and half where they are equal: its mean is the accuracy.
    """

    hard: bool = False

    def whole(self, pair: Pair) -> bool:
        return not is_choice(pair)

    def unit(self, pair: Pair) -> str:
        return "accuracy" if self.hard else "probability"

    def value(self, reading: Reading) -> Tensor:
        if is_choice(reading.pair):
            yes, no = reading.letters
            lead = reading.answer[:, yes] - reading.answer[:, no]
        else:
            assert reading.positive is not None and reading.negative is not None
            lead = reading.positive.sum(-1) - reading.negative.sum(-1)
        return (lead.sign() + 1) / 2 if self.hard else lead.sigmoid()
