from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data.pairs import Pair
from trimtab.evaluation.metrics.base import Metric, Reading, is_choice
from trimtab.registry import register


@register("metric", "outside-mass")
@dataclass(frozen=True)
class OutsideMass(Metric):
    """Probability of anything but the two answer letters, where the letter is said. NaN for free-form completions."""

    def unit(self, pair: Pair) -> str:
        return "probability"

    def value(self, reading: Reading) -> Tensor:
        if not is_choice(reading.pair):
            return torch.full(reading.answer.shape[:1], float("nan"))
        inside = reading.answer[:, list(reading.letters)].logsumexp(-1)
        return -torch.expm1(inside.clamp(max=0))
