"""measure(): items x multipliers x layers x conditions, by replay, into an append-only run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab import registry
from trimtab.answers.quality import strangeness
from trimtab.data.datasets import Dataset, check_unseen
from trimtab.data.pairs import Pair, digest
from trimtab.errors import RecipeError
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.metrics.base import Metric
from trimtab.evaluation.nulls import compare
from trimtab.evaluation.readings import Chunk, Readings, chunks
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM, Layer, Positions, Prefix, in_pieces
from trimtab.model.hooks import Layers
from trimtab.model.rendering import as_prompt
from trimtab.progress import Progress
from trimtab.recipe import GRID, check_grid
from trimtab.runs import Cell, Role, Run, Score, row
from trimtab.statistics.nulls import DRAWS
from trimtab.steering.controls import null_controls, random_controls
from trimtab.steering.interventions import Intervention, Receipt, check_stack, edits
from trimtab.steering.multipliers import replay_multipliers
from trimtab.steering.vector import SteeringVector

LOGITS = 50_000_000  # most logits held at once; more multipliers are replayed in several goes


@dataclass(frozen=True)
class Condition:
    """One thing to measure: an intervention swept over the multipliers, or a system prompt at multiplier 0."""

    name: str
    iv: Intervention | None = None
    system: str | None = None
    role: Role = "vector"

    def describe(self) -> dict[str, Any]:
        intervention = self.iv.describe() if self.iv else None
        return {"name": self.name, "role": self.role, "system": self.system, "intervention": intervention}


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
    draws: int | None = None,
    among: SteeringVector | None = None,
    part: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Score every item at every multiplier, for the vector and its controls, and the unsteered model asked in words.

    The same call on the same folder resumes: complete units are not run again, and the result is identical.

    Args:
        iv: the intervention; its multiplier is replaced by each of `multipliers`.
        data: items the vector was not learned on.
        to: the run folder.
        multipliers: times the stored vector; must hold 0.
        layers: sweep these layers one at a time; by default the vector acts at all of its layers together.
        controls: vectors to measure beside; by default three random directions of equal norm and two of the
            label-shuffled vectors that came with the vector; none in a layer sweep.
        draws: null vectors of a kind to compare with by forecast, for the verdict (`nulls.compare`); by default 499
            beside the default controls, none beside those that are given, and none in a layer sweep.
        among: the vector at all layers that its layer was chosen from, if it was: null vectors then have the same
            choice. Without it they have as many tries as sweeps in this folder had layers, or as the vector had
            before it was cut down to some (`SteeringVector.at`).
        part: name of this part of the run; by default the data set's ("test", "val").
        progress: called with (units done, units in all).

    Raises:
        OverlapError: an item was trained on.
        RunError: the folder cannot be written to, or holds another run.
        SteerError, VectorError, TokenError: the intervention or an item does not fit the model; nothing has been
            written.
    """
    sweep = Measurement(
        lm, iv, data, metrics, to=to, multipliers=multipliers, layers=layers, controls=controls, draws=draws,
        among=among, part=part,
    )  # fmt: skip
    sweep.score(progress=progress)
    sweep.compare(progress)
    return sweep.run


class Measurement:
    """`measure` in pieces, for several processes: checked, entered in its folder, and not begun.

    Attributes:
        run, part: where its scores go.
    """

    def __init__(
        self,
        lm: LM,
        iv: Intervention,
        data: Dataset,
        metrics: Sequence[Metric],
        *,
        to: str | Path,
        multipliers: Sequence[float] = GRID,
        layers: Layers | None = None,
        controls: Mapping[str, SteeringVector] | None = None,
        draws: int | None = None,
        among: SteeringVector | None = None,
        part: str | None = None,
    ) -> None:
        _check(lm, iv, data, metrics, multipliers)
        layers = None if layers is None else lm.layers(layers)
        self.iv = iv if layers is None else replace(iv, vector=iv.vector.at(*layers))
        self.draws = draws if draws is not None else DRAWS if controls is None else 0
        if controls is None:
            vector = self.iv.vector
            controls = {} if layers is not None else random_controls(vector, 3) | null_controls(vector, 2)
        asks = (data.ask or {}) if layers is None else {}
        asked = [Condition(f"prompt-{k}", system=text, role="asked") for k, text in asks.items()]
        self.lm, self.data, self.metrics, self.layers, self.among = lm, data, metrics, layers, among
        grid = tuple(float(m) for m in multipliers)
        self._sweep = _Sweep(lm, _conditions(self.iv, controls), asked, tuple(metrics), grid, layers)
        self._batches = chunks(lm, data, metrics, self.iv.where, [c.system for c in asked])
        self.run, self.part = Run.create(to), part or data.part
        self.run.claim(self.part, self._sweep.plan(data, self._batches))
        self._keep_texts()

    def __len__(self) -> int:
        """Batches: what is scored in one go."""
        return len(self._batches)

    def score(self, only: Sequence[int] | None = None, progress: Progress | None = None) -> None:
        """Score what is not in the journal yet.

        Args:
            only: these batches; by default all of them.
        """
        _run_missing(self.run, self.part, self._sweep, self._batches, progress, only)
        run, data = self.run, self.data
        run.note(model=self.lm.id, groups={**run.manifest.get("groups", {}), **{p.id: p.group for p in data}})
        if self.layers is None:
            run.note(norms=self.iv.vector.norm(), vector=_about(self.iv.vector))

    def _keep_texts(self) -> None:
        """What the items say, for whoever reads the run: items/PART.json, by their ids."""
        name = f"items/{self.part}.json"
        if not self.run.file(name).is_file():
            self.run.write(name, {p.id: _texts(p) for p in self.data})

    def compare(self, progress: Progress | None = None) -> None:
        """Null vectors beside it, if any were asked for."""
        if self.layers is None and self.draws:
            _compare(self.lm, self.iv, self.data, self.metrics, self.run, self.part, self.draws, self.among, progress)


