"""The page of the study of one-shot vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, INK, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.foresight import Foreseen, Picked
from trimtab.statistics.intervals import Figure


def promoted(n: int) -> str:
    """The kind of vectors promoted on n examples at once."""
    return f"promote of {n}"


def same_pairs(n: int) -> str:
    """The kind of mean differences of the same pairs, at the norm of the vectors promoted on one example."""
    return f"mean-diff of the same {n}"


@dataclass(frozen=True)
class Norm:
    """At one largest norm: effect, rise of the positive answer (nats per token), and loss of the descent; medians over
    examples.
    """

    norm: float
    effect: float
    answer: float
    loss: float


@dataclass(frozen=True)
class Norms:
    """Of one behavior and mode: every norm that was tried on n validation questions, and the one that was taken."""

    behavior: str
    mode: str
    n: int
    chosen: float
    tried: list[Norm]


@dataclass(frozen=True)
class Vector:
    """What one vector does on held-out questions: rise of propensity and of the positive answer's log-probability (nats
    per token), the share of questions that are raised; and what was known before.
    """

    behavior: str
    kind: str
    name: str
    norm: float
    effect: Figure
    answer: Figure
    raised: float
    signals: dict[str, float]


@dataclass(frozen=True)
class Cosines:
    """Between the vectors of one kind."""

    behavior: str
    kind: str
    median: float
    largest: float
    smallest: float


@dataclass(frozen=True)
class Size:
    """Vectors of so many examples, one a draw, and mean differences of the same pairs at the same norm; median cosine
    between the draws of each.
    """

    examples: int
    optimized: list[Vector]
    differences: list[Vector]
    cosine: float
    cosine_differences: float


@dataclass(frozen=True)
class Results:
    """What the study found."""

    model: str
    layer: int
    examples: int
    seed: int
    norm_grid: tuple[float, ...]
    norms: list[Norms]
    vectors: list[Vector]
    cosines: list[Cosines]
    foreseen: list[Foreseen]
    picked: list[Picked]
    size_grid: tuple[int, ...]

    def sizes(self) -> dict[str, list[Size]]:
        """By behavior: vectors of several numbers of examples, beside mean differences of the same pairs."""
        families, cosines = self.families(), {(c.behavior, c.kind): c.median for c in self.cosines}
        out: dict[str, list[Size]] = {}
        for behavior in dict.fromkeys(v.behavior for v in self.vectors) if self.size_grid else ():
            for n in sorted(self.size_grid):
                one, other = (behavior, promoted(n)), (behavior, same_pairs(n))
                between = [cosines.get(k, math.nan) for k in (one, other)]
                out.setdefault(behavior, []).append(Size(n, families[one], families[other], *between))
        return out

    def families(self) -> dict[tuple[str, str], list[Vector]]:
        """By behavior and kind."""
        out: dict[tuple[str, str], list[Vector]] = {}
        for v in self.vectors:
            out.setdefault((v.behavior, v.kind), []).append(v)
        return out


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = (
        f"{r.model}, layer {r.layer}, {r.examples} examples per behavior and mode, seed {r.seed}. Effects are the "
        "rise of propensity "
        "(log-probability per token of the positive completion minus the negative's) at multiplier 1, in nats per "
        "token, on held-out "
        "questions. Every vector is one number below (its mean over the questions); median, best and worst are over "
        "the vectors of a kind. "
        "Answer: the median rise of the log-probability of the positive answer itself, which falls where the model "
        "is broken."
    )
    sections = [
        ("How far they carry", _kinds(r)),
        ("Norms", _norms(r)),
        ("Cosines between vectors of a kind", _cosines(r)),
    ]
    sections += [("Number of examples", _size_rows(r))] if r.sizes() else []
    sections += [
        ("What foresees the effect", _foresight(r)),
        ("Trying the likeliest of several first", _picked_rows(r)),
    ]
    plots = {f"examples-{Path(b).stem}": _size_plot(b, sizes) for b, sizes in r.sizes().items()}
    findings = [*_headline(r), *_size_findings(r), *_picked_finding(r)]
    return write_sections(
        run, "One-shot vectors: how far do they carry?", about, findings, plots, sections, _figures(r)
    )


def _headline(r: Results) -> list[str]:
    """For each behavior: the single promoted vectors beside mean differences and random directions."""
    families = r.families()
    out: list[str] = []
    for behavior in dict.fromkeys(v.behavior for v in r.vectors):
        medians = {
            kind: _median(families[behavior, kind])
            for kind in ("promote", "mean-diff of all, equal norm", "random direction")
        }
        one, mean, random = medians.values()
        out.append(
            f"{behavior}: vectors promoted on one example each raise the propensity by {one:+.3f} nats per token "
            "(median), "
            f"a mean difference of all pairs at that norm by {mean:+.3f}, random directions by {random:+.3f}."
        )
    return out


def _median(some: list[Vector]) -> float:
    return float(np.median([v.effect.value for v in some]))


def _kinds(r: Results) -> list[list[str]]:
    rows = [
        [
            "behavior",
            "vectors",
            "n vectors",
            "median",
            "best",
            "worst",
            "answer",
            "questions raised",
            "norm",
            "questions",
        ]
    ]
    for (behavior, kind), some in r.families().items():
        means = sorted(v.effect.value for v in some)
        raised = float(np.median([v.raised for v in some]))
        norm = float(np.median([v.norm for v in some]))
        answer = float(np.median([v.answer.value for v in some]))
        numbers = [f"{x:+.3f}" for x in (float(np.median(means)), means[-1], means[0], answer)]
        length = "" if math.isnan(norm) else f"{norm:.1f}"
        rows.append([behavior, kind, f"{len(some)}", *numbers, f"{raised:.2f}", length, f"{some[0].effect.n}"])
    return rows


def _norms(r: Results) -> list[list[str]]:
    """The largest norm, in medians of the residual norm; effect and rise of the positive answer on validation
    questions.
    """
    columns = [f"{n:g}: {what}" for n in r.norm_grid for what in ("effect", "answer", "loss")]
    rows = [["behavior", "mode", "questions", *columns, "taken"]]
    for x in r.norms:
        cells = [text for n in x.tried for text in (f"{n.effect:+.3f}", f"{n.answer:+.3f}", f"{n.loss:.1f}")]
        rows.append([x.behavior, x.mode, f"{x.n}", *cells, f"{x.chosen:g}"])
    return rows


def _cosines(r: Results) -> list[list[str]]:
    rows = [["behavior", "vectors", "median", "largest", "smallest"]]
    for c in r.cosines:
        rows.append([c.behavior, c.kind, *(f"{x:.3f}" for x in (c.median, c.largest, c.smallest))])
    return rows


def _size_findings(r: Results) -> list[str]:
    """Where more examples stop helping: the fewest whose median effect is nine tenths of the largest median."""
    out: list[str] = []
    for behavior, sizes in r.sizes().items():
        medians = {s.examples: _median(s.optimized) for s in sizes}
        most = max(medians.values())
        if most > 0 and len(sizes) > 1:
            enough = min(n for n, x in medians.items() if x >= 0.9 * most)
            same = {s.examples: _median(s.differences) for s in sizes}
            steps = ", ".join(f"{n}: {x:+.3f} ({same[n]:+.3f})" for n, x in medians.items())
            out.append(
                f"{behavior}: {enough} {'example is' if enough == 1 else 'examples are'} enough for nine tenths of the "
                f"largest median effect. Examples: effect (mean difference of the same pairs): {steps}."
            )
    return out


def _picked_finding(r: Results) -> list[str]:
    """What is lost by trying the one the best signal likes."""
    if not r.picked:
        return []
    p = r.picked[0]
    return [
        f"Of {p.k:.0f} vectors of a kind, the one with the best {p.signal} does {p.picked:+.3f} nats per token; the "
        f"best {p.best:+.3f}, one drawn blindly {p.drawn:+.3f}: {kept(p)} of the way, over {p.groups} kinds of "
        f"{p.behaviors} behaviors. (It is the best of {len(r.picked)} signals, and was chosen on these vectors: try it "
        "on another model.)"
    ]


def kept(p: Picked) -> str:
    """Share of the way from a blind draw to the best vector, with its interval."""
    return f"{p.kept:.0%}" + ("" if math.isnan(p.lo) else f" ({p.lo:.0%} to {p.hi:.0%})")


def _picked_rows(r: Results) -> list[list[str]]:
    rows = [["signal", "drawn blindly", "picked", "best", "of the way", "kinds", "vectors each"]]
    for p in r.picked:
        numbers = [f"{x:+.3f}" for x in (p.drawn, p.picked, p.best)]
        rows.append([p.signal, *numbers, kept(p), f"{p.groups}", f"{p.k:.1f}"])
    return rows


def _size_rows(r: Results) -> list[list[str]]:
    head = ["behavior", "examples", "draws", "median", "best", "worst", "cosine between draws",
            "mean difference, median", "best", "worst", "cosine between draws"]  # fmt: skip
    rows = [head]
    for behavior, sizes in r.sizes().items():
        for s in sizes:
            cells = [
                [*_ends(some), f"{cosine:.2f}"]
                for some, cosine in ((s.optimized, s.cosine), (s.differences, s.cosine_differences))
            ]
            rows.append([behavior, f"{s.examples}", f"{len(s.optimized)}", *cells[0], *cells[1]])
    return rows


def _ends(some: list[Vector]) -> list[str]:
    means = [v.effect.value for v in some]
    return [f"{x:+.3f}" for x in (float(np.median(means)), max(means), min(means))]


def _size_plot(behavior: str, sizes: list[Size]) -> Plot:
    """Effect against number of examples: a point a draw, lines through medians."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        lines = (
            ("optimized", [s.optimized for s in sizes], ACCENT),
            ("mean difference", [s.differences for s in sizes], INK),
        )
        for name, families, color in lines:
            for s, some in zip(sizes, families, strict=True):
                ax.plot([s.examples] * len(some), [v.effect.value for v in some], "o", ms=3, alpha=0.5, color=color)
            ax.plot([s.examples for s in sizes], [_median(some) for some in families], "-", color=color, label=name)
        ax.set_xscale("log", base=2)
        ax.set_xticks([s.examples for s in sizes], [f"{s.examples}" for s in sizes])
        ax.set_xlabel("examples")
        ax.set_ylabel("rise of propensity, nats per token")
        ax.legend(frameon=False, fontsize=8)

    caption = "One point a draw of examples; mean differences of the same pairs, at the same norm."
    return picture(paint, (5.2, 3.4), f"{behavior}: number of examples", caption)


def _foresight(r: Results) -> list[list[str]]:
    rows = [["signal", "Spearman", "95 % interval", "within kinds", "95 % interval", "vectors"]]
    for f in sorted(r.foreseen, key=lambda f: -abs(f.spearman)):
        whole, within = (
            [f"{f.spearman:+.2f}", f"{f.lo:+.2f} to {f.hi:+.2f}"],
            [f"{f.within:+.2f}", f"{f.within_lo:+.2f} to {f.within_hi:+.2f}"],
        )
        rows.append([f.signal, *whole, *within, f"{f.n}"])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: the effect of every vector; the control is the strongest random direction of its behavior."""
    random: dict[str, float] = {}
    for v in r.vectors:
        if v.kind == "random direction":
            random[v.behavior] = max(random.get(v.behavior, 0.0), abs(v.effect.value))
    return [replace(v.effect, name=f"{v.behavior}: {v.name}", control=random.get(v.behavior)) for v in r.vectors]
