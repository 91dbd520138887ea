"""From scores to figures and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab.errors import RunError
from trimtab.recipe import Run, Table
from trimtab.steerability import Array, Figure, Slopes, anti_steerable, band, confidence, fit_slopes, interval, mean_figure, share_figure, unsteered

NO_LETTERS = 0.1  # nats: below this mean propensity at every multiplier, the letters carry nothing
COSTLY = 0.5  # nats of KL from the unsteered next-token distribution


@dataclass(frozen=True)
class Curve:
    """Propensity of one condition: items x multipliers, and the line through each item.

    `lo`, `hi` bound the mean over items; `low_change`, `high_change` the mean change from the unsteered model, item by item.
    """

    condition: str
    multipliers: Array
    items: Sequence[str]
    values: Array
    slopes: Slopes
    lo: Array
    hi: Array
    low_change: Array
    high_change: Array

    @property
    def mean(self) -> Array:
        return self.values.mean(0)


@dataclass(frozen=True)
class SideEffect:
    """Mean of one metric of one condition over the multipliers, with its interval."""

    metric: str
    unit: str
    condition: str
    multipliers: Array
    mean: Array
    lo: Array
    hi: Array
    n: int


@dataclass(frozen=True)
class LayerPoint:
    layer: int
    slope: float
    lo: float
    hi: float


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
    figures: Sequence[Figure]
    verdict: str
    reasons: Sequence[str]
    generations: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    recipe: str = ""

    @property
    def vector(self) -> Curve:
        return self.curves["vector"]

    @property
    def controls(self) -> dict[str, Curve]:
        return {k: c for k, c in self.curves.items() if k != "vector"}

    def figure(self, name: str) -> Figure:
        return next(f for f in self.figures if f.name == name)


def analyse(run: Run, part: str) -> Analysis:
    """Read a run's scores and work out everything the report shows."""
    table, manifest = run.table(part), run.manifest
    plan = manifest["parts"][part]
    groups = manifest.get("groups", {})
    conditions = [c["name"] for c in plan["conditions"] if c["intervention"]]
    layer = None if None in table.values("layer") else table.values("layer")[0] if table.values("layer") else None
    metric = _propensity(table)
    curves = {c: _curve(table, metric, c, layer, groups) for c in conditions}
    curves = {k: c for k, c in curves.items() if len(c.items)}
    if "vector" not in curves:
        raise RunError(f"{run.path}: no complete scores of the vector yet", do="run the same command again: it resumes")
    unit = table.units[metric]
    asked = {c["name"]: _asked(table, metric, c["name"], unit) for c in plan["conditions"] if c["system"]}
    effects = _effects(table, metric, list(curves), layer, groups)
    figures = _figures(curves, asked, effects, unit)
    verdict, reasons = judge(curves, figures, effects, asked, plan)
    return Analysis(
        name=f"{plan['data']['name']} on {plan['model']['id']}",
        manifest=manifest,
        plan=plan,
        unit=unit,
        curves=curves,
        asked=asked,
        effects=effects,
        layers=_layers(run),
        figures=figures,
        verdict=verdict,
        reasons=reasons,
        generations=list(run.journal("../generations").rows()),
        recipe=run.file("recipe.toml").read_text("utf-8") if run.file("recipe.toml").is_file() else "",
    )


def choose_layer(run: Run, part: str = "val") -> int:
    """The swept layer with the best lower 95 % bound of the mean slope: test items never choose."""
    points = _layers(run, part)
    if not points:
        raise RunError(f"{run.path} holds no layer sweep in part {part!r}")
    return max(points, key=lambda p: p.lo).layer


def _propensity(table: Table) -> str:
    found = [m for m in table.values("metric") if m.startswith("propensity")]
    if not found:
        raise RunError("this run measured no propensity", given=table.values("metric"), do="add the metric propensity")
    return found[0]


def _curve(table: Table, metric: str, condition: str, layer: int | None, groups: Mapping[str, str]) -> Curve:
    m, items, values = table.curve(metric, condition, layer)
    if not items:
        empty = np.zeros(0)
        return Curve(condition, m, items, values, Slopes(empty, empty, empty, empty, empty), empty, empty, empty, empty)
    of = [groups.get(i, i) for i in items]
    change = values - values[:, [unsteered(m)]]
    return Curve(condition, m, items, values, fit_slopes(m, values), *band(values, of), *band(change, of))