def _texts(pair: Pair) -> dict[str, Any]:
    texts = {"prompt": pair.prompt, "positive": pair.positive, "negative": pair.negative}
    return texts | ({"before": pair.before} if pair.before else {})


def _check(lm: LM, iv: Intervention, data: Dataset, metrics: Sequence[Metric], multipliers: Sequence[float]) -> None:
    """Refuse before any work what cannot be measured, or should not."""
    check_grid(multipliers)
    check_stack(lm, iv)
    made = iv.vector.made
    check_unseen(made.trained_on, data, f"the training data of the vector ({made.data.get('name')})")
    if not metrics:
        raise RecipeError("nothing to measure: no metrics")


def _conditions(iv: Intervention, controls: Mapping[str, SteeringVector]) -> list[Condition]:
    """The vector, and its controls at the same layers."""
    beside = [Condition(n, replace(iv, vector=v.at(*iv.vector.layers)), role=_role(v)) for n, v in controls.items()]
    return [Condition("vector", iv), *beside]


def _role(control: SteeringVector) -> Role:
    """What sort of control a vector is, by what made it."""
    roles: dict[str, Role] = {"random-direction": "random", "label-shuffled": "shuffled"}
    return roles.get(str(control.made.method.get("name")), "control")


def _about(vector: SteeringVector) -> dict[str, Any]:
    return {"method": dict(vector.made.method), "data": dict(vector.made.data), "hash": vector.hash}


def _compare(
    lm: LM,
    iv: Intervention,
    data: Dataset,
    metrics: Sequence[Metric],
    run: Run,
    part: str,
    draws: int,
    among: SteeringVector | None,
    progress: Progress | None,
) -> None:
    """Null vectors beside the first propensity that is measured, once for a vector: into nulls/PART.json of the run."""
    metric = next((m for m in metrics if isinstance(m, Propensity)), None)
    layer = iv.vector.layers[0] if len(iv.vector.layers) == 1 else None
    whole = iv.vector if among is None or layer is None else among
    swept = {k for plan in run.manifest["parts"].values() for k in plan.get("layers") or ()}
    choices = 1 if whole is among else max(1, len(swept), iv.vector.made.among)
    nulls = [v.hash for v in null_controls(whole).values()]
    of = digest(iv.vector.hash, whole.hash, data.hash, str(draws), str(choices), *nulls)
    if metric is None or run.read(f"nulls/{part}.json", {}).get("of") == of:
        return
    compared = compare(
        lm, replace(iv, vector=whole), data, metric, layer=layer, choices=choices, draws=draws, progress=progress
    )
    run.write(f"nulls/{part}.json", {"of": of, **compared.to_json()})


def _run_missing(
    run: Run,
    part: str,
    sweep: _Sweep,
    batches: Sequence[Chunk],
    progress: Progress | None,
    only: Sequence[int] | None,
) -> None:
    """Score the units that are not in the journal yet, a chunk of items and a layer each."""
    journal, some = run.journal(part), range(len(batches)) if only is None else only
    total = len(some) * len(sweep.stops)
    done = sum(f"{part}/{k}/{layer}" in journal.done for k in some for layer in sweep.stops)
    for k in some:
        chunk = batches[k]
        missing = [layer for layer in sweep.stops if f"{part}/{k}/{layer}" not in journal.done]
        for layer, rows in sweep.score(chunk, missing) if missing else ():
            journal.append(f"{part}/{k}/{layer}", rows)
            done += 1
            if progress:
                progress(done, total)


