"""measure(): items x multipliers x layers x conditions, by replay, into an append-only run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab import registry
from trimtab.datasets import Dataset, check_unseen, digest
from trimtab.errors import RecipeError, SteerError
from trimtab.interventions import Intervention, Receipt, check_stack, edits
from trimtab.methods import paired_rows
from trimtab.metrics import Metric
from trimtab.model import LM, Frame, Layer, Positions, Prefix, in_pieces
from trimtab.model.hooks import Layers
from trimtab.readings import Chunk, Readings, chunks
from trimtab.recipe import GRID, Cell, Run, Score, check_grid, row
from trimtab.vector import Provenance, SteeringVector

Progress = Callable[[int, int], None]
LOGITS = 50_000_000  # most logits held at once; more multipliers are replayed in several goes


@dataclass(frozen=True)
class Condition:
    """One thing to measure: an intervention swept over the multipliers, or a system prompt at multiplier 0."""

    name: str
    iv: Intervention | None = None
    system: str | None = None

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "system": self.system, "intervention": self.iv.describe() if self.iv else None}


def measure(
    lm: LM,
    iv: Intervention,
    data: Dataset,
    metrics: Sequence[Metric],
    *,
    to: str | Path,
    multipliers: Sequence[float] = GRID,
    layers: Layers | None = None,
    controls: Mapping[str, SteeringVector] | None = None,
    part: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Score every item at every multiplier, for the vector and its controls, and the unsteered model asked in words.

    The same call on the same folder resumes: complete units are not run again, and the result is identical.

    Args:
        lm: the model.
        iv: the intervention; its multiplier is replaced by each of `multipliers`.
        data: items the vector was not learned on.
        metrics: what to read off each item.
        to: the run folder.
        multipliers: times the stored vector; must hold 0.
        layers: sweep these layers one at a time; by default the vector acts at all of its layers together.
        controls: vectors to measure beside; by default three random directions of equal norm and the label-shuffled
            vectors that came with the vector; none in a layer sweep.
        part: name of this part of the run; by default the data set's ("test", "val").
        progress: called with (units done, units in all).

    Raises:
        OverlapError: an item was trained on.
        RunError: the folder cannot be written to, or holds another run.
        SteerError, VectorError, TokenError: the intervention or an item does not fit the model; nothing has been written.
    """
    check_grid(multipliers)
    check_stack(lm, iv)
    check_unseen(iv.vector.made.trained_on, data, f"the training data of the vector ({iv.vector.made.data.get('name')})")
    if not metrics:
        raise RecipeError("nothing to measure: no metrics")
    layers = None if layers is None else lm.layers(layers)
    iv = iv if layers is None else replace(iv, vector=iv.vector.at(*layers))
    if controls is None:
        nulls = {name: iv.vector.null(name) for name in iv.vector.nulls}
        controls = {} if layers is not None else random_controls(iv.vector, 3) | nulls
    conditions = [Condition("vector", iv), *(Condition(n, replace(iv, vector=v.at(*iv.vector.layers))) for n, v in controls.items())]
    asked = [Condition(f"prompt-{k}", system=text) for k, text in (data.ask or {}).items()] if layers is None else []
    sweep = _Sweep(lm, conditions, asked, tuple(metrics), tuple(float(m) for m in multipliers), layers)
    batches = chunks(lm, data, metrics, iv.where, [c.system for c in asked])
    run = Run.create(to)
    part = part or data.part
    run.claim(part, sweep.plan(data, batches))
    _run_missing(run, part, sweep, batches, progress)
    groups = {**run.manifest.get("groups", {}), **{p.id: p.group for p in data}}
    run.note(model=lm.id, groups=groups)
    if layers is None:
        made = iv.vector.made
        run.note(norms=iv.vector.norm(), vector={"method": dict(made.method), "data": dict(made.data), "hash": iv.vector.hash})
    return run


def _run_missing(run: Run, part: str, sweep: _Sweep, batches: Sequence[Chunk], progress: Progress | None) -> None:
    """Score the units that are not in the journal yet, a chunk of items and a layer each."""
    journal = run.journal(part)
    total = len(batches) * len(sweep.stops)
    done = sum(f"{part}/{k}/{layer}" in journal.done for k in range(len(batches)) for layer in sweep.stops)
    for k, chunk in enumerate(batches):
        missing = [layer for layer in sweep.stops if f"{part}/{k}/{layer}" not in journal.done]
        for layer, rows in sweep.score(chunk, missing) if missing else ():
            journal.append(f"{part}/{k}/{layer}", rows)
            done += 1
            if progress:
                progress(done, total)


