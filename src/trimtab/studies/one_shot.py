"""How far does a vector from a single example carry, and can that be foreseen? (Dunefsky & Cohan 2025.)

For each behavior: one vector per example, mode and norm, solved as one batch; the norm is that at which the positive
answers of validation questions become likeliest (a vector so long that it breaks the model still tells positive from
negative answers); vectors of more examples, and beside each the mean difference of the same pairs; mean differences of
1, 10 and all examples, at their own norm and at that of the one-shot vectors; random directions of that norm, as many
as there are examples; the model asked in words. All are measured on the same held-out questions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from trimtab.data.datasets import Dataset, Splits
from trimtab.data.pairs import Form, Pair
from trimtab.errors import RecipeError, check_least
from trimtab.evaluation.metrics import Likelihood, Propensity
from trimtab.evaluation.sweep import measure
from trimtab.methods import MeanDiff, OneShot
from trimtab.methods.contrast import Activations, Read, activations
from trimtab.methods.one_shot import Mode
from trimtab.model import LM
from trimtab.model.rendering import as_prompt
from trimtab.optimize import Result, optimize, sensitivity, signals
from trimtab.optimize.predictors import Probe
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.sites import RESID_POST
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.foresight import Carried, foreseen, picked
from trimtab.statistics.intervals import Array, mean_figure
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from trimtab.studies.descents import cosines_apart
from trimtab.studies.pages.one_shot import Cosines, Norm, Norms, Results, Vector, promoted, same_pairs

MODES: tuple[Mode, ...] = get_args(Mode)
DIFFERENCES = (1, 10)  # pairs of a mean difference, and all
PROBED = 16  # training pairs whose answers a vector is to tell apart

# by vector, the rise of propensity and of the positive answer's log-probability, per question
Effects = dict[str, tuple[Array, Array]]


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        behaviors: data sets.
        form: free answers, or A/B questions answered by letter; by default what a data set holds. (With letters a
            vector of one example may learn the letter.)
        layer: where the vectors act.
        examples: single examples per behavior; each gives a vector for every mode.
        read: where mean differences are learned; see `activations`.
        norms: largest norms to choose from, in medians of the residual norm.
        sizes: numbers of examples for the vectors of several.
        draws: vectors of each such number, each from other examples.
        one: the other settings of the vectors.
        train, val, test: shares of the split.
        seed: of everything that is drawn.
    """

    behaviors: tuple[str, ...] = ("french-answers", "formality", "agreeing-with-user")
    form: Form | None = None
    layer: int = 10
    examples: int = 4
    read: Read = "auto"
    norms: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    sizes: tuple[int, ...] = (2, 4)
    draws: int = 2
    one: OneShot = field(default_factory=lambda: OneShot(steps=40, positions="everywhere"))
    train: float = 0.2
    val: float = 0.2
    test: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("one-shot", 1, examples=self.examples, draws=self.draws, sizes=min(self.sizes, default=1))
        one = self.one
        if one.operator != "add" or one.member or one.shorten or one.site != RESID_POST or one.prompt:
            given = {"operator": one.operator, "member": one.member, "shorten": one.shorten, "site": one.site}
            raise RecipeError(
                "not a plain one-shot vector",
                given=given,
                expected="a vector that is added, of one example of the data",
                do="the study `techniques` compares the others",
            )


@dataclass(frozen=True)
class Trial:
    """One vector to learn: its kind, its number among those of the kind, with what and from what."""

    kind: str
    number: int
    method: OneShot
    data: Dataset

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"


