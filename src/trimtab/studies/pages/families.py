"""The page of the study of orthogonal families: how many vectors do the same. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, INK, QUIET, WARN, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import share
from trimtab.statistics.intervals import Figure

FIRST, LOSS, ECHO, RANDOM = "first", "same example", "same effect", "random"
PUBLISHED = (
    "Published (Goldman-Wetzler & Turner 2024): more than 800 orthogonal vectors that echo the effect of one, on a "
    "model of width 2048 and more; how many of them act alike was read, not counted."
)


@dataclass(frozen=True)
class Member:
    """One vector on held-out questions: rise of propensity and of the positive answer's log-probability (nats per
    token), and the share of questions it raises.

    Attributes:
        loss: of its descent: of the example in nats, or how far its echo is from the first one's effect, in units of
            that; None for random directions.
    """

    effect: float
    answer: float
    raised: float
    loss: float | None = None


@dataclass(frozen=True)
class Family:
    """The members of one family in the order they were found."""

    behavior: str
    name: str
    members: list[Member]
    questions: int

    @property
    def effects(self) -> list[float]:
        return [m.effect for m in self.members]

    def alike(self, first: float) -> list[bool]:
        """Whether each does at least half of what the first vector does; none does, where that does nothing."""
        return [m.effect >= 0.5 * first > 0 for m in self.members]


@dataclass(frozen=True)
class Results:
    """What came out; vectors act after block `layer`, echoes are taken after block `reads`."""

    model: str
    width: int
    layer: int
    reads: int
    norm: float
    seed: int
    families: list[Family]

    @property
    def behaviors(self) -> list[str]:
        return list(dict.fromkeys(f.behavior for f in self.families))

    def of(self, behavior: str) -> dict[str, Family]:
        return {f.name: f for f in self.families if f.behavior == behavior}


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    n = len(r.families[1].members)
    about = (
        f"{r.model} (width {r.width}), layer {r.layer}, {n} members a family, each orthogonal to all before it and "
        f"{r.norm:g} medians of the residual norm long; effects echoed after block {r.reads}; seed {r.seed}. Effects "
        "are rises of propensity on held-out questions, in nats per token, at multiplier 1. A member does the same if "
        "it does at least half of what the first vector does."
    )
    sections = [("Families", _rows(r)), *((f"{b}: every tenth member", _member_rows(r.of(b))) for b in r.behaviors)]
    plots = {f"families-{b}": _plot(b, r.of(b)) for b in r.behaviors}
    findings = [*(_finding(b, r.of(b)) for b in r.behaviors), PUBLISHED]
    return write_sections(run, "Orthogonal vectors that do the same", about, findings, plots, sections, _figures(r))


def _finding(behavior: str, of: dict[str, Family]) -> str:
    first = of[FIRST].effects[0]
    if first <= 0:
        return f"{behavior}: the first vector does not raise the propensity ({first:+.3f} nats per token)."
    parts: list[str] = []
    for name in (LOSS, ECHO, RANDOM):
        same = of[name].alike(first)
        parts.append(f"of {len(same)} {_words(name)} {sum(same)}")
    return (
        f"{behavior}: the first vector raises the propensity by {first:+.3f} nats per token. As much, or half of it, "
        + (f"do {', '.join(parts)}.")
    )


def _words(name: str) -> str:
    return {LOSS: "made for the same example", ECHO: "made for the same effect", RANDOM: "random directions"}[name]


def _rows(r: Results) -> list[list[str]]:
    rows = [["behavior", "family", "members", "do the same", "median", "best", "worst", "answer", "questions"]]
    for b in r.behaviors:
        first = r.of(b)[FIRST].effects[0]
        for f in r.of(b).values():
            x, alike = np.array(f.effects), f.alike(first)
            answer = float(np.median([m.answer for m in f.members]))
            numbers = [f"{v:+.3f}" for v in (np.median(x), x.max(), x.min(), answer)]
            rows.append([b, f.name, f"{len(x)}", f"{sum(alike)}", *numbers, f"{f.questions}"])
    return rows


def _member_rows(of: dict[str, Family]) -> list[list[str]]:
    """Effects, and losses of the descents."""
    rows = [["member", f"{LOSS}: effect", "loss, nats", f"{ECHO}: effect", "distance from the first one's change"]]
    for k in range(0, len(of[LOSS].members), 10):
        cells = [(f"{m.effect:+.3f}", f"{m.loss:.2f}") for m in (of[LOSS].members[k], of[ECHO].members[k])]
        rows.append([f"{k + 1}", *cells[0], *cells[1]])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: shares that do the same, beside that of random directions."""
    out: list[Figure] = []
    for b in r.behaviors:
        first = r.of(b)[FIRST].effects[0]
        control = float(np.mean(r.of(b)[RANDOM].alike(first)))
        counted = {name: share(r.of(b)[name].alike(first)) for name in (LOSS, ECHO)}
        out += [c.figure(f"{b}: {name}, share that does the same", control) for name, c in counted.items()]
    return out


def _plot(behavior: str, of: dict[str, Family]) -> Plot:
    """Effect by number of the member."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for name, color in zip((LOSS, ECHO), (INK, ACCENT), strict=True):
            _line(ax, of[name].effects, color, name)
        drawn: Sequence[float] = of[RANDOM].effects
        ax.axhspan(min(drawn), max(drawn), color=QUIET, alpha=0.25, lw=0, label=f"{len(drawn)} random directions")
        ax.axhline(of[FIRST].effects[0], color=WARN, lw=1, ls="--", label="the first vector")
        ax.set_xlabel("member, in the order found")
        ax.set_ylabel("rise of propensity, nats per token")
        ax.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)

    caption = "Each member is orthogonal to the first vector and to all before it."
    return picture(paint, (6.2, 3.4), f"{behavior}: effect by member", caption)


def _line(ax: Any, effects: Sequence[float], color: str, label: str) -> None:
    ax.plot(range(1, len(effects) + 1), effects, "o-", ms=2.5, lw=0.8, color=color, label=label)
