"""The page of the study of techniques: what each does beside the plain one-shot vector. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, INK, QUIET, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Array, Figure, Groups, crossed, interval

PLAIN, RANDOM = "plain", "random direction"
PUBLISHED = (
    "Published: the authors saw no gain from noise, start at the cap because small starts often failed, and clamp or "
    "use affine maps where addition breaks text; none of it is compared on the same examples there."
)


def random_like(technique: str) -> str:
    """The name of random directions that act as the vectors of a technique do."""
    return RANDOM if technique == PLAIN else f"{RANDOM}, {technique}"


@dataclass(frozen=True)
class Vector:
    """What one vector does on held-out questions, in nats per token.

    Attributes:
        effect, back: rise of propensity at multiplier 1 and -1, mean over the questions.
        answer: rise of the positive answer's own log-probability at 1; it falls where the model is broken.
        raised: share of the questions whose propensity rises.
        norm: of the vector, or of all rows of a map.
        loss, held_out: -log p of the positive answer of its example, and of examples it was not learned on (nats), the
            same for every technique.
        cosine: with the plain vector of the same example; None for maps.
    """

    effect: float
    back: float
    answer: float
    raised: float
    norm: float
    loss: float | None = None
    held_out: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Difference:
    """From the plain vectors of the same examples, on the same questions: a mean with its 95 % interval over questions
    and examples.
    """

    value: float
    lo: float
    hi: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0."""
        return (self.lo > 0) - (self.hi < 0)

    def __str__(self) -> str:
        return f"{self.value:+.3f}" + ("" if math.isnan(self.lo) else f" ({self.lo:+.3f} to {self.hi:+.3f})")


def compared(differences: Array, groups: Groups) -> Difference:
    """Of differences (questions, examples)."""
    few = differences.shape[1] < 3
    lo, hi = interval(differences.mean(1), groups) if few else crossed(differences, groups)
    return Difference(float(differences.mean()), lo, hi)


@dataclass(frozen=True)
class Technique:
    """The vectors of one technique for one behavior."""

    behavior: str
    name: str
    vectors: list[Vector]
    questions: int
    beside: Difference

    def middle(self, what: str) -> float:
        """Median over the vectors."""
        values = [x for v in self.vectors if (x := getattr(v, what)) is not None]
        return float(np.median(values)) if values else math.nan

    @property
    def effects(self) -> list[float]:
        return [v.effect for v in self.vectors]


@dataclass(frozen=True)
class Results:
    """What came out; `changed` holds the fields in which a technique differs from the plain vector."""

    model: str
    layer: int
    examples: int
    norm: float
    seed: int
    changed: dict[str, dict[str, Any]]
    techniques: list[Technique]

    @property
    def behaviors(self) -> list[str]:
        return list(dict.fromkeys(t.behavior for t in self.techniques))

    def of(self, behavior: str) -> dict[str, Technique]:
        return {t.name: t for t in self.techniques if t.behavior == behavior}


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = (
        f"{r.model}, layer {r.layer}, {r.examples} examples per behavior, largest norm {r.norm:g} medians of the "
        f"residual norm, seed {r.seed}. Effects are rises of propensity on held-out questions, in nats per token, at "
        "multiplier 1, with the operator the vector was trained with. The difference from plain is taken example by "
        "example and question by question; its interval is over questions"
        + (" and examples." if r.examples > 2 else " (too few examples to count them as well).")
    )
    sections = [("What each technique changes", _changed_rows(r))]
    sections += [(f"{b}: effects", _effect_rows(r.of(b))) for b in r.behaviors]
    sections += [(f"{b}: the vectors", _vector_rows(r.of(b))) for b in r.behaviors]
    plots = {f"techniques-{b}": _plot(b, list(r.of(b).values())) for b in r.behaviors}
    findings = [*_headline(r), *_noise(r), PUBLISHED]
    return write_sections(run, "One-shot techniques side by side", about, findings, plots, sections, _figures(r))


# ---------------------------------------------------------------- sentences


def _headline(r: Results) -> list[str]:
    """For each behavior: plain and random, median and best, and what is above or below plain."""
    out: list[str] = []
    for b in r.behaviors:
        of = r.of(b)
        plain, random = of[PLAIN], of[RANDOM]
        others = [t for t in of.values() if t.name not in _controls(of)]
        above, below = ([t for t in others if t.beside.sign == sign] for sign in (1, -1))
        whole, breaking = ([t.name for t in above if (t.middle("answer") >= 0) == kept] for kept in (True, False))
        out.append(
            f"{b}: plain vectors raise the propensity by {_pair(plain)}, random directions by {_pair(random)}. Above "
            f"plain: {_listed(whole)}; above it while the answers themselves become less likely: {_listed(breaking)}; "
            f"below: {_listed([t.name for t in below])}."
        )
    return out


