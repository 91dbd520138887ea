"""What is known of a vector before it is measured: its forecast, how well its training pairs agree, what may mislead.
No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data.confounds import Confounds
from trimtab.statistics.intervals import Figure


@dataclass(frozen=True)
class Coherence:
    """What the training differences alone say about a vector (numbers of arXiv 2505.22637): no run of the model is
    needed.

    Attributes:
        cosine: mean cosine of the pairs' differences with their mean.
        separation: d', the distance of positive from negative activations along the vector, in pooled standard
            deviations.
    """

    cosine: float
    separation: float


@dataclass(frozen=True)
class Card:
    """What to expect of a vector, before it is measured.

    Attributes:
        slope, anti: forecast mean slope, and share of items that will move the wrong way.
        coherence: of the training pairs.
        confounds: of the data.
        warnings: what may mislead.
    """

    slope: Figure
    anti: Figure
    coherence: Coherence
    confounds: Confounds
    warnings: tuple[str, ...]
