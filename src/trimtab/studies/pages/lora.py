"""The page of vectors beside a LoRA: margins by multiplier, and the price list."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from trimtab.reports.figures import QUIET, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.bipo_results import BIPO, Value
from trimtab.studies.pages.findings import COLORS

LORA = Condition("LoRA")
PUBLISHED = (
    "Published (Llama-2-7b-chat, power-seeking): scaling or negating the LoRA gives no usable spectrum, BiPO's is "
    "clearly wider (figure 8, plotted); a vector has 4,096 trainable parameters of 6.7 billion."
)


@dataclass(frozen=True)
class Cost:
    """Of learning: trainable numbers, seconds, and the most memory beyond what was taken before (MiB)."""

    parameters: int
    seconds: float
    memory: float


@dataclass(frozen=True)
class At:
    """At one multiplier: the change of the margin from the unsteered model (nats), and the share of broken answers."""

    multiplier: float
    change: Value
    broken: float


@dataclass(frozen=True)
class Line:
    """One method: `range` is the margin at +1 less that at -1; no price where it was learned in a run before."""

    condition: Condition
    range: Value
    at: list[At]
    cost: Cost | None


@dataclass(frozen=True)
class Together:
    """BiPO's vector on top of an adapter at one strength: what it adds to the margin there, and alone (nats)."""

    adapter: Condition
    strength: float
    multiplier: float
    added: Value
    alone: Value


@dataclass(frozen=True)
class Shown:
    """Change of the margin behind so many examples of the behavior, and of its opposite (nats)."""

    shots: int
    positive: Value
    negative: Value


@dataclass(frozen=True)
class Facts:
    """One behavior."""

    name: str
    train: int
    test: int
    layer: int
    lines: list[Line]
    together: list[Together]
    shown: list[Shown]

    def line(self, condition: Condition) -> Line:
        return next(x for x in self.lines if x.condition == condition)


@dataclass(frozen=True)
class Results:
    """What came out."""

    model: str
    seed: int
    multipliers: list[float]
    behaviors: list[Facts]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = f"{r.model}, seed {r.seed}. Margins of test pairs in nats; intervals over questions."
    findings = [s for b in r.behaviors for s in (_finding(b), _other_finding(b), _price_finding(b))]
    sections = [
        section
        for b in r.behaviors
        for section in (
            (f"{b.name}: change of the margin, by multiplier", _rows(b, r.multipliers)),
            (f"{b.name}: share of answers that are no longer text", _broken_rows(b, r.multipliers)),
            (f"{b.name}: BiPO's vector on top of an adapter", _together_rows(b)),
            (f"{b.name}: examples in the prompt", _shown_rows(b)),
            (f"{b.name}: what they cost", _price_rows(b)),
        )
    ]
    plots = {f"lora-{b.name}": _plot(b) for b in r.behaviors}
    return write_sections(run, "Vectors beside a LoRA", about, [*findings, PUBLISHED], plots, sections, _figures(r))


def _finding(b: Facts) -> str:
    """Both ranges, and which of them goes both ways."""
    bipo, lora = b.line(BIPO), b.line(LORA)
    down, up = _at(lora, -1.0), _at(lora, 2.0)
    return (
        f"{b.name}: from -1 to +1 the margin moves by {bipo.range} under BiPO and by {lora.range} under the LoRA; at "
        f"{down.multiplier:g} by {_at(lora, -1.0).change}, at {up.multiplier:g} by {up.change} (BiPO's "
        f"{_at(bipo, -1.0).change} and {_at(bipo, 2.0).change}). At least nine in ten answers are text {_whole(bipo)} "
        f"under BiPO, {_whole(lora)} under the LoRA."
    )


def _other_finding(b: Facts) -> str:
    """Of the other adapters, of both together, and of examples shown."""
    others = [f"{x.condition} {x.range}" for x in b.lines if x.condition.kind == LORA.kind and x.condition != LORA]
    shares = [t.added.value / t.alone.value for t in b.together if t.alone.value]
    at = ", ".join(dict.fromkeys(f"{t.strength:+g}" for t in b.together))
    range_of = f"{min(shares):.0%} to {max(shares):.0%}" if shares else ""
    top = [f"On top of an adapter at {at} BiPO's vector does {range_of} of what it does alone."] if shares else []
    shown = [f"{s.shots} examples {s.positive} and, of the opposite, {s.negative}" for s in b.shown]
    parts = [
        f"{b.name}: other adapters, from -1 to +1: {'; '.join(others) or 'none'}.",
        *top,
        *([f"Shown in the prompt: {'; '.join(shown)}."] if shown else []),
    ]
    return " ".join(parts)


