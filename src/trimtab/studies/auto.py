"""From a sentence to a vector one would use: the model writes the examples when asked for the behavior in words (after
Chen et al. 2025), several methods learn from them and compete at equal drift on validation questions, and the best one
is tried on questions that nothing was learned or chosen on, beside controls and beside asking in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import registry
from trimtab.answers.contrasts import WORDINGS, Contrast, asked_for, first_words, instruction, sorted_out, under
from trimtab.answers.quality import Usual
from trimtab.answers.sampling import sample
from trimtab.data.builtin import everyday, neutral
from trimtab.data.datasets import Dataset, check_unseen
from trimtab.data.pairs import Pair, digest
from trimtab.errors import DataError, TrimtabError
from trimtab.evaluation.dose import HeldOut, changes, recommend
from trimtab.evaluation.metrics import Propensity
from trimtab.journal import plain
from trimtab.methods import learn
from trimtab.model import LM, Layer
from trimtab.model.tokens import Prompt
from trimtab.progress import Progress, Watch, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array, Figure, mean_figure, ratio_of_means
from trimtab.statistics.shipping import FEWEST, HELP, Trial, decide
from trimtab.steering.controls import null_controls, random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies.asking import METHODS, Plan, at_address
from trimtab.studies.conditions import UNSTEERED, Condition, Said
from trimtab.studies.pages.auto import Candidate, Results, Scored
from trimtab.studies.pages.findings import Answer

CONTRASTS = ("mean-diff", "probe")  # learned at all layers, at once
BUDGET = 0.3  # nats of drift a token at which the methods are compared
TALK = 12  # test questions that are answered
BESIDE = 4  # controls whose answers are read
EXAMPLES = 3  # answers that are shown instead of asking

ASKED, SHOWN = Condition("asked"), Condition("shown")
BOTH = ASKED.but(how="and steered")
STEERED = Condition("steered")


def auto(lm: LM, sentence: str = "", *, to: str | Path, watch: Watch = silent, **plan: Any) -> SteeringVector | None:
    """From a sentence to a vector one would use, or the reason why not; the same call resumes.

    Args:
        sentence: what the model is to do, such as "answers like a cheerful pirate".
        to: the run folder: report.html says what was found, `pairs.jsonl` has the examples.
        plan: the other fields of `Plan`.

    Returns:
        The vector, with its dose, and its verdict as evidence; None if none was made.

    Raises:
        RecipeError: a plan that makes no sense.
        RunError: the folder holds something else; a writer that does not answer: what it wrote is kept.
    """
    from trimtab import studies

    run = studies.study("auto", lm, to, Plan(sentence, **plan), watch)
    studies.page(run)
    file = run.file("vector.safetensors")
    return SteeringVector.load(file) if file.is_file() else None


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model."""
    study = _Auto(lm, run, plan)
    if not plan.data:
        facts = {"like": digest(study.sentence)} if plan.like else {}
        yield Stage("write", [Unit("answers", facts, study.written)])
        yield Stage("sort", [Unit("contrasts", facts, study.contrasts)])
    if len({p.group for p in study.pairs}) < FEWEST:
        run.write(RESULTS, study.nothing())
        return
    study.claimed()
    facts = {"data": study.data.hash}
    yield Stage("learn", [Unit(m, facts, partial(study.tried, m)) for m in plan.methods if m in CONTRASTS])
    yield Stage("descend", [Unit(m, facts, partial(study.tried, m)) for m in plan.methods if m not in CONTRASTS])
    chosen = {**facts, "vector": study.best.hash}
    yield Stage("test", [Unit("numbers", chosen, study.numbers), Unit("texts", chosen, study.texts)])
    yield Stage("read", [Unit("scores", chosen, study.scores)])
    results = study.results()
    run.write(RESULTS, results)
    evidence = plain({"verdict": results.kind, "sentence": study.sentence, "trial": results.trial})
    replace(study.best, evidence=evidence).save(run.file("vector.safetensors"))


def _part(progress: Progress, before: int, total: int, done: int, of: int, words: str = "") -> None:
    """A part of some work as part of all of it."""
    progress(before + done, total, words)


