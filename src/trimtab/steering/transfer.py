"""A vector on another model: as it is where the width is the same, through a learned linear map where it is not.

What is known: vectors of a model work on its fine-tunes, quantized copies and translations (Cao et al. 2024, figure
3; Rimsky et al. 2024 for base to chat), and not on models trained apart, whose directions are unrelated even at equal
width. So measure the vector there before you trust it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import VectorError
from trimtab.model import LM, Layer
from trimtab.steering.vector import Provenance, SteeringVector

log = logging.getLogger("trimtab")


def onto(vector: SteeringVector, lm: LM) -> SteeringVector:
    """The same numbers for another model of the same width.

    Raises:
        VectorError: another width, or a layer the model does not have.
    """
    if vector.width != lm.width or max(vector.layers) >= lm.n_layers:
        raise VectorError(
            f"the vector cannot be carried to {lm.id} as it is",
            given=f"width {vector.width}, layers {list(vector.layers)}",
            expected=f"width {lm.width}, layers below {lm.n_layers}",
            do="learn a map between the two models: trimtab.steering.transfer.Map.fit",
        )
    log.warning(
        "carried from %s to %s: this works between relatives of one base model only; measure it there",
        vector.made.model,
        lm.id,
    )
    made = _carried(vector, {"name": "carried", "of": dict(vector.made.method)}, Provenance.of(lm))
    return SteeringVector(vector.vectors, made, site=vector.site)


@dataclass(frozen=True)
class Map:
    """A linear map from the residual stream of one model at a layer to that of another.

    Attributes:
        matrix: (d1, d2); a row vector h of the first model becomes h @ matrix.
        source, target: the layers.
        explained: share of the second model's variance it explains on texts it was not fitted on.
        model: provenance of a vector of the second model.
    """

    matrix: Float[Tensor, "d1 d2"]
    source: Layer
    target: Layer
    explained: float
    model: Provenance

    @classmethod
    def fit(
        cls,
        one: LM,
        two: LM,
        texts: Sequence[str],
        source: Layer,
        target: Layer,
        *,
        held_out: float = 0.2,
        ridges: Sequence[float] = (1e-3, 1e-2, 0.1, 1.0),
    ) -> Map:
        """Ridge regression between the mean streams of texts, centered; the ridge is chosen on texts left out.

        Args:
            texts: read by both models, each with its own tokenizer; some hundreds, like those the vector will meet.
            held_out: share of the texts that chooses the ridge and is explained.

        Raises:
            VectorError: too few texts.
        """
        n = int(len(texts) * (1 - held_out))
        if n < 8 or len(texts) - n < 2:
            raise VectorError(
                "too few texts for a map between two models", given=len(texts), expected="at least 10, better hundreds"
            )
        x, y = _streams(one, texts, source), _streams(two, texts, target)
        mean_x, mean_y = x[:n].mean(0), y[:n].mean(0)
        u, s, vt = torch.linalg.svd(x[:n] - mean_x, full_matrices=False)
        projected = u.T @ (y[:n] - mean_y)
        best, explained = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64), -torch.inf
        for ridge in ridges:
            matrix = vt.T @ ((s / (s**2 + ridge * float(s[0]) ** 2))[:, None] * projected)
            left = ((y[n:] - mean_y - (x[n:] - mean_x) @ matrix) ** 2).sum() / ((y[n:] - mean_y) ** 2).sum()
            if 1 - float(left) > explained:
                best, explained = matrix, 1 - float(left)
        return cls(best.float(), source, target, float(explained), Provenance.of(two))

    def carry(self, vector: SteeringVector) -> SteeringVector:
        """A vector of the first model at `source`, for the second at `target`.

        Raises:
            VectorError: the vector has no such layer.
        """
        method = {"name": "mapped", "of": dict(vector.made.method), "explained": self.explained}
        made = _carried(vector, method, self.model)
        return SteeringVector({self.target: vector[self.source] @ self.matrix}, made)


def _carried(vector: SteeringVector, method: Mapping[str, Any], to: Provenance) -> Provenance:
    """What is known of a vector, with the model it is carried to."""
    known = {k: getattr(vector.made, k) for k in ("data", "trained_on", "version", "figures", "among")}
    return replace(to, method=method, **known)


def _streams(lm: LM, texts: Sequence[str], layer: Layer) -> Float[Tensor, "n d"]:
    """Mean residual stream over the tokens of each text."""
    rows = [lm.row(t, chat=False) for t in texts]
    out: dict[int, Tensor] = {}
    for chosen in lm.batches(rows, 16):
        tokens = lm.batch([rows[k] for k in chosen])
        means = lm.capture(tokens, "everywhere", [layer])[:, 0]
        out.update({k: means[j] for j, k in enumerate(chosen)})
    return torch.stack([out[k] for k in range(len(texts))]).double()
