"""The page of the study of one-shot vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.statistics.foresight import Foreseen
from trimtab.statistics.intervals import Figure
from trimtab.studies.contract import RESULTS


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
    sections.append(("What foresees the effect", _foresight(r)))
    return write_sections(
        run, "One-shot vectors: how far do they carry?", about, _headline(r), {}, sections, _figures(r)
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
