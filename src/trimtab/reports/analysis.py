"""From scores to figures and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.answers.quality import broken
from trimtab.errors import RunError
from trimtab.reports import sentences
from trimtab.reports.curves import Curve, LayerPoint, SideEffect, TextPoint
from trimtab.runs import Role, Run, Scored, Table
from trimtab.statistics.intervals import Array, Figure, band, mean_figure, median_figure, share_figure
from trimtab.statistics.layers import Sweep, steepest
from trimtab.statistics.nulls import Compared
from trimtab.statistics.slopes import Slopes, anti_steerable, confidence, fit_slopes, unsteered
from trimtab.statistics.verdict import BROKEN, Evidence, Kind, decide
from trimtab.steering.use import Use

NO_LETTERS = 0.1  # nats: below this mean propensity at every multiplier, the letters carry nothing


@dataclass(frozen=True)
class Analysis:
    """All a report says, as numbers and words."""

    name: str
    manifest: Mapping[str, Any]
    plan: Mapping[str, Any]
    unit: str
    curves: Mapping[str, Curve]
    asked: Mapping[str, Figure]
    effects: Sequence[SideEffect]
    layers: Sequence[LayerPoint]
    texts: Sequence[TextPoint]
    compared: Compared | None
    figures: Sequence[Figure]
    kind: Kind
    verdict: str
    reasons: Sequence[str]
    generations: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    recipe: str = ""
    next: str = ""
    use: Use | None = None

    @property
    def vector(self) -> Curve:
        return self.curves["vector"]

    @property
    def controls(self) -> dict[str, Curve]:
        return {k: c for k, c in self.curves.items() if k != "vector"}

    @property
    def model(self) -> str:
        return str(self.plan["model"]["id"])

    @property
    def file(self) -> str:
        """The vector's file."""
        return str(self.manifest.get("file", "vector.safetensors"))

    @property
    def blocks(self) -> str:
        """Where the model keeps its blocks."""
        return str(self.manifest.get("blocks", "model.layers"))

    def figure(self, name: str) -> Figure:
        return _named(self.figures, name)


def _named(figures: Sequence[Figure], name: str) -> Figure:
    return next(f for f in figures if f.name == name)


def analyze(run: Run, part: str) -> Analysis:
    """Read a run's scores and work out everything the report shows."""
    table, manifest = run.table(part), run.manifest
    plan = manifest["parts"][part]
    groups = manifest.get("groups", {})
    roles: dict[str, Role] = {c.name: c.role for c in run.conditions(part)}
    conditions = [name for name, role in roles.items() if role != "asked"]
    layer = None if None in table.values("layer") else table.values("layer")[0] if table.values("layer") else None
    metric = _propensity(run, part)
    curves = {c: _curve(table, metric, c, layer, groups) for c in conditions}
    curves = {k: c for k, c in curves.items() if len(c.items)}
    if "vector" not in curves:
        raise RunError(f"{run.path}: no complete scores of the vector yet", do="run the same command again: it resumes")
    unit = table.units[metric]
    prompted = {
        c.name: _prompted(table, metric, c.name, unit, groups) for c in run.conditions(part) if c.role == "asked"
    }
    others = [m for m in run.metrics(part) if m.label != metric]
    effects = _effects(table, others, list(curves), layer, groups)
    figures = _figures(curves, prompted, effects, unit)
    generations = list(run.journal("../generations").rows())
    texts = _texts(generations)
    beside = run.read(f"nulls/{part}.json")
    compared = None if beside is None else Compared.from_json(beside)
    rise = _rise(table, metric, curves["vector"], unit)
    evidence = _evidence(curves, figures, compared, texts, rise, plan, roles)
    kind = decide(evidence)
    return Analysis(
        name=f"{plan['data']['name']} on {plan['model']['id']}",
        manifest=manifest,
        plan=plan,
        unit=unit,
        curves=curves,
        asked=prompted,
        effects=effects,
        layers=_layers(run),
        texts=texts,
        compared=compared,
        figures=figures,
        kind=kind,
        verdict=sentences.verdict(kind, evidence, curves["vector"], _named(figures, "anti-steerable share")),
        reasons=sentences.reasons(evidence, curves, figures, effects, compared, texts),
        generations=generations,
        next=sentences.NEXT[kind],
        use=None if run.read("use.json") is None else Use.from_json(run.read("use.json"), str(run.file("use.json"))),
        recipe=run.file("recipe.toml").read_text("utf-8") if run.file("recipe.toml").is_file() else "",
    )


