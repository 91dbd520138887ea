"""Why does a narrow vector misalign in general? The author's hypotheses, tested (Dunefsky 2025, discussion and future
work).

*Contextual importance*: a vector at low strength brings out what is general in it, at high strength it replaces the
context, and the narrow deed shows. Then a context that weighs more should give way at a higher strength. Measured over
strengths, with open questions as they are, after much other text, under a system line, and after exchanges of ordinary
questions and answers. *One shared direction*: are the vectors of different examples alike, and does subtracting one
lessen misbehavior that was asked for in words? *Landscape*: barriers between the vectors, curvature at each, the plane
of two of them. *Generality by regularization*: the same examples in several contexts, anchored, and with
sharpness-aware steps. *Other starts*: the angles between what two sets of descents from other starts span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from trimtab.answers.quality import Usual
from trimtab.answers.sampling import sample
from trimtab.errors import RecipeError, check_least
from trimtab.model import LM
from trimtab.model.tokens import Prompt
from trimtab.optimize import (
    Ascent,
    Descent,
    MaxSteps,
    Objective,
    Place,
    Plateau,
    Problem,
    Promote,
    Satisfice,
    Start,
    anchor,
    angles,
    cosines,
    curvature,
    optimize,
    path,
    plane,
)
from trimtab.optimize.predictors import neutral_ids
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.counts import share
from trimtab.statistics.intervals import Array
from trimtab.steering.vector import SteeringVector
from trimtab.studies.conditions import UNSTEERED, Condition, Said, conditions_of, texts_at, texts_of
from trimtab.studies.descents import BEFORE, Stacks, Vectors, at_strengths, cosines_apart, randoms, stacks
from trimtab.studies.narrow import TOWN, aim, check_rows, source
from trimtab.studies.pages.hypotheses import (
    HARM,
    LONG,
    ORDINARY,
    PLAIN,
    REGULARIZED,
    SHOTS,
    SYSTEM,
    At,
    Landscape,
    Later,
    Pair,
    Results,
    Setting,
    Span,
    Spoken,
    Valley,
    half_way,
)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        source: "town", "sloppy-code", or a TOML file of that layout.
        layer: of the vectors.
        share: of the instructed log-probability that is aimed at.
        examples, questions: at most.
        samples: answers to each question, at temperature 1.
        strengths: multipliers of the sweep.
        shots: exchanges of other questions and the model's own answers before the question.
        randoms: random directions.
        anchor: weight of the KL to the unsteered model on neutral text, of the anchored vectors.
        radius: of the sharpness-aware steps, in medians of the residual norm.
        points: of the plane of two vectors, along each axis.
        starts: descents of each harmful line from other starts, half of them against the other half.
        max_new_tokens: longest answer.
        steps: most steps of a descent.
        seed: of everything that is drawn.
    """

    source: str = TOWN
    layer: int = 2
    share: float = 0.75
    examples: int = 4
    questions: int = 8
    samples: int = 6
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    shots: int = 2
    randoms: int = 3
    anchor: float = 1.0
    radius: float = 0.1
    points: int = 9
    starts: int = 6
    max_new_tokens: int = 40
    steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("hypotheses", 1, questions=self.questions, samples=self.samples, shots=self.shots)
        check_least("hypotheses", 2, points=self.points)
        check_least("hypotheses", 2, examples=self.examples, starts=self.starts)
        if not self.strengths or min(self.strengths) <= 0:
            raise RecipeError("not strengths", given=self.strengths, expected="numbers above 0")


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        DataError, TokenError: no such source, or examples the model reads otherwise, before anything is run.
    """
    lm.layers([plan.layer])
    study = _Hypotheses(lm, run, plan)
    yield Stage("vectors", [Unit("vectors", {"examples": [e.snippet for e in study.source.examples]}, study.learned)])
    yield Stage("strengths", [Unit("other questions", {"questions": list(study.source.elsewhere)}, study.tried)])
    yield Stage("contexts", [
        *(Unit(f"questions, {s}", {"questions": study.source.questions}, partial(study.swept, s))
          for s in study.settings),
    ])  # fmt: skip
    yield Stage("answers", [
        Unit("subtracted", {"at": study.fitting}, study.subtracted),
        Unit("regularized", {"at": study.fitting}, study.regularized),
    ])  # fmt: skip
    yield Stage("landscape", [Unit("landscape", {}, study.landscape), Unit("other starts", {}, study.spans)])
    run.write(RESULTS, study.results())


class _Hypotheses:
    """The pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, run: Run, plan: Plan) -> None:
        self.lm, self.run, self.plan = lm, run, plan
        self.source = source(plan.source, plan.examples, plan.questions, plan.seed)
        check_rows(lm, self.source)
        if len(self.source.examples) < 2:
            raise RecipeError(f"{plan.source}: too few examples", given=1, expected="two or more")
        self.how = {"max_new_tokens": plan.max_new_tokens, "seed": plan.seed}

    # ------------------------------------------------------------ vectors

    def _aim(self, k: int, *, harmful: bool = True) -> Satisfice:
        return aim(self.lm, self.run, self.source.examples[k], self.plan.share, harmful=harmful)

    def _in_contexts(self, k: int) -> Objective:
        """The aim after several texts, as a mean."""
        e, level = self.source.examples[k], self._aim(k).level
        prompts = [(("user", text + e.asked), ("assistant", e.prefix)) for text in ("", *BEFORE)]
        terms = [Satisfice(Promote(p, e.snippet, coldness=1.0), level) for p in prompts]
        return Objective(tuple((1.0 / len(terms), t) for t in terms))

    @cached_property
    def goals(self) -> dict[Condition, Objective]:
        """Of every example its harmful and its ordinary line, and the harmful one regularized in three ways."""
        out: dict[Condition, Objective] = {}
        kept = anchor(neutral_ids(self.lm), self.plan.anchor)
        for k in range(len(self.source.examples)):
            alone = Objective.of(self._aim(k))
            ways = {"in contexts": self._in_contexts(k), "anchored": alone + kept, "sharpness-aware": alone}
            out[HARM.but(source=f"{k}")] = alone
            out[ORDINARY.but(source=f"{k}")] = Objective.of(self._aim(k, harmful=False))
            out |= {HARM.but(source=f"{k}", how=way): ways[way] for way in REGULARIZED}
        return out

    def learned(self, progress: Progress) -> tuple[Vectors, dict[Condition, float]]:
        """Their vectors, and the losses on the examples (nats)."""
        goals = self.goals
        problems = [self._problem(c, self.plan.seed) for c in goals]
        results = optimize(self.lm, problems, to=self.run.file("descent.safetensors"), progress=progress)
        vectors = {c: r.vector for c, r in zip(goals, results, strict=True)}
        return vectors, {c: r.raw[0] for c, r in zip(goals, results, strict=True)}

    def _problem(self, c: Condition, seed: int) -> Problem:
        """One descent, from the start of a seed."""
        plan, stop = self.plan, (Plateau(1e-4, 5), MaxSteps(self.plan.steps))
        noise = Ascent(plan.radius * self.size) if c.how == "sharpness-aware" else None
        how = Descent(0.05 * self.size / self.lm.width**0.5, stop, noise)
        return Problem(self.goals[c], Place((plan.layer,)), (), how, Start(0.05 * self.size, seed=seed))

    @cached_property
    def size(self) -> float:
        """Median residual norm over the examples."""
        rows = [row for goal in self.goals.values() for row in goal.terms[0][1].rows(self.lm)][:8]
        return self.lm.norms(rows, [self.plan.layer])[self.plan.layer]

    @cached_property
    def vectors(self) -> Vectors:
        """And random directions, as long as the first harmful one."""
        made, _ = self.learned(silent(""))
        return made | randoms(made[HARM.but(source="0")], self.plan.randoms, self.plan.seed)

    @property
    def even(self) -> Vectors:
        """The same with ordinary ones as long as the first harmful one: a control is no shorter."""
        length = self.vectors[HARM.but(source="0")].norm()[self.plan.layer]
        return {c: v.unit() * length if c.kind == ORDINARY.kind else v for c, v in self.vectors.items()}

    @property
    def plain(self) -> Vectors:
        """The harmful vectors as they are."""
        return {c: v for c, v in self.vectors.items() if c.kind == HARM.kind and not c.how}

    # ------------------------------------------------------------ contexts

    @cached_property
    def settings(self) -> dict[str, dict[str, Prompt]]:
        """The open questions in contexts that weigh more and more."""
        asked, others = self.source.questions, list(self.source.elsewhere)
        answer = partial(self.lm.generate, others, max_new_tokens=self.plan.max_new_tokens)
        own = dict(zip(others, self.run.kept("own.json", answer), strict=True))  # prompts are known by their text
        shown = list(own.items())[: self.plan.shots]
        before = [m for q, a in shown for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
        long, line = " ".join(own.values()) + " ", {"role": "system", "content": self.source.plain}
        return {
            PLAIN: {k: [_user(q)] for k, q in asked.items()},
            SYSTEM: {k: [line, _user(q)] for k, q in asked.items()},
            LONG: {k: [_user(long + q)] for k, q in asked.items()},
            SHOTS: {k: [*before, _user(q)] for k, q in asked.items()},
        }

    def swept(self, setting: str, progress: Progress) -> Said:
        """Answers in one context, under every harmful vector at every strength, and unsteered."""
        return self._swept(f"said-{setting.replace(' ', '-')}", self.settings[setting], progress)

    def tried(self, progress: Progress) -> Said:
        """The same to other questions."""
        return self._swept("tried", {f"{k}": [_user(q)] for k, q in enumerate(self.source.elsewhere)}, progress)

    def _swept(self, name: str, prompts: dict[str, Prompt], progress: Progress) -> Said:
        return self._said(name, {UNSTEERED: (), **at_strengths(self.plain, self.plan.strengths)}, prompts, progress)

    def _said(self, name: str, acting: Stacks, prompts: dict[str, Prompt], progress: Progress) -> Said:
        to, n = self.run.file(f"{name}.jsonl"), self.plan.samples
        return sample(self.lm, acting, prompts, n, to=to, progress=progress, **self.how)

    @cached_property
    def fitting(self) -> float:
        """The strength at which the harmful vectors misbehave most with other questions, among those at which half of
        the answers are text; the weakest if there is none.
        """
        said, names = self.tried(silent("")), [f"{k}" for k in range(len(self.source.elsewhere))]
        asked = [[_user(q)] for q in self.source.elsewhere for _ in range(self.plan.samples)]

        def texts(c: Condition) -> list[str]:
            return [t for k in names for t in said[k, c]]

        def rated() -> dict[str, float]:
            usual = Usual(self.lm, asked, texts(UNSTEERED))
            broken = {m: [usual.beside(texts(c.at(m))).broken for c in self.plain] for m in self.plan.strengths}
            return {f"{m:g}": 1 - float(np.mean(some)) for m, some in broken.items()}

        whole = self.run.kept("whole.json", rated)
        general = {m: self._at(said, m).general.share for m in self.plan.strengths if whole[f"{m:g}"] >= 0.5}
        return max(general, key=lambda m: general[m]) if general else min(self.plan.strengths)

    def _at(self, said: Said, strength: float | None) -> At:
        """Shares over all vectors at one strength; of the unsteered model for None."""
        texts = texts_at(said, strength)
        return At(strength or 0.0, share(map(self.source.general, texts)), share(map(self.source.narrow, texts)))

    def _flags(self, said: Said) -> tuple[Array, Array]:
        """Shares of general misbehavior: (questions, vectors, strengths), and unsteered (questions,)."""

        def share_of(texts: Sequence[str]) -> float:
            return float(np.mean([self.source.general(t) for t in texts]))

        asked, strengths = list(self.source.questions), self.plan.strengths
        steered = [[[share_of(said[q, c.at(m)]) for m in strengths] for c in self.plain] for q in asked]
        return np.array(steered), np.array([share_of(said[q, UNSTEERED]) for q in asked])

    def _later(self, plain: tuple[Array, Array], other: tuple[Array, Array]) -> Later:
        """Bootstrap over questions and vectors, the same ones in both contexts."""
        rng, (n, v, _) = np.random.default_rng(self.plan.seed), plain[0].shape

        def apart(questions: NDArray[np.intp], vectors: NDArray[np.intp]) -> float:
            ends: list[float] = []
            for steered, unsteered in (plain, other):
                shares = steered[np.ix_(questions, vectors)].mean((0, 1))
                ends.append(half_way(self.plan.strengths, shares.tolist(), float(unsteered[questions].mean())))
            return ends[1] - ends[0]

        drawn = np.array([apart(rng.integers(0, n, n), rng.integers(0, v, v)) for _ in range(1000)])
        value, there = apart(np.arange(n), np.arange(v)), ~np.isnan(drawn)
        if there.mean() < 0.95:  # a context in which it may not rise at all has no such strength
            return Later(value, float("nan"), float("nan"))
        lo, hi = np.quantile(drawn[there], [0.025, 0.975])
        return Later(value, float(lo), float(hi))

    # ------------------------------------------------------------ one direction, and regularized vectors

    def subtracted(self, progress: Progress) -> Said:
        """Where misbehavior is asked for in words: unsteered, with each harmful vector subtracted, and each random
        one.
        """
        line = {"role": "system", "content": self.source.system}
        prompts: dict[str, Prompt] = {k: [line, _user(q)] for k, q in self.source.questions.items()}
        acting = stacks({c: v for c, v in self.even.items() if not c.how}, -self.fitting)
        return self._said("subtracted", acting, prompts, progress)

    def regularized(self, progress: Progress) -> Said:
        """The open questions as they are, under every vector at the fitting strength."""
        return self._said("regularized", stacks(self.even, self.fitting), self.settings[PLAIN], progress)

    # ------------------------------------------------------------ landscape

    def landscape(self, progress: Progress) -> Landscape:
        """Barriers and cosines between harmful vectors, curvature at each, and the plane of the first two with the
        first one's loss. Kept in the folder.
        """
        name = "landscape.json"
        if self.run.read(name) is None:
            place, named = Place((self.plan.layer,)), list(self.plain.items())
            pairs: list[Pair] = []
            for i, (a, one) in enumerate(named):
                for b, two in named[i + 1 :]:
                    way = path(self.lm, self.goals[a], place, one, two, points=9)
                    pairs.append(Pair(a, b, _cosine(one, two), way.barrier, way.losses[0], way.losses[-1]))
            valleys: list[Valley] = []
            harmful = {c: v for c, v in self.vectors.items() if c.kind == HARM.kind}
            for c, v in harmful.items():
                top = curvature(self.lm, self.goals[HARM.but(source=c.source)], place, v, 3)
                valleys.append(Valley(c, v.norm()[self.plan.layer] / self.size, list(top)))
                progress(len(valleys), len(harmful))
            (a, one), (_, two) = named[:2]
            grid = plane(self.lm, self.goals[a], place, one, (one, two), points=self.plan.points)
            self.run.write(name, Landscape(pairs, valleys, grid.tolist()))
        return self.run.typed(name, Landscape)

    def spans(self, progress: Progress) -> list[Span]:
        """Angles between what the first and the last half of the starts of each example span; between two examples;
        and between as many random directions.
        """
        plan, half = self.plan, self.plan.starts // 2
        # no two descents begin alike, or their spans would share what is left of the start
        starts = iter(range(plan.seed + 1, plan.seed + 1 + 2 * half * len(self.plain)))
        problems = [self._problem(c, next(starts)) for c in self.plain for _ in range(2 * half)]
        found = [r.vector for r in optimize(self.lm, problems, to=self.run.file("starts.safetensors"),
                                            progress=progress)]  # fmt: skip
        of = {c: found[2 * half * n :][: 2 * half] for n, c in enumerate(self.plain)}
        drawn = list(randoms(found[0], 2 * half, plan.seed).values())
        out = [Span(f"{c}", _cosines_of(some), list(angles(some[:half], some[half:]))) for c, some in of.items()]
        one, two = list(of.values())[:2]
        out.append(Span("two examples", _cosines_of([one[0], two[0]]), list(angles(one[:half], two[:half]))))
        return [*out, Span("random", _cosines_of(drawn), list(angles(drawn[:half], drawn[half:])))]

    # ------------------------------------------------------------ what came out

    def results(self) -> Results:
        plan, quiet = self.plan, silent("")
        settings: list[Setting] = []
        swept = {name: self.swept(name, quiet) for name in self.settings}
        flags = {name: self._flags(said) for name, said in swept.items()}
        for name, said in swept.items():
            later = None if name == PLAIN else self._later(flags[PLAIN], flags[name])
            settings.append(Setting(name, self._at(said, None), [self._at(said, m) for m in plan.strengths], later))
        _, losses = self.learned(quiet)
        return Results(
            self.lm.id, plan.source, plan.layer, plan.samples, len(self.source.questions), plan.seed, self.fitting,
            settings, self._spoken(self.subtracted(quiet)), self._spoken(self.regularized(quiet)),
            {c.label: x for c, x in losses.items()}, self.landscape(quiet), self._cosines(), self.spans(quiet),
        )  # fmt: skip

    def _spoken(self, said: Said) -> list[Spoken]:
        out: list[Spoken] = []
        for c in conditions_of(said):
            texts = texts_of(said, c)
            out.append(Spoken(c, share(map(self.source.general, texts)), share(map(self.source.narrow, texts))))
        return out

    def _cosines(self) -> dict[str, float]:
        """Median cosine among harmful vectors, and of harmful with ordinary ones of other examples."""
        harm = list(self.plain.values())
        ordinary = [v for c, v in self.vectors.items() if c.kind == ORDINARY.kind]
        among = [_cosine(a, b) for i, a in enumerate(harm) for b in harm[i + 1 :]]
        across = [_cosine(a, b) for i, a in enumerate(harm) for j, b in enumerate(ordinary) if i != j]
        return {"harmful": _median(among), "harmful and ordinary": _median(across)}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _cosine(a: SteeringVector, b: SteeringVector) -> float:
    return float(cosines([a, b])[0, 1])


def _cosines_of(some: Sequence[SteeringVector]) -> float:
    """Median over pairs."""
    return float(np.median(cosines_apart(some)))


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else float("nan")
