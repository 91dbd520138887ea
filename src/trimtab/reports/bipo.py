"""The study of preference-optimized vectors: its scores as figures, tables, plots and a page. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import RunError
from trimtab.journal import plain
from trimtab.recipe import Run, Table
from trimtab.reports.figures import ACCENT, INK, QUIET, WARN, Plot, picture
from trimtab.reports.page import Rows, write_sections
from trimtab.statistics.intervals import Array, Groups, interval, known
from trimtab.statistics.nulls import null_p
from trimtab.statistics.slopes import anti_steerable, fit_slopes

MARGIN, POSITIVE, NEGATIVE = "propensity:sequence:False", "likelihood", "likelihood:negative"
BIPO = ("BiPO", "BiPO, signs drawn", "BiPO, one direction")
COLORS = {
    "BiPO": ACCENT,
    "BiPO, signs drawn": "#5aa9c7",
    "BiPO, one direction": "#a3d0e0",
    "CAA": WARN,
    "mean difference": "#8a5a00",
    "one-shot": "#4d7c0f",
    "Freeform": "#7c3aed",
}


@dataclass(frozen=True)
class Value:
    """A mean over n pairs with its 95 % interval, over questions."""

    value: float
    lo: float
    hi: float
    n: int

    @classmethod
    def of(cls, values: Array, groups: Groups = None) -> Value:
        real, groups = known(values, groups)
        return cls(float(real.mean()), *interval(real, groups), len(real)) if len(real) else cls(math.nan, math.nan, math.nan, 0)

    def __str__(self) -> str:
        between = "" if math.isnan(self.lo) else f" ({self.lo:+.2f} to {self.hi:+.2f})"
        return "not reached" if math.isnan(self.value) else f"{self.value:+.2f}{between}"


@dataclass(frozen=True)
class Scores:
    """Margins (n, K) of one condition: log-probability of the positive answer minus the negative's, in nats; and of each answer, per token."""

    grid: Array
    items: list[str]
    groups: list[str]
    margin: Array
    positive: Array
    negative: Array

    @classmethod
    def of(cls, run: Run, part: str, condition: str = "vector") -> Scores:
        table = run.table(part)
        grid, items, margin = table.curve(MARGIN, condition, None)
        of: Mapping[str, str] = run.manifest.get("groups", {})
        return cls(
            grid, items, [of.get(i, i) for i in items], margin, table.curve(POSITIVE, condition, None)[2], table.curve(NEGATIVE, condition, None)[2]
        )

    def at(self, m: float) -> int:
        return int(np.flatnonzero(self.grid == m)[0])

    def change(self, m: float) -> Array:
        """Of the margin, per pair, from the unsteered model."""
        return self.margin[:, self.at(m)] - self.margin[:, self.at(0.0)]


def best_layer(table: Table) -> int:
    """The layer at which the answers become likeliest both ways: the positive with the vector added, the negative with it subtracted.

    (Margins, and slopes, would reward a vector that breaks the model; see LOG.md.)
    """

    def gain(layer: int) -> float:
        grid, _, positive = table.curve(POSITIVE, "vector", layer)
        _, _, negative = table.curve(NEGATIVE, "vector", layer)
        up, zero, down = (int(np.flatnonzero(grid == m)[0]) for m in (1.0, 0.0, -1.0))
        return float((positive[:, up] - positive[:, zero] + negative[:, down] - negative[:, zero]).mean())

    return max(table.values("layer"), key=gain)


@dataclass(frozen=True)
class Method:
    """How one vector does on one behavior.

    Attributes:
        slope: of the margin over the multipliers, per pair.
        anti: share of pairs whose slope is not above 0.
        right: share of pairs whose margin is above 0, by multiplier.
        margins: mean margin, by multiplier.
        range: margin at +1 minus margin at -1. up, down: each against the unsteered model.
        said_up, said_down: change of the positive answer's log-probability per token at +1, of the negative's at -1.
        equal: the range, up and down at equal drift; NaN where the budget is not reached.
        why: what kept the budget from being reached, up and down; empty where it was.
        per_pair: "range", "up", "down" at equal drift, and the change at every multiplier, by pair, for paired comparisons; `groups` are their questions.
    """

    name: str
    layer: int
    norm: float
    slope: Value
    anti: float
    right: Mapping[float, float]
    margins: Mapping[float, Value]
    range: Value
    said_up: Value
    said_down: Value
    equal: Mapping[str, Value]
    multipliers: tuple[float, float]
    why: str
    per_pair: Mapping[str, Array]
    groups: Sequence[str]


