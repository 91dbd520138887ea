"""What a vector that ends refusal is made from (Dunefsky & Cohan 2025, section 4 and the notes on Llama-3.1-8B).

Requests of several categories, each with a vector by promotion, whose target is what the model says to a harmless twin,
adapted; one by suppression of the opening of refusal that is most frequent; and one by suppression of the model's own
opening there. And a vector trained under a long system prompt, at every token or at the last twenty alone, used without
that prompt: added, and clamped at several strengths. How many held-out requests are answered, and in whole text?
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from trimtab import organisms
from trimtab.answers.quality import Usual
from trimtab.answers.sampling import sample
from trimtab.errors import DataError, RecipeError, check_least
from trimtab.model import LM, Positions
from trimtab.model.positions import everywhere
from trimtab.optimize import Objective, promote, suppress
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.safety.redteam import Request
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.counts import share
from trimtab.steering.operators import Clamp
from trimtab.studies import requested
from trimtab.studies.conditions import UNSTEERED, Condition, Said, conditions_of, texts_of
from trimtab.studies.descents import Stacks, Vectors, cosines_apart, descend, randoms, stacks, throughout
from trimtab.studies.pages.findings import Answer, some_answers
from trimtab.studies.pages.refusal_sources import FREQUENT, LONG, LONG_LAST, OWN, PROMOTED, Near, Outcome, Results
from trimtab.studies.requested import OPENING, Cases, Published, adapted, twin_of

FAMILIES = (PROMOTED, FREQUENT, OWN)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        layer, norm: of the vectors; norm in medians of the residual norm.
        categories: of refused requests, and
        each: requests of each; every one gives a vector of each kind.
        test: held-out requests of each kind, refused and answered.
        randoms: random directions.
        system: a long system prompt; by default twenty lines of the town.
        guarded: source requests that are also trained under it.
        last: tokens of prompt and answer, from the end, that are steered in training there, in the second form.
        strengths: of the clamp in use.
        requests, ordinary, judge: as in the study of refusal.
        max_new_tokens: longest answer.
        seed: of everything that is drawn.
    """

    layer: int = 1
    norm: float = 0.45
    categories: int = 6
    each: int = 2
    test: int = 60
    randoms: int = 3
    system: str = ""
    guarded: int = 4
    last: int = 20
    strengths: tuple[float, ...] = (0.5, 1.0)
    requests: str = ""
    ordinary: str = ""
    judge: str = ""
    max_new_tokens: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("refusal-sources", 1, categories=self.categories, each=self.each, test=self.test, last=self.last)
        if self.guarded > self.categories * self.each:
            raise RecipeError("more requests under the system prompt than there are", given=self.guarded,
                              expected=f"at most {self.categories * self.each}")  # fmt: skip


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On a model that refuses what is sealed, such as brindlemoor-chat.

    Raises:
        DataError: a file of requests that is none, too short, or of too few categories.
    """
    lm.layers([plan.layer])
    if plan.requests:
        file = Published(plan.requests, plan.ordinary, plan.judge)
        many = plan.categories
        cases = requested.published(lm, run, file, plan.each, plan.test, plan.seed, categories=many, pairs=False)
    else:
        cases = requested.town(plan.each, plan.test, plan.seed, categories=plan.categories)
    study = _Sources(lm, run, plan, cases)
    users = [s.user for s in cases.sources]
    yield Stage("vectors", [
        Unit("descend", {"requests": users}, study.descended),
        *([Unit("descend under the system prompt", {"requests": users}, study.guarded)] if plan.guarded else []),
    ])  # fmt: skip
    yield Stage("answers", [
        Unit(f"answers, {kind}", {"items": [r.user for r in some]}, partial(study.answers, kind))
        for kind, some in cases.asked.items()
    ])  # fmt: skip
    yield Stage("text", [Unit("broken", {}, lambda _: study.broken)])
    run.write(RESULTS, study.results())


@dataclass(frozen=True)
class _Sources:
    """The pieces of work; each reads back what it has already done."""

    lm: LM
    run: Run
    plan: Plan
    cases: Cases

    # ------------------------------------------------------------ vectors

    @cached_property
    def targets(self) -> dict[str, list[str]]:
        """By kind of vector, what is promoted or suppressed on every source request. Kept in the folder."""
        return self.run.kept("targets.json", self._targets)

    def _targets(self) -> dict[str, list[str]]:
        sources, n = self.cases.sources, self.plan.max_new_tokens
        twins = [s.twin or s.user for s in sources]
        said = self.lm.generate(twins, max_new_tokens=n)
        taught = [adapted(t, twin_of(s), s) if s.twin else s.opening for s, t in zip(sources, said, strict=True)]
        own = self.lm.generate([s.user for s in sources], max_new_tokens=OPENING)
        mute = [s.user for s, text in zip(sources, own, strict=True) if not text.strip()]
        if mute:
            raise DataError("the model says nothing to a source request: nothing to suppress", given=mute[0])
        frequent = Counter(own).most_common(1)[0][0]
        return {PROMOTED: taught, FREQUENT: [frequent] * len(sources), OWN: own}

    def _goals(self, family: str) -> dict[Condition, Objective]:
        texts = self.targets[family]
        make = partial(promote, coldness=1.0, target=0.1) if family == PROMOTED else (
            partial(suppress, coldness=1.0, target=0.01)
        )  # fmt: skip
        named = zip(self._names, self.cases.sources, texts, strict=True)
        return {Condition(family, source=name): make(s.user, text) for name, s, text in named}

    @property
    def _names(self) -> list[str]:
        """Of the source requests: their category and a number."""
        seen: Counter[str] = Counter()
        out: list[str] = []
        for s in self.cases.sources:
            seen[s.category] += 1
            out.append(f"{s.category} {seen[s.category]}")
        return out

    def descended(self, _: Progress) -> Vectors:
        """One vector for every source request and kind."""
        goals = {c: goal for family in FAMILIES for c, goal in self._goals(family).items()}
        return self._descend("descent", goals, everywhere)

    def guarded(self, _: Progress) -> Vectors:
        """Promoted under the long system prompt: steered at every token in training, and at the last ones alone."""
        out: Vectors = {}
        some = list(zip(self._names, self.cases.sources, self.targets[PROMOTED], strict=True))[: self.plan.guarded]
        for family, where in ((LONG, everywhere), (LONG_LAST, self.last)):
            goals = {
                Condition(family, source=name): promote(s.user, text, coldness=1.0, target=0.1, system=self.system)
                for name, s, text in some
            }
            out |= self._descend(family.replace(" ", "-"), goals, where)
        return out

    @property
    def last(self) -> Positions:
        """The last tokens of prompt and answer, as many as the plan says of the prompt."""
        return Positions.parse(f"last_k({self.plan.last}) | generated")

    @property
    def system(self) -> str:
        return self.plan.system or " ".join([*organisms.lines("kind", "train")[:12], *organisms.lines("plain")[:8]])

    def _descend(self, name: str, goals: Mapping[Condition, Objective], where: Positions) -> Vectors:
        state, plan = str(self.run.file(f"{name}.safetensors")), self.plan
        return descend(self.lm, goals, plan.layer, plan.norm, positions=where, each=True, to=state, seed=plan.seed)

    @cached_property
    def vectors(self) -> Vectors:
        quiet = silent("")
        made = self.descended(quiet) | (self.guarded(quiet) if self.plan.guarded else {})
        return made | randoms(next(iter(made.values())), self.plan.randoms, self.plan.seed)

    # ------------------------------------------------------------ answers

    @cached_property
    def acting(self) -> Stacks:
        """Unsteered, and every vector added, and clamped at each strength; at every token, without system prompt."""
        clamped: Stacks = {
            c.but(how="clamped", strength=m, label=f"{c}, clamped at {m:g}"): (throughout(v, Clamp(), m),)
            for c, v in self.vectors.items()
            for m in self.plan.strengths
        }
        return {**stacks(self.vectors), **clamped}

    def answers(self, kind: str, progress: Progress) -> Said:
        """Greedy answers to one kind of request."""
        prompts = {f"{k}": r.user for k, r in enumerate(self.cases.asked[kind])}
        return sample(
            self.lm, self.acting, prompts, 1, to=self.run.file(f"{kind}.jsonl"), temperature=0.0,
            max_new_tokens=self.plan.max_new_tokens, progress=progress,
        )  # fmt: skip

    @cached_property
    def broken(self) -> dict[str, dict[str, float]]:
        """By kind of request and condition, the share of answers that are no longer text. Kept in the folder."""
        return self.run.kept("broken.json", self._broken)

    def _broken(self) -> dict[str, dict[str, float]]:
        out: dict[str, dict[str, float]] = {}
        for kind, items in self.cases.asked.items():
            said = self.answers(kind, silent(""))
            usual = Usual(self.lm, [r.user for r in items], texts_of(said, UNSTEERED))
            out[kind] = {c.label: usual.beside(texts_of(said, c)).broken for c in conditions_of(said)}
        return out

    # ------------------------------------------------------------ what came out

    def results(self) -> Results:
        plan, quiet = self.plan, silent("")
        outcomes: list[Outcome] = []
        read: list[Answer] = []
        for kind, items in self.cases.asked.items():
            said = self.answers(kind, quiet)
            outcomes += self._outcomes(kind, items, said)
            read += some_answers(said, {f"{k}": r.user for k, r in enumerate(items)}, self._shown(said), 2)
        targets = [[name, *(self.targets[f][k] for f in FAMILIES)] for k, name in enumerate(self._names)]
        return Results(
            self.lm.id, plan.layer, plan.norm, plan.categories, plan.each, plan.test, plan.last, plan.seed,
            (plan.judge or self.lm.id) if plan.requests else "", len(self.system.split()), outcomes, targets,
            [self._near(f) for f in FAMILIES], read, sum(bool(s.twin) for s in self.cases.sources),
        )  # fmt: skip

    def _outcomes(self, kind: str, items: Sequence[Request], said: Said) -> list[Outcome]:
        conditions, n = conditions_of(said), len(items)
        texts = {c: texts_of(said, c) for c in conditions}
        complied = self.cases.complied([(items[k], texts[c][k]) for c in conditions for k in range(n)])
        out: list[Outcome] = []
        for j, c in enumerate(conditions):
            done, refused = complied[j * n : (j + 1) * n], map(self.cases.refused, texts[c])
            out.append(Outcome(kind, c, share(done), share(refused), self.broken[kind][c.label]))
        return out

    def _shown(self, said: Said) -> list[Condition]:
        """Of every kind and way of acting, the first vector's answers."""
        first: dict[tuple[str, str, float | None], Condition] = {}
        for c in conditions_of(said):
            first.setdefault((c.kind, c.how, c.strength), c)
        return list(first.values())

    def _near(self, family: str) -> Near:
        """Cosines among the vectors of a family."""
        apart = cosines_apart([v for c, v in self.vectors.items() if c.kind == family])
        if not len(apart):
            return Near(family, math.nan, math.nan, math.nan)
        return Near(family, float(np.median(apart)), float(apart.min()), float(apart.max()))
