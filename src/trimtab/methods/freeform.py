from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations, Read
from trimtab.registry import register

log = logging.getLogger("trimtab")


@register("method", "freeform")
@dataclass(frozen=True)
class Freeform(ContrastMethod):
    """Mean difference of free-form answers read at their last token but one, with a layer chosen by divergence (Wang &
    Shu 2023, TA2).

    Every layer's figures hold its `divergence`: the Jensen-Shannon divergence of the two residual streams, each put
    through a softmax over its coordinates, averaged over pairs (nats). The published choice is the largest among the
    first half of the layers: `Freeform.chosen`. (The published code passes probabilities where log-probabilities are
    due; this is the definition.)

    They also hold how many of these softmaxes are `saturated`: where one coordinate has 0.99 and more, as residual
    streams with a few large coordinates do from the first blocks on, the divergence is 0 whatever the answers say,
    and the choice is made among the layers that are left.

    Attributes:
        read: see mean-diff.
    """

    read: Read = "penultimate"

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        return acts.mean_difference()

    def figures(self, acts: Activations) -> Mapping[str, Any]:
        by_layer = zip(acts.layers, divergence(acts).tolist(), saturated(acts).tolist(), strict=True)
        return {str(k): {"divergence": d, "saturated": s} for k, d, s in by_layer}

    @staticmethod
    def mute(acts: Activations, n_layers: int) -> list[int]:
        """Layers of the first half that have no say in the choice: half of their softmaxes are saturated, or more."""
        return [
            layer
            for layer, s in zip(acts.layers, saturated(acts).tolist(), strict=True)
            if layer <= n_layers // 2 and s >= 0.5
        ]

    @staticmethod
    def chosen(acts: Activations, n_layers: int) -> int:
        """The layer the publication would take; a warning where most layers had no say."""
        divergences, mute = divergence(acts), Freeform.mute(acts, n_layers)
        early = [k for k, layer in enumerate(acts.layers) if layer <= n_layers // 2] or list(range(len(acts.layers)))
        if mute:
            log.warning(
                "Freeform chooses among %d of %d layers: the softmax over coordinates sits on one of them at layers %s",
                len(early) - len(mute),
                len(early),
                ", ".join(map(str, mute)),
            )
        return acts.layers[max(early, key=lambda k: float(divergences[k]))]


def saturated(acts: Activations) -> Float[Tensor, " l"]:
    """Share of the streams whose softmax over coordinates puts 0.99 and more on one of them, per layer: there the
    divergence says nothing.
    """
    peaks = torch.stack([x.double().softmax(-1).amax(-1) for x in (acts.positive, acts.negative)])
    return (peaks >= 0.99).float().mean((0, 1))


def divergence(acts: Activations) -> Float[Tensor, " l"]:
    """Jensen-Shannon divergence between the softmax of both streams of a pair, mean over pairs, per layer: from 0 to
    ln 2.
    """
    one, two = acts.positive.double().log_softmax(-1), acts.negative.double().log_softmax(-1)
    both = torch.stack([one, two]).logsumexp(0) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    apart = [(x.exp() * (x - both)).sum(-1) for x in (one, two)]
    return torch.stack(apart).mean(0).mean(0).float()