def random_controls(vector: SteeringVector, n: int, seed: int = 0) -> dict[str, SteeringVector]:
    """Random directions with the vector's norm at each layer."""
    out: dict[str, SteeringVector] = {}
    for k in range(n):
        g = torch.Generator().manual_seed(1000 * seed + k)
        drawn = {layer: torch.randn(v.shape, generator=g) for layer, v in vector.vectors.items()}
        scaled = {layer: r * vector[layer].norm() / r.norm() for layer, r in drawn.items()}
        made = Provenance(model=vector.made.model, fingerprint=vector.made.fingerprint, method={"name": "random-direction", "seed": seed, "draw": k})
        out[f"random-{k}"] = SteeringVector(scaled, made, site=vector.site)
    return out


@dataclass(frozen=True)
class _Sweep:
    lm: LM
    conditions: Sequence[Condition]
    asked: Sequence[Condition]
    metrics: tuple[Metric, ...]
    multipliers: tuple[float, ...]
    layers: Sequence[Layer] | None

    @property
    def where(self) -> Positions:
        iv = self.conditions[0].iv
        assert iv is not None
        return iv.where

    @property
    def stops(self) -> list[Layer | None]:
        """The units of one chunk: each swept layer, or None for all layers of the vector together."""
        return [None] if self.layers is None else list(self.layers)

    def plan(self, data: Dataset, batches: Sequence[Chunk]) -> dict[str, Any]:
        """Everything the numbers depend on, and which items make a unit of the journal."""
        items = [",".join(p.id for p in chunk.pairs) for chunk in batches]
        return {
            "model": self.lm.facts,
            "data": {"name": data.name, "part": data.part, "form": data.form, "hash": data.hash, "items": len(data)},
            "conditions": [c.describe() for c in (*self.conditions, *self.asked)],
            "metrics": [registry.describe(m) for m in self.metrics],
            "multipliers": list(self.multipliers),
            "layers": None if self.layers is None else list(self.layers),
            "batches": digest(*items),
            "tokens": digest(*(" ".join(map(str, (*row.ids, -1, row.prompt))) for chunk in batches for row in chunk.tokens.rows)),
        }

    # ------------------------------------------------------------ scores

    def score(self, chunk: Chunk, stops: Sequence[Layer | None]) -> Iterator[tuple[Layer | None, list[dict[str, Any]]]]:
        """The rows of each unit of a chunk: one prefix pass, then replays."""
        needed = [s for s in stops if s is not None] or [min(self.conditions[0].iv.vector.layers)]  # type: ignore[union-attr]
        prefix = self.lm.prefix(chunk.tokens, chunk.start(self.where), needed, keep=chunk.keep)
        base = Readings.of(chunk, prefix.logits[None])
        for stop in stops:
            rows: list[dict[str, Any]] = []
            for condition, m, reading in self._swept(chunk, prefix, base, stop):
                rows += self._rows(chunk, reading, base, condition.name, stop, m)
            for condition in self.asked if stop is None else ():
                rows += self._asked(chunk, base, condition)
            yield stop, rows

    def _swept(self, chunk: Chunk, prefix: Prefix, base: Readings, stop: Layer | None) -> Iterator[tuple[Condition, Sequence[float], Readings]]:
        """Readings of each condition at each multiplier; 0 is the prefix pass itself. Conditions share a replay where they edit one layer only."""
        at_once = max(1, LOGITS // prefix.logits.numel())
        steered = [m for m in self.multipliers if m != 0]
        several = at_once // max(1, len(steered)) if stop is not None or len(self.conditions[0].iv.vector.layers) == 1 else 0  # type: ignore[union-attr]
        for together in in_pieces(self.conditions, max(1, several)):
            yield from ((c, (0.0,), base) for c in together)
            for multipliers in in_pieces(steered, at_once):
                ivs = [c.iv for c in together if c.iv is not None]
                reading = Readings.of(chunk, replay_multipliers(self.lm, prefix, ivs, multipliers, chunk.keep, stop))
                for condition, part in zip(together, reading.split(len(multipliers)), strict=True):
                    yield condition, multipliers, part

    def _rows(
        self, chunk: Chunk, reading: Readings, base: Readings, condition: str, stop: Layer | None, multipliers: Sequence[float]
    ) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for metric in self.metrics:
            cells = [Cell(_name(metric), condition, stop, m) for m in multipliers]
            for j, pair in enumerate(chunk.pairs):
                values = metric.value(reading.at(j, base)).tolist()
                out += [row(cell, Score(pair.id, value, metric.unit(pair))) for cell, value in zip(cells, values, strict=True)]
        return out

    def _asked(self, chunk: Chunk, base: Readings, condition: Condition) -> list[dict[str, Any]]:
        """The unsteered model asked for the behavior in words, on the same items."""
        rows = [paired_rows(self.lm, p, condition.system) for p in chunk.pairs]
        other = Chunk.of(self.lm, chunk.pairs, rows, chunk.said is not None)
        prefix = self.lm.prefix(other.tokens, layers=[0], keep=other.keep)
        return self._rows(other, Readings.of(other, prefix.logits[None]), base, condition.name, None, (0.0,))


def replay_multipliers(
    lm: LM, prefix: Prefix, ivs: Sequence[Intervention], multipliers: Sequence[float], keep: Sequence[int], layer: Layer | None = None
) -> Float[Tensor, "c b k v"]:
    """Logits of a recorded batch under interventions at several multipliers, in one replay: c is every multiplier of the first, then of the next.

    Args:
        ivs: one that may act at several layers, or several that act at one and the same layer.
        layer: act at this layer alone; by default at all layers of the vector.

    Raises:
        SteerError: several interventions that do not act at one layer.
    """
    acting = {iv.vector.layers if layer is None else (layer,) for iv in ivs}
    layers = acting.pop()
    if acting or len(ivs) > 1 < len(layers):
        raise SteerError("several interventions in one replay", given=sorted({layers, *acting}), expected="one and the same layer for all of them")
    lowest = min(layers)
    c, b = len(multipliers), len(prefix.tokens.rows)
    m = torch.tensor(multipliers, device=lm.device).repeat_interleave(b)[:, None, None]
    index = prefix.tokens.index[:, prefix.start :].repeat(c, 1)
    frame = Frame(index, prefix.tokens.rows * c)
    h = torch.cat([iv.apply(prefix.residual[lowest].repeat(c, 1, 1), lowest, frame, m)[0] for iv in ivs])
    above = replace(ivs[0], vector=ivs[0].vector.at(*[k for k in layers if k != lowest])) if len(layers) > 1 else None
    later = edits([above], Receipt(), m) if above else None
    return lm.replay(prefix, lowest, h.unflatten(0, (c * len(ivs), b)), keep=keep, edits=later, share=True)


def _name(metric: Metric) -> str:
    """The metric's name, and the parameters that are not the default ones: tells two metrics of one kind apart."""
    default, mine = type(metric)(), registry.describe(metric)
    changed = [str(v) for k, v in mine.items() if k != "name" and v != getattr(default, k)]
    return ":".join([mine["name"], *changed])


def transcripts(
    lm: LM,
    iv: Intervention,
    prompts: Sequence[str],
    run: Run,
    *,
    multipliers: Sequence[float],
    max_new_tokens: int = 40,
    progress: Progress | None = None,
) -> None:
    """What the model says to each prompt at each multiplier (greedy), appended to `generations.jsonl` of the run; resumable."""
    journal = run.journal("../generations")
    for k, m in enumerate(multipliers):
        key = hashlib.sha256(json.dumps([iv.describe(), m, list(prompts), max_new_tokens]).encode()).hexdigest()[:16]
        if key not in journal.done:
            with ExitStack() as stack:
                if m != 0:
                    stack.enter_context(lm.edit(edits([iv.times(m)], Receipt())))
                said = lm.generate(prompts, max_new_tokens=max_new_tokens)
            journal.append(key, [{"prompt": p, "multiplier": m, "text": t} for p, t in zip(prompts, said, strict=True)])
        if progress:
            progress(k + 1, len(multipliers))
