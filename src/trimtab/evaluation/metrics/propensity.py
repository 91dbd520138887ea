from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trimtab.data.pairs import Pair
from trimtab.evaluation.metrics.base import Metric, Reading, is_choice
from trimtab.registry import register


@register("metric", "propensity")
@dataclass(frozen=True)
class Propensity(Metric):
    """How much the model leans to the behavior on one item; its slope over multipliers is the steerability (Tan et al.
    2024).

    Attributes:
        mode: letter: logit of the matching letter minus logit of the other, where the letter is said; sequence:
            log-probability of the positive completion minus that of the negative; auto: letter for A/B questions.
        per_token: of sequences: divide by the number of tokens.
    """

    mode: Literal["auto", "letter", "sequence"] = "auto"
    per_token: bool = True

    def _letter(self, pair: Pair) -> bool:
        return self.mode == "letter" or (self.mode == "auto" and is_choice(pair))

    def whole(self, pair: Pair) -> bool:
        return not self._letter(pair)

    def unit(self, pair: Pair) -> str:
        return "nats" if self._letter(pair) or not self.per_token else "nats/token"

    def value(self, reading: Reading) -> Tensor:
        if self._letter(reading.pair):
            yes, no = reading.letters
            return reading.answer[:, yes] - reading.answer[:, no]
        assert reading.positive is not None and reading.negative is not None
        if self.per_token:
            return reading.positive.mean(-1) - reading.negative.mean(-1)
        return reading.positive.sum(-1) - reading.negative.sum(-1)
