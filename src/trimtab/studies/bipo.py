"""Preference-optimized vectors beside every baseline, at raw strength and at equal cost (Cao et al. 2024, with what its
evaluation left out).

For every behavior: BiPO in three forms, CAA, Freeform, mean difference, one-shot, random directions, the behavior
asked for in words, and shown in five examples; all on the same held-out pairs. Then combinations of behaviors,
knowledge at every multiplier, answers without their first word, and what the model says across the spectrum. One
folder, resumable; `trimtab.studies.pages.bipo` turns it into tables, plots and a page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from trimtab.answers.judges import ModelJudge, Rating, Rubric
from trimtab.answers.quality import distinct, strangeness
from trimtab.data.contexts import told, with_shots, without_opener
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import polarity
from trimtab.errors import TokenError, check_least
from trimtab.evaluation.accuracy import accuracy
from trimtab.evaluation.capability import capability, questions
from trimtab.evaluation.sweep import measure
from trimtab.model import LM
from trimtab.model.rendering import as_prompt
from trimtab.progress import Progress, silent
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.steering.interventions import Intervention, steer
from trimtab.studies.behaviors import METRICS, TRAINED, Behavior, Learning, place, scouting
from trimtab.studies.conditions import Condition
from trimtab.studies.descents import Vectors, throughout
from trimtab.studies.pages.bipo_results import (
    BIPO,
    CAA,
    DIFFERENCE,
    FREEFORM,
    FROM_END,
    ONE_SHOT,
    Asked,
    Facts,
    FreeformChoice,
    Pairing,
    Results,
    Said,
    Spectrum,
    VectorFacts,
    slug,
)  # fmt: skip

log = logging.getLogger("trimtab")
LEARNED = (*TRAINED, CAA, DIFFERENCE, FREEFORM, ONE_SHOT)
SHOWN = 3  # random directions that are measured at their own strength as well
KNOWING = (BIPO, CAA, Condition("random", "0"))  # vectors whose cost in knowledge is measured
# vectors that are measured on answers without their first word
OPENERS = (BIPO, CAA, DIFFERENCE, Condition("random", "0"))


@dataclass(frozen=True)
class Plan(Learning):
    """What is run.

    Attributes:
        multipliers: the spectrum.
        randoms: random directions, of BiPO's norm at its layer, measured at equal drift.
        few: pairs of the dearer questions: combinations, five examples first, answers without their first word.
        shots: examples shown.
        items: questions of the knowledge test.
        talk: questions whose answers are shown across the spectrum.
        max_new_tokens: longest answer.
    """

    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    randoms: int = 20
    few: int = 40
    shots: int = 5
    items: int = 240
    talk: int = 4
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.multipliers)
        check_least("bipo", 4, few=self.few)


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        DataError, TokenError: a pair that cannot be asked, before anything is run.
    """
    lm.layers(plan.candidates)
    studied = [_Behavior(lm, run, plan, source) for source in plan.data]
    yield from scouting(studied)
    layer = place(studied)
    yield Stage(
        "vectors",
        [
            Unit(f"{b.name}: learn {c}", {"data": b.train.hash, "layer": layer}, partial(b.learned, c))
            for b in studied
            for c in LEARNED
        ],
    )
    yield Stage(
        "scores",
        [
            Unit(f"{b.name}: {c}", {"data": b.test.hash, "layer": layer}, partial(b.scored, c))
            for b in studied
            for c in b.vectors
        ],
    )
    yield Stage(
        "beside",
        [
            Unit(f"{b.name}: {name}", {"data": b.test.hash, "layer": layer}, work)
            for b in studied
            for name, work in b.beside().items()
        ],
    )
    pairs = [(one, two) for k, one in enumerate(studied) for two in studied[k + 1 :]]
    yield Stage(
        "combinations", [Unit(f"{a.name} and {b.name}", {"layer": layer}, partial(_combined, a, b)) for a, b in pairs]
    )
    pairings = [Pairing(a.name, b.name, a.vectors[BIPO].cosine(b.vectors[BIPO])[layer]) for a, b in pairs]
    candidates = list(plan.layers) if plan.layer is None else []
    run.write(
        RESULTS, Results(lm.id, layer, candidates, plan.seed, plan.budget, [b.facts() for b in studied], pairings)
    )


