"""From a sentence to a vector one would use: the model writes the examples when asked for the behavior in words (after
Chen et al. 2025), several methods learn from them and compete at equal drift on validation questions, and the best one
is tried on questions that nothing was learned or chosen on, beside controls and beside asking in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from trimtab import registry
from trimtab.answers.contrasts import WORDINGS, Contrast, asked_for, first_words, instruction, sorted_out, under
from trimtab.answers.quality import Usual
from trimtab.answers.sampling import sample
from trimtab.data.builtin import everyday, neutral
from trimtab.data.datasets import Dataset, check_unseen
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, RecipeError, UnknownName, check_least
from trimtab.evaluation.dose import HeldOut, changes, recommend
from trimtab.evaluation.metrics import Propensity
from trimtab.journal import plain
from trimtab.methods import MeanDiff, OneShot, Preference, Probe, learn
from trimtab.methods.base import Method
from trimtab.model import LM, Layer
from trimtab.model.load import check
from trimtab.model.tokens import Prompt
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array, mean_figure
from trimtab.statistics.shipping import FEWEST, HELP, Trial, decide
from trimtab.steering.controls import null_controls, random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies.conditions import UNSTEERED, Condition, Said
from trimtab.studies.pages.auto import Candidate, Results, Scored
from trimtab.studies.pages.findings import Answer

METHODS: dict[str, Method] = {
    "mean-diff": MeanDiff(),
    "probe": Probe("whitened"),
    "one-shot": OneShot(examples=4, mode="promote", norm=0.3, steps=30),
    "preference": Preference(norm=0.3, epochs=4),
}
CONTRASTS = ("mean-diff", "probe")  # learned at all layers, at once
BUDGET = 0.3  # nats of drift a token at which the methods are compared
TALK = 12  # test questions that are answered
BESIDE = 4  # controls whose answers are read
EXAMPLES = 3  # answers that are shown instead of asking

ASKED, SHOWN = Condition("asked"), Condition("shown")
STEERED = Condition("steered")


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        sentence: what the model is to do, such as "answers like a cheerful pirate": it goes on from "somebody who ...".
        against: what it does else; by default it answers as it is.
        data: pairs to learn from instead of written ones: a built-in behavior or a file.
        writer: a model that writes the examples instead.
        questions: how many everyday questions are answered in two ways.
        methods: that compete.
        controls: vectors without the behavior that the effect has to be beyond.
        max_new_tokens: longest answer.
        seed: of everything that is drawn.
    """

    sentence: str
    against: str = ""
    data: str = ""
    writer: str = ""
    questions: int = 48
    methods: tuple[str, ...] = tuple(METHODS)
    controls: int = 20
    max_new_tokens: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sentence.strip():
            raise RecipeError("no sentence", given=self.sentence, expected='such as "answers like a cheerful pirate"')
        if self.sentence.strip().casefold() == self.against.strip().casefold():
            raise RecipeError("the behavior and its opposite are the same", given=self.sentence)
        for name in self.methods:
            if name not in METHODS:
                raise UnknownName("method", name, METHODS)
        if "mean-diff" not in self.methods:
            raise RecipeError("mean-diff says where the others look", given=self.methods, expected="it, among others")
        check_least("auto", 1, max_new_tokens=self.max_new_tokens, controls=self.controls)
        check_least("auto", FEWEST, questions=self.questions)
        if self.questions > len(everyday()):
            raise RecipeError("too many questions", given=self.questions, expected=f"at most {len(everyday())}")
        if self.writer:
            check(self.writer)


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model."""
    study = _Auto(lm, run, plan)
    if not plan.data:
        yield Stage("write", [Unit("answers", {}, study.written), Unit("contrasts", {}, study.contrasts)])
    if len(study.pairs) < FEWEST:
        run.write(RESULTS, study.nothing())
        return
    facts = {"data": study.data.hash}
    yield Stage("learn", [Unit(m, facts, partial(study.learned, m)) for m in plan.methods if m in CONTRASTS])
    yield Stage("descend", [Unit(m, facts, partial(study.learned, m)) for m in plan.methods if m not in CONTRASTS])
    chosen = {**facts, "vector": study.best.hash}
    yield Stage("test", [Unit("numbers", chosen, study.numbers), Unit("texts", chosen, study.texts)])
    yield Stage("read", [Unit("scores", chosen, study.scores)])
    results = study.results()
    run.write(RESULTS, results)
    evidence = plain({"verdict": results.kind, "sentence": plan.sentence, "trial": results.trial})
    replace(study.best, evidence=evidence).save(run.file("vector.safetensors"))


def _part(progress: Progress, before: int, total: int, done: int, of: int, words: str = "") -> None:
    """A part of some work as part of all of it."""
    progress(before + done, total, words)


class _Auto:
    """The pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, run: Run, plan: Plan) -> None:
        self.lm, self.run, self.plan = lm, run, plan
        self.name = "_".join(plan.sentence.split())[:40]

    # ------------------------------------------------------------ examples

    @cached_property
    def questions(self) -> list[str]:
        """Everyday ones, of all kinds, in an order drawn by the seed."""
        some = np.random.default_rng(self.plan.seed).permutation(len(everyday()))[: self.plan.questions]
        return [everyday()[k] for k in sorted(some)]

    def written(self, progress: Progress) -> tuple[list[list[str]], list[str]]:
        """To every question answers that are asked for the behavior, one in each wording, and one that is not."""
        plan, writer = self.plan, self.lm
        if plan.writer and not self.run.file("written", "against.jsonl").is_file():
            writer = LM.load(plan.writer)
        wordings = [instruction(plan.sentence, k) for k in range(len(WORDINGS))]
        asks = {f"{k} {q}": under(writer, told, q) for q in self.questions for k, told in enumerate(wordings)}
        turns = instruction(plan.against) if plan.against else ""
        plain = {q: under(writer, turns, q) for q in self.questions}
        total, said = len(asks) + len(plain), Said()
        for name, prompts, before in (("for", asks, 0), ("against", plain, len(asks))):
            said |= sample(
                writer, {UNSTEERED: ()}, prompts, 1, to=self.run.file("written", f"{name}.jsonl"), temperature=0.7,
                max_new_tokens=plan.max_new_tokens, seed=plan.seed, progress=partial(_part, progress, before, total),
            )  # fmt: skip
        told = [[said[f"{k} {q}", UNSTEERED][0].strip() for k in range(len(wordings))] for q in self.questions]
        return told, [said[q, UNSTEERED][0].strip() for q in self.questions]

    def contrasts(self, progress: Progress) -> list[Contrast]:
        """Of every question the answer that is the clearest contrast, and whether it is one, by the likelihoods of the
        model that will be steered.
        """

        def read() -> list[Contrast]:
            positives, negatives = self.written(silent(""))
            many = len(positives[0])
            rows = sorted_out(
                self.lm, self.plan.sentence, [q for q in self.questions for _ in range(many)],
                [text for some in positives for text in some], [text for text in negatives for _ in range(many)],
            )  # fmt: skip
            some = (rows[k * many : (k + 1) * many] for k in range(len(self.questions)))
            return [max(of, key=lambda c: (not c.why, np.nan_to_num(c.nats, nan=-np.inf))) for of in some]

        rows = self.run.kept("contrasts.json", read)
        kept_rows = [r for r in rows if not r["why"]]
        lines = [{"prompt": r["question"], "positive": r["positive"], "negative": r["negative"]} for r in kept_rows]
        self.run.write("pairs.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        progress(1, 1)
        return [Contrast(**r) for r in rows]

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        if self.plan.data:
            return Dataset.load(self.plan.data, form="answers").pairs
        found = [c for c in self.contrasts(silent("")) if not c.why]
        return tuple(Pair(c.question, c.positive, c.negative) for c in found)

    @cached_property
    def data(self) -> Dataset:
        return Dataset(self.name, self.pairs)

    @cached_property
    def parts(self) -> tuple[Dataset, Dataset, Dataset]:
        """Four parts in ten to learn on, two to choose on, four to test on."""
        splits = self.data.split(seed=self.plan.seed, train=0.4, val=0.2, test=0.4)
        return splits.train, splits.val, splits.test

    # ------------------------------------------------------------ the race

    def learned(self, name: str, progress: Progress) -> SteeringVector:
        """A method's vector, at its best layer on validation questions, with its dose measured there."""
        train, val, _ = self.parts
        method = METHODS[name]
        method = replace(method, seed=self.plan.seed) if "seed" in registry.describe(method) else method  # type: ignore[call-arg]
        layers = None if name in CONTRASTS else self._near(self.layer, one=name == "preference")
        file = self.run.file("vectors", f"{name}.safetensors")

        def made() -> SteeringVector:
            file = self.run.file("vectors", f"{name}-raw.safetensors")
            raw = kept(file, lambda: learn(self.lm, train, method, layers, progress=progress))
            if not any(raw.norm().values()):
                raise DataError(f"{name} found nothing in the pairs", do="leave it out: methods = [...]")
            return recommend(self.lm, raw, val, seed=self.plan.seed, progress=progress)

        return kept(file, made)

    @cached_property
    def layer(self) -> Layer:
        """Where the mean difference does best: the others look near it."""
        use = self.learned("mean-diff", silent("")).use
        assert use is not None
        return use.layers[0]

    def _near(self, layer: Layer, *, one: bool) -> list[Layer]:
        step = max(1, self.lm.n_layers // 8)
        some = {layer} if one else {layer - step, layer, layer + step}
        return sorted(k for k in some if 0 <= k < self.lm.n_layers)

    @cached_property
    def vectors(self) -> dict[str, SteeringVector]:
        return {m: self.learned(m, silent("")) for m in self.plan.methods}

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every method at equal drift, on validation questions."""
        out: list[Candidate] = []
        for name, v in self.vectors.items():
            use = v.use
            assert use is not None and use.dose is not None
            points = [p for p in use.dose.points if p.propensity is not None and p.lo is not None]
            rise = lo = control = float("nan")
            if points:
                x = [p.drift**0.5 for p in points]
                rise, lo, control = (
                    float(np.interp(BUDGET**0.5, x, [float(getattr(p, key) or 0.0) for p in points]))
                    for key in ("propensity", "lo", "control")
                )
            at = use.dose.at(use.multiplier)
            out.append(
                Candidate(
                    name, use.layers[0], use.multiplier, use.ship, rise, lo, control, at.drift if at else float("nan")
                )
            )
        return out

    @cached_property
    def winner(self) -> Candidate:
        """What is surest to raise the behavior at equal drift, of those that have a range they may be used in."""
        fit = [c for c in self.candidates if c.ship] or self.candidates
        return max(fit, key=lambda c: -np.inf if np.isnan(c.lo) else c.lo)

    @cached_property
    def best(self) -> SteeringVector:
        v = self.vectors[self.winner.method]
        assert v.use is not None
        return v.at(*v.use.layers)

    # ------------------------------------------------------------ the test

    @cached_property
    def controls(self) -> dict[str, SteeringVector]:
        """Vectors without the behavior: sides drawn by coin where the method has such, directions drawn at random."""
        nulls = null_controls(self.best, self.plan.controls // 2)
        return nulls | random_controls(self.best, self.plan.controls - len(nulls), self.plan.seed)

    def numbers(self, progress: Progress) -> dict[str, list[float]]:
        """The change of every test item's preference under the vector at its dose, and the mean under each control."""

        def read() -> dict[str, list[float]]:
            test = self.parts[2]
            check_unseen(self.best.made.trained_on, test, "the training data of the vector")
            iv = Intervention.recommended(self.best)
            ivs = [iv, *(replace(iv, vector=v) for v in self.controls.values())]
            deltas = changes(self.lm, ivs, HeldOut(test, Propensity()), [iv.multiplier])[:, 0]
            return {"vector": deltas[0].tolist(), "controls": deltas[1:].nanmean(-1).tolist()}

        found = self.run.kept("numbers.json", read)
        progress(1, 1)
        return found

    @cached_property
    def asked(self) -> dict[str, str]:
        """Test questions that are answered, by name."""
        return {f"question {k}": p.question for k, p in enumerate(self.parts[2].pairs[:TALK])}

    @cached_property
    def stacks(self) -> dict[Condition, tuple[Intervention, ...]]:
        """Unsteered; at the dose, at half of it, at the strongest one that keeps the text, and in the other direction;
        some controls.
        """
        iv = Intervention.recommended(self.best)
        m = iv.multiplier
        assert self.best.use is not None
        doses = {m / 2, m, -m, *([self.best.use.ship[1]] if self.best.use.ship else [])}
        out: dict[Condition, tuple[Intervention, ...]] = {UNSTEERED: ()}
        out |= {STEERED.at(x): (iv.times(x),) for x in sorted(doses)}
        names = list(self.controls)
        for name in [*names[: BESIDE // 2], *names[-(BESIDE - BESIDE // 2) :]]:
            out[Condition("control", source=name)] = (replace(iv, vector=self.controls[name]),)
        return out

    @property
    def dosed(self) -> Condition:
        return STEERED.at(Intervention.recommended(self.best).multiplier)

    def texts(self, progress: Progress) -> Said:
        """What is said to test questions under each, and to everyday prompts; the same asked for in words."""
        told = instruction(self.plan.sentence)
        few = [
            turn for p in self.parts[0].pairs[:EXAMPLES] for turn in (("user", p.question), ("assistant", p.positive))
        ]
        plain: Mapping[str, Prompt] = self.asked
        asks = {name: under(self.lm, told, q) for name, q in self.asked.items()}
        shown = {name: under(self.lm, "", q, few) for name, q in self.asked.items()}
        iv, out = Intervention.recommended(self.best), Said()
        for part, prompts, stacks in (
            ("plain", plain, self.stacks),
            ("asked", asks, {ASKED: (), ASKED.but(how="and steered"): (iv,)}),
            ("shown", shown, {SHOWN: ()}),
            ("unrelated", dict(zip(neutral(), neutral(), strict=True)), {UNSTEERED: (), self.dosed: (iv,)}),
        ):
            out |= sample(
                self.lm, stacks, prompts, 1, to=self.run.file("said", f"{part}.jsonl"), temperature=0.0,
                max_new_tokens=self.plan.max_new_tokens, seed=self.plan.seed, progress=progress,
            )  # fmt: skip
        return out

    def scores(self, progress: Progress) -> dict[str, list[float]]:
        """How much likelier each answer is when the behavior is asked for, by condition."""

        def read() -> dict[str, list[float]]:
            said, out = self.texts(silent("")), dict[str, list[float]]()
            for c in dict.fromkeys(c for name, c in said if name in self.asked):
                texts = [said[name, c][0] for name in self.asked]
                out[c.label] = asked_for(self.lm, self.plan.sentence, list(self.asked.values()), texts).tolist()
            return out

        found = self.run.kept("scores.json", read)
        progress(1, 1)
        return found

    # ------------------------------------------------------------ what came out

    def nothing(self) -> Results:
        """Nothing was learned: too few contrasts."""
        trial = Trial(len(self.pairs), self._asked_for())
        kind = decide(trial)
        return Results(
            self.lm.id, self.plan.sentence, kind, HELP[kind], trial, self._thrown(), [], None, [], self._examples(), [],
            self._first(), self.plan.seed,
        )  # fmt: skip

    def results(self) -> Results:
        trial = self.trial
        kind = decide(trial)
        said = self.texts(silent(""))
        every = [Scored(c.label, *self._text(c), *self._drawn(c, said)) for c in self._conditions(said)]
        shown = [UNSTEERED, self.dosed, ASKED]
        answers = [Answer(c, q, said[name, c][0]) for name, q in list(self.asked.items())[:10] for c in shown]
        aside = [
            Answer(c, p, said[p, c][0]) for p in list(neutral())[:4] for c in (UNSTEERED, self.dosed)
        ]  # fmt: skip
        return Results(
            self.lm.id, self.plan.sentence, kind, HELP[kind], trial, self._thrown(), self.candidates, self.winner,
            every, [*answers, *aside], self._parts_sizes(), self._first(), self.plan.seed,
        )  # fmt: skip

    @cached_property
    def trial(self) -> Trial:
        numbers, use = self.numbers(silent("")), self.best.use
        rise = mean_figure("rise of the preference", np.array(numbers["vector"], float), "nats/token")
        said, broken = self.texts(silent("")), self._broken()
        plain, asks = self._relative(UNSTEERED), self._relative(ASKED)
        mine, both = self._relative(self.dosed), self._relative(ASKED.but(how="and steered"))
        beside = [self._relative(c) for c in self._conditions(said) if c.kind == "control"]
        strongest = max((abs(float(np.nanmean(x - plain))) for x in beside), default=0.0)
        readable = float(np.nanmean(asks - plain)) > 0
        text = mean_figure("text", mine - plain, "of asking in words") if readable else None
        gain = mean_figure("gain over asking", both - asks, "of asking in words") if readable else None
        return Trial(
            len(self.pairs), self._asked_for(), rise, float(np.nanmax(np.abs(numbers["controls"]))),
            use is not None and use.ship is not None, broken, text, strongest, gain,
        )  # fmt: skip

    def _relative(self, condition: Condition) -> Array:
        """Scores as shares of what asking in words does on average: unsteered answers are at 0, asked ones at 1."""
        scores = {k: np.array(v, float) for k, v in self.scores(silent("")).items()}
        low, high = (float(np.nanmean(scores[c.label])) for c in (UNSTEERED, ASKED))
        return (scores[condition.label] - low) / max(abs(high - low), 1e-9)

    def _text(self, condition: Condition) -> tuple[float, float, float]:
        f = mean_figure("", self._relative(condition) - self._relative(UNSTEERED), "")
        return f.value, f.lo, f.hi

    def _drawn(self, condition: Condition, said: Said) -> tuple[float]:
        """The share of answers under a condition that break."""
        return (self._usual.beside([said[name, condition][0] for name in self.asked]).broken,)

    @cached_property
    def _usual(self) -> Usual:
        """The unsteered answers, which others are held against."""
        said = self.texts(silent(""))
        return Usual(self.lm, list(self.asked.values()), [said[name, UNSTEERED][0] for name in self.asked])

    def _broken(self) -> float:
        said = self.texts(silent(""))
        return self._drawn(self.dosed, said)[0] - self._drawn(UNSTEERED, said)[0]

    def _conditions(self, said: Said) -> list[Condition]:
        return list(dict.fromkeys(c for name, c in said if name in self.asked))

    def _asked_for(self) -> int:
        return len(self.pairs) if self.plan.data else len(self.questions)

    def _thrown(self) -> dict[str, int]:
        """Why questions were thrown out, and how many."""
        out: dict[str, int] = {}
        for c in () if self.plan.data else self.contrasts(silent("")):
            if c.why:
                out[c.why] = out.get(c.why, 0) + 1
        return out

    def _first(self) -> tuple[str, float]:
        return first_words([p.positive for p in self.pairs])

    def _examples(self) -> list[Answer]:
        rows: Sequence[Contrast] = [] if self.plan.data else self.contrasts(silent(""))[:6]
        return [Answer(c, r.question, t) for r in rows for c, t in ((ASKED, r.positive), (UNSTEERED, r.negative))]

    def _parts_sizes(self) -> list[int]:
        return [len(p) for p in self.parts]