def _controls(of: dict[str, Technique]) -> set[str]:
    """Names of random directions."""
    return {random_like(name) for name in of}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _pair(t: Technique) -> str:
    return f"{t.middle('effect'):+.3f} (median; best {max(t.effects):+.3f}, worst {min(t.effects):+.3f})"


def _noise(r: Results) -> list[str]:
    """Does noise help a vector carry?"""
    noisy = {name for name, fields in r.changed.items() if "noise" in fields}
    some = [t for t in r.techniques if t.name in noisy]
    if not some:
        return []
    up, down = (sum(t.beside.sign == s for t in some) for s in (1, -1))
    change = float(np.mean([t.beside.value for t in some]))
    spreads = [np.ptp(t.effects) - np.ptp(r.of(t.behavior)[PLAIN].effects) for t in some]
    return [
        f"Noise of {len(noisy)} kinds on {len(r.behaviors)} behaviors: above plain in {up} of {len(some)}, below in "
        f"{down}, by {change:+.3f} nats per token in the mean; the spread over examples (best less worst) changes by "
        f"{float(np.mean(spreads)):+.3f}."
    ]


# ---------------------------------------------------------------- tables


def _changed_rows(r: Results) -> list[list[str]]:
    rows = [["technique", "fields of the one-shot method"]]
    controls = _controls(r.of(r.behaviors[0]))
    for name in dict.fromkeys(t.name for t in r.techniques if t.name not in controls):
        fields = r.changed.get(name, {})
        rows.append([name, ", ".join(f"{k} = {v}" for k, v in fields.items()) or "as they are"])
    return rows


def _effect_rows(of: dict[str, Technique]) -> list[list[str]]:
    head = ["technique", "median", "best", "worst", "from plain", "at -1", "answer", "questions raised", "n"]
    rows = [head]
    for t in of.values():
        numbers = [t.middle("effect"), max(t.effects), min(t.effects)]
        rows.append([
            t.name, *(f"{x:+.3f}" for x in numbers), "" if t.name == PLAIN else str(t.beside),
            f"{t.middle('back'):+.3f}", f"{t.middle('answer'):+.3f}", f"{t.middle('raised'):.0%}",
            f"{t.questions} x {len(t.vectors)}",
        ])  # fmt: skip
    return rows


def _vector_rows(of: dict[str, Technique]) -> list[list[str]]:
    """Medians over the vectors."""
    rows = [["technique", "norm", "loss on its example", "loss on other examples", "cosine with plain"]]
    for t in of.values():
        cells = [(t.middle(what), form) for what, form in (("norm", ".2f"), ("loss", ".2f"), ("held_out", ".2f"),
                                                           ("cosine", "+.2f"))]  # fmt: skip
        rows.append([t.name, *("" if math.isnan(x) else f"{x:{form}}" for x, form in cells)])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: differences from plain; beside each that of the random directions."""
    out: list[Figure] = []
    for t in r.techniques:
        of, d = r.of(t.behavior), t.beside
        random = of.get(random_like(t.name), of[RANDOM]).beside.value  # under its own operator, where it has one
        out.append(Figure(f"{t.behavior}: {t.name} less plain", d.value, d.lo, d.hi, t.questions, "nats/token", random))
    return out


def _plot(behavior: str, techniques: Sequence[Technique]) -> Plot:
    """Every vector as a point, one row a technique, medians marked."""

    def paint(canvas: Any) -> None:
        ax, controls = canvas.subplots(), {random_like(t.name) for t in techniques}
        for k, t in enumerate(reversed(techniques)):
            color = QUIET if t.name in controls else INK
            ax.plot(t.effects, [k] * len(t.effects), "o", color=color, markersize=4, alpha=0.6)
            ax.plot([t.middle("effect")], [k], "|", color=ACCENT, markersize=13, markeredgewidth=2)
        plain = next(t for t in techniques if t.name == PLAIN)
        ax.axvline(plain.middle("effect"), color=ACCENT, linewidth=0.8, linestyle=":")
        ax.axvline(0.0, color=QUIET, linewidth=0.8)
        ax.set_yticks(range(len(techniques)), [t.name for t in reversed(techniques)], fontsize=8)
        ax.set_xlabel("rise of propensity on held-out questions, nats per token")

    caption = "Each point is the vector of one example; bars are medians, the dotted line that of plain vectors."
    return picture(paint, (6.4, 0.8 + 0.24 * len(techniques)), f"{behavior}: effect by technique", caption)