class _Behavior(Behavior):
    """And what it is measured by."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str) -> None:
        super().__init__(lm, folder, plan, source)
        self.plan, self.bare = plan, replace(self.test, ask=None)

    @cached_property
    def vectors(self) -> Vectors:
        """Every vector; random directions are turned from BiPO's."""
        return self.every(LEARNED, self.plan.randoms)

    # ------------------------------------------------------------ scores

    def scored(self, condition: Condition, progress: Progress) -> None:
        """One vector at its own strength (of random directions only the first few), and scaled to the budget of
        drift.
        """
        vector = self.vectors[condition]
        if condition.kind != "random" or int(condition.source) < SHOWN:
            data = self.test if condition == BIPO else self.bare
            self._score(slug(condition.label), throughout(vector), data, self.plan.multipliers, progress)
        drift = self.drift(vector, condition)
        ways = {way: vector * m for way, m in (("up", drift.up), ("down", drift.down)) if np.isfinite(m)}
        if ways:
            # one pass below for both: the second way stands beside the first as a control
            first, *rest = ways
            measure(
                self.lm,
                throughout(ways[first]),
                self.bare,
                METRICS,
                to=self.run.path,
                part=slug(f"equal: {condition}"),
                multipliers=(0.0, 1.0),
                controls={f"equal {way}": ways[way] for way in rest},
                progress=progress,
            )

    def _score(
        self, part: str, iv: Intervention, data: Dataset, multipliers: Sequence[float], progress: Progress
    ) -> None:
        measure(
            self.lm,
            iv,
            data,
            METRICS,
            to=self.run.path,
            part=part,
            multipliers=multipliers,
            controls={},
            progress=progress,
        )

    # ------------------------------------------------------------ beside

    def beside(self) -> dict[str, Callable[[Progress], object]]:
        """What else is measured, by name."""
        out: dict[str, Callable[[Progress], object]] = {FROM_END.label: self._from_the_end, "prompts": self._prompted}
        if self._opens():
            out |= {f"no opener: {c}": partial(self._without_opener, c) for c in OPENERS if c in self.vectors}
        if self.plan.items:
            out |= {f"knowledge, {c}": partial(self._knowledge, c) for c in KNOWING if c in self.vectors}
        return out | {"talk": self.spectrum}

    def _from_the_end(self, progress: Progress) -> None:
        iv = Intervention(self.vectors[CAA], positions="from_last_prompt_token")
        self._score(slug(FROM_END.label), iv, self.bare, self.plan.multipliers, progress)

    def _opens(self) -> bool:
        """Whether answers differ in a leading Yes or No."""
        return any(polarity(p.positive) != polarity(p.negative) for p in self.bare)

    def _without_opener(self, condition: Condition, progress: Progress) -> None:
        data = without_opener(self.bare.take(self.plan.few))
        self._score(
            slug(f"no opener: {condition}"),
            throughout(self.vectors[condition]),
            data,
            (-1.0, 0.0, 1.0),
            progress,
        )

    def _knowledge(self, condition: Condition, progress: Progress) -> None:
        items = questions()[:: max(1, 240 // self.plan.items)]
        iv = throughout(self.vectors[condition])
        capability(
            self.lm,
            iv,
            items,
            to=self.run.path,
            multipliers=self.plan.multipliers,
            name=condition.label,
            progress=progress,
        )

    def _prompted(self, progress: Progress) -> None:
        """The behavior, or its opposite, asked for in words and shown in examples: alone (multiplier 0) and with the
        vector on top.
        """
        for condition, data in self._asked().items():
            self._score(
                slug(condition.label),
                throughout(self.vectors[BIPO]),
                data,
                (-1.0, 0.0, 1.0),
                progress,
            )

    def _asked(self) -> dict[Condition, Dataset]:
        few, shots = self.bare.take(self.plan.few), self.train.pairs[: self.plan.shots]
        out: dict[Condition, Dataset] = {}
        for way in ("positive", "negative"):
            out[Condition("shown", way)] = with_shots(few, shots, opposite=way == "negative")
            if self.test.ask:
                out[Condition("asked", way)] = told(few, self.test.ask[way])
        return out

    def spectrum(self, progress: Progress) -> list[Said]:
        """What is said at each multiplier, rated by the model itself as a judge, and how strange the unsteered model
        finds it. Kept in the folder.
        """
        if self.run.read("spectrum.json") is None:
            answers: list[Said] = []
            judge = self._judge()
            for k, m in enumerate(self.plan.multipliers):
                answers += self._answers_at(m, judge)
                progress(k + 1, len(self.plan.multipliers))
            self.run.write("spectrum.json", Spectrum(answers))
        return self.run.typed("spectrum.json", Spectrum).said

    def _answers_at(self, multiplier: float, judge: ModelJudge | None) -> list[Said]:
        pairs = self.test.pairs[: self.plan.talk]
        prompts = [as_prompt(p.asked) for p in pairs]
        if multiplier == 0:
            texts = self.lm.generate(prompts, max_new_tokens=self.plan.max_new_tokens)
        else:
            with steer(self.lm, throughout(self.vectors[BIPO], multiplier=multiplier)):
                texts = self.lm.generate(prompts, max_new_tokens=self.plan.max_new_tokens)
        ratings = [Rating(float("nan"), 0.0)] * len(texts)
        if judge is not None:
            ratings = judge.rate(
                [
                    {"question": p.prompt, "answer": t, "positive": p.positive, "negative": p.negative}
                    for p, t in zip(pairs, texts, strict=True)
                ]
            )
        odd = strangeness(self.lm, prompts, texts)
        return [
            Said(p.prompt, multiplier, t, r.score, r.mass, float(s), distinct([t]))
            for p, t, r, s in zip(pairs, texts, ratings, odd, strict=True)
        ]

    def _judge(self) -> ModelJudge | None:
        """The model itself with the rubric of behaviors; none if it cannot say numbers."""
        try:
            return ModelJudge(self.lm, Rubric.load("behavior"))
        except TokenError as problem:
            log.warning("%s rates nothing: %s", self.lm.id, problem)
            return None

    # ------------------------------------------------------------ what came out

    def facts(self) -> Facts:
        """What the page needs and the scores do not hold."""
        few, bare = self.bare.take(self.plan.few), self.vectors[BIPO]
        prompts: list[Asked] = []
        for condition, data in self._asked().items():
            ids, plain = [p.id for p in data], [p.id for p in few]
            prompts.append(Asked(condition, dict(zip(ids, plain, strict=True))))
        table = self.run.table("capability") if self.plan.items else None
        known = {c.label: accuracy(table, condition=c.label) for c in KNOWING if c in self.vectors} if table else {}
        return Facts(
            self.name,
            len(self.train),
            len(self.val),
            len(self.test),
            self.left_out,
            [
                VectorFacts(
                    c,
                    v.layers[0],
                    v.norm()[v.layers[0]],
                    v.cosine(bare)[v.layers[0]] if v.layers == bare.layers else None,
                    self.drift(v, c),
                )
                for c, v in self.vectors.items()
            ],
            prompts,
            [c for c in OPENERS if c in self.vectors] if self._opens() else [],
            known,
            self.run.typed("freeform.json", FreeformChoice),
            self.spectrum(silent("")),
        )


def _combined(one: _Behavior, two: _Behavior, progress: Progress) -> None:
    """The vectors of both behaviors, alone and together, on the questions of each."""
    a, b = one.vectors[BIPO], two.vectors[BIPO]
    for behavior, label, own, other in ((one, two.name, a, b), (two, one.name, b, a)):
        few = behavior.bare.take(behavior.plan.few)
        for kind, v in (("own", own), ("other", other), ("both", own + other)):
            behavior._score(slug(f"with {label}: {kind}"), throughout(v), few, (-1.0, 0.0, 1.0), progress)