def _asked(table: Table, metric: str, name: str, unit: str) -> Figure:
    _, _, values = table.curve(metric, name, None)
    return mean_figure(name, values[:, 0] if values.size else np.zeros(0), unit)


def _effects(table: Table, metric: str, conditions: Sequence[str], layer: int | None, groups: Mapping[str, str]) -> list[SideEffect]:
    out: list[SideEffect] = []
    for name in table.values("metric"):
        for condition in conditions if name != metric else ():
            m, items, values = table.curve(name, condition, layer)
            if values.size and not np.isnan(values).all():
                lo, hi = band(values, [groups.get(i, i) for i in items])
                out.append(SideEffect(name, table.units[name], condition, m, values.mean(0), lo, hi, len(items)))
    return out


def _layers(run: Run, part: str = "val") -> list[LayerPoint]:
    if run.manifest.get("parts", {}).get(part, {}).get("layers") is None:
        return []
    table = run.table(part)
    metric = _propensity(table)
    points: list[LayerPoint] = []
    for layer in sorted(k for k in table.values("layer") if k is not None):
        m, _, values = table.curve(metric, "vector", layer)
        slopes = fit_slopes(m, values).slope
        points.append(LayerPoint(layer, float(slopes.mean()), *interval(slopes)))
    return points


# ---------------------------------------------------------------- figures


def _figures(curves: Mapping[str, Curve], asked: Mapping[str, Figure], effects: Sequence[SideEffect], unit: str) -> list[Figure]:
    vector = curves["vector"]
    others = [c for k, c in curves.items() if k != "vector"]
    slope = vector.slopes.slope
    per = f"{unit} per multiplier"
    best = max((abs(float(c.slopes.slope.mean())) for c in others), default=None)
    beside = float(np.mean([anti_steerable(c.slopes.slope).mean() for c in others])) if others else None
    median = interval(slope, lambda v: np.median(v, axis=1))
    found = [
        mean_figure("steerability", slope, per, best),
        Figure("median slope", float(np.median(slope)), *median, len(slope), per, None),
        share_figure("anti-steerable share", anti_steerable(slope), beside),
        share_figure("confidently anti-steerable share", confidence(vector.slopes) == "anti-steerable"),
        mean_figure("linearity (R2)", vector.slopes.r2, "share"),
    ]
    found += [mean_figure("propensity, unsteered", vector.values[:, unsteered(vector.multipliers)], unit)]
    if others:
        strongest = max(others, key=lambda c: abs(float(c.slopes.slope.mean())))
        gap = slope - np.sign(strongest.slopes.slope.mean() or 1.0) * strongest.slopes.slope
        found += [mean_figure("steerability beyond the strongest control", gap, per)]
    found += [Figure(f"propensity, {name}", f.value, f.lo, f.hi, f.n, f.unit) for name, f in asked.items()]
    return found + [
        _effect_figure(e, m, effects) for e in effects if e.condition == "vector" for m in (1.0, float(e.multipliers[-1])) if m in e.multipliers
    ]


def _effect_figure(e: SideEffect, m: float, effects: Sequence[SideEffect]) -> Figure:
    k = list(e.multipliers).index(m)
    beside = [float(o.mean[k]) for o in effects if o.metric == e.metric and o.condition != "vector"]
    return Figure(f"{e.metric} at {m:g}", float(e.mean[k]), float(e.lo[k]), float(e.hi[k]), e.n, e.unit, float(np.mean(beside)) if beside else None)


# ---------------------------------------------------------------- words


