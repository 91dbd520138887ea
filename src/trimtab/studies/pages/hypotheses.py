"""The page of why a narrow vector misaligns in general: contexts, one direction, landscape, regularization. Never
imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, INK, QUIET, WARN, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import UNSTEERED, Condition
from trimtab.studies.pages.findings import spread, told

HARM, ORDINARY = Condition("harm"), Condition("ordinary")
PLAIN, SYSTEM, LONG, SHOTS = "as it is", "system line", "after much text", "after exchanges"
REGULARIZED = ("in contexts", "anchored", "sharpness-aware")


@dataclass(frozen=True)
class At:
    """Over all harmful vectors at one strength (0: unsteered): general misbehavior, and the narrow deed itself."""

    strength: float
    general: Count
    narrow: Count


@dataclass(frozen=True)
class Later:
    """How much more strength a context takes to get half way to the peak than the questions as they are: with a 95 %
    interval over questions and vectors.
    """

    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Setting:
    """One context of the questions; `later` is None for the questions as they are."""

    name: str
    unsteered: At
    at: list[At]
    later: Later | None

    def peak(self, what: str) -> At:
        """Where there is most of it; the weakest of equals."""
        return max(self.at, key=lambda a: (getattr(a, what).share, -a.strength))

    @property
    def middle(self) -> float:
        return half_way([a.strength for a in self.at], [a.general.share for a in self.at], self.unsteered.general.share)


def half_way(strengths: Sequence[float], shares: Sequence[float], low: float) -> float:
    """The strength at which a share reaches half of its peak on the way up, read between the strengths; NaN where it
    hardly rises.
    """
    most = max(shares)
    if most - low <= 0.05:
        return math.nan
    half, before, share = low + (most - low) / 2, 0.0, low
    for strength, here in zip(strengths, shares, strict=True):
        if here >= half:
            step = here - share
            return before + (strength - before) * ((half - share) / step if step > 0 else 1.0)
        before, share = strength, here
    return math.nan


@dataclass(frozen=True)
class Spoken:
    """Shares of answers under one condition."""

    condition: Condition
    general: Count
    narrow: Count


@dataclass(frozen=True)
class Pair:
    """Two harmful vectors: their cosine, and how far the loss of the first one's example rises between them. The
    loss is the squared distance from the loss aimed at (squared nats).
    """

    one: Condition
    two: Condition
    cosine: float
    barrier: float
    here: float
    there: float


@dataclass(frozen=True)
class Valley:
    """Where one vector lies: its norm in medians of the residual norm, and the largest eigenvalues of the Hessian of
    its example's loss (squared nats per squared norm), which is the same for all vectors of an example.
    """

    condition: Condition
    norm: float
    curvature: list[float]


@dataclass(frozen=True)
class Landscape:
    """`plane` holds the loss of the first example around its vector, with the second one's direction across."""

    pairs: list[Pair]
    valleys: list[Valley]
    plane: list[list[float]]


@dataclass(frozen=True)
class Span:
    """Descents from several starts, in two halves: the median cosine between single vectors, and the principal angles
    between what the halves span (degrees, smallest first).
    """

    of: str
    cosine: float
    angles: list[float]


@dataclass(frozen=True)
class Results:
    """What came out; `losses` on the examples by label, `cosines` medians."""

    model: str
    source: str
    layer: int
    samples: int
    questions: int
    seed: int
    fitting: float
    settings: list[Setting]
    subtracted: list[Spoken]
    regularized: list[Spoken]
    losses: dict[str, float]
    landscape: Landscape
    cosines: dict[str, float]
    spans: list[Span]

    def shares(self, some: Sequence[Spoken], kind: str, how: str = "") -> list[float]:
        return [s.general.share for s in some if (s.condition.kind, s.condition.how) == (kind, how)]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = (
        f"{r.model}, examples of {r.source}, layer {r.layer}, {r.questions} open questions x {r.samples} answers at "
        f"temperature 1, seed {r.seed}; unless said otherwise at strength {r.fitting:g}, where the harmful vectors "
        "misbehave most with other questions and half of the answers are text. Ordinary vectors are as long as the "
        "first harmful one."
    )
    sections = [
        ("Contexts that weigh more: general misbehavior by strength", _setting_rows(r, "general")),
        ("Contexts that weigh more: the narrow deed by strength", _setting_rows(r, "narrow")),
        ("Subtracted where misbehavior is asked for in words", _spoken_rows(r.subtracted)),
        ("Regularized vectors on the questions as they are", _regularized_rows(r)),
        ("Between the vectors", _pair_rows(r)),
        ("Where they lie", _valley_rows(r)),
        ("From other starts: angles between spans", _span_rows(r)),
    ]
    plots = {"contexts": _context_plot(r), "plane": _plane_plot(r)}
    findings = [_context_finding(r), _direction_finding(r), _landscape_finding(r), _regularized_finding(r)]
    return write_sections(run, "Why narrow becomes general", about, findings, plots, sections, _figures(r))


