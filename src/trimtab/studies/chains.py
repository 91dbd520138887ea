"""Is the visible chain of thought causal? (Asked by Dunefsky & Cohan 2025 for reasoning models.)

A model is asked to think a question through before it answers. Its chain is written unsteered, under a vector, or under
a random direction; then the answer is read off, with the vector or without. What a vector does to the answer goes
through the chain, or past it: the first is what a steered chain does to an unsteered answer, the second what the vector
does behind an unsteered chain. A steered chain of another question tells whether it is the words or their sense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import registry
from trimtab.answers.quality import Usual
from trimtab.answers.sampling import sample
from trimtab.data.datasets import Dataset, Splits
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, check_least
from trimtab.methods import learn
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM
from trimtab.model.tokens import Prompt
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies.conditions import UNSTEERED, Condition
from trimtab.studies.descents import randoms, throughout
from trimtab.studies.pages.bipo_results import Value
from trimtab.studies.pages.chains import OTHER, PLAIN, RANDOM, STEERED, Facts, Read, Results, Shown
from trimtab.studies.parts import Sizes, check_names, fresh_split

THINK = "Think it through in two or three sentences first, and give no answer yet."
CONCLUDE = "So my answer is this."
WRITTEN = {PLAIN: UNSTEERED, STEERED: Condition("vector"), RANDOM: Condition("random")}


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        data: free-form pairs: built-in behaviors, or files.
        layer: where the vector acts.
        method: that learns it, and its fields.
        multiplier: of the vector.
        think: what is added to each question.
        conclude: what stands between the chain and the answer.
        tokens: longest chain.
        train, val, test: pairs of each part at most.
        seed: of everything that is drawn.
    """

    data: tuple[str, ...]
    layer: int
    method: dict[str, Any] = field(default_factory=lambda: {"name": "mean-diff"})
    multiplier: float = 1.0
    think: str = THINK
    conclude: str = CONCLUDE
    tokens: int = 48
    train: int = 60
    val: int = 4
    test: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("chains", 1, tokens=self.tokens)
        check_least("chains", 4, train=self.train, val=self.val, test=self.test)
        check_names(self.data, [Path(d).stem for d in self.data])
        registry.make("method", self.method)

    @property
    def sizes(self) -> Sizes:
        return self.train, self.val, self.test


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        DataError, TokenError: a pair that cannot be asked; before anything is run.
    """
    lm.layers([plan.layer])
    bench = [_Bench(lm, run, plan, source) for source in plan.data]
    for b in bench:
        for p in b.parts.test:
            paired_rows(lm, p)
        if len({p.group for p in b.parts.test}) < 2:
            raise DataError(f"{b.name}: one question to test on", expected="two or more")
    yield Stage("vectors", [Unit(f"{b.name}: vector", {"data": b.parts.train.hash}, b.vector) for b in bench])
    yield Stage("chains", [Unit(f"{b.name}: chains", {"data": b.parts.test.hash}, b.chains) for b in bench])
    yield Stage("answers", [
        Unit(f"{b.name}: answers behind {c}", {"data": b.parts.test.hash}, partial(b.answers, c))
        for b in bench
        for c in (*WRITTEN, OTHER)
    ])  # fmt: skip
    facts = [b.results() for b in bench]
    how = (plan.layer, plan.method, plan.multiplier, plan.think, plan.tokens, plan.seed)
    run.write(RESULTS, Results(lm.id, *how, facts))


@dataclass(frozen=True)
class _Bench:
    """The pieces of work for one behavior; each reads back what it has already done."""

    lm: LM
    run: Run
    plan: Plan
    source: str

    @property
    def name(self) -> str:
        return Path(self.source).stem

    @cached_property
    def parts(self) -> Splits:
        parts = fresh_split(Dataset.load(self.source, form="answers"), self.plan.sizes, self.plan.seed)
        Run.create(self.run.file(self.name)).claim("data", {"train": parts.train.hash, "test": parts.test.hash})
        return parts

    def vector(self, progress: Progress) -> SteeringVector:
        """Learned once, and kept."""
        method = registry.make("method", self.plan.method)
        file = self.run.file(self.name, "vector.safetensors")
        return kept(file, lambda: learn(self.lm, self.parts.train, method, [self.plan.layer], progress=progress))

    @cached_property
    def acting(self) -> dict[str, tuple[Intervention, ...]]:
        """Under what a chain is written."""
        v = self.vector(silent(""))
        (drawn,) = randoms(v, 1, self.plan.seed).values()
        m = self.plan.multiplier
        return {PLAIN: (), STEERED: (throughout(v, multiplier=m),), RANDOM: (throughout(drawn, multiplier=m),)}

    def _asked(self, pair: Pair) -> list[tuple[str, str]]:
        return [*pair.before, ("user", f"{pair.prompt}\n\n{self.plan.think}")]

    def chains(self, progress: Progress) -> dict[str, list[str]]:
        """What is thought, by who writes it, a chain a question; of another question for the control."""
        prompts: dict[str, Prompt] = {f"{k}": _messages(self._asked(p)) for k, p in enumerate(self.parts.test)}
        said = sample(
            self.lm, {c: self.acting[name] for name, c in WRITTEN.items()}, prompts, 1,
            to=self.run.file(self.name, "chains.jsonl"), temperature=0.0, max_new_tokens=self.plan.tokens,
            progress=progress,
        )  # fmt: skip
        out = {name: [said[f"{k}", c][0].strip() for k in range(len(prompts))] for name, c in WRITTEN.items()}
        return {**out, OTHER: [out[STEERED][k] for k in self._elsewhere]}

    @property
    def _elsewhere(self) -> list[int]:
        """For each pair the next one that asks something else."""
        groups = [p.group for p in self.parts.test]
        n = len(groups)
        return [next(j % n for j in range(k + 1, k + n) if groups[j % n] != groups[k]) for k in range(n)]

    def answers(self, written: str, progress: Progress) -> dict[str, list[float]]:
        """Margin of both answers per token behind the chains of one kind: without the vector and with it. Kept in the
        folder.
        """
        name = f"{self.name}/behind-{written.replace(' ', '-')}.json"
        if self.run.read(name) is None:
            chains, out = self.chains(silent(""))[written], dict[str, list[float]]()
            for k, (how, stack) in enumerate({PLAIN: (), STEERED: self.acting[STEERED]}.items()):
                with steer(self.lm, *stack) if stack else nullcontext():
                    out[how] = self._margins(chains)
                progress(k + 1, 2)
            self.run.write(name, out)
        return self.run.read(name)

    def _margins(self, chains: Sequence[str]) -> list[float]:
        asked: list[Prompt] = [
            _messages([*self._asked(p), ("assistant", f"{chain}\n\n{self.plan.conclude}")])
            for p, chain in zip(self.parts.test, chains, strict=True)
        ]
        one, two = (
            self.lm.logprobs(asked, [f" {text}" for text in texts])
            for texts in ([p.positive for p in self.parts.test], [p.negative for p in self.parts.test])
        )
        return [float(a.mean() - b.mean()) for a, b in zip(one, two, strict=True)]

    # ------------------------------------------------------------ what came out

    def results(self) -> Facts:
        quiet, groups = silent(""), [p.group for p in self.parts.test]
        chains = self.chains(quiet)
        read: dict[tuple[str, str], Array] = {}
        for written in (*WRITTEN, OTHER):
            for how, margins in self.answers(written, quiet).items():
                read[written, how] = np.array(margins)
        base = read[PLAIN, PLAIN]
        changes = [Read(written, how, Value.of(x - base, groups)) for (written, how), x in read.items()]
        usual = Usual(self.lm, [_messages(self._asked(p)) for p in self.parts.test], chains[PLAIN])
        broken = {name: usual.beside(chains[name]).broken for name in WRITTEN}
        through = read[STEERED, PLAIN] - base
        beyond = Value.of(through - (read[OTHER, PLAIN] - base), groups)
        shown = [
            Shown(p.question, *(chains[name][k] for name in WRITTEN)) for k, p in enumerate(self.parts.test.pairs[:4])
        ]
        return Facts(self.name, len(set(groups)), Value.of(base, groups), changes, beyond, broken, shown)


def _messages(turns: Sequence[tuple[str, str]]) -> list[Mapping[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]
