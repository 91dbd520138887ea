"""Vectors beside a LoRA trained by DPO on the same pairs, and what each costs: trainable parameters, seconds, memory
(Cao et al. 2024, appendix D, figure 8, table 15).

The adapter is turned up and down like a vector: its low-rank product counts as often as the multiplier says. Margins of
held-out pairs, and how much of the text is still text, over the spectrum. Beside it an adapter of rank 1, one that is
fine-tuned on the positive answers alone, each with BiPO's vector on top (Rimsky et al. 2024), and answers shown in the
prompt, few and many.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trimtab import registry
from trimtab.answers.quality import Usual
from trimtab.data.contexts import with_shots
from trimtab.data.pairs import Pair
from trimtab.errors import RecipeError, check_least
from trimtab.evaluation.sweep import measure
from trimtab.model import LM
from trimtab.model.rendering import as_prompt
from trimtab.progress import Progress, silent
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array
from trimtab.steering.interventions import steer
from trimtab.steering.vector import SteeringVector
from trimtab.studies.adapters import Adapted, Lora
from trimtab.studies.behaviors import METHODS, METRICS, Behavior, Learning, place, scouting
from trimtab.studies.conditions import Condition
from trimtab.studies.descents import throughout
from trimtab.studies.pages.bipo_results import BIPO, Scores, Value, slug
from trimtab.studies.pages.lora import LORA, At, Cost, Facts, Line, Results, Shown, Together

SIDES = ("positive", "negative")


@dataclass(frozen=True)
class Plan(Learning):
    """What is run.

    Attributes:
        lora: how the adapter is made and trained.
        others: further adapters, by name: the fields in which they differ.
        both: strengths of the adapters at which BiPO's vector is tried on top, at -1 and +1.
        shots: numbers of examples shown in the prompt.
        multipliers: the spectrum.
        talk: test questions that are answered at every multiplier, to see whether text is still text.
        max_new_tokens: longest answer.
    """

    lora: Lora = field(default_factory=Lora)
    others: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"rank 1": {"rank": 1, "alpha": 2.0}, "fine-tuned": {"answers": True}}
    )
    both: tuple[float, ...] = (-0.25, 0.25)
    shots: tuple[int, ...] = (2, 8)
    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    talk: int = 8
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.multipliers)
        check_least("lora", 1, talk=self.talk, shots=min(self.shots, default=1))
        for how in self.adapters.values():
            check_least("lora", 1, rank=how.rank, batch=how.batch, epochs=how.epochs)
        if max(self.shots, default=0) > self.train:
            raise RecipeError("more examples than training pairs", given=self.shots, expected=f"at most {self.train}")

    @property
    def adapters(self) -> dict[Condition, Lora]:
        """All of them, the first one as it is."""
        first = asdict(self.lora)
        out = {LORA: self.lora}
        for name, some in self.others.items():
            out[LORA.but(source=name)] = registry.build(Lora, {**first, **some}, where=f"adapter {name}")
        if len({slug(c.label) for c in out}) <= len(self.others):
            raise RecipeError("not names of adapters", given=list(self.others), expected="names of different letters")
        return out


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
            *(Unit(f"{b.name}: train a {c}", b.basis, partial(b.adapt, c)) for b in studied for c in plan.adapters),
        ],
    )
    yield Stage(
        "scores",
        [
            *(Unit(f"{b.name}: {c}", b.basis, partial(b.score, c)) for b in studied for c in METHODS),
            *(Unit(f"{b.name}: {c}", b.basis, partial(b.score_adapter, c)) for b in studied for c in plan.adapters),
            *(Unit(f"{b.name}: shown", b.basis, b.shown) for b in studied),
        ],
    )
    yield Stage("texts", [Unit(f"{b.name}: texts", b.basis, b.talk) for b in studied])
    run.write(RESULTS, Results(lm.id, plan.seed, list(plan.multipliers), [b.results() for b in studied]))


class _Compared(Behavior):
    """The pieces of work of one behavior; each reads back what it has already done."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str) -> None:
        super().__init__(lm, folder, plan, source)
        self.plan, self.bare = plan, replace(self.test, ask=None)
        self._adapters: dict[Condition, Adapted] = {}

    def check(self) -> None:
        """Refuse a model that cannot have the adapters."""
        for c in self.plan.adapters:
            self._bare(c)

    # ------------------------------------------------------------ training, and its price

    def paid(self, condition: Condition, progress: Progress) -> None:
        """One vector; where it is learned now, its price is kept."""
        begun = any(self.run.file("training", slug(condition.label)).glob("*"))
        fresh = not self._file(slug(condition.label)).is_file() and not begun  # or the rest alone would be priced
        seconds, memory = _metered(self.lm, partial(self.learned, condition, progress))
        if fresh:
            v = self.learned(condition)
            self._keep(condition, Cost(sum(x.numel() for x in v.vectors.values()), seconds, memory))

    def adapt(self, condition: Condition, progress: Progress) -> None:
        """An adapter; where it is trained now, its price is kept."""
        file = self._adapter_file(condition)
        fresh, adapted = not file.is_file(), self._bare(condition)
        seconds, memory = _metered(self.lm, partial(adapted.trained, self.train.pairs, file, progress))
        if fresh:
            self._keep(condition, Cost(sum(p.numel() for p in adapted.trainable.values()), seconds, memory))

    def _keep(self, condition: Condition, cost: Cost) -> None:
        self.run.write(f"costs/{slug(condition.label)}.json", cost)

    def _adapter_file(self, condition: Condition) -> Path:
        return self.run.file(f"adapter-{slug(condition.label)}.safetensors")

    def _bare(self, condition: Condition) -> Adapted:
        """The model with an adapter, as yet untrained."""
        return Adapted(self.lm, self.plan.adapters[condition], self.plan.seed)

    def adapted(self, condition: Condition) -> Adapted:
        """With its trained weights. The last one is kept."""
        if condition not in self._adapters:
            self._adapters.clear()
            made = self._adapters[condition] = self._bare(condition)
            made.trained(self.train.pairs, self._adapter_file(condition), silent(""))
        return self._adapters[condition]

    # ------------------------------------------------------------ what they do

    def score(self, condition: Condition, progress: Progress) -> None:
        """Margins of test pairs with a vector, at every multiplier."""
        measure(
            self.lm, throughout(self.learned(condition)), self.bare, METRICS, to=self.run.path,
            part=slug(condition.label), multipliers=self.plan.multipliers, controls={}, progress=progress,
        )  # fmt: skip

    def score_adapter(self, condition: Condition, progress: Progress) -> dict[str, dict[str, list[float]]]:
        """The same with an adapter, by strength; and with BiPO's vector on top, by strength and multiplier. Kept in the
        folder.
        """
        name = f"margins/{slug(condition.label)}.json"
        if self.run.read(name) is None:
            adapted, pairs, plan = self.adapted(condition), self.test.pairs, self.plan
            bipo = SteeringVector(self.learned(BIPO).vectors)
            alone = [(m, 0.0) for m in (*plan.multipliers, *plan.both)]
            work = list(dict.fromkeys([*alone, *((m, v) for m in plan.both for v in (-1.0, 1.0))]))
            out: dict[str, dict[str, list[float]]] = {}
            for k, (strength, multiplier) in enumerate(work):
                with steer(adapted.lm, throughout(bipo, multiplier=multiplier)):
                    margins = adapted.margins(pairs, strength).tolist()
                out.setdefault(f"{strength:g}", {})[f"{multiplier:g}"] = margins
                progress(k + 1, len(work))
            self.run.write(name, out)
        return self.run.read(name)

    def shown(self, progress: Progress) -> dict[str, list[float]]:
        """Margins of test pairs behind other questions answered with the behavior, or with its opposite, by their
        number. Kept in the folder.
        """
        if self.run.read("shown.json") is None:
            out: dict[str, list[float]] = {}
            for k, n in enumerate(self.plan.shots):
                for side in SIDES:
                    data = with_shots(self.bare, self.train.pairs[:n], opposite=side == SIDES[1])
                    out[f"{n} {side}"] = self._bare_margins(data.pairs)
                progress(k + 1, len(self.plan.shots))
            self.run.write("shown.json", {"0": self._bare_margins(self.bare.pairs), **out})
        return self.run.read("shown.json")

    def _bare_margins(self, pairs: Sequence[Pair]) -> list[float]:
        """Of the model as it is, nats."""
        asked = [as_prompt(p.asked) for p in pairs]
        one, two = (self.lm.logprobs(asked, t) for t in ([p.positive for p in pairs], [p.negative for p in pairs]))
        return [float(a.sum() - b.sum()) for a, b in zip(one, two, strict=True)]

    def _margins(self, condition: Condition) -> Array:
        """(multipliers, pairs), in the order of the test pairs."""
        if condition.kind == LORA.kind:
            known = self.score_adapter(condition, silent(""))
            return np.array([known[f"{m:g}"]["0"] for m in self.plan.multipliers])
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
            for k, c in enumerate(self.methods):
                texts = [self._texts(c, m, speak) for m in self.plan.multipliers]
                out[c.label] = [usual.beside(t).broken for t in texts]
                progress(k + 1, len(self.methods))
            self.run.write("texts.json", out)
        return self.run.read("texts.json")

    @property
    def methods(self) -> list[Condition]:
        """Vectors and adapters."""
        return [*METHODS, *self.plan.adapters]

    def _texts(self, condition: Condition, multiplier: float, speak: Callable[[LM], list[str]]) -> list[str]:
        if condition.kind == LORA.kind:
            return speak(self.adapted(condition).at(multiplier))
        with steer(self.lm, throughout(self.learned(condition), multiplier=multiplier)):
            return speak(self.lm)

    # ------------------------------------------------------------ what came out

    def results(self) -> Facts:
        broken, groups = self.talk(silent("")), [p.group for p in self.test]
        grid = list(self.plan.multipliers)
        lines: list[Line] = []
        for c in self.methods:
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
        return Facts(self.name, len(self.train), len(self.test), self.layer, lines, self._together(), self._examples())

    def _together(self) -> list[Together]:
        """Every adapter with BiPO's vector on top: what the vector adds to it, and what it adds alone."""
        out: list[Together] = []
        groups, grid = [p.group for p in self.test], list(self.plan.multipliers)
        alone = self._margins(BIPO)
        for c in self.plan.adapters:
            known = self.score_adapter(c, silent(""))
            for strength in self.plan.both:
                at = {m: np.array(x) for m, x in known[f"{strength:g}"].items()}
                for m in (m for m in (-1.0, 1.0) if m in grid):
                    added, own = at[f"{m:g}"] - at["0"], alone[grid.index(m)] - alone[grid.index(0.0)]
                    out.append(Together(c, strength, m, Value.of(added, groups), Value.of(own, groups)))
        return out

    def _examples(self) -> list[Shown]:
        """Change of the margin by examples shown."""
        known, groups = self.shown(silent("")), [p.group for p in self.test]
        plain = np.array(known["0"])
        return [
            Shown(n, *(Value.of(np.array(known[f"{n} {side}"]) - plain, groups) for side in SIDES))
            for n in self.plan.shots
        ]


def _metered(lm: LM, work: Callable[[], object]) -> tuple[float, float]:
    """Do it; seconds, and the most memory it took beyond what was taken before, in MiB: of the accelerator where the
    model is on one, else of the process, looked at twenty times a second.
    """
    on_gpu = lm.device.type == "cuda"
    if not on_gpu:
        _give_back()  # or what was freed before is taken again without anybody seeing it
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


def _give_back() -> None:
    """Freed memory to the system, where its C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    """Bytes of memory this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            facts = dict(line.split(":", 1) for line in status)
        return 1024 * int(facts["VmRSS"].split()[0])
    except (OSError, KeyError):
        return 0