@dataclass(frozen=True)
class _Sweep:
    lm: LM
    conditions: Sequence[Condition]
    asked: Sequence[Condition]
    metrics: tuple[Metric, ...]
    multipliers: tuple[float, ...]
    layers: Sequence[Layer] | None

    @property
    def iv(self) -> Intervention:
        """Of the vector itself, the first condition."""
        iv = self.conditions[0].iv
        assert iv is not None
        return iv

    @property
    def where(self) -> Positions:
        return self.iv.where

    @property
    def stops(self) -> list[Layer | None]:
        """The units of one chunk: each swept layer, or None for all layers of the vector together."""
        return [None] if self.layers is None else list(self.layers)

    def plan(self, data: Dataset, batches: Sequence[Chunk]) -> dict[str, Any]:
        """Everything the numbers depend on, and which items make a unit of the journal."""
        items = [_ids(chunk) for chunk in batches]
        return {
            "model": self.lm.facts,
            "data": {"name": data.name, "part": data.part, "form": data.form, "hash": data.hash, "items": len(data)},
            "conditions": [c.describe() for c in (*self.conditions, *self.asked)],
            "metrics": [{**registry.describe(m), "label": _name(m)} for m in self.metrics],
            "multipliers": list(self.multipliers),
            "layers": None if self.layers is None else list(self.layers),
            "batches": digest(*items),
            "tokens": digest(
                *(" ".join(map(str, (*row.ids, -1, row.prompt))) for chunk in batches for row in chunk.tokens.rows)
            ),
        }

    # ------------------------------------------------------------ scores

    def score(self, chunk: Chunk, stops: Sequence[Layer | None]) -> Iterator[tuple[Layer | None, list[dict[str, Any]]]]:
        """The rows of each unit of a chunk: one prefix pass, then replays."""
        needed = [s for s in stops if s is not None] or [min(self.iv.vector.layers)]
        prefix = self.lm.prefix(chunk.tokens, chunk.start(self.where), needed, keep=chunk.keep)
        base = Readings.of(chunk, prefix.logits[None])
        for stop in stops:
            rows: list[dict[str, Any]] = []
            for condition, m, reading in self._swept(chunk, prefix, base, stop):
                rows += self._rows(chunk, reading, base, condition.name, stop, m)
            for condition in self.asked if stop is None else ():
                rows += self._asked(chunk, base, condition)
            yield stop, rows

    def _swept(
        self, chunk: Chunk, prefix: Prefix, base: Readings, stop: Layer | None
    ) -> Iterator[tuple[Condition, Sequence[float], Readings]]:
        """Readings of each condition at each multiplier; 0 is the prefix pass itself. Conditions share a replay where
        they edit one layer only.
        """
        at_once = max(1, LOGITS // prefix.logits.numel())
        steered = [m for m in self.multipliers if m != 0]
        # several conditions share a replay where each edits one and the same layer
        one_layer = stop is not None or len(self.iv.vector.layers) == 1
        several = at_once // max(1, len(steered)) if one_layer else 0
        for together in in_pieces(self.conditions, max(1, several)):
            yield from ((c, (0.0,), base) for c in together)
            for multipliers in in_pieces(steered, at_once):
                ivs = [c.iv for c in together if c.iv is not None]
                reading = Readings.of(chunk, replay_multipliers(self.lm, prefix, ivs, multipliers, chunk.keep, stop))
                for condition, part in zip(together, reading.split(len(multipliers)), strict=True):
                    yield condition, multipliers, part

    def _rows(
        self,
        chunk: Chunk,
        reading: Readings,
        base: Readings,
        condition: str,
        stop: Layer | None,
        multipliers: Sequence[float],
    ) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for metric in self.metrics:
            cells = [Cell(_name(metric), condition, stop, m) for m in multipliers]
            for j, pair in enumerate(chunk.pairs):
                values = metric.value(reading.at(j, base)).tolist()
                out += [
                    row(cell, Score(pair.id, value, metric.unit(pair)))
                    for cell, value in zip(cells, values, strict=True)
                ]
        return out

    def _asked(self, chunk: Chunk, base: Readings, condition: Condition) -> list[dict[str, Any]]:
        """The unsteered model asked for the behavior in words, on the same items."""
        rows = [paired_rows(self.lm, p, condition.system) for p in chunk.pairs]
        other = Chunk.of(self.lm, chunk.pairs, rows, chunk.said is not None)
        prefix = self.lm.prefix(other.tokens, layers=[0], keep=other.keep)
        return self._rows(other, Readings.of(other, prefix.logits[None]), base, condition.name, None, (0.0,))


def _ids(chunk: Chunk) -> str:
    """Ids of the items of a chunk, in one line."""
    return ",".join(p.id for p in chunk.pairs)


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
    """What the model says to each prompt at each multiplier (greedy), and how strange the unsteered model finds it,
    appended to `generations.jsonl` of the run; resumable.
    """
    journal = run.journal("../generations")
    for k, m in enumerate(multipliers):
        key = hashlib.sha256(json.dumps([iv.describe(), m, list(prompts), max_new_tokens]).encode()).hexdigest()[:16]
        if key not in journal.done:
            with ExitStack() as stack:
                if m != 0:
                    stack.enter_context(lm.edit(edits([iv.times(m)], Receipt())))
                texts = lm.generate(prompts, max_new_tokens=max_new_tokens)
            odd = strangeness(lm, [as_prompt(p) for p in prompts], texts)
            rows = [
                {"prompt": p, "multiplier": m, "text": t, "nats": None if n != n else float(n)}
                for p, t, n in zip(prompts, texts, odd, strict=True)
            ]
            journal.append(key, rows)
        if progress:
            progress(k + 1, len(multipliers))
