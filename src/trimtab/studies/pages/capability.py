"""The page of what a vector costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
        subjects: of questions with two answers each: how much of the probability of both is on the right one.
    """

    model: str
    behavior: str
    layers: list[int]
    rows: list[Row]
    seed: int
    subjects: list[Row] = field(default_factory=list[Row])

    def of(self, set: str, kind: str, *, random: bool) -> list[Row]:
        """Rows of the vector, or of the random directions."""
        return [r for r in self.rows if (r.set, r.kind, r.condition.kind == "random") == (set, kind, random)]

    @property
    def by_subject(self) -> dict[str, tuple[list[Row], list[Row]]]:
        """Of each subject: rows of the vector, and of the random directions."""
        out: dict[str, tuple[list[Row], list[Row]]] = {}
        for row in self.subjects:
            out.setdefault(row.set, ([], []))[row.condition.kind == "random"].append(row)
        return out

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
    headline = [_headline(r)] if r.rows else []
    findings = [*headline, *(_finding(r, name, kind) for name, kind in r.counted), *_subjects_finding(r)]
    head = ["condition", "multiplier", "right", "95 %", "change, points", "95 %", "p, paired", "n"]
    sections = [
        (f"{name}: {WORDS[kind]}", [head, *(_cells(row) for row in r.rows if (row.set, row.kind) == (name, kind))])
        for name, kind in r.counted
    ]
    if r.subjects:
        sections.append(("Questions with two answers, by subject", _subjects(r)))
    plots = {"capability": _plot(r)} if r.rows else {}
    return write_sections(run, "What a vector costs", about, findings, plots, sections, _figures(r))


def _headline(r: Results) -> str:
    """What it comes to: losses that are told from 0 and beyond every random direction."""
    lost: list[str] = []
    for name, kind in r.counted:
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
        f"{_points(row.at)}, p = {row.at.p:.2g})"
        for row in _strongest(mine)
    ]
    most = max((abs(row.at.change) for row in others), default=float("nan"))
    beside = f"; random directions of its norm change it by at most {100 * most:.1f} points" if others else ""
    return f"{name}, {WORDS[kind]}: {plain.value:.1%} unsteered, {', '.join(parts)}; n {plain.n}{beside}."


def _subjects_finding(r: Results) -> list[str]:
    """How far subjects change at the ends of the grid; they are many and small, so the least p is told for all."""
    changed = [row for mine, _ in r.by_subject.values() for row in _strongest(mine)]
    if not changed:
        return []
    least = min(changed, key=lambda row: row.at.p)
    low, high = (f(row.at.change for row in changed) for f in (min, max))
    return [
        f"With two answers each, by subject, the share of probability on the right one changes by {100 * low:+.1f} to "
        f"{100 * high:+.1f} points. The least of {len(changed)} p is {least.at.p:.2g} ({least.set} at "
        f"{least.at.multiplier:+g}), {min(1.0, len(changed) * least.at.p):.2g} for as many tests (Bonferroni)."
    ]


def _subjects(r: Results) -> list[list[str]]:
    """One line a subject: the vector at both ends of the grid, beside the largest change of a random direction."""
    ends = [f"{row.at.multiplier:+g}" for row in _strongest(next(iter(r.by_subject.values()))[0])]
    table = [["subject", "unsteered", *(x for e in ends for x in (f"change at {e}, points", "p")), "random, most", "n"]]
    for name, (mine, others) in r.by_subject.items():
        plain = next(row.at for row in mine if row.at.multiplier == 0)
        most = max((abs(row.at.change) for row in _strongest(others)), default=float("nan"))
        cells = [
            x
            for row in _strongest(mine)
            for x in (f"{100 * row.at.change:+.1f} ({_points(row.at)})", f"{row.at.p:.2g}")
        ]
        table.append([name, f"{plain.value:.1%}", *cells, f"{100 * most:.1f}" if others else "", str(plain.n)])
    return table


def _points(a: Accuracy) -> str:
    """The interval of a change, in points."""
    return f"{100 * a.change_lo:+.1f} to {100 * a.change_hi:+.1f}"


def _cells(row: Row) -> list[str]:
    a = row.at
    return [
        row.condition.label, f"{a.multiplier:g}", f"{a.value:.1%}", f"{a.lo:.1%} to {a.hi:.1%}",
        f"{100 * a.change:+.1f}", _points(a), f"{a.p:.2g}", str(a.n),
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

    width = 3.2 * len(r.counted)
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
