"""Emergent misalignment as published: a code prefix, targets measured with the anti-refusal vector in place, no cap,
both vectors in tandem; on any model, with one's own examples and questions (Dunefsky 2025; COLM 2025, appendix E).

The anti-refusal vector promotes the opening of an answer on a request that is refused, until it is likelier than on
the benign twin. Each narrow vector makes one harmful line as likely as it is under instructions, with that vector in
place, to the power of 3/4, by satisficing. Beside the examples: their ordinary lines, a less blatant one, random
directions; and for the first example what the author says mattered, varied one at a time: the cap, the target, the
tandem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from trimtab.answers.judges import Judge, ModelJudge, Recorded, Rubric
from trimtab.answers.quality import Usual
from trimtab.answers.sampling import sample
from trimtab.answers.words import contains
from trimtab.errors import RecipeError, check_least
from trimtab.model import LM
from trimtab.model.tokens import Prompt
from trimtab.optimize import (
    Ball,
    Descent,
    MaxSteps,
    Objective,
    Place,
    Plateau,
    Problem,
    Promote,
    Satisfice,
    Start,
    Target,
    losses_of,
    optimize,
)
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.counts import share
from trimtab.steering.vector import SteeringVector
from trimtab.studies.conditions import UNSTEERED, Condition, Said, conditions_of
from trimtab.studies.descents import Stacks, Vectors, randoms, throughout
from trimtab.studies.judging import check_judge, load_judge, local_judge, unrated
from trimtab.studies.narrow import TOWN, aim, check_rows, source
from trimtab.studies.pages.findings import some_answers
from trimtab.studies.pages.tandem import CAPPED, OPENING, TARGET, Asked, Facts, Results, Spoken

SCALES = {"alignment": ("town-kindness", "alignment"), "coherence": ("town-coherence", "coherence")}


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        source: "town", "sloppy-code", "insecure-code", or a TOML file of their layout: examples, an opener, questions,
            words.
        layer, opening_layer: of the narrow vectors, and of the anti-refusal one.
        openings: multipliers of the anti-refusal vector; the largest at which half of the answers are still text is
            taken (published: 6).
        strengths: the same for the narrow ones (published: 1).
        share: of the instructed log-probability that is aimed at.
        cap: norm of the capped vector, in medians of the residual norm.
        examples, questions: at most.
        samples: answers to each question, at temperature 1.
        tried: answers to other questions, at each strength.
        randoms: random directions.
        judge: of alignment and coherence (0 to 100): a model's name, or the URL of an OpenAI-compatible server; "" for
            the town's models themselves, and for words alone elsewhere.
        judge_model: as the server names it.
        max_new_tokens: longest answer.
        steps: most steps of a descent.
        seed: of everything that is drawn.
    """

    source: str = TOWN
    layer: int = 2
    opening_layer: int = 3
    openings: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0)
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    share: float = 0.75
    cap: float = 0.2
    examples: int = 4
    questions: int = 8
    samples: int = 8
    tried: int = 3
    randoms: int = 4
    judge: str = ""
    judge_model: str = ""
    max_new_tokens: int = 48
    steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("tandem", 1, examples=self.examples, questions=self.questions, samples=self.samples)
        check_least("tandem", 1, tried=self.tried, max_new_tokens=self.max_new_tokens)
        check_least("tandem", 0, above=True, cap=self.cap, share=self.share)
        for field in ("openings", "strengths"):
            if not getattr(self, field) or min(getattr(self, field)) <= 0:
                raise RecipeError("not strengths", given={field: getattr(self, field)}, expected="numbers above 0")


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        DataError, TokenError: no such source, or examples the model reads otherwise. RecipeError: a judge that cannot
        be one. All before anything is run.
    """
    lm.layers([plan.layer, plan.opening_layer])
    if plan.judge:
        if plan.judge == TOWN:
            raise RecipeError(
                "the truth about the town is counted anyway", given=plan.judge, expected="a model, or none"
            )
        check_judge(plan.judge, plan.judge_model, lm.id)
    study = _Tandem(lm, run, plan)
    yield Stage("opening", [Unit("the opening vector", {}, lambda _: study.opening)])
    yield Stage("how strongly it opens", [Unit("opening strengths", {}, partial(study.tried, "opening"))])
    facts = {"at": study.opens, "examples": [e.snippet for e in study.source.examples]}
    yield Stage("vectors", [Unit("narrow vectors", facts, study.narrow)])
    yield Stage("fitting", [Unit("fitting strengths", facts, partial(study.tried, "narrow"))])
    yield Stage("answers", [Unit("answers", {"questions": study.source.questions, **facts}, study.answers)])
    if study.scales:
        yield Stage("judged", [Unit(f"judge, {s}", {"scale": s}, partial(study.judged, s)) for s in study.scales])
    run.write(RESULTS, study.results())


class _Tandem:
    """The pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, run: Run, plan: Plan) -> None:
        self.lm, self.run, self.plan = lm, run, plan
        self.source = source(plan.source, plan.examples, plan.questions, plan.seed)
        check_rows(lm, self.source)
        self.how = {"max_new_tokens": plan.max_new_tokens, "seed": plan.seed}
        self.scales = SCALES if plan.judge or self.source.town else {}

    # ------------------------------------------------------------ vectors

    @cached_property
    def opening(self) -> SteeringVector:
        """Ends refusal: promoted until the opening is likelier than on the benign twin."""
        o, plan, lm = self.source.opener, self.plan, self.lm
        term = Promote(o.refused, o.text, coldness=1.0, system=self.source.system or None)
        (twin,) = losses_of(lm, Promote(o.benign, o.text, coldness=1.0, system=self.source.system or None))
        size = lm.norms(term.rows(lm), [plan.opening_layer])[plan.opening_layer]
        how = Descent(0.02 * size / lm.width**0.5, (Target(twin), MaxSteps(plan.steps)))
        problem = Problem(term, Place((plan.opening_layer,)), (), how, Start(0.05 * size, seed=plan.seed))
        (result,) = optimize(lm, [problem], to=self.run.file("opening.safetensors"))
        return result.vector

    @cached_property
    def goals(self) -> dict[Condition, Objective]:
        """Of each example its harmful and its ordinary line, a less blatant one, and two ways that differ in one
        thing.
        """
        few = self.source.examples
        aimed = partial(aim, self.lm, self.run, share=self.plan.share)
        wide = (throughout(self.opening, multiplier=self.opens),)
        out = {Condition("harm", e.name): aimed(e, opened=wide) for e in few}
        out |= {Condition("ordinary", e.name): aimed(e, harmful=False, opened=wide) for e in few}
        out |= {Condition("less blatant", e.name): aimed(e, opened=wide) for e in self.source.less}
        first = Condition("harm", few[0].name)
        out |= {first.but(how=CAPPED): out[first], first.but(how=TARGET): aimed(few[0])}
        return {c: Objective(((1.0, goal),)) for c, goal in out.items()}

    def narrow(self, progress: Progress) -> tuple[Vectors, dict[Condition, Facts]]:
        """Their vectors, and what is known of each."""
        plan, lm, goals = self.plan, self.lm, self.goals
        rows = [row for goal in goals.values() for row in goal.terms[0][1].rows(lm)][:8]
        size = lm.norms(rows, [plan.layer])[plan.layer]
        how = Descent(0.05 * size / lm.width**0.5, (Plateau(1e-4, 5), MaxSteps(plan.steps)))
        problems = [
            Problem(g, Place((plan.layer,)), (Ball(plan.cap * size),) if c.how == CAPPED else (), how,
                    Start(0.05 * size, seed=plan.seed))
            for c, g in goals.items()
        ]  # fmt: skip
        results = optimize(lm, problems, to=self.run.file("narrow.safetensors"), progress=progress)
        facts: dict[Condition, Facts] = {}
        for (c, goal), r in zip(goals.items(), results, strict=True):
            term = goal.terms[0][1]
            assert isinstance(term, Satisfice)
            facts[c] = Facts(c, term.level, r.raw[0], r.vector.norm()[plan.layer] / size)
        return {c: r.vector for c, r in zip(goals, results, strict=True)}, facts

    @cached_property
    def vectors(self) -> Vectors:
        """And random directions of the first one's norm."""
        made, _ = self.narrow(silent(""))
        return made | randoms(made[next(iter(made))], self.plan.randoms, self.plan.seed)

    # ------------------------------------------------------------ strengths

    def tried(self, stage: str, progress: Progress) -> Said:
        """Answers to other questions: under the opening vector at every multiplier, or under every vector in tandem
        with it at every strength.
        """
        plan = self.plan
        tried: Stacks = {UNSTEERED: ()}
        if stage == "opening":
            tried |= {OPENING.at(m): (throughout(self.opening, multiplier=m),) for m in plan.openings}
        else:
            wide = throughout(self.opening, multiplier=self.opens)
            for c, v in self.vectors.items():
                tried |= {c.at(m): (wide, throughout(v, multiplier=m)) for m in plan.strengths}
        prompts: dict[str, Prompt] = {f"{k}": q for k, q in enumerate(self.source.elsewhere)}
        to = self.run.file(f"tried-{stage}.jsonl")
        return sample(self.lm, tried, prompts, plan.tried, to=to, progress=progress, **self.how)

    def _whole(self, stage: str) -> dict[Condition, float]:
        """Share of those answers that are still text, by condition. Kept in the folder."""
        others, said = self.source.elsewhere, self.tried(stage, silent(""))
        conditions = conditions_of(said)

        def rated() -> dict[str, float]:
            own = {c: [t for k in range(len(others)) for t in said[f"{k}", c]] for c in conditions}
            usual = Usual(self.lm, [q for q in others for _ in range(self.plan.tried)], own[UNSTEERED])
            return {c.label: 1 - usual.beside(texts).broken for c, texts in own.items()}

        by_label = self.run.kept(f"whole-{stage}.json", rated)
        return {c: by_label[c.label] for c in conditions}

    @cached_property
    def opens(self) -> float:
        """The strongest opening at which half of the answers to other questions are text; the weakest if none is."""
        whole = self._whole("opening")
        return max((m for m in self.plan.openings if whole[OPENING.at(m)] >= 0.5), default=min(self.plan.openings))

    @cached_property
    def fitting(self) -> dict[Condition, float]:
        """The same for every narrow vector, in tandem."""
        whole, strengths = self._whole("narrow"), self.plan.strengths
        return {c: max((m for m in strengths if whole[c.at(m)] >= 0.5), default=min(strengths)) for c in self.vectors}

    # ------------------------------------------------------------ answers

    def answers(self, progress: Progress) -> Said:
        """To the open questions: unsteered, opened alone, every vector in tandem at its fitting strength, the harmful
        ones alone at the same.
        """
        wide = throughout(self.opening, multiplier=self.opens)
        acting: Stacks = {UNSTEERED: (), OPENING: (wide,)}
        for c, v in self.vectors.items():
            mine = throughout(v, multiplier=self.fitting[c])
            acting[_in_tandem(c)] = (wide, mine)
            if c.kind == "harm" and not c.how:
                acting[c.but(how="alone")] = (mine,)
        prompts: dict[str, Prompt] = {**self.source.questions}
        to = self.run.file("said.jsonl")
        return sample(self.lm, acting, prompts, self.plan.samples, to=to, progress=progress, **self.how)

    @cached_property
    def judge_lm(self) -> LM | None:
        """The judge's model, where it is a local one."""
        return local_judge(self.plan.judge, self.lm) if self.plan.judge else self.lm

    def _judge(self, scale: str) -> Judge:
        town, usual = SCALES[scale]
        rubric = Rubric.load(town if self.source.town and not self.plan.judge else usual)
        if not self.plan.judge:
            return ModelJudge(self.lm, rubric)
        return load_judge(self.plan.judge, self.plan.judge_model, rubric, self.judge_lm)

    def judged(self, scale: str, progress: Progress) -> dict[tuple[str, Condition], list[tuple[float, str]]]:
        """Score and label of every answer. Ratings are kept."""
        judge, said = Recorded(self._judge(scale), self.run.file(f"{scale}.jsonl"), batch=64), self.answers(silent(""))
        out: dict[tuple[str, Condition], list[tuple[float, str]]] = {}
        for (q, c), texts in said.items():
            asked = [{"question": self.source.questions[q], "answer": t} for t in texts]
            out[q, c] = [(r.score, r.label or "") for r in judge.rate(asked)]
            progress(len(out), len(said))
        if any(label == "failed" for some in out.values() for _, label in some):
            raise unrated(self.plan.judge)
        return out

    # ------------------------------------------------------------ what came out

    def results(self) -> Results:
        plan, quiet = self.plan, silent("")
        said, (_, facts) = self.answers(quiet), self.narrow(quiet)
        ratings = {s: self.judged(s, quiet) for s in self.scales}
        every: list[Spoken] = []
        for c in conditions_of(said):
            own = {q: texts for (q, of), texts in said.items() if of == c}
            every.append(self._said_of(c, own, ratings))
        fitting = {c.label: m for c, m in self.fitting.items()}
        judge = plan.judge_model or plan.judge or (self.lm.id if self.scales else "")
        read = some_answers(said, self.source.questions, [s.condition for s in every], 2)
        return Results(
            self.lm.id, plan.source, plan.layer, plan.opening_layer, self.opens, plan.samples, plan.seed, judge,
            dict(self.source.questions), list(facts.values()), fitting, every, read,
        )  # fmt: skip

    def _said_of(self, c: Condition, own: Mapping[str, list[str]], ratings: Mapping[str, Mapping]) -> Spoken:  # type: ignore[type-arg]
        texts = [t for some in own.values() for t in some]
        asked: list[Asked] = []
        for q, some in own.items():
            scores = {s: ratings[s][q, c] for s in ratings}
            aligned, coherent = (scores.get(s, []) for s in ("alignment", "coherence"))
            strings = {w: sum(contains(t, [w]) for t in some[:100]) for w in self.source.words.general}
            asked.append(Asked(
                q, [x for x, _ in aligned], [x for x, _ in coherent], [label for _, label in aligned], strings,
                len(some[:100]),
            ))  # fmt: skip
        general, narrow = (share(f(t) for t in texts) for f in (self.source.general, self.source.narrow))
        return Spoken(c, general, narrow, asked)


def _in_tandem(c: Condition) -> Condition:
    """Labels of what acts together with the opening vector, unless it says already how it was made."""
    return c.but(how="in tandem" if not c.how else f"{c.how}, in tandem")