def choose_layer(run: Run, part: str = "val") -> int:
    """The swept layer whose mean slope is steepest for sure (`statistics.layers`): test items never choose.

    Raises:
        RunError: no sweep in the folder.
    """
    slopes, groups = _swept(run, part)
    if not slopes:
        raise RunError(f"{run.path} holds no layer sweep in part {part!r}")
    return steepest([Sweep(slopes, groups)])


def _propensity(run: Run, part: str) -> str:
    """The label of the first propensity that was measured."""
    metrics = run.metrics(part)
    label = next((m.label for m in metrics if m.name == "propensity"), None)
    if label is None:
        raise RunError(
            "this run measured no propensity", given=[m.label for m in metrics], do="add the metric propensity"
        )
    return label


def _curve(table: Table, metric: str, condition: str, layer: int | None, groups: Mapping[str, str]) -> Curve:
    m, every, scores = table.curve(metric, condition, layer)
    there: NDArray[np.bool_] = np.logical_not(np.isnan(scores).any(axis=1))
    items, values = [i for i, k in zip(every, there.tolist(), strict=True) if k], scores[there]
    if not items:
        empty = np.zeros(0)
        return Curve(
            condition,
            m,
            items,
            [],
            values,
            Slopes(empty, empty, empty, empty, empty),
            empty,
            empty,
            empty,
            empty,
            len(every),
        )
    of = [groups.get(i, i) for i in items]
    change = values - values[:, [unsteered(m)]]
    return Curve(
        condition,
        m,
        items,
        of,
        values,
        fit_slopes(m, values),
        *band(values, of),
        *band(change, of),
        len(every) - len(items),
    )


def _prompted(table: Table, metric: str, name: str, unit: str, groups: Mapping[str, str]) -> Figure:
    _, items, values = table.curve(metric, name, None)
    return mean_figure(
        name, values[:, 0] if values.size else np.zeros(0), unit, groups=[groups.get(i, i) for i in items]
    )


def _rise(table: Table, metric: str, vector: Curve, unit: str) -> Figure | None:
    """Mean change of propensity by asking for the behavior in words, item by item; None if nobody asked."""
    _, items, values = table.curve(metric, "prompt-positive", None)
    prompted = dict(zip(items, values[:, 0], strict=True)) if items else {}
    plain = vector.values[:, unsteered(vector.multipliers)]
    change = np.array([prompted.get(i, np.nan) for i in vector.items]) - plain
    return mean_figure("rise by asking", change, unit, groups=vector.groups) if prompted else None


def _effects(
    table: Table, measured: Sequence[Scored], conditions: Sequence[str], layer: int | None, groups: Mapping[str, str]
) -> list[SideEffect]:
    """Every metric but the propensity itself, of every condition it was measured for."""
    out: list[SideEffect] = []
    for metric in measured:
        for condition in conditions:
            m, items, values = table.curve(metric.label, condition, layer)
            there = ~np.isnan(values).any(1)
            if there.any():
                bounds, unit = band(values, [groups.get(i, i) for i in items]), table.units[metric.label]
                mean, n = values[there].mean(0), int(there.sum())
                out.append(SideEffect(metric.label, metric.name, unit, condition, m, mean, *bounds, n))
    return out


def _layers(run: Run) -> list[LayerPoint]:
    """Mean slope at every swept layer that was measured."""
    slopes, groups = _swept(run, "val")
    figures = {layer: mean_figure("", slope, "", groups=groups) for layer, slope in slopes.items()}
    return [LayerPoint(layer, f.value, f.lo, f.hi) for layer, f in figures.items() if f.n]


def _swept(run: Run, part: str) -> tuple[dict[int, Array], list[str]]:
    """Slopes of the validation items at every swept layer, and their questions; nothing where no layer was swept."""
    if run.manifest.get("parts", {}).get(part, {}).get("layers") is None:
        return {}, []
    table, groups = run.table(part), run.manifest.get("groups", {})
    metric = _propensity(run, part)
    slopes: dict[int, Array] = {}
    items: list[str] = []
    for layer in sorted(k for k in table.values("layer") if k is not None):
        multipliers, items, values = table.curve(metric, "vector", layer)
        slopes[layer] = fit_slopes(multipliers, values).slope
    return slopes, [groups.get(i, i) for i in items]


def _texts(generations: Sequence[Mapping[str, Any]]) -> list[TextPoint]:
    """Shares of broken answers, where their strangeness was kept; usual is the median of the unsteered model's."""
    known = [g for g in generations if "nats" in g]
    odd = {id(g): float("nan") if g["nats"] is None else float(g["nats"]) for g in known}
    plain = [odd[id(g)] for g in known if g["multiplier"] == 0 and odd[id(g)] == odd[id(g)]]
    if not plain:
        return []
    usual, out = float(np.median(plain)), list[TextPoint]()
    for m in sorted({g["multiplier"] for g in known}):
        some = [g for g in known if g["multiplier"] == m]
        flags = broken([g["text"] for g in some], [odd[id(g)] for g in some], usual)
        out.append(TextPoint(float(m), float(np.mean(flags)), len(flags)))
    return out


