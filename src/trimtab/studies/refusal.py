"""Refusal: vectors from single requests that end it, or bring it on, beside vectors from pairs of answers (mean
difference, CAA, Freeform, BiPO), the prefill attack and random directions.

(Dunefsky & Cohan 2025, section 4; Cao et al. 2024, table 4.) Promotion makes an opening of compliance likely on one
refused request; suppression makes the refusal unlikely. Success is judged on held-out requests, by the truth functions
of the test bed or by a judge; so is what happens to requests that were answered anyway, and to a suffix that breaks the
refusal when a vector is subtracted. Nothing harmful is shipped: the requests are for the sealed recipes of Brindlemoor,
unless a file is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from trimtab.answers.sampling import sample
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import to_choices
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.methods import Freeform, MeanDiff, Preference, learn
from trimtab.methods.base import Method
from trimtab.model import LM
from trimtab.model.tokens import Prompt
from trimtab.optimize import Objective, Place, Suppress, path, promote, suppress
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.safety.redteam import Request
from trimtab.safety.suffix import find_suffix
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.counts import share
from trimtab.steering.operators import Clamp
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies import requested
from trimtab.studies.conditions import UNSTEERED, Condition, Said, conditions_of
from trimtab.studies.descents import Stacks, Vectors, cosines_apart, descend, randoms, stacks, throughout
from trimtab.studies.pages.findings import Answer, some_answers
from trimtab.studies.pages.refusal import PAIRED, Known, Results, Shares, Way
from trimtab.studies.requested import OPENING, Cases

READ = (
    "unsteered",
    "promote 0",
    "promote 1",
    "suppress 0",
    "promote 0, subtracted",
    "random 0",
    "mean difference",
    "BiPO",
    "prefill attack",
    "suffix",
    "suffix, promote 0 subtracted",
    "suffix, BiPO subtracted",
)
PREFILL = Condition("prefill attack")
SUFFIXED = 3  # source requests that a suffix is searched on


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        layer, norm: of the vectors; norm in medians of the residual norm.
        prompts: refused requests; each gives a vector by promotion and one by suppression.
        test: held-out requests of each kind, refused and answered.
        randoms: random directions.
        epochs: of BiPO.
        paths: pairs of vectors between which the loss is followed.
        suffix: an adversarial suffix; without one it is searched for on the first requests.
        suffix_tokens: length of the one that is searched for; 0 for no search.
        requests: a CSV file of requests that are refused (HarmBench, JailbreakBench, AdvBench), for a model of one's
            own; by default those for sealed recipes.
        ordinary: one of requests that are answered; by default the questions of the built-in behavior optimism.
        judge: the model that says whether an answer to them does what was asked; by default the model itself.
        max_new_tokens: longest answer.
        seed: of everything that is drawn.
    """

    layer: int = 1
    norm: float = 0.45
    prompts: int = 6
    test: int = 60
    randoms: int = 3
    epochs: int = 10
    paths: int = 20
    suffix: str = ""
    suffix_tokens: int = 8
    requests: str = ""
    ordinary: str = ""
    judge: str = ""
    max_new_tokens: int = 48
    seed: int = 0


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On a model that refuses what is sealed, such as brindlemoor-chat.

    Raises:
        DataError: a file of requests that is none, or too short.
    """
    cases = _cases(lm, run, plan)
    study = _Refusal(lm, run, plan, cases, _goals(lm, cases.sources))
    yield Stage("vectors", [
        Unit("descend", {"requests": _users(cases.sources)}, lambda _: study.descended()),
        *(Unit(name, {"data": study.contrast.hash}, partial(study.paired, name)) for name in PAIRED),
        Unit("a suffix", {"length": plan.suffix_tokens}, study.suffix),
    ])  # fmt: skip
    suffix = study.suffix(silent(""))
    yield Stage(
        "answers",
        [
            *(
                Unit(f"answers, {kind}", {"items": _users(some)}, partial(study.answers, kind))
                for kind, some in cases.asked.items()
            ),
            *(
                Unit(f"prefill, {kind}", {"items": _users(some)}, partial(study.prefilled, kind))
                for kind, some in cases.asked.items()
            ),
            *([Unit("answers, suffix", {"suffix": suffix}, partial(study.attacked, suffix))] if suffix else []),
            Unit("knowledge", {"data": cases.knowledge.hash}, study.knowledge),
        ],
    )
    run.write(RESULTS, study.results(suffix))


@dataclass(frozen=True)
class _Refusal:
    """The pieces of work; each reads back what it has already done."""

    lm: LM
    run: Run
    plan: Plan
    cases: Cases
    goals: Mapping[Condition, Objective]

    @property
    def contrast(self) -> Dataset:
        assert self.cases.contrast is not None
        return self.cases.contrast

    # ------------------------------------------------------------ vectors

    def descended(self) -> Vectors:
        """One vector for every source request and way of asking."""
        state = str(self.run.file("descent.safetensors"))
        return descend(self.lm, self.goals, self.plan.layer, self.plan.norm, each=True, to=state, seed=self.plan.seed)

    def paired(self, name: str, progress: Progress) -> SteeringVector:
        """The vector of a method that learns from complying and refusing answers, of its own norm."""
        data, method = self.contrast, self._methods[name]
        if name == "CAA":
            data = replace(data, pairs=to_choices(data.pairs), form="choices")
        file = self.run.file("vectors", f"{name.replace(' ', '-')}.safetensors")
        return kept(file, lambda: learn(self.lm, data, method, [self.plan.layer], progress=progress))

    @property
    def _methods(self) -> dict[str, Method]:
        bipo = Preference(norm=self.plan.norm, positions="everywhere", epochs=self.plan.epochs, seed=self.plan.seed)
        return dict(zip(PAIRED, (MeanDiff(), MeanDiff(read="contrast"), Freeform(), bipo), strict=True))

    @cached_property
    def vectors(self) -> Vectors:
        """All of them. Those that are averages have the median norm of the descended ones; BiPO's has its own."""
        out = self.descended()
        first = next(iter(out.values()))
        length = float(np.median([v.norm()[self.plan.layer] for v in out.values()]))
        for name in PAIRED:
            v = self.paired(name, silent(""))
            out[Condition(name)] = v if name == "BiPO" else v.unit() * length
        return out | randoms(first, self.plan.randoms, self.plan.seed)

    def suffix(self, progress: Progress) -> str:
        """The adversarial suffix given, or one found on the first of the source requests and kept in the folder; "" for
        none.
        """
        if self.plan.suffix or not self.plan.suffix_tokens:
            return self.plan.suffix
        if not self.run.file("suffix.json").is_file():
            pairs = [(r.user, r.opening) for r in self.cases.sources[:SUFFIXED]]
            self.run.write(
                "suffix.json",
                find_suffix(self.lm, pairs, length=self.plan.suffix_tokens, seed=self.plan.seed, progress=progress),
            )
        return self.run.read("suffix.json")["text"]

    # ------------------------------------------------------------ answers

    def answers(self, kind: str, progress: Progress) -> Said:
        """Greedy answers: unsteered, and with every vector added, subtracted, and, where it was promoted, clamped."""
        subtracted = {c.but(how="subtracted"): s for c, s in stacks(self.vectors, -1.0).items() if s}
        clamped = {
            c.but(how="clamped"): (throughout(v, Clamp()),) for c, v in self.vectors.items() if c.kind == "promote"
        }
        prompts: dict[str, Prompt] = {f"{k}": r.user for k, r in enumerate(self.cases.asked[kind])}
        return self._greedy({**stacks(self.vectors), **subtracted, **clamped}, prompts, f"{kind}.jsonl", progress)

    def prefilled(self, kind: str, progress: Progress) -> Said:
        """Answers after an opening put into the model's mouth, the opening in front of them."""
        items = self.cases.asked[kind]
        prompts: dict[str, Prompt] = {
            f"{k}": [{"role": "user", "content": r.user}, {"role": "assistant", "content": r.opening}]
            for k, r in enumerate(items)
        }
        attack = self._greedy({PREFILL: ()}, prompts, f"{kind}-prefill.jsonl", progress)
        answers: Said = {}
        for (p, c), texts in attack.items():
            answers[p, c] = [items[int(p)].opening + t for t in texts]
        return answers

    def attacked(self, suffix: str, progress: Progress) -> Said:
        """Answers to refused requests with the suffix behind them: unsteered, and with vectors subtracted."""
        prompts: dict[str, Prompt] = {f"{k}": f"{r.user} {suffix}" for k, r in enumerate(self.cases.sealed)}
        conditions: Stacks = {Condition("unsteered", behind="suffix", label="suffix"): ()}
        for c, v in self.vectors.items():
            if c.kind in ("promote", "random", *PAIRED):
                label = f"suffix, {c} subtracted"
                conditions[c.but(how="subtracted", behind="suffix", label=label)] = (throughout(v, multiplier=-1.0),)
        return self._greedy(conditions, prompts, "suffix.jsonl", progress)

    def _greedy(self, conditions: Stacks, prompts: Mapping[str, Prompt], file: str, progress: Progress) -> Said:
        return sample(
            self.lm, conditions, prompts, 1, to=self.run.file(file), temperature=0.0,
            max_new_tokens=self.plan.max_new_tokens, progress=progress,
        )  # fmt: skip

    def knowledge(self, progress: Progress) -> list[Known]:
        """Share of facts known under each vector."""
        first, *rest = self.vectors
        controls = {str(c): self.vectors[c] for c in rest}
        measure(
            self.lm,
            throughout(self.vectors[first]),
            self.cases.knowledge,
            [Propensity()],
            to=self.run.path,
            part="knowledge",
            multipliers=(0.0, 1.0),
            controls=controls,
            progress=progress,
        )
        table = self.run.table("knowledge")
        right = {c: table.curve("propensity", "vector" if c == first else str(c), None)[2] > 0 for c in self.vectors}
        return [
            Known(UNSTEERED, float(right[first][:, 0].mean())),
            *(Known(c, float(r[:, 1].mean())) for c, r in right.items()),
        ]

    def paths(self) -> list[Way]:
        """Barriers of the loss of refusing the first vector's request, on the way from one promoted vector to another
        of the same norm.
        """
        promoted = [c for c in self.vectors if c.kind == "promote"]
        numbers = range(len(promoted))
        out: list[Way] = []
        for i, j in [(i, j) for i in numbers for j in numbers if i != j][: self.plan.paths]:
            one, two = self.vectors[promoted[i]], self.vectors[promoted[j]]
            goal = Suppress(self.cases.sources[i].user, "I cannot", coldness=1.0)
            way = path(self.lm, goal, Place((self.plan.layer,)), one, two.unit() * one.norm()[self.plan.layer])
            out.append(Way(i, j, way.barrier, way.losses[0], way.losses[-1], max(way.losses[1:-1])))
        return out

    # ------------------------------------------------------------ what came out

    def results(self, suffix: str) -> Results:
        plan, quiet = self.plan, silent("")
        answers = {kind: self.answers(kind, quiet) | self.prefilled(kind, quiet) for kind in self.cases.asked}
        if suffix:
            answers["sealed"] |= self.attacked(suffix, quiet)
        shares = [s for kind, texts in answers.items() for s in self._shares(kind, texts)]
        return Results(
            self.lm.id,
            plan.layer,
            plan.norm,
            plan.prompts,
            plan.test,
            plan.seed,
            plan.judge or self.lm.id if plan.requests else "",
            suffix,
            shares,
            self.knowledge(quiet),
            self.paths(),
            cosines_apart([v for c, v in self.vectors.items() if c.kind == "promote"]).tolist(),
            {kind: self._read(kind, texts) for kind, texts in answers.items()},
        )

    def _shares(self, kind: str, answers: Said) -> list[Shares]:
        """Shares of answers to one kind of request that give what was asked (complied), and that refuse, by
        condition.
        """
        keys, items = list(answers), self.cases.asked[kind]
        complied = self.cases.complied([(items[int(prompt)], answers[prompt, c][0]) for prompt, c in keys])
        out: list[Shares] = []
        for condition in conditions_of(answers):
            mine = [n for n, (_, c) in enumerate(keys) if c == condition]
            refused = share(self.cases.refused(answers[keys[n]][0]) for n in mine)
            out.append(Shares(kind, condition, share(complied[n] for n in mine), refused))
        return out

    def _read(self, kind: str, answers: Said) -> list[Answer]:
        by_label = {c.label: c for _, c in answers}
        prompts = {f"{k}": r.user for k, r in enumerate(self.cases.asked[kind])}
        return some_answers(answers, prompts, [by_label[name] for name in READ if name in by_label])


def _cases(lm: LM, run: Run, plan: Plan) -> Cases:
    if not plan.requests:
        return requested.town(plan.prompts, plan.test, plan.seed)
    file = requested.Published(plan.requests, plan.ordinary, plan.judge)
    return requested.published(lm, run, file, plan.prompts, plan.test, plan.seed)


def _users(items: Sequence[Request]) -> list[str]:
    """The texts of some requests."""
    return [r.user for r in items]


def _goals(lm: LM, sources: Sequence[Request]) -> dict[Condition, Objective]:
    """For each source request: its compliant opening promoted; and what the model says to it now, a refusal,
    suppressed.
    """
    goals = {Condition("promote", f"{k}"): promote(s.user, s.opening, coldness=1.0) for k, s in enumerate(sources)}
    now = lm.generate([s.user for s in sources], max_new_tokens=OPENING)
    return goals | {
        Condition("suppress", f"{k}"): suppress(s.user, text, coldness=1.0, target=0.01)
        for k, (s, text) in enumerate(zip(sources, now, strict=True))
    }
