from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations, Read
from trimtab.registry import register


@register("method", "mean-diff")
@dataclass(frozen=True)
class MeanDiff(ContrastMethod):
    """Mean of (positive - negative) over the pairs, not normalized (Rimsky et al. 2024, CAA; Tan et al. 2024, section
    3).

    Attributes:
        read: which tokens of a completion are averaged over: all of it, the first that differs (the letter of an A/B
            question), the last, the one before it, or the one that names the next speaker; auto takes the letter of
            A/B questions and all of an answer.
    """

    read: Read = "auto"

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        return acts.mean_difference()