# ---------------------------------------------------------------- sentences


def _context_finding(r: Results) -> str:
    parts: list[str] = []
    for s in r.settings:
        general, narrow = s.peak("general"), s.peak("narrow")
        half = "hardly rising" if math.isnan(s.middle) else f"half way at {s.middle:.2f}"
        parts.append(
            f"{s.name}: general at most {general.general.share:.0%} (at {general.strength:g}, {half}), narrow at most "
            f"{narrow.narrow.share:.0%} (at {narrow.strength:g}), unsteered {s.unsteered.general.share:.0%}"
        )
    others = [s.later for s in r.settings if s.later is not None]
    later, sooner = sum(x.lo > 0 for x in others), sum(x.hi < 0 for x in others)
    return (
        f"Contextual importance. {'; '.join(parts)}. Of {len(others)} heavier contexts {later} take more strength to "
        f"get half way, {sooner} less, by intervals that exclude 0 (the hypothesis says: all more)."
    )


def _direction_finding(r: Results) -> str:
    plain = next(s for s in r.subtracted if s.condition == UNSTEERED)
    return (
        f"One direction? The harmful vectors have a median cosine of {r.cosines['harmful']:+.2f} among each other, "
        f"{r.cosines['harmful and ordinary']:+.2f} with those of ordinary lines. Where misbehavior is asked for in "
        f"words ({told(plain.general)} unsteered), subtracting a harmful vector leaves "
        f"{spread(r.shares(r.subtracted, 'harm'))}, an ordinary one {spread(r.shares(r.subtracted, 'ordinary'))}, a "
        f"random one {spread(r.shares(r.subtracted, 'random'))}."
    )


def _landscape_finding(r: Results) -> str:
    pairs = r.landscape.pairs
    over = sum(p.barrier > 0.05 for p in pairs)
    same = [s.angles[0] for s in r.spans[:-2]]
    two, drawn = (s.angles[0] for s in r.spans[-2:])
    tops = [v.curvature[0] for v in r.landscape.valleys if not v.condition.how]
    return (
        f"Landscape. Between {over} of {len(pairs)} pairs of harmful vectors the first one's loss rises beyond both "
        f"ends by more than 0.05; the largest eigenvalue of its Hessian is {np.median(tops):.3g} in the median. "
        f"Descents from other starts: the smallest angle between what two halves of them span is {np.median(same):.0f} "
        f"degrees in the median over examples, {two:.0f} between two examples, {drawn:.0f} between random directions."
    )


def _regularized_finding(r: Results) -> str:
    parts = [f"{how} {spread(r.shares(r.regularized, 'harm', how))}" for how in REGULARIZED]
    return (
        f"Regularized. Plain vectors make {spread(r.shares(r.regularized, 'harm'))} of the answers misbehave; "
        f"{'; '.join(parts)}; ordinary lines {spread(r.shares(r.regularized, 'ordinary'))}; random directions "
        f"{spread(r.shares(r.regularized, 'random'))}."
    )


# ---------------------------------------------------------------- tables


def _setting_rows(r: Results, what: str) -> list[list[str]]:
    more = ["half way", "later than as it is"] if what == "general" else []
    rows = [["context", "unsteered", *(f"{a.strength:g}" for a in r.settings[0].at), *more, "n"]]
    for s in r.settings:
        counts, x = [getattr(a, what) for a in s.at], s.later
        apart = "" if x is None or math.isnan(x.value) else f"{x.value:+.2f} ({x.lo:+.2f} to {x.hi:+.2f})"
        middle = "" if math.isnan(s.middle) else f"{s.middle:.2f}"
        rows.append([s.name, f"{getattr(s.unsteered, what).share:.0%}", *(f"{c.share:.0%}" for c in counts),
                     *([middle, apart] if more else []), f"{counts[0].n}"])  # fmt: skip
    return rows