def _together_rows(b: Facts) -> list[list[str]]:
    rows = [["adapter", "its strength", "vector's multiplier", "change of the margin by the vector", "the same alone"]]
    for t in b.together:
        rows.append([str(t.adapter), f"{t.strength:+g}", f"{t.multiplier:+g}", str(t.added), str(t.alone)])
    return rows


def _shown_rows(b: Facts) -> list[list[str]]:
    head = ["examples", "of the behavior", "of its opposite", "n"]
    return [head, *([f"{s.shots}", str(s.positive), str(s.negative), f"{s.positive.n}"] for s in b.shown)]


def _whole(line: Line) -> str:
    """Between which multipliers text stays text, from 0 on to either side."""
    up, down = (
        sorted((a for a in line.at if sign * a.multiplier >= 0), key=lambda a: abs(a.multiplier)) for sign in (1, -1)
    )
    ends = [
        next((before.multiplier for before, a in pairwise(side) if a.broken > 0.1), side[-1].multiplier)
        for side in (down, up)
    ]
    return f"from {ends[0]:+g} to {ends[1]:+g}"


def _at(line: Line, multiplier: float) -> At:
    """At a multiplier, or the nearest there is."""
    return min(line.at, key=lambda x: abs(x.multiplier - multiplier))


def _price_finding(b: Facts) -> str:
    parts = [
        f"{x.condition} {x.cost.parameters:,} parameters, {x.cost.seconds:.0f} s, {x.cost.memory:.0f} MiB"
        for x in b.lines if x.cost is not None
    ]  # fmt: skip
    return f"{b.name}, price of learning on {b.train} pairs: {'; '.join(parts) or 'learned in a run before'}."


def _rows(b: Facts, multipliers: list[float]) -> list[list[str]]:
    head = ["method", *(f"{m:+g}" for m in multipliers), "from -1 to +1", "n"]
    return [
        head,
        *([str(x.condition), *(str(a.change) for a in x.at), str(x.range), f"{x.range.n}"] for x in b.lines),
    ]


def _broken_rows(b: Facts, multipliers: list[float]) -> list[list[str]]:
    head = ["method", *(f"{m:+g}" for m in multipliers)]
    return [head, *([str(x.condition), *(f"{a.broken:.0%}" for a in x.at)] for x in b.lines)]


def _price_rows(b: Facts) -> list[list[str]]:
    head = ["method", "trainable parameters", "seconds", "memory beyond before, MiB"]
    priced = [(x.condition, x.cost) for x in b.lines if x.cost is not None]
    return [head, *([str(c), f"{p.parameters:,}", f"{p.seconds:.1f}", f"{p.memory:.0f}"] for c, p in priced)]


def _figures(r: Results) -> list[Figure]:
    """Ranges; beside each method's that of the LoRA."""
    out: list[Figure] = []
    for b in r.behaviors:
        control = b.line(LORA).range.value
        for x in b.lines:
            label, v = f"{b.name}, {x.condition}, margin at +1 less -1", x.range
            out.append(
                Figure(label, v.value, v.lo, v.hi, v.n, "nats", None if x.condition.kind == LORA.kind else control)
            )
    return out


def _plot(b: Facts) -> Plot:
    """Change of the margin against multiplier."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for x, color in zip(b.lines, cycle((*COLORS, QUIET)), strict=False):
            style = "s--" if x.condition.kind == LORA.kind else "o-"
            ax.plot(
                [a.multiplier for a in x.at], [a.change.value for a in x.at], style, color=color, label=str(x.condition)
            )
        ax.set_xlabel("multiplier")
        ax.set_ylabel("change of the margin, nats")
        ax.legend(frameon=False, fontsize=8)

    caption = f"{b.test} test pairs; the LoRA's low-rank product counts as often as the multiplier says."
    return picture(paint, (5.6, 3.5), f"{b.name}: margin by multiplier", caption)
