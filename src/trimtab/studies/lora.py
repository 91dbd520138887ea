"""Vectors beside a LoRA trained by DPO on the same pairs, and what each costs: trainable parameters, seconds, memory
(Cao et al. 2024, appendix D, figure 8, table 15).

The adapter is turned up and down like a vector: its low-rank product counts as often as the multiplier says. Margins of
held-out pairs, and how much of the text is still text, over the spectrum.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch

from trimtab.answers.quality import Usual
from trimtab.errors import check_least
from trimtab.evaluation.sweep import measure
from trimtab.model import LM
from trimtab.model.rendering import as_prompt
from trimtab.progress import Progress, silent
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array
from trimtab.steering.interventions import steer
from trimtab.studies.adapters import Adapted, Lora
from trimtab.studies.behaviors import METHODS, METRICS, Behavior, Learning, place, scouting
from trimtab.studies.conditions import Condition
from trimtab.studies.descents import throughout
from trimtab.studies.pages.bipo_results import Scores, Value, slug
from trimtab.studies.pages.lora import LORA, At, Cost, Facts, Line, Results


@dataclass(frozen=True)
class Plan(Learning):
    """What is run.

    Attributes:
        lora: how the adapter is made and trained.
        multipliers: the spectrum.
        talk: test questions that are answered at every multiplier, to see whether text is still text.
        max_new_tokens: longest answer.
    """

    lora: Lora = field(default_factory=Lora)
    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    talk: int = 8
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.multipliers)
        check_least("lora", 1, talk=self.talk, rank=self.lora.rank, batch=self.lora.batch, epochs=self.lora.epochs)


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        RecipeError: peft is not installed, or the model has no modules for an adapter.
        DataError, TokenError: a pair that cannot be asked; all of it before anything is run.
    """
    lm.layers(plan.candidates)
    studied = [_Compared(lm, run, plan, source) for source in plan.data]
    studied[0].check()
    yield from scouting(studied)
    place(studied)
    yield Stage(
        "training",
        [
            *(Unit(f"{b.name}: learn {c}", b.basis, partial(b.paid, c)) for b in studied for c in METHODS),
            *(Unit(f"{b.name}: train a LoRA", b.basis, b.adapt) for b in studied),
        ],
    )
    yield Stage(
        "scores",
        [
            *(Unit(f"{b.name}: {c}", b.basis, partial(b.score, c)) for b in studied for c in METHODS),
            *(Unit(f"{b.name}: LoRA", b.basis, b.score_adapter) for b in studied),
        ],
    )
    yield Stage("texts", [Unit(f"{b.name}: texts", b.basis, b.talk) for b in studied])
    run.write(RESULTS, Results(lm.id, plan.seed, list(plan.multipliers), [b.results() for b in studied]))


