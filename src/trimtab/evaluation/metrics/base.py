"""What metrics share: the reading of a pair that they are taken from."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trimtab.data.pairs import Pair


@dataclass(frozen=True)
class Reading:
    """Log-probabilities of one pair under c conditions, in nats.

    Attributes:
        pair: the item.
        answer: (c, v) distribution at the answer position: where an A/B question is answered by a letter, else the
            first completion token.
        unsteered: (v,) the same without steering, system prompt as in the data.
        letters: token ids of the two answers at the answer position (positive, negative).
        positive, negative: (c, m), (c, n) log-probability of each completion token; None where no metric asked for
            whole completions.
    """

    pair: Pair
    answer: Float[Tensor, "c v"]
    unsteered: Float[Tensor, " v"]
    letters: tuple[int, int]
    positive: Float[Tensor, "c m"] | None = None
    negative: Float[Tensor, "c n"] | None = None


class Metric:
    """A frozen dataclass whose fields are its parameters."""

    def whole(self, pair: Pair) -> bool:
        """Whether the log-probabilities of whole completions are needed, or the answer position alone will do."""
        return False

    def unit(self, pair: Pair) -> str:
        raise NotImplementedError

    def value(self, reading: Reading) -> Float[Tensor, " c"]:
        """One number per condition; NaN where the metric does not apply to the pair."""
        raise NotImplementedError


def is_choice(pair: Pair) -> bool:
    """Whether a pair is an A/B question answered by a letter."""
    return "matching_letter" in pair.meta and pair.positive[:1] == "("
