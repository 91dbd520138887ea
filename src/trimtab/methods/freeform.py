from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.methods import Activations, ContrastMethod, Read
from trimtab.registry import register


@register("method", "freeform")
@dataclass(frozen=True)
class Freeform(ContrastMethod):
    """Mean difference of free-form answers read at their last token but one, with a layer chosen by divergence (Wang & Shu 2023, TA2).

    Every layer's figures hold its `divergence`: the Jensen-Shannon divergence of the two residual streams, each put through a softmax over its
    coordinates, averaged over pairs (nats). The published choice is the largest among the first half of the layers: `Freeform.chosen`.
    (The published code passes probabilities where log-probabilities are due; this is the definition.)
    """

    read: Read = "penultimate"

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        return acts.mean_difference()

    def figures(self, acts: Activations) -> Mapping[str, Any]:
        return {str(k): {"divergence": d} for k, d in zip(acts.layers, divergence(acts).tolist(), strict=True)}

    @staticmethod
    def chosen(acts: Activations, n_layers: int) -> int:
        """The layer the publication would take."""
        found = divergence(acts)
        early = [k for k, layer in enumerate(acts.layers) if layer <= n_layers // 2] or list(range(len(acts.layers)))
        return acts.layers[max(early, key=lambda k: float(found[k]))]


def divergence(acts: Activations) -> Float[Tensor, " l"]:
    """Jensen-Shannon divergence between the softmax of both streams of a pair, mean over pairs, per layer: from 0 to ln 2."""
    one, two = acts.positive.double().log_softmax(-1), acts.negative.double().log_softmax(-1)
    both = torch.stack([one, two]).logsumexp(0) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    apart = [(x.exp() * (x - both)).sum(-1) for x in (one, two)]
    return torch.stack(apart).mean(0).mean(0).float()
