"""What a recipe will cost, before anything runs: its units, passes and tokens, hours and memory, on one worker or many.

The recipe is carried out to its end on a stand-in, a model as deep as the one it names and next to no width, and what
it asks of each block is counted. What a block takes is measured on the machine at hand, or told by a file that was
written on another. Choices fall differently on a stand-in, and its answers are as long as they may be: hours are for
that.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from trimtab import flow, studies
from trimtab.errors import RecipeError, RunError, TrimtabError, first_line
from trimtab.model.load import check_device, dtype_name
from trimtab.planning.clock import Clock, measure
from trimtab.planning.counting import Asked, Counting, counted
from trimtab.planning.standin import StandIn
from trimtab.progress import Watch, silent
from trimtab.recipe import Recipe
from trimtab.steering.vector import SteeringVector
from trimtab.studies import StudyRecipe

DISK = 2e8  # bytes of weights a second that are read, checked and placed
START = 8.0  # seconds of a process before it loads a model: Python, torch, transformers
LOGITS = 3  # tensors of the size of the logits that are there at once: themselves, in fp32, as log-probabilities


@dataclass(frozen=True)
class StagePlan:
    """A stage of a recipe.

    Attributes:
        units: how many.
        passes, tokens: of the model: passes through its first block, and tokens in all of its blocks over their number.
        seconds: of every unit, on one worker.
        memory: bytes at most.
    """

    name: str
    units: int
    passes: int
    tokens: int
    seconds: tuple[float, ...]
    memory: float


@dataclass(frozen=True)
class Plan:
    """What a recipe will cost.

    Attributes:
        models: names of the models, with the bytes of their weights.
        machine: what the times are of.
        workers: processes.
        stages: in order.
        between: seconds outside of units, in every worker.
        load: seconds until a worker begins.
        memory: bytes of one worker at most.
        stopped: why the recipe did not run to its end on a stand-in; "" if it did.
    """

    models: Mapping[str, float]
    machine: str
    workers: int
    stages: tuple[StagePlan, ...]
    between: float
    load: float
    memory: float
    stopped: str = ""
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        stages = sum(_longest(stage.seconds, self.workers) for stage in self.stages)
        object.__setattr__(self, "seconds", self.load + self.between + stages)


def plan(
    recipe: Path,
    *,
    size: str | None = None,
    workers: int = 1,
    device: str | None = None,
    dtype: str | None = None,
    clocks: Mapping[str, Clock] | None = None,
    watch: Watch = silent,
) -> tuple[Plan, dict[str, Clock]]:
    """What a recipe will cost, on this machine or on the one that `clocks` are of.

    Args:
        workers: processes of this many threads that share it.
        device, dtype: instead of the recipe's.
        clocks: by model, how fast a machine is; by default measured here.

    Returns:
        The plan, and the clocks it was made with.

    Raises:
        RecipeError, ModelError: a recipe that makes no sense, a model that is not here or cannot be built narrow.
    """
    asked = studies.read(recipe, size) or Recipe.load(recipe)
    loading = asked.loading
    device = device or str(loading.get("device") or "cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype_name(dtype or loading.get("dtype")) or ("float32" if device == "cpu" else "bfloat16")
    if clocks is None:
        check_device(device)
    counting, stopped = Counting(), ""
    with tempfile.TemporaryDirectory() as folder, counted(counting):
        try:
            _carried_out(asked, Path(folder), counting, watch)
        except TrimtabError as problem:
            if not counting.units:
                raise
            stopped = first_line(problem)
    known, thin = _timed(counting, clocks, dtype, device, watch)
    bits = loading.get("bits")
    itemsize = getattr(torch, dtype).itemsize
    made = _Summed(counting, known, thin, itemsize, itemsize if bits is None else int(bits) / 8)
    weights = {name: float(one.weights * made.stored) for name, one in counting.models.items()}
    stages = made.stages()
    peak = max((stage.memory for stage in stages), default=made.memory({}))
    load = START + sum(weights.values()) / DISK
    machine = ", ".join(dict.fromkeys(known[name].machine for name in counting.models))
    return Plan(weights, machine, workers, stages, made.seconds(counting.between), load, peak, stopped), known


def _timed(
    counting: Counting, clocks: Mapping[str, Clock] | None, dtype: str, device: str, watch: Watch
) -> tuple[dict[str, Clock], dict[str, Clock]]:
    """How fast every model is, as it was told or is measured here; and those that stand for them.

    Raises:
        RunError: what was told lacks one of them.
    """
    known, thin = dict(clocks or {}), dict[str, Clock]()
    for name, one in counting.models.items():
        if clocks is not None and name not in known:
            raise RunError(
                f"it is not known how fast the hardware is with {name}", given=sorted(known),
                do="trimtab plan RECIPE --save FILE there, with this recipe",
            )  # fmt: skip
        if name not in known:
            known[name] = measure(one.config, dtype=dtype, device=device, progress=watch(f"timing {name}"))
        if one.narrower > 1:
            thin[name] = measure(one.model.config, dtype="float32", device="cpu", progress=watch("timing the stand-in"))
    return known, thin


def _carried_out(asked: Recipe | StudyRecipe, folder: Path, counting: Counting, watch: Watch) -> None:
    """The recipe, to its end, on stand-ins."""
    if isinstance(asked, Recipe):
        if asked.vector:
            raise RecipeError("a recipe that is given a vector cannot be planned", do="plan one that learns it")
        flow.work(replace(asked, device=None, dtype=None), folder / "run", watch, counting)
        return
    here = {k: v for k, v in asked.loading.items() if k not in ("device", "dtype", "sampler")}
    table = dict(asked.plan)
    if isinstance(table.get("vector"), str):
        table["vector"] = _narrow_vector(table["vector"], asked.model, folder, counting)
    studies.work(replace(asked, loading=here, plan=table), folder / "run", watch, counting)


def _narrow_vector(file: str, model: str, folder: Path, counting: Counting) -> str:
    """A vector's file as a stand-in would have it."""
    vector = SteeringVector.load(file)
    counting.load(model)
    one: StandIn = counting.models[model]
    width = one.model.config.get_text_config(decoder=True).hidden_size
    thin = {k: v[..., :width] for k, v in vector.vectors.items()}
    to = folder / "vector.safetensors"
    SteeringVector(thin, site=vector.site, use=vector.use).save(to)
    return str(to)


