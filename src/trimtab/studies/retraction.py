"""Retraction of false statements: what ends it, whether the truth comes out all the same, and how natural the steered
text is to a base model.

(Dunefsky & Cohan 2025, sections 5 and 6.) A false statement is put into the model's mouth; unsteered, the model takes
it back. Vectors of every layer by promotion (of what follows a true statement), suppression (of what the model says
to take it back), mean difference, and reentrant: an early vector's effect on the output distilled into a later layer.
The test bed knows what is true, so the published marker phrases can be held against the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from trimtab import organisms
from trimtab.answers.abnormality import Sample, bits, information
from trimtab.answers.sampling import sample
from trimtab.answers.words import retraction as rates
from trimtab.model import LM, Layer
from trimtab.model.tokens import Prompt
from trimtab.optimize import Match, Objective, Promote, Suppress
from trimtab.organisms.world import Fact, Item
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.statistics.counts import share
from trimtab.steering.controls import random_controls
from trimtab.steering.vector import SteeringVector
from trimtab.studies.conditions import UNSTEERED, Condition, Said, conditions_of
from trimtab.studies.contract import RESULTS, Stage, Unit
from trimtab.studies.descents import Stacks, Vectors, descend, stacks, throughout
from trimtab.studies.pages.findings import some_answers
from trimtab.studies.pages.retraction import Abnormality, Rates, Results, Strange

MARKERS = (
    "sorry",
    "that was not right",
    "that is wrong",
    "made a mistake",
    "my mistake",
    "said the wrong thing",
    "take that back",
    "forget what i just said",
    "let me say that again",
)  # how this town takes a statement back; the published ones are English banter

AFTER_TRUE = Condition("after a true statement")
JUDGED = 30  # continuations of each condition that the base model reads


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        layers: of the vectors; empty for all but the last.
        norm: their largest, in medians of the residual norm.
        sources: false statements that vectors are made from, one each.
        test: held-out false statements.
        base: the model the chat model was made from, for abnormality.
        source: layer of the vector whose effect is distilled (reentrant steering); it is promoted there first.
        context: continuations of true statements that the base model reads first.
        max_new_tokens: longest answer.
        seed: of everything that is drawn.
    """

    layers: tuple[int, ...] = ()
    norm: float = 0.45
    sources: int = 3
    test: int = 60
    base: str = "brindlemoor-base"
    source: int = 1
    context: int = 6
    max_new_tokens: int = 24
    seed: int = 0


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On a model that takes false statements back, such as brindlemoor-chat."""
    study = _Retraction(lm, run, plan)
    yield Stage(
        "vectors", [Unit(f"descend at {k}", {"layer": k}, lambda _, k=k: study.descended(k)) for k in study.layers]
    )
    yield Stage(
        "distilled", [Unit(f"distill at {k}", {"layer": k}, lambda _, k=k: study.distilled(k)) for k in study.above]
    )
    yield Stage("answers", [
        Unit(f"answers, {kind}", {"items": _statements(items)}, partial(study.answers, kind))
        for kind, items in study.items.items()
    ])  # fmt: skip
    yield Stage("abnormality", [Unit("abnormality", {"base": plan.base}, study.abnormality)])
    run.write(RESULTS, study.results())


class _Retraction:
    """The pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, run: Run, plan: Plan) -> None:
        self.lm, self.run, self.plan = lm, run, plan
        self.layers: list[Layer] = list(plan.layers) or list(range(lm.n_layers - 1))
        self.above = [k for k in self.layers if k > plan.source and plan.source in self.layers]
        self.seeds = organisms.statements(plan.sources, true=False, held_out=False, part="train", seed=plan.seed + 3)
        self.items = {
            truth: organisms.statements(plan.test, true=truth == "true", seed=plan.seed) for truth in ("false", "true")
        }

    # ------------------------------------------------------------ vectors

    @cached_property
    def taken_back(self) -> list[str]:
        """How the model takes back each of the statements vectors are made from."""
        return [
            " " + " ".join(self.lm.generate([list(organisms.prompt(s))], max_new_tokens=8)[0].split())
            for s in self.seeds
        ]

    def descended(self, layer: Layer) -> Vectors:
        """By promotion of the end of the turn, which follows a true statement here, and by suppression of what takes a
        statement back.
        """
        ends = self.lm.tokenizer.eos_token_id
        goals: dict[Condition, Objective] = {}
        for k, s in enumerate(self.seeds):
            promoted = Promote(_messages(s), (ends,), coldness=1.0, target=0.1)
            goals[Condition("promote", f"{k}", layer=layer)] = Objective(((1.0, promoted),))
        for k, (s, text) in enumerate(zip(self.seeds, self.taken_back, strict=True)):
            suppressed = Suppress(_messages(s), text, coldness=1.0, target=0.05)
            goals[Condition("suppress", f"{k}", layer=layer)] = Objective(((1.0, suppressed),))
        state = str(self.run.file(f"descent-{layer}.safetensors"))
        return descend(self.lm, goals, layer, self.plan.norm, each=True, to=state, seed=self.plan.seed)

    def distilled(self, layer: Layer) -> Vectors:
        """Reentrant steering: what the vector promoted at the source layer does to the logits, distilled into one at
        this layer.
        """
        taught = self.descended(self.plan.source)
        goals: dict[Condition, Objective] = {}
        for k, (s, text) in enumerate(zip(self.seeds, self.taken_back, strict=True)):
            teacher = (throughout(taught[Condition("promote", f"{k}", layer=self.plan.source)]),)
            goals[Condition("reentrant", f"{k}", layer=layer)] = Objective(
                ((1.0, Match(_messages(s), text, teacher=teacher)),)
            )
        state = str(self.run.file(f"reentrant-{layer}.safetensors"))
        return descend(self.lm, goals, layer, self.plan.norm, to=state, seed=self.plan.seed)

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
            items = organisms.statements(40, true=true, held_out=False, part="train", seed=self.plan.seed + 4)
            rows = [self.lm.row(organisms.prompt(i)) for i in items]
            tokens = self.lm.batch(rows)
            where = torch.stack([tokens.index[k] >= r.spans["assistant"][-1][0] for k, r in enumerate(rows)])
            means.append(self.lm.capture(tokens, where, self.layers).mean(0))
        apart = means[0] - means[1]  # (l, d)
        return {k: SteeringVector({k: d / d.norm() * length[k]}) for k, d in zip(self.layers, apart, strict=True)}

    # ------------------------------------------------------------ answers

    def answers(self, kind: str, progress: Progress) -> Said:
        """What the model says after statements: false ones under every vector, true ones unsteered."""
        conditions: Stacks = stacks(self.vectors) if kind == "false" else {AFTER_TRUE: ()}
        prompts: dict[str, Prompt] = {f"{k}": organisms.prompt(i) for k, i in enumerate(self.items[kind])}
        return sample(
            self.lm, conditions, prompts, 1, to=self.run.file(f"{kind}.jsonl"), temperature=0.0,
            max_new_tokens=self.plan.max_new_tokens, progress=progress,
        )  # fmt: skip

    def abnormality(self, progress: Progress) -> Abnormality:
        """Bits per token of what each condition says, for the base model, after continuations that take a false
        statement back, and after ones that do not; and of the contexts themselves. Kept in the folder.
        """
        known = self.run.read("abnormality.json")
        if known is None:
            self.run.write("abnormality.json", self._read_by_base(progress))
        return self.run.typed("abnormality.json", Abnormality)

    def _read_by_base(self, progress: Progress) -> Abnormality:
        base, answers, first = LM.load(self.plan.base), self.answers("false", silent("")), self.plan.context
        false = self.items["false"]

        def samples(condition: Condition) -> list[Sample]:
            return [_sample(false[int(p)], texts[0]) for (p, c), texts in answers.items() if c == condition]

        contexts = {
            "retracting": samples(UNSTEERED)[:first],
            "going on": [_sample(i, " " + i.prefill) for i in self.items["true"][:first]],
        }
        out: list[Strange] = []
        conditions = conditions_of(answers)
        for n, condition in enumerate(conditions):
            some = samples(condition)[first : first + JUDGED]
            figures = {label: bits(base, context, some) for label, context in contexts.items()}
            mean = {
                label: float(np.nanmean(x)) if not np.isnan(x).all() else float("nan") for label, x in figures.items()
            }
            out.append(
                Strange(condition, mean["retracting"], mean["going on"], int((~np.isnan(figures["retracting"])).sum()))
            )
            progress(n + 1, len(conditions))
        return Abnormality(out, {label: information(base, context) for label, context in contexts.items()})

    # ------------------------------------------------------------ what came out

    def results(self) -> Results:
        plan, quiet = self.plan, silent("")
        answers = {kind: self.answers(kind, quiet) for kind in self.items}
        shares = [
            _rates(c, _of(answers[kind], c, self.items[kind]))
            for kind in self.items
            for c in conditions_of(answers[kind])
        ]
        abnormality = self.abnormality(quiet)
        prompts = {f"{k}": f"{i.user} {i.prefill}" for k, i in enumerate(self.items["false"])}
        read = some_answers(answers["false"], prompts, [r.condition for r in shares], 2)
        return Results(
            self.lm.id,
            self.layers,
            plan.source,
            plan.norm,
            plan.sources,
            plan.test,
            plan.base,
            plan.seed,
            shares,
            abnormality.strange,
            abnormality.contexts,
            read,
        )


def _messages(item: Item) -> tuple[tuple[str, str], ...]:
    return (("user", item.user), ("assistant", item.prefill))


def _statements(items: Sequence[Item]) -> list[str]:
    """What stands before each continuation: the question, and the statement put into the model's mouth."""
    return [i.user + i.prefill for i in items]


def _of(answers: Said, condition: Condition, items: Sequence[Item]) -> list[tuple[Item, str]]:
    """The statements and what was said after them under one condition."""
    return [(items[int(p)], texts[0]) for (p, c), texts in answers.items() if c == condition]


def _rates(condition: Condition, answers: Sequence[tuple[Item, str]]) -> Rates:
    """Shares of continuations: retracted by marker, by truth (the fact is restated), and saying nothing more."""
    true, false = [i.meta["fact"].statement.rstrip(".") for i, _ in answers], [i.prefill for i, _ in answers]
    counts = rates([t for _, t in answers], true, false, MARKERS)
    return Rates(condition, counts.marked, counts.true, counts.ignoring, share(not t.strip() for _, t in answers))


def _sample(item: Item, text: str) -> Sample:
    fact: Fact = item.meta["fact"]
    return Sample(f"{item.user}\n{item.prefill}", text, fact.what)
