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
    AntiCorrelated,
    Ascent,
    Ball,
    Constraint,
    Descent,
    Factors,
    Gaussian,
    MaxSteps,
    Noise,
    Objective,
    Orthogonal,
    Place,
    Problem,
    Promote,
    Result,
    Sphere,
    Start,
    Stopper,
    Suppress,
    Tangent,
    Target,
    anchor,
    in_contexts,
    optimize,
    shorten,
    signals,
)
from trimtab.optimize.objectives import Messages
from trimtab.optimize.predictors import neutral_ids
from trimtab.progress import Progress
from trimtab.registry import register
from trimtab.sites import EMBEDDINGS, RESID_POST, SITES
from trimtab.steering.operators import Affine
from trimtab.steering.use import POSITIONS
from trimtab.steering.vector import SteeringVector

Mode = Literal["promote", "suppress", "mixed"]
Bound = Literal["ball", "sphere", "none"]
NoiseKind = Literal["none", "gaussian", "fading", "tangent", "relu", "anti-correlated", "sharpness-aware"]
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
        bound: ball, at most that norm; sphere, exactly that norm; none, as long as the descent makes it.
        start: length of the random vector the descent starts at, in largest norms.
        rate: learning rate, in largest norms over the square root of the width.
        steps: most steps of the descent.
        target: a loss (nats, summed over texts) at which the descent ends early.
        coldness: inverse temperature of the probabilities.
        operator: how the vector acts while it is trained.
        rank: of the matrix that is learned beside the vector; of the operator affine alone.
        matrix_alone: learn no vector beside the matrix.
        noise: around which vectors the gradient is taken: gaussian; fading, the same, falling to nothing over the
            steps; tangent, orthogonal to the gradient; relu, which lacks only what would lower the loss;
            anti-correlated (Anti-PGD); sharpness-aware (the worst one near).
        noise_size: expected length of that noise, in largest norms.
        noise_samples: draws of it a step.
        penalty: an L2 penalty: what the largest norm costs beside the losses, in nats.
        member: 0 is the first solution, 1 the best one orthogonal to it, and so on; earlier ones are found on the way.
        before: texts put before the prompt: the vector is to work behind each of them, and behind none.
        anchor: weight of the KL to the unsteered model on neutral prompts.
        shorten: steps in which the vector is then made as short as its losses allow (output-constrained steering).
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
    bound: Bound = "ball"
    start: float = 0.1
    rate: float = 0.1
    steps: int = 50
    target: float | None = None
    coldness: float = 0.7
    operator: str = "add"
    rank: int = 0
    matrix_alone: bool = False
    noise: NoiseKind = "none"
    noise_size: float = 0.1
    noise_samples: int = 1
    penalty: float = 0.0
    member: int = 0
    before: tuple[str, ...] = ()
    anchor: float = 0.0
    shorten: int = 0
    positions: str = POSITIONS
    together: bool = False
    chat: bool | None = None
    separator: str | None = None
    site: str = "resid_post"
    resume: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        above = {"norm": self.norm, "rate": self.rate, "coldness": self.coldness, "start": self.start}
        check_least("one-shot", 0, above=True, noise_size=self.noise_size, **above)
        check_least("one-shot", 1, examples=self.examples, steps=self.steps, noise_samples=self.noise_samples)
        check_least("one-shot", 0, rank=self.rank, member=self.member, anchor=self.anchor, shorten=self.shorten,
                    penalty=self.penalty)  # fmt: skip
        for field, kinds in (("mode", Mode), ("bound", Bound), ("noise", NoiseKind)):
            if getattr(self, field) not in get_args(kinds):
                raise UnknownName(field, getattr(self, field), get_args(kinds))
        if bool(self.prompt) != bool(self.promote or self.suppress):
            raise RecipeError(
                "a prompt needs texts to promote or suppress, and they a prompt",
                given={"prompt": self.prompt, "promote": self.promote, "suppress": self.suppress},
            )
        if self.site not in SITES:
            raise UnknownName("site", self.site, SITES)
        Positions.parse(self.positions)
        affine = isinstance(registry.make("operator", self.operator), Affine)
        if bool(self.rank) != affine or (self.matrix_alone and not affine):
            given = {"operator": self.operator, "rank": self.rank, "matrix_alone": self.matrix_alone}
            raise RecipeError(
                "a matrix is learned by the operator affine alone",
                given=given,
                expected="operator affine with rank 1 or more; or another one, and no matrix",
            )
        if self.penalty and (self.bound == "sphere" or self.matrix_alone):
            raise RecipeError(
                "an L2 penalty on a norm that cannot change",
                given={"penalty": self.penalty, "bound": self.bound, "matrix_alone": self.matrix_alone},
                expected="no penalty, or a ball",
            )
        if self.member and self.rank:
            raise RecipeError("no family of matrices", given={"member": self.member, "rank": self.rank})

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        state = Path(self.resume) / f"descent-{'-'.join(map(str, layers))}" if self.resume else None
        problems, results = self.solved(lm, data, layers, state, progress)
        others = self.held_out(data)
        figures: dict[str, Any] = {}
        for problem, r in zip(problems, results, strict=True):
            measured = {k: x for k, x in signals(lm, problem, r, held_out=others).items() if not math.isnan(x)}
            figures |= {
                "embeddings" if layer is EMBEDDINGS else str(layer): {**r.describe(), "signals": measured}
                for layer in problem.place.layers
            }
        return Fit({layer: v for r in results for layer, v in r.vector.vectors.items()}, figures)

    def solved(
        self,
        lm: LM,
        data: Dataset | None,
        layers: Sequence[Layer],
        state: Path | None = None,
        progress: Progress | None = None,
    ) -> tuple[list[Problem], list[Result]]:
        """The problems of the last member of the family, and what was found for each."""
        found: list[list[SteeringVector]] = []  # member -> problem
        problems, results = list[Problem](), list[Result]()
        for member in range(self.member + 1):
            problems = self.problems(lm, data, layers, found)
            to = state and state.with_name(f"{state.name}{f'-member-{member}' if member else ''}.safetensors")
            results = optimize(lm, problems, to=to, progress=progress)
            found.append([r.vector for r in results])
        if self.shorten:
            pairs = zip(problems, results, strict=True)
            results = [self.shortened(lm, p, r, progress) for p, r in pairs]
        return problems, results

    def shortened(self, lm: LM, problem: Problem, found: Result, progress: Progress | None) -> Result:
        """The shortest vector that does as well."""
        rate, target = problem.descent.rate, max(found.losses) + 0.01
        return shorten(lm, problem, found, steps=self.shorten, rate=rate, moving=True, slack=0.01, target=target,
                       progress=progress)  # fmt: skip

    def problems(
        self, lm: LM, data: Dataset | None, layers: Sequence[Layer], apart: Sequence[Sequence[SteeringVector]] = ()
    ) -> list[Problem]:
        """What is optimized: one problem per layer, or one for all layers together.

        Args:
            apart: earlier members of the family, each with a vector a problem, to be orthogonal to.
        """
        goal = self.objective(data)
        rows = [row for _, term in goal.terms[:YARDSTICK] for row in term.rows(lm)]
        layers = layers if self.site == RESID_POST else [EMBEDDINGS]
        yardstick = lm.norms(rows, layers)
        places = [tuple(layers)] if self.together else [(layer,) for layer in layers]
        stop: tuple[Stopper, ...] = (
            (MaxSteps(self.steps),) if self.target is None else (Target(self.target), MaxSteps(self.steps))
        )
        if self.anchor:
            goal += anchor(neutral_ids(lm), self.anchor)
        out: list[Problem] = []
        for k, place in enumerate(places):
            cap = self.norm * min(yardstick[layer] for layer in place)
            operator = registry.make("operator", self.operator)
            where = Place(place, operator, self.positions, rank=self.rank, site=self.site)
            rate, noise = self.rate * cap / lm.width**0.5, self._noise(cap, lm.width)
            descent = Descent(rate, stop, noise, penalty=self.penalty / cap**2)
            family = (Orthogonal(tuple(member[k] for member in apart)),) if apart else ()
            start = Start(self.start * cap, seed=self.seed + len(apart))
            out.append(Problem(goal, where, (*family, *self._constraints(cap)), descent, start))
        return out

    def _constraints(self, cap: float) -> tuple[Constraint, ...]:
        """What the vector may be, and the rows of a matrix, which are bounded as in the publication."""
        bounds: dict[Bound, tuple[Constraint, ...]] = {"ball": (Ball(cap),), "sphere": (Sphere(cap),), "none": ()}
        mine = (Ball(0.0),) if self.matrix_alone else bounds[self.bound]
        return (*mine, Factors()) if self.rank else mine

    def _noise(self, cap: float, width: int) -> Noise | None:
        """Where around the vector the gradient is taken; a normal draw of this scale is `noise_size` caps long."""
        length = self.noise_size * cap
        scale, n = length / width**0.5, self.noise_samples
        kinds: dict[NoiseKind, Noise] = {
            "gaussian": Gaussian(scale, n),
            "fading": Gaussian(scale, n, fading=self.steps),
            "tangent": Tangent(scale, n),
            "relu": Tangent(scale, n, downhill_only=True),
            "anti-correlated": AntiCorrelated(scale / 2**0.5, n),  # a difference of two draws
            "sharpness-aware": Ascent(length),
        }
        return kinds.get(self.noise)

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
        return in_contexts(goal, before=("", *self.before)) if self.before else goal

    def terms(self, asked: Sequence[tuple[Messages, str, bool]], *, mean: bool = False) -> Objective | None:
        """Promotion (True) or suppression of texts after prompts; None if there are none."""
        kinds = {True: Promote, False: Suppress}
        weight = 1 / len(asked) if mean and asked else 1.0
        weighted = tuple(
            (weight, kinds[up](prompt, text, self.system, self.coldness, chat=self.chat, separator=self.separator))
            for prompt, text, up in asked
        )
        return Objective(weighted) if weighted else None