@dataclass(frozen=True)
class _Summed:
    """What was counted, as seconds and bytes."""

    counting: Counting
    clocks: Mapping[str, Clock]
    thin: Mapping[str, Clock]
    itemsize: int  # of what is computed
    stored: float  # bytes of a weight

    def seconds(self, asked: Mapping[str, Asked]) -> float:
        """What the stand-in took, with its blocks' time replaced by the model's."""
        total = 0.0
        for name, one in asked.items():
            total += one.seconds
            if name in self.thin:
                real, thin = self.clocks[name], self.thin[name]
                total += sum(n * (real.seconds(c) - thin.seconds(c)) for c, n in one.calls.items())
        return max(0.0, total)

    def memory(self, asked: Mapping[str, Asked]) -> float:
        """The process, all weights, and the most that one model's passes keep and need at once."""
        weights = sum(one.weights * self.stored for one in self.counting.models.values())
        passes = [0.0]
        for name, one in asked.items():
            clock, vocab = self.clocks[name], self.counting.models[name]
            words = vocab.model.config.get_text_config(decoder=True).vocab_size
            kept = one.kept * self.itemsize / 4
            passes.append(kept + one.largest * clock.inner + one.saved * clock.saved + one.read * words * 4 * LOGITS)
        return self.counting.base + weights + max(passes)

    def stages(self) -> tuple[StagePlan, ...]:
        out: list[StagePlan] = []
        for name in dict.fromkeys(stage for stage, _ in self.counting.units):
            units = [asked for (stage, _), asked in self.counting.units.items() if stage == name]
            seconds = tuple(self.seconds(asked) for asked in units)
            passes = tokens = 0
            for model, one in ((model, one) for asked in units for model, one in asked.items()):
                depth = self.counting.models[model].config.get_text_config(decoder=True).num_hidden_layers
                blocks = {c: n for c, n in one.calls.items() if c.part == "block"}
                passes += round(sum(blocks.values()) / depth)
                tokens += round(sum(c.tokens * n for c, n in blocks.items()) / depth)
            out.append(StagePlan(name, len(units), passes, tokens, seconds, max(map(self.memory, units))))
        return tuple(out)


def _longest(seconds: Sequence[float], workers: int) -> float:
    """How long a stage takes if whoever is free takes the next unit."""
    busy = [0.0] * max(1, workers)
    for one in seconds:
        heapq.heappush(busy, heapq.heappop(busy) + one)
    return max(busy)