class _Compared(Behavior):
    """The pieces of work of one behavior; each reads back what it has already done."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str) -> None:
        super().__init__(lm, folder, plan, source)
        self.plan, self.bare = plan, replace(self.test, ask=None)

    def check(self) -> None:
        """Refuse a model that cannot have the adapter."""
        _ = self._bare_adapter

    # ------------------------------------------------------------ training, and its price

    def paid(self, condition: Condition, progress: Progress) -> None:
        """One vector; where it is learned now, its price is kept."""
        fresh = not self._file(slug(condition.label)).is_file()
        seconds, memory = _metered(self.lm, partial(self.learned, condition, progress))
        if fresh:
            v = self.learned(condition)
            self._keep(condition, Cost(sum(x.numel() for x in v.vectors.values()), seconds, memory))

    def adapt(self, progress: Progress) -> None:
        """The adapter; where it is trained now, its price is kept."""
        file = self.run.file("adapter.safetensors")
        fresh, adapted = not file.is_file(), self._bare_adapter
        seconds, memory = _metered(self.lm, partial(adapted.trained, self.train.pairs, file, progress))
        if fresh:
            self._keep(LORA, Cost(sum(p.numel() for p in adapted.trainable.values()), seconds, memory))

    def _keep(self, condition: Condition, cost: Cost) -> None:
        self.run.write(f"costs/{slug(condition.label)}.json", cost)

    @cached_property
    def _bare_adapter(self) -> Adapted:
        return Adapted(self.lm, self.plan.lora, self.plan.seed)

    @cached_property
    def adapted(self) -> Adapted:
        """With its trained weights."""
        self._bare_adapter.trained(self.train.pairs, self.run.file("adapter.safetensors"), silent(""))
        return self._bare_adapter

    # ------------------------------------------------------------ what they do

    def score(self, condition: Condition, progress: Progress) -> None:
        """Margins of test pairs with a vector, at every multiplier."""
        measure(
            self.lm, throughout(self.learned(condition)), self.bare, METRICS, to=self.run.path,
            part=slug(condition.label), multipliers=self.plan.multipliers, controls={}, progress=progress,
        )  # fmt: skip

    def score_adapter(self, progress: Progress) -> None:
        """The same with the adapter. Kept in the folder."""
        margins: list[list[float]] = []
        for k, m in enumerate(self.plan.multipliers):
            margins.append(self.adapted.margins(self.test.pairs, m).tolist())
            progress(k + 1, len(self.plan.multipliers))
        self.run.write("lora.json", margins)

    def _margins(self, condition: Condition) -> Array:
        """(multipliers, pairs), in the order of the test pairs."""
        if condition == LORA:
            return np.array(self.run.read("lora.json"))
        s = Scores.of(self.run, slug(condition.label))
        order = {item: k for k, item in enumerate(s.items)}
        columns = [s.margin[:, s.at(m)] for m in self.plan.multipliers]
        return np.array([[column[order[p.id]] for p in self.test] for column in columns])

    def talk(self, progress: Progress) -> dict[str, list[float]]:
        """By method, the share of answers that are no longer text, at every multiplier. Kept in the folder."""
        if self.run.read("texts.json") is None:
            prompts = [as_prompt(p.asked) for p in self.test.pairs[: self.plan.talk]]
            speak = partial(LM.generate, prompts=prompts, max_new_tokens=self.plan.max_new_tokens)
            usual, out = Usual(self.lm, prompts, speak(self.lm)), dict[str, list[float]]()
            for k, c in enumerate((*METHODS, LORA)):
                texts = [self._texts(c, m, speak) for m in self.plan.multipliers]
                out[c.label] = [usual.beside(t).broken for t in texts]
                progress(k + 1, len(METHODS) + 1)
            self.run.write("texts.json", out)
        return self.run.read("texts.json")

    def _texts(self, condition: Condition, multiplier: float, speak: Callable[[LM], list[str]]) -> list[str]:
        if condition == LORA:
            return speak(self.adapted.at(multiplier))
        with steer(self.lm, throughout(self.learned(condition), multiplier=multiplier)):
            return speak(self.lm)

    # ------------------------------------------------------------ what came out

    def results(self) -> Facts:
        broken, groups = self.talk(silent("")), [p.group for p in self.test]
        grid = list(self.plan.multipliers)
        lines: list[Line] = []
        for c in (*METHODS, LORA):
            margins = self._margins(c)
            plain = margins[grid.index(0.0)]
            at = [
                At(m, Value.of(margins[k] - plain, groups), broken[c.label][k])
                for k, m in enumerate(grid)
            ]  # fmt: skip
            cost = self.run.read(f"costs/{slug(c.label)}.json")
            price = self.run.typed(f"costs/{slug(c.label)}.json", Cost) if cost is not None else None
            ends = [grid.index(m) if m in grid else k for m, k in ((-1.0, 0), (1.0, len(grid) - 1))]
            lines.append(Line(c, Value.of(margins[ends[1]] - margins[ends[0]], groups), at, price))
        return Facts(self.name, len(self.train), len(self.test), self.layer, lines)


def _metered(lm: LM, work: Callable[[], object]) -> tuple[float, float]:
    """Do it; seconds, and the most memory it took beyond what was taken before, in MiB: of the accelerator where the
    model is on one, else of the process, looked at twenty times a second.
    """
    on_gpu = lm.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(lm.device)
    before = torch.cuda.memory_allocated(lm.device) if on_gpu else _resident()
    most, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    if not on_gpu:
        watcher.start()
    started = time.monotonic()
    try:
        work()
    finally:
        done.set()
    seconds = time.monotonic() - started
    peak = torch.cuda.max_memory_allocated(lm.device) if on_gpu else max(most[0], _resident())
    return seconds, (peak - before) / 2**20


def _resident() -> int:
    """Bytes of memory this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            facts = dict(line.split(":", 1) for line in status)
        return 1024 * int(facts["VmRSS"].split()[0])
    except (OSError, KeyError):
        return 0