class _Auto:
    """The pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, run: Run, plan: Plan) -> None:
        self.lm, self.run, self.plan, self.sentence = lm, run, plan, plan.behavior
        self.name = "_".join((plan.sentence or Path(plan.like).stem).split())[:40]

    # ------------------------------------------------------------ examples

    @cached_property
    def questions(self) -> list[str]:
        """Everyday ones, of all kinds, in an order drawn by the seed."""
        some = np.random.default_rng(self.plan.seed).permutation(len(everyday()))[: self.plan.questions]
        return [everyday()[k] for k in sorted(some)]

    def written(self, progress: Progress) -> tuple[list[list[str]], list[str]]:
        """To every question answers that are asked for the behavior, one in each wording, and one that is not."""
        told, plain = self.run.kept("written.json", partial(self._write, progress))
        return told, plain

    def _write(self, progress: Progress) -> tuple[list[list[str]], list[str]]:
        plan = self.plan
        writer = self._writer()
        wordings = [instruction(self.sentence, k) for k in range(len(WORDINGS))]
        asks = {f"{k} {q}": under(told, q) for q in self.questions for k, told in enumerate(wordings)}
        turns = instruction(plan.against) if plan.against else ""
        plain = {q: under(turns, q) for q in self.questions}
        total, said = len(asks) + len(plain), Said()
        for name, prompts, before in (("for", asks, 0), ("against", plain, len(asks))):
            said |= sample(
                writer, {UNSTEERED: ()}, prompts, 1, to=self.run.file("written", f"{name}.jsonl"), temperature=0.7,
                max_new_tokens=plan.max_new_tokens, seed=plan.seed, progress=partial(_part, progress, before, total),
            )  # fmt: skip
        told = [[said[f"{k} {q}", UNSTEERED][0].strip() for k in range(len(wordings))] for q in self.questions]
        return told, [said[q, UNSTEERED][0].strip() for q in self.questions]

    def _writer(self) -> LM:
        """Who writes the examples: the model itself, another one, or a server in its place."""
        writer = self.plan.writer
        if not at_address(writer):
            return LM.load(writer) if writer else self.lm
        away = copy(self.lm)  # the same model, whose samples come from there
        away.sampler, _, name = writer.partition("#")
        away.id = name or away.id
        return away

    def contrasts(self, progress: Progress) -> list[Contrast]:
        """Of every question the answer that is the clearest contrast, and whether it is one, by the likelihoods of the
        model that will be steered.
        """

        def read() -> list[Contrast]:
            positives, negatives = self.written(silent(""))
            many = len(positives[0])
            rows = sorted_out(
                self.lm, self.sentence, [q for q in self.questions for _ in range(many)],
                [text for some in positives for text in some], [text for text in negatives for _ in range(many)],
            )  # fmt: skip
            some = (rows[k * many : (k + 1) * many] for k in range(len(self.questions)))
            best = [max(of, key=lambda c: (not c.why, np.nan_to_num(c.nats, nan=-np.inf))) for of in some]
            lines = [{"prompt": c.question, "positive": c.positive, "negative": c.negative} for c in best if not c.why]
            self.run.write("pairs.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            return best

        found = [Contrast(**r) for r in self.run.kept("contrasts.json", read)]
        progress(1, 1)
        return found

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        if self.plan.data:
            pairs = Dataset.load(self.plan.data, form="answers").pairs
            if any(p.before for p in pairs):
                raise DataError("pairs with system messages or earlier turns", expected="a question and two answers")
            return pairs
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

    def claimed(self) -> None:
        """Enter what is learned from, or refuse other pairs in the same folder.

        Raises:
            RunError: it holds vectors of others.
        """
        self.run.check_trained(self.data.hash)
        self.run.note(trained=self.data.hash)

    # ------------------------------------------------------------ the race

    def tried(self, name: str, progress: Progress) -> None:
        """A method that finds nothing, or refuses, is out of the race; why is kept."""
        try:
            self.learned(name, progress)
        except TrimtabError as problem:
            if name == "mean-diff":
                raise
            self.run.write(f"vectors/{name}.json", {"problem": problem.failed})

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
        out = [m for m in self.plan.methods if self.run.read(f"vectors/{m}.json") is None]
        return {m: self.learned(m, silent("")) for m in out}

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every method at equal drift, on validation questions."""
        out: list[Candidate] = []
        for name, v in self.vectors.items():
            use = v.use
            assert use is not None and use.dose is not None
            points = sorted((p for p in use.dose.points if p.lo is not None), key=lambda p: p.drift)
            x = [0.0, *(p.drift**0.5 for p in points)]  # nothing is moved at 0; beyond the last point nothing is known
            rise, lo, control = (
                float(np.interp(BUDGET**0.5, x, [0.0, *(float(getattr(p, key) or 0.0) for p in points)], right=np.nan))
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
        some = dict.fromkeys(p.prompt for p in self.parts[2].pairs)
        return {f"question {k}": q for k, q in enumerate(list(some)[:TALK])}

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
        return out | self.beside

    @cached_property
    def beside(self) -> dict[Condition, tuple[Intervention, ...]]:
        """Controls whose answers are read, at the norm of the dose."""
        iv, names, out = Intervention.recommended(self.best), list(self.controls), dict[Condition, Any]()
        size = self.best.norm()
        for name in dict.fromkeys([*names[: BESIDE // 2], *names[-(BESIDE - BESIDE // 2) :]]):
            v = self.controls[name]
            even = replace(v, vectors={k: x * (size[k] / max(float(x.norm()), 1e-30)) for k, x in v.vectors.items()})
            out[Condition("control", source=name)] = (replace(iv, vector=even),)
        return out

    @property
    def dosed(self) -> Condition:
        return STEERED.at(Intervention.recommended(self.best).multiplier)

    def texts(self, progress: Progress) -> Said:
        """What is said to test questions under each, and to everyday prompts; the same asked for in words."""
        told = instruction(self.sentence)
        few = [turn for p in self.parts[0].pairs[:EXAMPLES] for turn in (("user", p.prompt), ("assistant", p.positive))]
        plain: Mapping[str, Prompt] = self.asked
        asks = {name: under(told, q) for name, q in self.asked.items()}
        shown = {name: under("", q, few) for name, q in self.asked.items()}
        iv, out = Intervention.recommended(self.best), Said()
        for part, prompts, stacks in (
            ("plain", plain, self.stacks),
            ("asked", asks, {ASKED: (), BOTH: (iv,)} | {c.but(how="and asked"): s for c, s in self.beside.items()}),
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
            questions = list(self.asked.values())
            return {
                c.label: asked_for(self.lm, self.sentence, questions, self._answers(c)).tolist()
                for c in self._conditions
            }

        found = self.run.kept("scores.json", read)
        progress(1, 1)
        return found

    # ------------------------------------------------------------ what came out

    def nothing(self) -> Results:
        """Nothing was learned: too few contrasts."""
        trial = Trial(len(self.pairs), self._asked_for())
        kind = decide(trial)
        return Results(
            self.lm.id, self.sentence, kind, HELP[kind], trial, self._thrown(), [], None, [], self._examples(), [],
            self._first(), self.plan.data, self.plan.seed,
        )  # fmt: skip

    def results(self) -> Results:
        trial = self.trial
        kind = decide(trial)
        said = self._said
        shares = {c: self._share("", c) for c in self._conditions}
        every = [
            Scored(c.label, f.value, f.lo, f.hi, self._usual.beside(self._answers(c)).broken) for c, f in shares.items()
        ]
        shown = [UNSTEERED, self.dosed, ASKED]
        answers = [Answer(c, q, said[name, c][0]) for name, q in list(self.asked.items())[:10] for c in shown]
        aside = [
            Answer(c, p, said[p, c][0]) for p in list(neutral())[:4] for c in (UNSTEERED, self.dosed)
        ]  # fmt: skip
        return Results(
            self.lm.id, self.sentence, kind, HELP[kind], trial, self._thrown(), self.candidates, self.winner,
            every, [*answers, *aside], [len(p) for p in self.parts], self._first(), self.plan.data, self.plan.seed,
        )  # fmt: skip

    @cached_property
    def trial(self) -> Trial:
        numbers, use = self.numbers(silent("")), self.best.use
        groups = [p.group for p in self.parts[2]]
        rise = mean_figure("rise of the preference", np.array(numbers["vector"], float), "nats/token", groups=groups)
        asked = mean_figure("asking in words", self._moved(ASKED), "nats/token")
        text, gain = self._share("text", self.dosed), self._share("gain over asking", BOTH, ASKED)
        strongest = np.array([self._share("", c).value for c in self.beside])
        added = np.array([self._share("", c.but(how="and asked"), ASKED).value for c in self.beside])
        return Trial(
            len(self.pairs), self._asked_for(), rise, float(np.abs(numbers["controls"]).max()),
            use is not None and use.ship is not None, self._broken(self.dosed), asked, text,
            float(np.abs(strongest).max()), gain, float(np.abs(added).max()), self._broken(BOTH),
        )  # fmt: skip

    @cached_property
    def _read(self) -> dict[str, Array]:
        return {k: np.array(v, float) for k, v in self.scores(silent("")).items()}

    def _moved(self, condition: Condition, beside: Condition = UNSTEERED) -> Array:
        """How much likelier each answer is than another to the same question, when the behavior is asked for."""
        return self._read[condition.label] - self._read[beside.label]

    def _share(self, name: str, condition: Condition, beside: Condition = UNSTEERED) -> Figure:
        """The mean of that over the mean of what asking in words does; questions are drawn for both at once."""
        both = np.stack([self._moved(condition, beside), self._moved(ASKED)], 1)
        n = int((~np.isnan(both).any(1)).sum())
        return Figure(name, *ratio_of_means(both, seed=self.plan.seed), n, "of asking in words")

    @cached_property
    def _said(self) -> Said:
        return self.texts(silent(""))

    def _answers(self, condition: Condition) -> list[str]:
        """To the test questions, in order."""
        return [self._said[name, condition][0].strip() for name in self.asked]

    @cached_property
    def _usual(self) -> Usual:
        """The unsteered answers, which others are held against."""
        return Usual(self.lm, list(self.asked.values()), self._answers(UNSTEERED))

    def _broken(self, condition: Condition) -> float:
        """The share of answers under a condition that break, beyond the unsteered ones."""
        return self._usual.beside(self._answers(condition)).broken - self._usual.own.broken

    @cached_property
    def _conditions(self) -> list[Condition]:
        return list(dict.fromkeys(c for name, c in self._said if name in self.asked))

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