Learned = Mapping[str, tuple[Trial, Result]]


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any model.

    Raises:
        RecipeError: fewer training pairs than examples.
    """
    bench = [_Bench(lm, run, plan, behavior) for behavior in plan.behaviors]
    for b in bench:
        most = max(plan.examples, *plan.sizes)
        if len(b.parts.train) < most:
            raise RecipeError(f"{b.behavior}: too few training pairs", given=len(b.parts.train), expected=most)
    yield Stage("norms", [
        Unit(f"{b.behavior}: descend, norm {n:g}", {"data": b.parts.train.hash, "norm": n}, partial(b.single, n))
        for b in bench
        for n in plan.norms
    ])  # fmt: skip
    yield Stage(
        "choice", [Unit(f"{b.behavior}: measure, val", {"data": b.parts.val.hash}, b.norm_effects) for b in bench]
    )
    yield Stage(
        "several", [Unit(f"{b.behavior}: descend, several", {"norm": b.chosen["promote"]}, b.several) for b in bench]
    )
    yield Stage("test", [
        *(Unit(f"{b.behavior}: measure, test", {"data": b.parts.test.hash}, b.test_effects) for b in bench),
        *(Unit(f"{b.behavior}: foresee", {"data": b.parts.train.hash}, b.foreseen) for b in bench),
    ])  # fmt: skip
    carried = [c for b in bench for c in b.carried()]
    run.write(
        RESULTS,
        Results(
            lm.id,
            plan.layer,
            plan.examples,
            plan.seed,
            plan.norms,
            [n for b in bench for n in b.norms()],
            [_described(c) for c in carried],
            [c for b in bench for c in b.cosines()],
            foreseen(carried),
            picked(carried),
            plan.sizes,
        ),
    )


@dataclass(frozen=True)
class _Bench:
    """The pieces of work for one behavior; each reads back what it has already done."""

    lm: LM
    run: Run
    plan: Plan
    behavior: str

    @cached_property
    def parts(self) -> Splits:
        plan = self.plan
        return Dataset.load(self.behavior, form=self.plan.form).split(
            seed=plan.seed, train=plan.train, val=plan.val, test=plan.test
        )

    # ------------------------------------------------------------ vectors

    def single(self, norm: float, progress: Progress) -> Learned:
        """One vector per mode and example, of one largest norm; the other pairs stand behind the example."""
        plan, train = self.plan, self.parts.train
        trials = [
            Trial(
                mode,
                k,
                replace(plan.one, mode=mode, norm=norm),
                replace(train, pairs=train.pairs[k:] + train.pairs[:k]),
            )
            for mode in MODES
            for k in range(plan.examples)
        ]
        return self._descended(f"norm {norm:g}", trials, progress)

    def several(self, progress: Progress) -> Learned:
        """Promotion of several examples at once. Each draw has its own order of the examples; the smaller numbers are
        the first of the larger.
        """
        plan, train, norm = self.plan, self.parts.train, self.chosen["promote"]
        trials: list[Trial] = []
        for n in plan.sizes:
            method = replace(plan.one, mode="promote", norm=norm, examples=n)
            trials += [Trial(promoted(n), k, method, replace(train, pairs=self._turned(k))) for k in range(plan.draws)]
        return self._descended(f"several at {norm:g}", trials, progress)

    def _turned(self, draw: int) -> tuple[Pair, ...]:
        """The training pairs in the order of a draw."""
        pairs = list(self.parts.train.pairs)
        random.Random(f"{self.plan.seed} {draw}").shuffle(pairs)
        return tuple(pairs)

    def _descended(self, label: str, trials: Sequence[Trial], progress: Progress) -> Learned:
        """The vectors of some trials, as one batch."""
        if not trials:
            return {}
        problems = [t.method.problems(self.lm, t.data, [self.plan.layer])[0] for t in trials]
        state = self.run.file(f"{self._stem}.{label.replace(' ', '-')}.safetensors")
        results = optimize(self.lm, problems, to=state, progress=progress)
        return {t.name: (t, r) for t, r in zip(trials, results, strict=True)}

    @property
    def _stem(self) -> str:
        return Path(self.behavior).stem

    @cached_property
    def by_norm(self) -> dict[float, Learned]:
        return {norm: self.single(norm, silent("")) for norm in self.plan.norms}

    # ------------------------------------------------------------ the choice of a norm

    def norm_effects(self, progress: Progress) -> Effects:
        """Of vectors of every norm on validation questions."""
        vectors = {
            f"{name} at {norm:g}": r.vector for norm, some in self.by_norm.items() for name, (_, r) in some.items()
        }
        return self._effects(vectors, self.parts.val, "val", progress)

    @cached_property
    def tried(self) -> dict[Mode, list[Norm]]:
        """For each mode and norm: effects (median over examples of the mean over validation questions), and loss."""
        effects = self.norm_effects(silent(""))
        out: dict[Mode, list[Norm]] = {}
        for mode in MODES:
            out[mode] = [self._tried(mode, norm, effects) for norm in self.plan.norms]
        return out

    def _tried(self, mode: Mode, norm: float, effects: Effects) -> Norm:
        names = [f"{mode}-{k}" for k in range(self.plan.examples)]
        rises = [effects[f"{name} at {norm:g}"] for name in names]
        return Norm(
            norm,
            effect=float(np.median([leaning.mean() for leaning, _ in rises])),
            answer=float(np.median([answer.mean() for _, answer in rises])),
            loss=float(np.median([self.by_norm[norm][name][1].loss for name in names])),
        )

    @cached_property
    def chosen(self) -> dict[Mode, float]:
        """The norm at which the positive answers become likeliest on validation questions."""
        return {mode: max(some, key=lambda n: n.answer).norm for mode, some in self.tried.items()}

    @cached_property
    def learned(self) -> Learned:
        """Single vectors at the norm chosen for their mode, and those of several examples."""
        single = {
            f"{mode}-{k}": self.by_norm[norm][f"{mode}-{k}"]
            for mode, norm in self.chosen.items()
            for k in range(self.plan.examples)
        }
        return {**single, **self.several(silent(""))}

    # ------------------------------------------------------------ the test

    def test_effects(self, progress: Progress) -> Effects:
        """Of the vectors, and of all they are compared with, on the test questions."""
        return self._effects(
            {**{name: r.vector for name, (_, r) in self.learned.items()}, **self.others},
            self.parts.test,
            "test",
            progress,
        )

    @cached_property
    def others(self) -> dict[str, SteeringVector]:
        """Mean differences, of the pairs of every draw too, and random directions as long as the promoted vectors."""
        layer, plan = self.plan.layer, self.plan
        length = float(np.median([r.vector.norm()[layer] for t, r in self.learned.values() if t.kind == "promote"]))
        even = SteeringVector({layer: torch.full((self.lm.width,), length / self.lm.width**0.5)})
        acts = activations(self.lm, self.parts.train, [layer], read=plan.read)
        out = _differences(acts, layer, length) | random_controls(even, max(3, plan.examples), plan.seed)
        place = {p.id: k for k, p in enumerate(self.parts.train)}
        for n in plan.sizes:
            for draw in range(plan.draws):
                some = [place[p.id] for p in self._turned(draw)[:n]]
                mean = acts.deltas[some].mean(0)[0]
                out[f"{same_pairs(n)}-{draw}"] = SteeringVector({layer: mean / mean.norm() * length})
        return out

    def foreseen(self, progress: Progress) -> dict[str, dict[str, float]]:
        """What was known of each learned vector before it was tested. Kept in the folder."""
        name = f"signals/{self._stem}.json"
        if self.run.read(name) is None:
            known, probe = {"mean difference": self.others["mean-diff of all"]}, self._probe()
            out: dict[str, dict[str, float]] = {}
            for vector, (t, r) in self.learned.items():
                problem = t.method.problems(self.lm, t.data, [self.plan.layer])[0]
                others = t.method.held_out(t.data)
                out[vector] = signals(self.lm, problem, r, held_out=others, known=known, probe=probe)
                progress(len(out), len(self.learned))
            self.run.write(name, out)
        return self.run.read(name)

    def _probe(self) -> Probe:
        """Training pairs with their answers, a few validation questions, and how the last stream answers to the layer
        where vectors act.
        """
        trained, asked = self.parts.train.pairs[:PROBED], [as_prompt(p.asked) for p in self.parts.val.take(4)]
        good, bad = ([_spoken(p, text) for p, text in zip(trained, texts, strict=True)]
                     for texts in ([p.positive for p in trained], [p.negative for p in trained]))  # fmt: skip
        layer, last = self.plan.layer, self.lm.n_layers - 1
        return Probe(good, bad, asked, sensitivity(self.lm, layer, asked[:2]) if layer < last else None)

    def _effects(self, vectors: Mapping[str, SteeringVector], data: Dataset, part: str, progress: Progress) -> Effects:
        """Under each vector at multiplier 1, and asked for in words."""
        first, *rest = vectors
        run = measure(
            self.lm,
            Intervention(vectors[first], positions=self.plan.one.positions),
            data,
            [Propensity(), Likelihood()],
            to=self.run.file(self._stem, part),
            multipliers=(0.0, 1.0),
            controls={name: vectors[name] for name in rest},
            part=part,
            progress=progress,
        )
        table = run.table(part)

        def rise(metric: str, name: str) -> Array:
            plain = table.curve(metric, "vector", None)[2][:, 0]
            return table.curve(metric, "vector" if name == first else name, None)[2][:, -1] - plain

        in_words = [c.name for c in run.conditions(part) if c.role == "asked"]
        return {name: (rise("propensity", name), rise("likelihood", name)) for name in (*vectors, *in_words)}

    # ------------------------------------------------------------ what came out

    def carried(self) -> list[Carried]:
        """How far every vector carries."""
        kinds = {name: t.kind for name, (t, _) in self.learned.items()}
        every = {**{name: r.vector for name, (_, r) in self.learned.items()}, **self.others}
        kinds |= {f"{same_pairs(n)}-{k}": same_pairs(n) for n in self.plan.sizes for k in range(self.plan.draws)}
        kinds |= {
            name: "random direction"
            for name, v in self.others.items()
            if v.made.method.get("name") == "random-direction"
        }
        norms, known = {name: v.norm()[self.plan.layer] for name, v in every.items()}, self.foreseen(silent(""))
        return [
            Carried(
                self.behavior, kinds.get(name, name), name, *effects, norms.get(name, float("nan")), known.get(name, {})
            )
            for name, effects in self.test_effects(silent("")).items()
        ]

    def norms(self) -> list[Norms]:
        return [
            Norms(self.behavior, mode, len(self.parts.val), self.chosen[mode], some)
            for mode, some in self.tried.items()
        ]

    def cosines(self) -> list[Cosines]:
        """Between the vectors of each kind that has several."""
        families: dict[str, list[SteeringVector]] = {}
        for t, r in self.learned.values():
            families.setdefault(t.kind, []).append(r.vector)
        for n in self.plan.sizes:
            families[same_pairs(n)] = [self.others[f"{same_pairs(n)}-{k}"] for k in range(self.plan.draws)]
        out: list[Cosines] = []
        for kind, vectors in families.items():
            apart = cosines_apart(vectors)
            if len(apart):
                out.append(
                    Cosines(self.behavior, kind, float(np.median(apart)), float(apart.max()), float(apart.min()))
                )
        return out


def _differences(acts: Activations, layer: int, length: float) -> dict[str, SteeringVector]:
    """Mean differences of a few and of all pairs, as they are and at a given norm."""
    out: dict[str, SteeringVector] = {}
    for n in (*DIFFERENCES, len(acts.positive)):
        some = Activations(acts.positive[:n], acts.negative[:n], acts.layers)
        name = f"mean-diff of {'all' if n == len(acts.positive) else n}"
        out[name] = SteeringVector(MeanDiff().fit_activations(some)).at(layer)
        out[f"{name}, equal norm"] = out[name].unit() * length
    return out


def _spoken(pair: Pair, text: str) -> list[dict[str, str]]:
    """A question with an answer put into the model's mouth."""
    said = (*pair.before, ("user", pair.prompt), ("assistant", text))
    return [{"role": role, "content": content} for role, content in said]


def _described(c: Carried) -> Vector:
    raised = float((c.effects > 0).mean())
    return Vector(
        c.behavior,
        c.kind,
        c.name,
        c.norm,
        mean_figure("effect", c.effects, "nats/token"),
        mean_figure("answer", c.said, "nats/token"),
        raised,
        dict(c.signals),
    )
