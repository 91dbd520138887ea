from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data.datasets import Dataset
from trimtab.errors import DataError, ModelError, check_least
from trimtab.methods.base import FewShot, Fit
from trimtab.model import LM, Layer
from trimtab.model.rendering import as_prompt
from trimtab.optimize import (
    Change,
    Constraint,
    Descent,
    MaxSteps,
    Objective,
    Orthogonal,
    Place,
    Problem,
    Sphere,
    Start,
    optimize,
)
from trimtab.optimize.objectives import Messages
from trimtab.progress import Progress
from trimtab.registry import register
from trimtab.steering.vector import SteeringVector


@register("method", "discover")
@dataclass(frozen=True)
class Discover(FewShot):
    """The vector of a given norm that changes a later layer most, on a few prompts, with no behavior in mind (MELBO,
    Mack & Turner 2024).

    Attributes:
        prompt: what the model is asked; without it the first pairs of the data are taken.
        examples: how many pairs of the data are taken.
        target_layer: the block after which the change is measured; by default halfway from the layer to the last.
        member: 0 is the first solution, 1 the best one orthogonal to it, and so on; earlier ones are found on the way.
        norm: of the vector, in medians of the residual stream's norm at the layer.
        rate: learning rate, in norms over the square root of the width.
        steps: of the descent.
        seed: of the start.
    """

    prompt: str = ""
    examples: int = 4
    target_layer: int | None = None
    member: int = 0
    norm: float = 0.5
    rate: float = 0.1
    steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("discover", 0, above=True, norm=self.norm, rate=self.rate)
        check_least("discover", 1, examples=self.examples, steps=self.steps)
        check_least("discover", 0, member=self.member)

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        prompts: list[Messages] = (
            [self.prompt] if self.prompt else [p.asked for p in self.used(data)] if data is not None else []
        )
        if not prompts:
            raise DataError("nothing to learn from", expected="a prompt, or a data set")
        if max(layers) >= lm.n_layers - 1 or (self.target_layer is not None and self.target_layer <= max(layers)):
            raise ModelError(
                "no later layer to change",
                given={"layers": list(layers), "target_layer": self.target_layer},
                expected=f"layers below {self.target_layer or lm.n_layers - 1}",
            )
        yardstick = lm.norms(lm.rows([as_prompt(p) for p in prompts]), layers)
        vectors: list[list[SteeringVector]] = [[] for _ in layers]
        figures: dict[str, dict[str, object]] = {}
        for member in range(self.member + 1):
            problems: list[Problem] = []
            for k, layer in enumerate(layers):
                norm = self.norm * yardstick[layer]
                to = (layer + lm.n_layers) // 2 if self.target_layer is None else self.target_layer
                goal = Objective(tuple((1 / len(prompts), Change(p, to)) for p in prompts))
                rules: tuple[Constraint, ...] = (
                    (Orthogonal(tuple(vectors[k])), Sphere(norm)) if member else (Sphere(norm),)
                )
                descent = Descent(self.rate * norm / lm.width**0.5, (MaxSteps(self.steps),))
                problems.append(Problem(goal, Place((layer,)), rules, descent, Start(norm, seed=self.seed + member)))
            for k, result in enumerate(optimize(lm, problems, progress=progress)):
                vectors[k].append(result.vector)
                figures[str(layers[k])] = dict(result.describe())
        return Fit({layer: vectors[k][-1][layer] for k, layer in enumerate(layers)}, figures)
