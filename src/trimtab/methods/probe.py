from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from trimtab.errors import RecipeError
from trimtab.methods.base import ContrastMethod
from trimtab.methods.contrast import Activations, Read
from trimtab.registry import register


@register("method", "probe")
@dataclass(frozen=True)
class Probe(ContrastMethod):
    """Direction of a linear classifier of positive against negative activations.

    Attributes:
        kind: logistic regression without intercept on activations centered at each pair's midpoint (Tan et al. 2024,
            appendix); or whitened, a linear discriminant: the mean difference times the inverse of the pooled
            covariance, shrunk towards the identity by Ledoit & Wolf (2004).
        C: inverse of the L2 penalty of the logistic regression.
        read: see mean-diff.
    """

    kind: Literal["logistic", "whitened"] = "logistic"
    C: float = 1.0
    read: Read = "auto"

    def __post_init__(self) -> None:
        if self.C <= 0 or self.kind not in ("logistic", "whitened"):
            raise RecipeError("not a probe", given=(self.kind, self.C), expected='"logistic" or "whitened", and C > 0')

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        fit = self._logistic if self.kind == "logistic" else _whitened
        return torch.stack(
            [fit(acts.positive[:, k].double(), acts.negative[:, k].double()) for k in range(len(acts.layers))]
        ).float()

    def _logistic(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Both halves of a centered pair give the same term, so the loss is 2 C sum log(1 + exp(-w.delta/2)) + |w|^2
        / 2.
        """
        half = ((positive - negative) / 2).numpy()

        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            margin = half @ w
            value = 2 * self.C * np.logaddexp(0, -margin).sum() + w @ w / 2
            return float(value), w - 2 * self.C * (expit(-margin) @ half)

        optimum = minimize(
            loss,
            np.zeros(half.shape[1]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-8},
        )
        return torch.from_numpy(optimum.x)


def _whitened(positive: Tensor, negative: Tensor) -> Tensor:
    x = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    mean = positive.mean(0) - negative.mean(0)
    n, d = x.shape
    _, s, vh = torch.linalg.svd(x, full_matrices=False)
    spectrum = s**2 / n
    level = spectrum.sum() / d
    spread = (spectrum**2).sum() - d * level**2  # squared distance of the covariance from level * identity
    noise = ((x**2).sum(-1) ** 2).sum() / n**2 - (spectrum**2).sum() / n  # its own sampling error
    shrink = float((noise / spread).clamp(0, 1)) if spread > 0 else 1.0
    floor = shrink * level
    if not floor > 0:
        return mean
    inside = vh @ mean
    return mean / floor + (inside * (1 / ((1 - shrink) * spectrum + floor) - 1 / floor)) @ vh
