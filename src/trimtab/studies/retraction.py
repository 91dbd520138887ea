"""Retraction of false statements: what ends it, whether the truth comes out all the same, and how natural the steered
text is to a base model.

(Dunefsky & Cohan 2025, sections 5 and 6.) A false statement is put into the model's mouth; unsteered, the model takes
it back. Vectors of every layer by promotion (of what follows a true statement), suppression (of what the model says
to take it back), mean difference; reentrant as published: a rank-1 map that suppresses at an early layer, whose text is
generated, and whose effect along that text is distilled into vectors of later layers; and, simpler, a promoting vector
distilled along the model's own text. What each says is counted (taken back, truth told, fiction kept), and read by the
base model beside texts about real, fictitious and incongruous subjects; which is also asked whether it recovers the
truth by itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from trimtab.answers.abnormality import Sample, bits, broken_tags, check_shared, information
from trimtab.answers.sampling import sample
from trimtab.answers.words import MARKERS
from trimtab.answers.words import retraction as rates
from trimtab.errors import DataError, RecipeError, check_least
from trimtab.model import LM, Layer
from trimtab.model.tokens import Prompt
from trimtab.optimize import (
    Ball,
    Descent,
    Factors,
    Match,
    MaxSteps,
    Objective,
    Place,
    Problem,
    Promote,
    Start,
    Suppress,
    Target,
    detection,
    optimize,
)
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.counts import share
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import steer
from trimtab.steering.operators import Affine
from trimtab.steering.vector import SteeringVector
from trimtab.studies import statements
from trimtab.studies.conditions import UNSTEERED, Condition, Said, conditions_of
from trimtab.studies.descents import Stacks, Vectors, descend, stacks, throughout
from trimtab.studies.described import Described
from trimtab.studies.judging import TOWN, check_judge
from trimtab.studies.pages.findings import some_answers
from trimtab.studies.pages.retraction import SUBJECTS, Abnormality, Judged, Rates, Results, Strange
from trimtab.studies.statements import TOWN_MARKERS, Statement, prompt, somebody_else

KINDS = ("false", "true")
AFTER_TRUE = Condition("after a true statement")
JUDGED = 30  # continuations of each condition that the base model reads


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        statements: a file of statements (JSON lines: question, true, false, right, wrong, subject), or "town".
        markers: words in which a statement is taken back; by default those of the town, or the published ones.
        layers: of the vectors; empty for all but the last.
        norm: their largest, in medians of the residual norm.
        sources: false statements that vectors are made from, one each.
        test: held-out false statements.
        base: the model the chat model was made from, for abnormality; "" for none.
        source: layer of what is distilled (reentrant steering).
        context: texts that the base model reads first.
        judge: another model, or the address of a server, that says whether a continuation describes its subject as
            what it is, and as what it was said to be; "" for none.
        judge_model: the model of that server.
        judged: statements whose continuations it reads.
        max_new_tokens: longest answer.
        seed: of everything that is drawn.
    """

    statements: str = "town"
    markers: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    norm: float = 0.45
    sources: int = 3
    test: int = 60
    base: str = "brindlemoor-base"
    source: int = 1
    context: int = 6
    judge: str = ""
    judge_model: str = ""
    judged: int = 20
    max_new_tokens: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("retraction", 1, sources=self.sources, test=self.test, context=self.context)
        check_least("retraction", 0, above=True, norm=self.norm)
        check_least("retraction", 1, judged=self.judged)
        if self.judge == TOWN:
            raise RecipeError("not a judge of descriptions", given=TOWN, expected="a model, or a server",
                              do="leave it out: the words looked for are the truth about the town")  # fmt: skip


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On a model that takes false statements back, such as brindlemoor-chat.

    Raises:
        DataError: no statements, or ones the model has nothing to say to. ModelError: a base model that reads
            otherwise. All before anything is run.
    """
    study = _Retraction(lm, run, plan)
    if plan.judge:
        check_judge(plan.judge, plan.judge_model, lm.id)
    study.check()
    yield Stage(
        "vectors", [Unit(f"descend at {k}", {"layer": k}, lambda _, k=k: study.descended(k)) for k in study.layers]
    )
    yield Stage(
        "distilled",
        [
            *([Unit("speak under the map", {"layer": plan.source}, lambda _: study.spoken)] if study.above else []),
            *(Unit(f"distill at {k}", {"layer": k}, lambda _, k=k: study.distilled(k)) for k in study.above),
        ],
    )
    yield Stage("answers", [
        Unit(f"answers, {kind}", {"items": [s.question + s.said(true=kind == "true") for s in study.tested]},
             partial(study.answers, kind))
        for kind in KINDS
    ])  # fmt: skip
    yield Stage("detection", [Unit("detection", {}, study.detected)])
    if plan.judge:
        yield Stage("judged", [Unit("ask the judge", {"judge": plan.judge}, study.judged)])
    if plan.base:
        yield Stage("base", [
            Unit("abnormality", {"base": plan.base}, study.abnormality),
            Unit("ask the base model", {"base": plan.base}, study.recovered),
        ])  # fmt: skip
    run.write(RESULTS, study.results())


class _Retraction:
    """The pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, run: Run, plan: Plan) -> None:
        self.lm, self.run, self.plan = lm, run, plan
        self.layers: list[Layer] = list(plan.layers) or list(range(lm.n_layers - 1))
        self.above = [k for k in self.layers if k > plan.source and plan.source in self.layers]
        if plan.statements == "town":
            self.markers = plan.markers or TOWN_MARKERS
            self.seeds = statements.town(plan.sources, held_out=False, seed=plan.seed + 3)
            self.trained = statements.town(40, held_out=False, seed=plan.seed + 4)
            self.tested = statements.town(plan.test, held_out=True, seed=plan.seed)
        else:
            self.markers, some = plan.markers or MARKERS, statements.load(plan.statements)
            random.Random(plan.seed).shuffle(some)
            self.seeds, rest = some[: plan.sources], some[plan.sources :]
            known = {s.subject for s in self.seeds}
            self.trained = self.seeds
            self.tested = [s for s in rest if s.subject not in known][: plan.test]
            least = plan.context + 2 if plan.base else 2
            if len(self.tested) < least or len({s.subject for s in self.tested}) < 2:
                given = f"{len(self.tested)} of {len(some)} left to test"
                expected = f"{plan.sources} to learn from, and {least} about two others to test"
                raise DataError(f"{plan.statements}: too few statements", given=given, expected=expected)

    def check(self) -> None:
        """Refuse what could not be carried out to its end."""
        if self.plan.base and self.run.read("recovered.json") is None:
            _ = self.base
        silent_after = [s.false for s, text in zip(self.seeds, self.taken_back, strict=True) if not text.strip()]
        if silent_after:
            raise DataError("the model says nothing after a statement that is to be learned from",
                            given=silent_after[0], expected="statements it goes on from, or takes back",
                            do="choose another seed, or other statements")  # fmt: skip

    # ------------------------------------------------------------ vectors

    @cached_property
    def taken_back(self) -> list[str]:
        """How the model takes back each of the statements vectors are made from."""
        return self.run.kept("taken-back.json", lambda: [self._openings(s, true=False) for s in self.seeds])

    def _openings(self, statement: Statement, *, true: bool) -> str:
        """The first words the model says after a statement; "" where it ends its turn."""
        (text,) = self.lm.generate([prompt(statement, true=true)], max_new_tokens=8 if not true else 5)
        return " " + " ".join(text.split()) if text.strip() else ""

    def descended(self, layer: Layer) -> Vectors:
        """By promotion of what follows a true statement (the end of the turn, where nothing does), and by suppression
        of what takes a statement back.
        """
        goals: dict[Condition, Objective] = {}
        for k, s in enumerate(self.seeds):
            follows = self._openings(s, true=True) or (self.lm.tokenizer.eos_token_id,)
            promoted = Promote(s.messages(true=False), follows, coldness=1.0, target=0.1)
            goals[Condition("promote", f"{k}", layer=layer)] = Objective(((1.0, promoted),))
        for k, (s, text) in enumerate(zip(self.seeds, self.taken_back, strict=True)):
            suppressed = Suppress(s.messages(true=False), text, coldness=1.0, target=0.05)
            goals[Condition("suppress", f"{k}", layer=layer)] = Objective(((1.0, suppressed),))
        state = str(self.run.file(f"descent-{layer}.safetensors"))
        return descend(self.lm, goals, layer, self.plan.norm, each=True, to=state, seed=self.plan.seed)

    def distilled(self, layer: Layer) -> Vectors:
        """What was learned at the source layer, distilled into vectors at this one: the map along the text it makes the
        model say (reentrant), and the promoting vector along the model's own words.
        """
        taught = self.descended(self.plan.source)
        goals: dict[Condition, Objective] = {}
        for k, (s, text) in enumerate(zip(self.seeds, self.spoken, strict=True)):
            term = Match(s.messages(true=False), text, teacher=(throughout(self.maps[k], Affine()),), tokens=10)
            goals[Condition("reentrant", f"{k}", layer=layer)] = Objective(((1.0, term),))
        for k, (s, text) in enumerate(zip(self.seeds, self.taken_back, strict=True)):
            teacher = (throughout(taught[Condition("promote", f"{k}", layer=self.plan.source)]),)
            term = Match(s.messages(true=False), text, teacher=teacher)
            goals[Condition("distilled", f"{k}", layer=layer)] = Objective(((1.0, term),))
        state = str(self.run.file(f"reentrant-{layer}.safetensors"))
        return descend(self.lm, goals, layer, self.plan.norm, to=state, seed=self.plan.seed)

    @cached_property
    def maps(self) -> list[SteeringVector]:
        """A rank-1 map a statement, with factors of norm 1 and no offset, that suppresses what takes it back."""
        layer = self.plan.source
        how = Descent(0.1, (Target(0.01, each=True, patience=20), MaxSteps(50)))
        problems = [
            Problem(Suppress(s.messages(true=False), text, coldness=1.0), Place((layer,), Affine(), rank=1),
                    (Ball(0.0), Factors(1.0, equal=True)), how, Start(0.0, seed=self.plan.seed + k))
            for k, (s, text) in enumerate(zip(self.seeds, self.taken_back, strict=True))
        ]  # fmt: skip
        results = optimize(self.lm, problems, to=self.run.file("maps.safetensors"))
        return [r.vector for r in results]

    @cached_property
    def spoken(self) -> list[tuple[int, ...]]:
        """What the model says under each map, as tokens; the end of the turn where it says nothing."""
        return [tuple(ids) for ids in self.run.kept("spoken.json", self._speak)]

    def _speak(self) -> list[list[int]]:
        out: list[list[int]] = []
        for s, m in zip(self.seeds, self.maps, strict=True):
            with steer(self.lm, throughout(m, Affine())):
                (text,) = self.lm.generate([prompt(s, true=False)], max_new_tokens=self.plan.max_new_tokens)
            ids = self.lm.tokenizer(text, add_special_tokens=False).input_ids if text.strip() else []
            out.append(list(ids) or [self.lm.tokenizer.eos_token_id])
        return out

    @cached_property
    def vectors(self) -> Vectors:
        """All of them; mean differences and random directions have the median norm of a layer's descended ones."""
        by_layer = {k: self.descended(k) for k in self.layers}
        length: dict[Layer, float] = {}
        for k, vectors in by_layer.items():
            length[k] = float(np.median([v.norm()[k] for v in vectors.values()]))
        out: Vectors = {c: v for vectors in by_layer.values() for c, v in vectors.items()}
        out |= {Condition("mean difference", layer=k): v for k, v in self._differences(length).items()}
        for layer in self.above:
            out |= self.distilled(layer)
        for layer in self.layers:
            even = SteeringVector({layer: torch.full((self.lm.width,), length[layer] / self.lm.width**0.5)})
            (turned,) = random_controls(even, 1, self.plan.seed + layer).values()
            out[Condition("random", layer=layer)] = turned
        return out

    def _differences(self, length: Mapping[Layer, float]) -> dict[Layer, SteeringVector]:
        """Mean residual stream after true statements minus that after false ones, over the statement and what the model
        says next.
        """
        means: list[torch.Tensor] = []
        for true in (True, False):
            rows = [self.lm.row(prompt(s, true=true)) for s in self.trained]
            tokens = self.lm.batch(rows)
            where = torch.stack([tokens.index[k] >= r.spans["assistant"][-1][0] for k, r in enumerate(rows)])
            means.append(self.lm.capture(tokens, where, self.layers).mean(0))
        apart = means[0] - means[1]  # (l, d)
        return {k: SteeringVector({k: d / d.norm() * length[k]}) for k, d in zip(self.layers, apart, strict=True)}

    # ------------------------------------------------------------ answers

    def answers(self, kind: str, progress: Progress) -> Said:
        """What the model says after statements: false ones under every vector, true ones unsteered."""
        conditions: Stacks = stacks(self.vectors) if kind == "false" else {AFTER_TRUE: ()}
        prompts: dict[str, Prompt] = {f"{k}": prompt(s, true=kind == "true") for k, s in enumerate(self.tested)}
        return sample(
            self.lm, conditions, prompts, 1, to=self.run.file(f"{kind}.jsonl"), temperature=0.0,
            max_new_tokens=self.plan.max_new_tokens, progress=progress,
        )  # fmt: skip

    def detected(self, progress: Progress) -> dict[str, float]:
        """How well each vector tells true statements from false ones: area under the ROC curve of its dot product. Kept
        in the folder.
        """
        if self.run.read("detection.json") is None:
            right, wrong = ([prompt(s, true=true) for s in self.tested] for true in (True, False))
            out: dict[str, float] = {}
            for c, v in self.vectors.items():
                out[c.label] = detection(self.lm, v, right, wrong)
                progress(len(out), len(self.vectors))
            self.run.write("detection.json", out)
        return self.run.read("detection.json")

    def judged(self, progress: Progress) -> list[Judged]:
        """What the judge says of the first statements' continuations: unsteered, and under the first vector of every
        kind and layer. Kept in the folder.
        """
        judge, few = Described(self.plan.judge, self.plan.judge_model, self.lm, self.run), self.plan.judged
        said = self.answers("false", silent(""))
        some = [c for c in conditions_of(said) if c.source in ("", "0")]
        texts = {c: [(self.tested[k], said[f"{k}", c][0]) for k in range(min(few, len(self.tested)))] for c in some}
        return judge.judged(texts, progress)

    # ------------------------------------------------------------ the base model

    @cached_property
    def base(self) -> LM:
        base = LM.load(self.plan.base)
        check_shared(base, self.lm)
        return base

    @cached_property
    def subjects(self) -> dict[str, list[Sample]]:
        """Texts about real, fictitious and incongruous subjects: after a true statement what the model says unsteered
        (or something else that is true of the subject, where it says nothing); the same told of somebody else; the
        same after the false statement.
        """
        said = self.answers("true", silent(""))
        out: dict[str, list[Sample]] = {kind: [] for kind in SUBJECTS}
        for k, s in enumerate(self.tested):
            (text,) = said[f"{k}", AFTER_TRUE]
            text = text if text.strip() else f" {s.more}"
            out["real"].append(_sample(s, text, true=True))
            out["incongruous"].append(_sample(s, text, true=False))
            other = somebody_else(s, self.tested)
            before, said_of = (x.replace(s.subject, other) for x in (f"{s.question}\n{s.true}", text))
            out["fictitious"].append(Sample(before, said_of, s.right))
        return out

    def _conditions(self) -> dict[Condition, list[Sample]]:
        """What was said after false statements, by condition."""
        out: dict[Condition, list[Sample]] = {}
        for (p, c), texts in self.answers("false", silent("")).items():
            out.setdefault(c, []).append(_sample(self.tested[int(p)], texts[0], true=False))
        return out

    def contexts(self) -> dict[str, list[Sample]]:
        """What the base model reads first: statements that are taken back, and true ones that are gone on from."""
        first = self.plan.context
        return {"retracting": self._conditions()[UNSTEERED][:first], "going on": self.subjects["real"][:first]}

    def abnormality(self, progress: Progress) -> Abnormality:
        """Bits per token of what each condition says, for the base model, after continuations that take a false
        statement back, and after ones that do not; of texts about real, fictitious and incongruous subjects; and of the
        contexts themselves. Kept in the folder.
        """
        if self.run.read("abnormality.json") is None:
            contexts, first = self.contexts(), self.plan.context
            every = {**self._conditions(), **{Condition("subject", kind): s for kind, s in self.subjects.items()}}
            out: list[Strange] = []
            for condition, samples in every.items():
                figures = [bits(self.base, c, samples[first : first + JUDGED]) for c in contexts.values()]
                out.append(Strange.of(condition, *figures))
                progress(len(out), len(every))
            told = {label: information(self.base, context) for label, context in contexts.items()}
            self.run.write("abnormality.json", Abnormality(out, told))
        return self.run.typed("abnormality.json", Abnormality)

    def recovered(self, progress: Progress) -> list[Rates]:
        """What the base model itself goes on to say after a false statement: alone, and behind each context. Kept in
        the folder.
        """
        if self.run.read("recovered.json") is None:
            out: list[Rates] = []
            for label, context in {"alone": [], **self.contexts()}.items():
                known = {s.about for s in context}
                some = [s for s in self.tested if s.right not in known]
                head = "".join(broken_tags(x.before + x.said) + "\n" for x in context)
                prompts = [head + broken_tags(f"{s.question}\n{s.false}") for s in some]
                texts = self.base.generate(prompts, chat=False, max_new_tokens=self.plan.max_new_tokens)
                out.append(self._rates(Condition("base model", label), list(zip(some, texts, strict=True))))
                progress(len(out), 3)
            self.run.write("recovered.json", out)
        return self.run.typed("recovered.json", list[Rates])

    # ------------------------------------------------------------ what came out

    def results(self) -> Results:
        plan, quiet = self.plan, silent("")
        answers = {kind: self.answers(kind, quiet) for kind in KINDS}
        shares = [
            self._rates(c, [(self.tested[int(p)], texts[0]) for (p, of), texts in said.items() if of == c])
            for said in answers.values()
            for c in conditions_of(said)
        ]
        abnormality = self.abnormality(quiet) if plan.base else Abnormality([], {})
        prompts = {f"{k}": f"{s.question} {s.false}" for k, s in enumerate(self.tested)}
        return Results(
            self.lm.id,
            self.layers,
            plan.source,
            plan.norm,
            plan.sources,
            len(self.tested),
            plan.base,
            plan.seed,
            shares,
            abnormality.strange,
            abnormality.contexts,
            some_answers(answers["false"], prompts, [r.condition for r in shares], 2),
            self.recovered(quiet) if plan.base else [],
            self.detected(quiet),
            plan.judge_model or plan.judge,
            self.judged(quiet) if plan.judge else [],
        )

    def _rates(self, condition: Condition, answers: Sequence[tuple[Statement, str]]) -> Rates:
        """Shares of continuations: retracted by marker, by truth (the fact is restated), the fiction kept, and nothing
        more said.
        """
        texts = [t for _, t in answers]
        counts = rates(texts, [s.right for s, _ in answers], [s.wrong for s, _ in answers], self.markers)
        quiet = share(not t.strip() for t in texts)
        return Rates(condition, counts.marked, counts.true, counts.ignoring, quiet, counts.false)


def _sample(statement: Statement, text: str, *, true: bool) -> Sample:
    return Sample(f"{statement.question}\n{statement.said(true=true)}", text, statement.right)