@dataclass(frozen=True)
class Behavior:
    """All figures of one behavior; `facts` is what the study noted."""

    name: str
    facts: Mapping[str, Any]
    methods: Mapping[str, Method]
    prompted: Mapping[str, Mapping[str, Value]]
    bare: Mapping[str, Value]
    knowledge: Mapping[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Study:
    plan: Mapping[str, Any]
    model: str
    layer: int
    behaviors: Sequence[Behavior]
    combined: Sequence[Mapping[str, Any]]


def load(folder: str | Path | Run) -> Study:
    """Figures of a finished study.

    Raises:
        RunError: it is not finished.
    """
    run = folder if isinstance(folder, Run) else Run(folder)
    manifest = run.manifest
    if "combined" not in manifest:
        raise RunError(f"{run.path} holds no finished study", do="run the study again: it goes on where it stopped")
    plan = manifest["parts"]["study"]["plan"]
    behaviors = [_behavior(Run(run.file("sets", facts["name"])), facts) for facts in manifest["behaviors"]]
    return Study(plan, manifest["model"], manifest["layer"], behaviors, [_combined(run, c) for c in manifest["combined"]])


def slug(name: str) -> str:
    """The part of a run that holds the scores of a condition."""
    return "".join(c if c.isalnum() or c in "-." else "-" for c in name.replace("'", "").lower()).replace("--", "-")


def _behavior(run: Run, facts: Mapping[str, Any]) -> Behavior:
    methods = {name: _method(run, name, v, facts["drift"][name]) for name, v in facts["vectors"].items()}
    caa = facts["vectors"]["CAA"]
    methods["CAA, from the prompt's end"] = _method(run, "CAA, from the prompt's end", caa, {"up": math.nan, "down": math.nan})
    plain = Scores.of(run, slug("BiPO"))
    alone = dict(zip(plain.items, plain.margin[:, plain.at(0.0)], strict=True))
    prompted: dict[str, dict[str, Value]] = {}
    for kind in ("asked positive", "asked negative", "shown positive", "shown negative"):
        if kind in [p.replace("-", " ") for p in run.manifest["parts"]]:
            s = Scores.of(run, slug(kind))
            before = np.array([alone[run.manifest["bare"][kind][item]] for item in s.items])  # the same pairs, which stand in another order here
            prompted[kind] = {f"{m:g}": Value.of(s.margin[:, s.at(m)] - before, s.groups) for m in (-1.0, 0.0, 1.0)}
    bare = {}
    for name in methods:
        if slug(f"no opener: {name}") in run.manifest["parts"]:
            s = Scores.of(run, slug(f"no opener: {name}"))
            bare[name] = Value.of(s.change(1.0) - s.change(-1.0), s.groups)
    return Behavior(facts["name"], facts, methods, prompted, bare, facts.get("knowledge", {}))


def _method(run: Run, name: str, vector: Mapping[str, Any], drift: Mapping[str, Any]) -> Method:
    plain_of = slug(name) if slug(name) in run.manifest["parts"] else slug("BiPO")  # the unsteered model is the same whoever asks
    measured = plain_of == slug(name)
    s = Scores.of(run, plain_of)
    slopes, zero, g = fit_slopes(s.grid, s.margin), s.at(0.0), s.groups
    ways, why = _at_equal_cost(run, name, drift, s), drift.get("why", {})
    if len(ways) == 2:
        ways["range"] = ways["up"] - ways["down"]
    nothing = Value.of(np.array([]))
    changes = {f"{m:g}": s.margin[:, k] - s.margin[:, zero] for k, m in enumerate(s.grid)} if measured else {}
    return Method(
        name, vector["layer"], vector["norm"], Value.of(slopes.slope, g) if measured else nothing,
        float(np.nanmean(anti_steerable(slopes.slope))) if measured else math.nan,
        {float(m): float((s.margin[:, k] > 0).mean()) for k, m in enumerate(s.grid)} if measured else {},
        {float(m): Value.of(s.margin[:, k], g) for k, m in enumerate(s.grid)} if measured else {},
        Value.of(s.change(1.0) - s.change(-1.0), g) if measured else nothing,
        Value.of(s.positive[:, s.at(1.0)] - s.positive[:, zero], g) if measured else nothing,
        Value.of(s.negative[:, s.at(-1.0)] - s.negative[:, zero], g) if measured else nothing,
        {way: Value.of(ways[way], g) if way in ways else nothing for way in ("up", "down", "range")},
        (float(drift["up"]), float(drift["down"])), "; ".join(f"{way}: {text}" for way, text in why.items() if text), {**ways, **changes}, g,
    )  # fmt: skip


def _at_equal_cost(run: Run, name: str, drift: Mapping[str, Any], plain: Scores) -> dict[str, Array]:
    """Change of the margin of every pair with the vector scaled to the budget, up and down, as far as it is reached.

    The first way that is reached stands as the vector of its part, the second beside it as a control, which has no multiplier 0 of its own.
    """
    out: dict[str, Array] = {}
    for k, way in enumerate(way for way in ("up", "down") if np.isfinite(drift[way])):
        scores = Scores.of(run, slug(f"equal: {name}"), f"equal {way}" if k else "vector")
        place = {item: j for j, item in enumerate(scores.items)}
        out[way] = scores.margin[[place[i] for i in plain.items], scores.at(1.0)] - plain.margin[:, plain.at(0.0)]
    return out


def _combined(run: Run, pair: Mapping[str, Any]) -> dict[str, Any]:
    """The effect (range, nats) of both vectors on the questions of each behavior: alone, together, and their sum."""
    out: dict[str, Any] = {**pair, "on": {}}
    for asked, other in ((pair["one"], pair["two"]), (pair["two"], pair["one"])):
        found: dict[str, Array] = {}
        groups: list[str] = []
        for kind in ("own", "other", "both"):
            s = Scores.of(Run(run.file("sets", asked)), slug(f"with {other}: {kind}"))
            found[kind], groups = s.change(1.0) - s.change(-1.0), s.groups
        gap = found["both"] - found["own"] - found["other"]
        out["on"][asked] = {**{k: Value.of(v, groups) for k, v in found.items()}, "beyond the sum": Value.of(gap, groups)}
    return out


# ---------------------------------------------------------------- the page


def write(folder: str | Path | Run) -> Path:
    """Write study.json, plots, report.md and report.html into the folder of a finished study.

    Returns:
        The path of report.html.
    """
    run = folder if isinstance(folder, Run) else Run(folder)
    study = load(run)
    told = {
        "model": study.model,
        "plan": study.plan,
        "behaviors": [_told(b) for b in study.behaviors],
        "combined": json.loads(json.dumps(study.combined, default=asdict)),
    }
    run.write("study.json", json.dumps(plain(told), indent=1))
    title = "Preference-optimized vectors beside their baselines"
    return write_sections(run, title, about(study), headline(study), draw(study), sections(study))


def _told(b: Behavior) -> dict[str, Any]:
    methods = {name: {k: v for k, v in asdict(m).items() if k not in ("per_pair", "groups")} for name, m in b.methods.items()}
    return json.loads(json.dumps({"name": b.name, "methods": methods, "prompted": b.prompted, "no opener": b.bare, "knowledge": b.knowledge, "vectors": b.facts["vectors"]}, default=asdict))  # fmt: skip


def about(study: Study) -> str:
    """What the figures are, in a paragraph."""
    p = study.plan
    chosen = (
        ""
        if p["layer"] is not None
        else f" (of {', '.join(map(str, p['layers']))}, by short trainings and validation pairs of {study.behaviors[0].name})"
    )
    return (
        f"{study.model}, BiPO at layer {study.layer}{chosen}, seed {p['seed']}. Margins are log-probability of the positive answer minus the negative's, in nats, on held-out pairs; intervals "
        f"are 95 %, over questions. A range is the margin at multiplier +1 minus that at -1. Equal cost: every vector is scaled, up and down apart, until the model "
        f"drifts by {p['budget']:g} nats per token from itself (KL along its own answers to validation questions, measured there within 2 %)."
    )


def headline(study: Study) -> list[str]:
    """What was found, in sentences."""
    out: list[str] = []
    for b in study.behaviors:
        missing = [f"{m.name} ({m.why})" for m in b.methods.values() if m.why]
        own = b.methods["BiPO"]
        if "range" not in own.per_pair:
            out.append(f"{b.name}: BiPO does not reach the budget of drift ({own.why}), so nothing is said at equal cost.")
            continue
        reached = {n: m for n, m in b.methods.items() if "range" in m.per_pair}
        others = [m for n, m in reached.items() if n not in BIPO and not n.startswith("random")]
        text = f"{b.name}: at equal cost BiPO has a range of {own.equal['range']} nats"
        best = max(others, key=lambda m: m.equal["range"].value, default=None)
        if best is not None:
            text += f", {_beside(own, best, 'range')} the widest other vector ({best.name}, {best.equal['range']}"
            text += f"; difference {_difference(own, best, 'range')})"
        out += [text + _randoms(own, reached) + (f" Not reached by {', '.join(missing)}." if missing else ""), *_directions(b, reached)]
        if b.facts.get("freeform", {}).get("mute"):
            mute, of = b.facts["freeform"]["mute"], b.facts["freeform"]["of"]
            out.append(f"{b.name}: Freeform's choice of layer says little: at {len(mute)} of its {of} layers the divergence it goes by is saturated.")
    return out


def _difference(one: Method, two: Method, way: str) -> Value:
    """Pair by pair."""
    return Value.of(one.per_pair[way] - two.per_pair[way], one.groups)


def _beside(one: Method, two: Method, way: str) -> str:
    gap = _difference(one, two, way)
    return "wider than" if gap.lo > 0 else "narrower than" if gap.hi < 0 else "not told apart from"


def _randoms(own: Method, reached: Mapping[str, Method]) -> str:
    """BiPO's range among those of random directions."""
    ranges = [m.equal["range"].value for n, m in reached.items() if n.startswith("random")]
    if not ranges:
        return "."
    p = null_p(own.equal["range"].value, ranges)
    return f"; {len(ranges)} random directions reach {min(ranges):+.2f} to {max(ranges):+.2f} (p = {p:.3f})."


def _directions(b: Behavior, reached: Mapping[str, Method]) -> list[str]:
    """What training both directions brings beside one, way by way."""
    if not {"BiPO", "BiPO, one direction"} <= reached.keys():
        return []
    both, one = reached["BiPO"], reached["BiPO, one direction"]
    told = [f"{name} {_difference(both, one, way)}" for name, way in (("upwards", "up"), ("downwards", "down"))]
    lowest = min((m for m in both.per_pair if m.lstrip("-").replace(".", "").isdigit()), key=float, default=None)
    if lowest is not None and lowest in one.per_pair:
        told.append(f"at {lowest} {_difference(both, one, lowest)}")
    return [f"{b.name}: both directions minus one (change of margin, pair by pair; at equal cost {told[0]}, {told[1]}" + (f"; at their own strength {told[2]})." if len(told) > 2 else ").")]  # fmt: skip


def sections(study: Study) -> list[tuple[str, Rows]]:
    """Titles and tables; the first row of a table is its head."""
    out: list[tuple[str, Rows]] = []
    for b in study.behaviors:
        grid = sorted(next(iter(b.methods.values())).margins)
        f = b.facts
        note = f"{f['train']} training, {f['val']} validation, {f['test']} test pairs" + (
            f", {f['left out']} test questions left out: trained on" if f["left out"] else ""
        )
        out.append((f"{b.name}: at the vectors' own strength ({note})", _raw_rows(b, grid)))
        out.append((f"{b.name}: at equal cost", _equal_rows(b)))
        out.append(
            (f"{b.name}: asked in words, shown in examples, and with the vector on top (change of margin from the bare question)", _prompt_rows(b))
        )
        out.append((f"{b.name}: answers without their first Yes or No (range)", [["vector", "range"], *([n, str(v)] for n, v in b.bare.items())]))
        out.append((f"{b.name}: knowledge (own multiple-choice questions; change from multiplier 0, exact McNemar p)", _knowledge_rows(b)))
        out.append((f"{b.name}: spectrum of BiPO", _spectrum_rows(f["spectrum"])))
    rows = [["vectors", "cosine", "questions of", "own vector", "other vector", "both", "both minus their sum"]]
    for c in study.combined:
        for asked, v in c["on"].items():
            rows.append([f"{c['one']} + {c['two']}", f"{c['cosine']:.2f}", asked, *(str(v[k]) for k in ("own", "other", "both", "beyond the sum"))])
    return [*out, ("Combinations (range of the margin)", rows)]


def _raw_rows(b: Behavior, grid: Sequence[float]) -> Rows:
    head = ["vector", "layer", "norm", "slope", "wrong way", "range", *(f"margin at {m:+g}" for m in grid), *(f"right at {m:+g}" for m in (grid[0], 0.0, grid[-1])), "positive at +1", "negative at -1"]  # fmt: skip
    rows = [head]
    for m in (m for m in b.methods.values() if m.margins):
        rows.append([
            m.name, str(m.layer), f"{m.norm:.1f}", str(m.slope), f"{m.anti:.0%}", str(m.range), *(f"{m.margins[g].value:+.1f}" for g in grid),
            *(f"{m.right[g]:.0%}" for g in (grid[0], 0.0, grid[-1])), str(m.said_up), str(m.said_down),
        ])  # fmt: skip
    return rows


def _equal_rows(b: Behavior) -> Rows:
    rows = [["vector", "multipliers", "up", "down", "range"]]
    for m in sorted(b.methods.values(), key=lambda m: -m.equal["range"].value if not math.isnan(m.equal["range"].value) else math.inf):
        if m.name != "CAA, from the prompt's end":
            scale = " / ".join("not reached" if math.isnan(x) else f"{x:+.2f}" for x in m.multipliers)
            rows.append([m.name, scale, *(str(m.equal[k]) for k in ("up", "down", "range"))])
    return rows


def _prompt_rows(b: Behavior) -> Rows:
    rows = [["prompt", "BiPO at -1", "prompt alone", "BiPO at +1"]]
    return [*rows, *([kind, *(str(v[m]) for m in ("-1", "0", "1"))] for kind, v in b.prompted.items())]


def _knowledge_rows(b: Behavior) -> Rows:
    rows = [["vector", "multiplier", "right", "change", "p", "questions"]]
    for name, points in b.knowledge.items():
        for k in points:
            change = f"{k['change']:+.3f} ({k['change_lo']:+.3f} to {k['change_hi']:+.3f})"
            rows.append(
                [name, f"{k['multiplier']:+g}", f"{k['value']:.3f} ({k['lo']:.3f} to {k['hi']:.3f})", change, f"{k['p']:.2f}", f"{k['n']:.0f}"]
            )
    return rows


def _spectrum_rows(said: Sequence[Mapping[str, Any]]) -> Rows:
    rows = [["question", "multiplier", "answer", "rated 1 to 4", "strangeness", "distinct pairs of words"]]
    for s in sorted(said, key=lambda s: (s["prompt"], s["multiplier"])):
        clean = " ".join(s["text"].split()).replace("|", "/")
        rated = "not scored" if math.isnan(s["rating"]) else f"{s['rating']:.2f}"
        rows.append(
            [
                " ".join(s["prompt"].split())[:80].replace("|", "/"),
                f"{s['multiplier']:+g}",
                clean,
                rated,
                f"{s['strangeness']:.2f}",
                f"{s['distinct']:.2f}",
            ]
        )
    return rows


def draw(study: Study) -> dict[str, Plot]:
    """Margins over the spectrum, and ranges at equal cost."""
    n = len(study.behaviors)
    return {
        "spectrum": picture(lambda c: _spectra(c, study), (4.2 * n + 1.6, 3.6), "Margin over multipliers", "Mean change of the margin from the unsteered model, at the vectors' own strengths; gray: random directions."),
        "equal": picture(lambda c: _ranges(c, study), (4.2 * n + 1.6, 3.6), "At equal cost", "Change of the margin with each vector scaled to the budget of drift, up (right) and down (left), with 95 % intervals."),
    }  # fmt: skip


def _spectra(canvas: Any, study: Study) -> None:
    axes = canvas.subplots(1, len(study.behaviors), squeeze=False)[0]
    for ax, b in zip(axes, study.behaviors, strict=True):
        for name, m in b.methods.items():
            if name != "CAA, from the prompt's end" and m.margins:
                grid = sorted(m.margins)
                zero = m.margins[0.0].value
                ax.plot(
                    grid,
                    [m.margins[g].value - zero for g in grid],
                    color=COLORS.get(name, QUIET),
                    label=name if not name.startswith("random") else None,
                    lw=2 if name == "BiPO" else 1.2,
                )
        ax.axhline(0, color=INK, lw=0.6)
        ax.set_title(b.name)
        ax.set_xlabel("multiplier")
    axes[0].set_ylabel("change of margin (nats)")
    axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _ranges(canvas: Any, study: Study) -> None:
    axes = canvas.subplots(1, len(study.behaviors), squeeze=False, sharey=True)[0]
    for ax, b in zip(axes, study.behaviors, strict=True):
        names = [n for n in b.methods if n != "CAA, from the prompt's end" and (not n.startswith("random") or b.methods[n].margins)]
        for k, name in enumerate(reversed(names)):
            for way in ("up", "down"):
                v = b.methods[name].equal[way]
                if not math.isnan(v.value):
                    ax.plot([v.lo, v.hi], [k, k], color=COLORS.get(name, QUIET), lw=2)
                    ax.plot(v.value, k, marker=">" if way == "up" else "<", color=COLORS.get(name, QUIET), ms=6)
        ax.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
        ax.axvline(0, color=INK, lw=0.6)
        ax.set_title(b.name)
        ax.set_xlabel("change of margin (nats)")