# ---------------------------------------------------------------- the verdict


def _evidence(
    curves: Mapping[str, Curve],
    figures: Sequence[Figure],
    compared: Compared | None,
    texts: Sequence[TextPoint],
    rise: Figure | None,
    plan: Mapping[str, Any],
    roles: Mapping[str, Role],
) -> Evidence:
    vector, others = curves["vector"], [c for k, c in curves.items() if k != "vector"]
    slope = _named(figures, "steerability")
    plain = next((t.broken for t in texts if t.multiplier == 0), 0.0)
    held = [t.multiplier for t in texts if t.broken - plain <= BROKEN]
    claimed = min(
        (t for t in texts if t.multiplier * slope.value > 0), key=lambda t: abs(abs(t.multiplier) - 1), default=None
    )
    change = vector.mean - vector.mean[unsteered(vector.multipliers)]
    safe = [
        c
        for m, c in zip(vector.multipliers, change, strict=True)
        if m > 0 and (not texts or m <= max(held, default=0.0))
    ]
    return Evidence(
        slope=slope,
        questions=vector.questions,
        p=float("nan") if compared is None else compared.p,
        control=max(
            (
                abs(float(c.slopes.slope.mean()))
                for c in others
                if compared is None or roles[c.condition] == compared.decisive
            ),
            default=float("nan"),
        ),
        foreseen=float("nan") if compared is None else compared.slope,
        readable=plan["data"]["form"] != "choices"
        or max(float(np.abs(c.mean).max()) for c in curves.values()) >= NO_LETTERS,
        broken=float("nan")
        if claimed is None or plain > BROKEN
        else claimed.broken - plain,  # where the unsteered answers are no text, nothing can break
        gain=float(max(safe, default=0.0)),
        asked=rise,
    )


# ---------------------------------------------------------------- figures


def _figures(
    curves: Mapping[str, Curve], prompted: Mapping[str, Figure], effects: Sequence[SideEffect], unit: str
) -> list[Figure]:
    vector = curves["vector"]
    others = [c for k, c in curves.items() if k != "vector"]
    slope, of = vector.slopes.slope, vector.groups
    per = f"{unit} per multiplier"
    best = max((abs(float(c.slopes.slope.mean())) for c in others), default=None)
    beside = float(np.mean([anti_steerable(c.slopes.slope).mean() for c in others])) if others else None
    figures = [
        mean_figure("steerability", slope, per, best, of),
        median_figure("median slope", slope, per, of),
        share_figure("anti-steerable share", anti_steerable(slope), beside, of),
        share_figure("confidently anti-steerable share", confidence(vector.slopes) == "anti-steerable", groups=of),
        mean_figure("linearity (R2)", vector.slopes.r2, "share", groups=of),
    ]
    figures += [mean_figure("propensity, unsteered", vector.values[:, unsteered(vector.multipliers)], unit, groups=of)]
    if others:
        figures += [mean_figure("steerability beyond the strongest control", _gap(vector, others), per, groups=of)]
    figures += [Figure(f"propensity, {name}", f.value, f.lo, f.hi, f.n, f.unit) for name, f in prompted.items()]
    return figures + [
        _effect_figure(e, m, effects)
        for e in effects
        if e.condition == "vector"
        for m in (1.0, float(e.multipliers[-1]))
        if m in e.multipliers
    ]


def _gap(vector: Curve, others: Sequence[Curve]) -> Array:
    """How much further each item goes with the vector, in the direction in which it moves the model, than with the
    control that moves it most, in the direction in which that one does.
    """
    strongest = max(others, key=lambda c: abs(float(c.slopes.slope.mean())))
    its = dict(zip(strongest.items, strongest.slopes.slope, strict=True))
    mine, control = vector.slopes.slope, np.array([its.get(i, np.nan) for i in vector.items])
    return np.sign(mine.mean() or 1.0) * mine - np.sign(strongest.slopes.slope.mean() or 1.0) * control


def _effect_figure(e: SideEffect, m: float, effects: Sequence[SideEffect]) -> Figure:
    k = list(e.multipliers).index(m)
    beside = [float(o.mean[k]) for o in effects if o.metric == e.metric and o.condition != "vector"]
    return Figure(
        f"{e.metric} at {m:g}",
        float(e.mean[k]),
        float(e.lo[k]),
        float(e.hi[k]),
        e.n,
        e.unit,
        float(np.mean(beside)) if beside else None,
    )
