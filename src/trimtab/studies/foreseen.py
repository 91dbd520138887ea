"""What is told of the vectors of a study of reliability beside their slopes: what one backward pass over the questions
foretells of them, and of null vectors that choose their layer as they did; and what they cost on neutral text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from trimtab.data.datasets import Dataset
from trimtab.evaluation.forecast import Sensitivity, sensitivity
from trimtab.evaluation.nulls import null_slopes
from trimtab.methods.contrast import Activations
from trimtab.model import LM, Layer
from trimtab.optimize.predictors import NEUTRAL
from trimtab.progress import Progress
from trimtab.statistics.nulls import Compared, Null
from trimtab.steering.controls import in_span, shuffled, turned
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.reliability_facts import Neutral


def kept_sensitivity(path: Path, lm: LM, data: Dataset, positions: str, progress: Progress) -> Sensitivity:
    """Gradients of some questions, taken once and kept in a file."""
    if not path.is_file():
        sensitivity(lm, data, positions=positions, progress=progress).save(path)
    return Sensitivity.load(path)


def in_contexts(
    expected: Mapping[str, Sensitivity], vectors: Mapping[Condition, SteeringVector]
) -> dict[str, dict[str, float]]:
    """Mean forecast slope of each vector in each context: context -> name of the vector -> slope."""
    return {
        context: {str(c): float(x.mean()) for c, v in vectors.items() for x in seen.slopes(v).values()}
        for context, seen in expected.items()
    }


def compared(
    expected: Sensitivity, read: Activations, layers: Sequence[Layer], layer: Layer, draws: int, seed: int
) -> Compared:
    """The vector's forecast beside that of null vectors, which may choose among the layers that were swept:
    label-shuffled ones, for the verdict; and, to be told, random directions, and directions in the span of the
    training differences.

    (Those are orthogonal to the vector, not to the behavior: where it shows differently from pair to pair they hold
    some of it, and are as long as the vector.)
    """
    some, gradient = read.at(layers), expected.gradients.mean(0)[list(layers)]
    mean = some.mean_difference()
    drawn = {
        "random": partial(turned, mean),
        "shuffled": partial(shuffled, some.deltas, tied=some.tied),
        "span": partial(in_span, some.deltas),
    }
    slopes = {kind: null_slopes(draw, gradient, draws, seed) for kind, draw in drawn.items()}
    nulls = tuple(Null.of(kind, layers, s.numpy().astype(float)) for kind, s in slopes.items())
    mine = list(layers).index(layer)
    return Compared(str(layer), float(mean[mine] @ gradient[mine]), len(expected.items), "forecast", nulls)


def on_neutral_text(lm: LM, acting: Intervention) -> Neutral:
    """-log p per token of answers that have nothing to do with the behavior: without, and at -1 and 1."""
    prompts, texts = ([x[k] for x in NEUTRAL] for k in (0, 1))
    nats: dict[float, float] = {}
    for m in (0.0, -1.0, 1.0):
        with steer(lm, replace(acting, multiplier=m)):
            nats[m] = -float(torch.cat([x.flatten() for x in lm.logprobs(prompts, texts)]).mean())
    return Neutral(nats[0.0], nats[-1.0], nats[1.0])
