"""The page of what a vector costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.evaluation.accuracy import Accuracy
from trimtab.reports.figures import ACCENT, INK, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition

WORDS = {
    "correct": "likeliest answer per token is true",
    "mc1": "best true answer likelier than every false one (MC1)",
    "mc2": "share of probability on true answers (MC2)",
}


@dataclass(frozen=True)
class Row:
    """How many of a set are right, by one way of counting, under one condition at one multiplier."""

    set: str
    kind: str
    condition: Condition
    at: Accuracy


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        behavior: what the vector was learned on.
        layers: where it acts.
    """

    model: str
    behavior: str
    layers: list[int]
    rows: list[Row]
    seed: int

    def of(self, set: str, kind: str, *, random: bool) -> list[Row]:
        """Rows of the vector, or of the random directions."""
        return [r for r in self.rows if (r.set, r.kind, r.condition.kind == "random") == (set, kind, random)]

    @property
    def counted(self) -> list[tuple[str, str]]:
        """Sets and ways of counting, in the order they were asked."""
        return list(dict.fromkeys((r.set, r.kind) for r in self.rows))


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    where = "embeddings" if r.layers == [-1] else f"layer {', '.join(map(str, r.layers))}"
    about = f"{r.model}, a vector of {r.behavior or 'no data set'}, {where}, seed {r.seed}."
    findings = [_headline(r), *(_finding(r, name, kind) for name, kind in r.counted)]
    head = ["condition", "multiplier", "right", "95 %", "change, points", "95 %", "p, paired", "n"]
    sections = [
        (f"{name}: {WORDS[kind]}", [head, *(_cells(row) for row in r.rows if (row.set, row.kind) == (name, kind))])
        for name, kind in r.counted
    ]
    return write_sections(run, "What a vector costs", about, findings, {"capability": _plot(r)}, sections, _figures(r))


def _headline(r: Results) -> str:
    """What it comes to: losses that are told from 0 and beyond every random direction."""
    lost: list[str] = []
    for name, kind in r.counted:
        if ": " in name:  # subjects of a set are many, and each is small: one of them falls by chance
            continue
        others = [abs(o.at.change) for o in _strongest(r.of(name, kind, random=True))]
        for row in _strongest(r.of(name, kind, random=False)):
            if row.at.change_hi < 0 and -row.at.change > max(others, default=0.0):
                lost.append(f"{name} ({kind}) at {row.at.multiplier:g}")
    if lost:
        return f"It costs: {', '.join(lost)}, told from 0 and beyond random directions of its norm."
    return "No cost can be told: no share falls that is told from 0 and beyond random directions of its norm."


def _strongest(rows: Sequence[Row]) -> list[Row]:
    """The rows at the largest multiplier each way."""
    ends = {min(r.at.multiplier for r in rows), max(r.at.multiplier for r in rows)} - {0.0} if rows else set[float]()
    return [r for r in rows if r.at.multiplier in ends]


def _finding(r: Results, name: str, kind: str) -> str:
    """How many are right at the ends of the grid, beside the unsteered model and random directions."""
    mine, others = r.of(name, kind, random=False), _strongest(r.of(name, kind, random=True))
    plain = next(row.at for row in mine if row.at.multiplier == 0)
    parts = [
        f"{row.at.value:.1%} at {row.at.multiplier:+g} (change {100 * row.at.change:+.1f} points, "
        f"{100 * row.at.change_lo:+.1f} to {100 * row.at.change_hi:+.1f}, p = {row.at.p:.2g})"
        for row in _strongest(mine)
    ]
    most = max((abs(row.at.change) for row in others), default=float("nan"))
    beside = f"; random directions of its norm change it by at most {100 * most:.1f} points" if others else ""
    return f"{name}, {WORDS[kind]}: {plain.value:.1%} unsteered, {', '.join(parts)}; n {plain.n}{beside}."


def _cells(row: Row) -> list[str]:
    a = row.at
    return [
        row.condition.label, f"{a.multiplier:g}", f"{a.value:.1%}", f"{a.lo:.1%} to {a.hi:.1%}",
        f"{100 * a.change:+.1f}", f"{100 * a.change_lo:+.1f} to {100 * a.change_hi:+.1f}", f"{a.p:.2g}", str(a.n),
    ]  # fmt: skip


def _figures(r: Results) -> list[Figure]:
    """Changes at the ends of the grid, in shares, each beside the largest of a random direction there."""
    out: list[Figure] = []
    for name, kind in r.counted:
        others = r.of(name, kind, random=True)
        for row in _strongest(r.of(name, kind, random=False)):
            a, there = row.at, [o.at.change for o in others if o.at.multiplier == row.at.multiplier]
            control = max(map(abs, there), default=None)
            label = f"{name}, {kind}, change at {a.multiplier:g}"
            out.append(Figure(label, a.change, a.change_lo, a.change_hi, a.n, "share", control))
    return out


def _plot(r: Results) -> Plot:
    """Right against multiplier, a panel for every set and way of counting."""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots(1, len(r.counted), squeeze=False)[0]
        for ax, (name, kind) in zip(axes, r.counted, strict=True):
            _lines(ax, r, name, kind)
        axes[0].set_ylabel("share right")

    width = 3.2 * max(1, len(r.counted))
    return picture(
        paint, (width, 3.0), "Right, by multiplier", "The vector with its 95 % intervals; random directions thin."
    )


def _lines(ax: Any, r: Results, name: str, kind: str) -> None:
    mine = [row.at for row in r.of(name, kind, random=False)]
    x = [a.multiplier for a in mine]
    others = r.of(name, kind, random=True)
    for condition in dict.fromkeys(o.condition for o in others):
        line = [o.at for o in others if o.condition == condition]
        ax.plot([a.multiplier for a in line], [a.value for a in line], "-", color=INK, alpha=0.4, lw=0.8)
    ax.plot(x, [a.value for a in mine], "o-", color=ACCENT)
    ax.fill_between(x, [a.lo for a in mine], [a.hi for a in mine], color=ACCENT, alpha=0.15)
    ax.set_title(f"{name}, {kind}", fontsize=9)
    ax.set_xlabel("multiplier")
