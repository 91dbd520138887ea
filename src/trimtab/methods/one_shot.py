from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab import registry
from trimtab.data.datasets import Dataset
from trimtab.errors import DataError, RecipeError, UnknownName, check_least
from trimtab.methods.base import FewShot, Fit
from trimtab.model import LM, Layer
from trimtab.model.positions import Positions
from trimtab.optimize import (
    Ball,
    Descent,
    MaxSteps,
    Objective,
    Place,
    Problem,
    Promote,
    Start,
    Stopper,
    Suppress,
    Target,
    optimize,
    signals,
)
from trimtab.optimize.objectives import Messages
from trimtab.progress import Progress
from trimtab.registry import register
from trimtab.sites import EMBEDDINGS, RESID_POST, SITES
from trimtab.steering.use import POSITIONS

Mode = Literal["promote", "suppress", "mixed"]
YARDSTICK = 8  # rows over which the residual norm is taken
HELD_OUT = 4  # pairs on which the loss is foreseen


@register("method", "one-shot")
@dataclass(frozen=True)
class OneShot(FewShot):
    """Gradient descent on a single example, or on a few (Dunefsky & Cohan 2025).

    With a prompt it makes some texts likely there and others unlikely, and needs no data. Without one it takes the
    first pairs of the data. Every layer gets a vector of its own that works alone, unless they are trained together.

    Attributes:
        prompt: what the model is asked; without it the first pairs of the data are taken.
        promote: texts to make likely after the prompt.
        suppress: texts to make unlikely there.
        system: a system message before the prompt.
        mode: of pairs of data: promote the positive completion, suppress the negative one, or both.
        examples: how many pairs of the data are taken.
        norm: largest norm, in medians of the residual stream's norm at the layer; longer vectors say the example, and
            break the rest.
        rate: learning rate, in largest norms over the square root of the width.
        steps: most steps of the descent.
        target: a loss (nats, summed over texts) at which the descent ends early.
        coldness: inverse temperature of the probabilities.
        operator: how the vector acts while it is trained.
        positions: which tokens are steered while it is trained.
        together: train the layers as one, to act together.
        chat: use the chat template; by default as the model was loaded.
        separator: between a plain prompt and its completion; by default as the model was loaded.
        site: resid_post, or embeddings: one vector for what enters the first block, whichever layers are asked for.
        resume: a folder; an interrupted descent goes on from there.
        seed: of the start.
    """

    prompt: str = ""
    promote: tuple[str, ...] = ()
    suppress: tuple[str, ...] = ()
    system: str | None = None
    mode: Mode = "promote"
    examples: int = 1
    norm: float = 0.1
    rate: float = 0.1
    steps: int = 50
    target: float | None = None
    coldness: float = 0.7
    operator: str = "add"
    positions: str = POSITIONS
    together: bool = False
    chat: bool | None = None
    separator: str | None = None
    site: str = "resid_post"
    resume: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("one-shot", 0, above=True, norm=self.norm, rate=self.rate, coldness=self.coldness)
        check_least("one-shot", 1, examples=self.examples, steps=self.steps)
        if self.mode not in get_args(Mode):
            raise UnknownName("mode", self.mode, get_args(Mode))
        if bool(self.prompt) != bool(self.promote or self.suppress):
            raise RecipeError(
                "a prompt needs texts to promote or suppress, and they a prompt",
                given={"prompt": self.prompt, "promote": self.promote, "suppress": self.suppress},
            )
        if self.site not in SITES:
            raise UnknownName("site", self.site, SITES)
        Positions.parse(self.positions)
        registry.make("operator", self.operator)

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        problems = self.problems(lm, data, layers)
        state = Path(self.resume) / f"descent-{'-'.join(map(str, layers))}.safetensors" if self.resume else None
        results = optimize(lm, problems, to=state, progress=progress)
        others = self.held_out(data)
        figures: dict[str, Any] = {}
        for problem, r in zip(problems, results, strict=True):
            measured = {k: x for k, x in signals(lm, problem, r, held_out=others).items() if not math.isnan(x)}
            figures |= {
                "embeddings" if layer is EMBEDDINGS else str(layer): {**r.describe(), "signals": measured}
                for layer in problem.place.layers
            }
        return Fit({layer: v for r in results for layer, v in r.vector.vectors.items()}, figures)

    def problems(self, lm: LM, data: Dataset | None, layers: Sequence[Layer]) -> list[Problem]:
        """What is optimized: one problem per layer, or one for all layers together."""
        goal = self.objective(data)
        rows = [row for _, term in goal.terms[:YARDSTICK] for row in term.rows(lm)]
        layers = layers if self.site == RESID_POST else [EMBEDDINGS]
        yardstick = lm.norms(rows, layers)
        places = [tuple(layers)] if self.together else [(layer,) for layer in layers]
        stop: tuple[Stopper, ...] = (
            (MaxSteps(self.steps),) if self.target is None else (Target(self.target), MaxSteps(self.steps))
        )
        out: list[Problem] = []
        for place in places:
            cap = self.norm * min(yardstick[layer] for layer in place)
            where = Place(place, registry.make("operator", self.operator), self.positions, site=self.site)
            descent = Descent(self.rate * cap / lm.width**0.5, stop)
            out.append(Problem(goal, where, (Ball(cap),), descent, Start(0.1 * cap, seed=self.seed)))
        return out

    def held_out(self, data: Dataset | None) -> Objective | None:
        """The same aim on a few pairs it does not learn from, if there are any."""
        rest = data.pairs[self.examples : self.examples + HELD_OUT] if data is not None and not self.prompt else ()
        return self.terms(
            [(p.asked, p.positive, True) if self.mode != "suppress" else (p.asked, p.negative, False) for p in rest],
            mean=True,
        )

    def objective(self, data: Dataset | None) -> Objective:
        """What the descent minimizes: the terms of the prompt, or of the first pairs of the data."""
        if self.prompt:
            texts: list[tuple[Messages, str, bool]] = [(self.prompt, text, True) for text in self.promote]
            texts += [(self.prompt, text, False) for text in self.suppress]
        elif data is None:
            raise DataError(
                "nothing to learn from", expected="a prompt with texts to promote or suppress, or a data set"
            )
        else:
            some = self.used(data)
            texts = [(p.asked, p.positive, True) for p in some if self.mode != "suppress"]
            texts += [(p.asked, p.negative, False) for p in some if self.mode != "promote"]
        goal = self.terms(texts)
        assert goal is not None
        return goal

    def terms(self, asked: Sequence[tuple[Messages, str, bool]], *, mean: bool = False) -> Objective | None:
        """Promotion (True) or suppression of texts after prompts; None if there are none."""
        kinds = {True: Promote, False: Suppress}
        weight = 1 / len(asked) if mean and asked else 1.0
        weighted = tuple(
            (weight, kinds[up](prompt, text, self.system, self.coldness, chat=self.chat, separator=self.separator))
            for prompt, text, up in asked
        )
        return Objective(weighted) if weighted else None