def judge(
    curves: Mapping[str, Curve], figures: Sequence[Figure], effects: Sequence[SideEffect], asked: Mapping[str, Figure], plan: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """A verdict to act on, and the sentences that support it."""
    by = {f.name: f for f in figures}
    strength, anti = by["steerability"], by["anti-steerable share"]
    gap = by.get("steerability beyond the strongest control")
    if plan["data"]["form"] == "choices" and _no_letters(curves):
        verdict = "No verdict: this model puts no preference on the answer letters."
        first = f"Mean propensity stays within {_extreme(curves):.2f} nats of 0 at every multiplier, for the vector and its controls. An A/B question cannot measure this behavior on this model: use free-form answers (form = answers)."
        return verdict, [first, *_costs(effects)]
    if not strength.lo > 0:
        verdict = (
            "Does not work: the mean slope cannot be told from zero."
            if strength.hi > 0
            else "Works backwards: the vector lowers the behavior; use its negative."
        )
    elif gap is not None and not gap.lo > 0:
        verdict = "Not better than its controls: a vector without the behavior in it moves the model as much."
    elif anti.value > 0.25:
        verdict = f"Works on average, but reverses on {anti.value:.0%} of inputs: do not rely on it for a single input."
    else:
        verdict = f"Works: it raises the behavior on {1 - anti.value:.0%} of inputs."
    return verdict, [
        _strength(strength, gap, curves),
        _reversal(anti, by["confidently anti-steerable share"]),
        *_against_asking(curves, asked),
        *_costs(effects),
    ]


def _extreme(curves: Mapping[str, Curve]) -> float:
    return max(float(np.abs(c.mean).max()) for c in curves.values())


def _no_letters(curves: Mapping[str, Curve]) -> bool:
    return _extreme(curves) < NO_LETTERS


def _strength(f: Figure, gap: Figure | None, curves: Mapping[str, Curve]) -> str:
    c = curves["vector"]
    text = f"Each multiplier adds {f.value:+.3f} {f.unit.removesuffix(' per multiplier')} to the propensity (95 % interval {f.lo:+.3f} to {f.hi:+.3f}, {f.n} items): "
    text += f"{c.mean[0]:+.2f} at multiplier {c.multipliers[0]:g}, {c.mean[-1]:+.2f} at {c.multipliers[-1]:g}."
    if f.control is not None and gap is not None:
        text += f" The strongest of {len(curves) - 1} controls of equal norm reaches {f.control:.3f}; the vector exceeds it by {gap.value:+.3f} ({gap.lo:+.3f} to {gap.hi:+.3f}, item by item)."
    return text


def _reversal(f: Figure, sure: Figure) -> str:
    beside = "" if f.control is None else f" (controls: {f.control:.0%}; a useless vector gives about half)"
    return f"It works the wrong way on {f.value:.0%} of inputs (95 % interval {f.lo:.0%} to {f.hi:.0%}), beyond doubt on {sure.value:.0%}{beside}."


def _against_asking(curves: Mapping[str, Curve], asked: Mapping[str, Figure]) -> list[str]:
    if "prompt-positive" not in asked:
        return ["No prompt baseline: the data set does not say how to ask for the behavior in words."]
    c, said = curves["vector"], asked["prompt-positive"]
    rise = said.value - float(c.mean[unsteered(c.multipliers)])
    enough = [float(m) for m, y in zip(c.multipliers, c.mean, strict=True) if m > 0 and y >= said.value]
    match = (
        f"the vector does as much from multiplier {enough[0]:g} on"
        if enough
        else f"the vector does not reach that at multiplier {c.multipliers[-1]:g}"
    )
    return [f"Asking for the behavior in the system prompt changes the propensity by {rise:+.3f}; {match}."]


def _costs(effects: Sequence[SideEffect]) -> list[str]:
    out: list[str] = []
    for e in effects:
        if e.condition != "vector":
            continue
        if e.metric == "kl":
            out.append(_kl_cost(e, [o for o in effects if o.metric == "kl" and o.condition != "vector"]))
        if e.metric == "outside-mass":
            k = int(np.argmax(e.mean))
            zero = unsteered(e.multipliers)
            out.append(
                f"Probability outside the two answer letters: {e.mean[zero]:.1%} unsteered, at most {e.mean[k]:.1%} (multiplier {e.multipliers[k]:g})."
            )
    return out


def _kl_cost(e: SideEffect, others: Sequence[SideEffect]) -> str:
    worst = int(np.argmax(e.mean))
    text = f"Cost: the next-token distribution moves by up to {e.mean[worst]:.3f} nats of KL (multiplier {e.multipliers[worst]:g})"
    if others:
        text += f"; controls of equal norm move it by {np.mean([o.mean[worst] for o in others]):.3f}"
    cheap = [float(m) for m, y in zip(e.multipliers, e.mean, strict=True) if y <= COSTLY]
    return text + (f". Between {min(cheap):g} and {max(cheap):g} it stays under {COSTLY:g} nats." if cheap else ".")