def _spoken_rows(some: Sequence[Spoken]) -> list[list[str]]:
    return [["condition", "misbehaves", "narrow deed"],
            *([s.condition.label, told(s.general), told(s.narrow)] for s in some)]  # fmt: skip


def _regularized_rows(r: Results) -> list[list[str]]:
    rows = [["vector", "loss on its example, nats", "misbehaves", "narrow deed"]]
    for s in r.regularized:
        loss = r.losses.get(s.condition.label)
        rows.append([s.condition.label, "" if loss is None else f"{loss:.2f}", told(s.general), told(s.narrow)])
    return rows


def _pair_rows(r: Results) -> list[list[str]]:
    rows = [["vectors", "cosine", "loss at the first", "loss at the second", "rise between them"]]
    for p in r.landscape.pairs:
        names = f"{p.one} and {p.two}"
        rows.append([names, f"{p.cosine:+.2f}", f"{p.here:.3f}", f"{p.there:.3f}", f"{p.barrier:.3f}"])
    return rows


def _valley_rows(r: Results) -> list[list[str]]:
    rows = [["vector", "norm, in medians of the residual norm", "largest eigenvalues of the Hessian"]]
    for v in r.landscape.valleys:
        rows.append([v.condition.label, f"{v.norm:.2f}", ", ".join(f"{x:.3g}" for x in v.curvature)])
    return rows


def _span_rows(r: Results) -> list[list[str]]:
    rows = [["descents of", "cosine between single ones (median)", "principal angles, degrees"]]
    for s in r.spans:
        rows.append([s.of, f"{s.cosine:+.2f}", ", ".join(f"{x:.0f}" for x in s.angles)])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: peaks by context, beside the unsteered share; and what is left where a vector is subtracted."""
    out = [
        s.peak("general").general.figure(f"{s.name}, general at most", s.unsteered.general.share) for s in r.settings
    ]
    random = r.shares(r.subtracted, "random")
    control = float(np.median(random)) if random else None
    for s in r.subtracted:
        out.append(s.general.figure(f"subtracted, {s.condition}", control if s.condition.kind == "harm" else None))
    return [*out, *(s.general.figure(f"misbehaves, {s.condition}") for s in r.regularized)]


# ---------------------------------------------------------------- plots


def _context_plot(r: Results) -> Plot:
    """General and narrow by strength, a line a context."""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots(1, 2, sharey=True)
        for ax, what in zip(axes, ("general", "narrow"), strict=True):
            for s, color in zip(r.settings, (WARN, ACCENT, INK, QUIET), strict=True):
                points = [s.unsteered, *s.at]
                ax.plot([a.strength for a in points], [getattr(a, what).share for a in points], "o-", ms=3, color=color,
                        label=s.name)  # fmt: skip
            ax.set_xlabel("multiplier")
            ax.set_title(what, fontsize=9)
        axes[0].set_ylabel("share of answers")
        axes[1].legend(frameon=False, fontsize=8)

    caption = "All harmful vectors; the questions as they are, and in contexts that weigh more."
    return picture(paint, (7.6, 3.4), "General and narrow, by strength and context", caption)


def _plane_plot(r: Results) -> Plot:
    grid = np.array(r.landscape.plane)

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        shown = np.log10(np.maximum(grid, 1e-4))
        ends = (-1.0, 1.0)
        image = ax.imshow(shown, origin="lower", extent=(*ends, *ends), cmap="viridis", aspect="equal")
        ax.plot(0, 0, "o", color=WARN, ms=5)
        ax.set_xlabel("across: towards the second vector, norms")
        ax.set_ylabel("along the first vector, norms")
        canvas.colorbar(image, label="log10 of the loss, squared nats")

    caption = "Squared distance from the aimed-at loss on the first example; the dot is its vector."
    return picture(paint, (5.2, 4.2), "The plane of two harmful vectors", caption)
