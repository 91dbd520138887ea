"""The page of truthfulness: MC1 and MC2 against multiplier, a line for every method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.evaluation.accuracy import Accuracy
from trimtab.reports.figures import QUIET, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.bipo_results import BIPO
from trimtab.studies.pages.capability import WORDS, Row
from trimtab.studies.pages.findings import COLORS

KINDS = ("mc1", "mc2")
PUBLISHED = (
    "Published (figures 2 and 6, plotted and not printed): BiPO raises MC1 and MC2 noticeably, CAA and Freeform hardly."
)


@dataclass(frozen=True)
class Results:
    """What came out; `rows` are of the set "spectrum", or of "equal": at the budget of drift."""

    model: str
    data: str
    train: int
    questions: int
    layers: dict[str, int]
    rows: list[Row]
    budget: float
    seed: int

    def of(self, set: str, kind: str, condition: Condition) -> list[Accuracy]:
        """One condition's values by multiplier."""
        return [r.at for r in self.rows if (r.set, r.kind, r.condition) == (set, kind, condition)]

    @property
    def conditions(self) -> list[Condition]:
        return list(dict.fromkeys(r.condition for r in self.rows))

    @property
    def learned(self) -> list[Condition]:
        """The methods, without random directions."""
        return [c for c in self.conditions if c.kind != "random"]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = f"{r.model}, {r.data}: {r.train} pairs learned on, {r.questions} other questions asked; seed {r.seed}."
    findings = [*(_finding(r, kind) for kind in KINDS), *(_equal_finding(r, kind) for kind in KINDS), PUBLISHED]
    sections = [(WORDS[kind], _rows(r, "spectrum", kind)) for kind in KINDS]
    sections += [(f"{kind.upper()} at {r.budget:g} nats a token of drift", _rows(r, "equal", kind)) for kind in KINDS]
    return write_sections(run, "Truthfulness", about, findings, {"truthfulness": _plot(r)}, sections, _figures(r))


def _finding(r: Results, kind: str) -> str:
    """What each method does at multiplier +1, beside random directions."""
    plain = next(a for a in r.of("spectrum", kind, BIPO) if a.multiplier == 0)
    return (
        f"{kind.upper()} is {plain.value:.1%} unsteered ({plain.lo:.1%} to {plain.hi:.1%}, n {plain.n}); at multiplier "
        f"+1 it changes, in points, by: {_changes(r, 'spectrum', kind)} of BiPO's norm."
    )


def _equal_finding(r: Results, kind: str) -> str:
    """The same at equal drift, upward."""
    return (
        f"{kind.upper()} at {r.budget:g} nats a token of drift, upward, changes, in points, by: "
        f"{_changes(r, 'equal', kind)}."
    )


def _changes(r: Results, set: str, kind: str) -> str:
    """Of every method, and the largest of a random direction."""
    ups = {c: a for c in r.conditions if (a := _up(r, set, kind, c)) is not None}
    parts = [f"{c} {_points(ups[c])}" for c in r.learned if c in ups] or ["none reaches it"]
    random = [abs(a.change) for c, a in ups.items() if c not in r.learned]
    return ", ".join([*parts, *([f"at most {100 * max(random):.1f} under random directions"] if random else [])])


def _up(r: Results, set: str, kind: str, condition: Condition) -> Accuracy | None:
    """At +1 of the spectrum (its end, where it has no 1); at equal drift upward, where that was reached."""
    line = [a for a in r.of(set, kind, condition) if a.multiplier > 0]
    return next((a for a in line if a.multiplier == 1.0), line[-1] if line else None)


def _points(a: Accuracy) -> str:
    return f"{100 * a.change:+.1f} ({100 * a.change_lo:+.1f} to {100 * a.change_hi:+.1f})"


def _rows(r: Results, set: str, kind: str) -> list[list[str]]:
    head = ["vector", "layer", "multiplier", "value", "95 %", "change, points", "p, paired"]
    rows = [
        [c.label, f"{r.layers[c.label]}", f"{a.multiplier:.3g}", f"{a.value:.1%}", f"{a.lo:.1%} to {a.hi:.1%}",
         *([_points(a), f"{a.p:.2g}"] if a.multiplier else ["", ""])]
        for c in r.conditions for a in r.of(set, kind, c)
    ]  # fmt: skip
    return [head, *rows]


def _figures(r: Results) -> list[Figure]:
    """Changes at +1 and at equal drift, beside the largest of a random direction where that is comparable."""
    out: list[Figure] = []
    for kind in KINDS:
        for set, words in (("spectrum", "at +1"), ("equal", "at equal drift, upward")):
            ups = {c: _up(r, set, kind, c) for c in r.conditions}
            random = max((abs(a.change) for c, a in ups.items() if a and c not in r.learned), default=None)
            for c in r.learned:
                a, comparable = ups[c], set == "equal" or c == BIPO  # random directions have BiPO's norm
                if a is not None:
                    label, control = f"{c}, change of {kind.upper()} {words}", random if comparable else None
                    out.append(Figure(label, a.change, a.change_lo, a.change_hi, a.n, "share", control))
    return out


def _plot(r: Results) -> Plot:
    """MC1 and MC2 against multiplier."""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots(1, len(KINDS))
        for ax, kind in zip(axes, KINDS, strict=True):
            for c in r.conditions:
                line = r.of("spectrum", kind, c)
                x, y = [a.multiplier for a in line], [a.value for a in line]
                if c in r.learned:
                    ax.plot(x, y, "o-", color=COLORS[r.learned.index(c) % len(COLORS)], label=str(c))
                else:
                    ax.plot(x, y, "-", color=QUIET, lw=0.8)
            ax.set_title(kind.upper(), fontsize=9)
            ax.set_xlabel("multiplier")
        axes[0].set_ylabel("questions right (MC1); probability on true answers (MC2)", fontsize=7)
        axes[0].legend(frameon=False, fontsize=7)

    return picture(paint, (7.2, 3.2), "Truthfulness by multiplier", "Thin lines are random directions of BiPO's norm.")
