"""One study on several models, side by side: which data sets steer on all of them, and whether what foresees a vector
on one does so on another (Tan et al. 2024, section 5; Dunefsky & Cohan 2025, future work). Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import RunError
from trimtab.reports.figures import ACCENT, QUIET, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.generalization import correlation
from trimtab.statistics.intervals import Figure
from trimtab.studies.pages import one_shot
from trimtab.studies.pages.reliability_results import SHIFTS, Study, load, mean_slope
from trimtab.studies.pages.reliability_tables import published

STUDIES = ("reliability", "one-shot")  # those that can be put side by side
FEWEST = 4  # data sets in common from which a correlation is taken
OUTSIDE = "under shifts"


@dataclass(frozen=True)
class Model:
    """What one model's study says of its data sets, by name.

    Attributes:
        name: the model's id; published ones say so.
        columns: "mean slope", "variance of slopes", and the mean slope over shifts where it was measured.
        ceiling: the correlation that a perfect forecast of its mean slopes could expect; NaN if not known.
    """

    name: str
    columns: Mapping[str, Mapping[str, float]]
    ceiling: float = float("nan")


def page(runs: Sequence[Run], to: Run) -> Path:
    """Put finished runs of one study side by side.

    Args:
        runs: at least two folders of the same study, of different models or data.
        to: the folder the page is written into.

    Returns:
        The path of report.html.

    Raises:
        RunError: not a study that can be put side by side, not the same one, not finished, or another run in the way.
    """
    studies = [str(run.manifest.get("study")) for run in runs]
    if len(runs) < 2 or len(set(studies)) > 1 or studies[0] not in STUDIES:
        raise RunError("these runs cannot be put side by side", given=", ".join(studies),
                       expected=f"two folders or more of one study: {' or '.join(STUDIES)}")  # fmt: skip
    if to.manifest and to.manifest.get("across") != studies[0]:
        raise RunError(f"{to.path} holds another run", expected="an empty folder", do="choose another folder")
    to.note(across=studies[0], of=[str(run.path.resolve()) for run in runs])
    return _reliability(runs, to) if studies[0] == "reliability" else _one_shot(runs, to)


# ---------------------------------------------------------------- reliability


def _reliability(runs: Sequence[Run], to: Run) -> Path:
    models = [*map(_model, map(load, runs))]
    models = [replace(m, name=f"{m.name} ({k})") if _twice(m, models) else m for k, m in enumerate(models, 1)]
    figures = [f for a, b in combinations([*models, *_published()], 2) if a in models for f in agreement(a, b)]
    own = [(a, b) for a, b in combinations(models, 2)]
    plots = {f"across-{k}": _scatter(a, b) for k, (a, b) in enumerate(own) if len(_shared(a, b, "mean slope")) > 1}
    findings = [_words(f) for f in figures if "published" not in f.name] or ["No two models share four data sets."]
    about = f"{', '.join(m.name for m in models)}; Spearman correlations over the data sets both studied."
    sections = [("How well two models agree", _figure_rows(figures)), ("Mean slopes", _slope_rows(models))]
    return write_sections(to, "Reliability across models", about, findings, plots, sections, figures)


def _twice(model: Model, models: Sequence[Model]) -> bool:
    return sum(m.name == model.name for m in models) > 1


def _model(study: Study) -> Model:
    """Of one study; the shifts are those of the publication."""
    outside: dict[str, float] = {}
    for s in study.sets:
        slopes = [mean_slope(x) for shift in SHIFTS if (x := s.slope(*shift)) is not None]
        if slopes:
            outside[s.name] = float(np.mean(slopes))
    columns = {
        "mean slope": {s.name: s.mean.value for s in study.sets},
        "variance of slopes": {s.name: s.spread**2 for s in study.sets},
        f"mean slope {OUTSIDE}": outside,
    }
    return Model(str(study.results.model["id"]), columns, study.ceiling)


def _published() -> list[Model]:
    """The mean slopes of the publication, read off the figures of its repository."""
    rows = list(published().values())
    names = ("llama-2-7b", "qwen1.5-14b", "gemma-2-2b")
    return [Model(f"{n} (published)", {"mean slope": {r["name"]: float(r[n]) for r in rows if r[n]}}) for n in names]


def _shared(a: Model, b: Model, column: str) -> list[str]:
    one, two = a.columns.get(column, {}), b.columns.get(column, {})
    return [n for n in one if n in two]


def agreement(a: Model, b: Model) -> list[Figure]:
    """How well two models agree over the data sets both have: mean slopes, raw and divided by the reliability of both,
    variances, and mean slopes under shifts.
    """
    out: list[Figure] = []
    for column in a.columns:
        names = _shared(a, b, column)
        if len(names) < FEWEST:
            continue
        one, two = a.columns[column], b.columns[column]
        f = correlation(f"{a.name} and {b.name}: {column}", [one[n] for n in names], [two[n] for n in names])
        out.append(f)
        scale = a.ceiling * b.ceiling
        if column == "mean slope" and scale > 0:
            value, lo, hi = (float(np.clip(x / scale, -1.0, 1.0)) for x in (f.value, f.lo, f.hi))
            out.append(Figure(f"{f.name}, corrected for reliability", value, lo, hi, f.n, f.unit))
    return out


def _words(f: Figure) -> str:
    between = "" if np.isnan(f.lo) else f" ({f.lo:+.2f} to {f.hi:+.2f}, {f.n} data sets)"
    return f"{f.name}: {f.value:+.2f}{between}."


def _figure_rows(figures: Sequence[Figure]) -> list[list[str]]:
    rows = [["models and measure", "Spearman", "95 % interval", "data sets"]]
    for f in figures:
        rows.append([f.name, f"{f.value:+.2f}", "" if np.isnan(f.lo) else f"{f.lo:+.2f} to {f.hi:+.2f}", f"{f.n}"])
    return rows


def _slope_rows(models: Sequence[Model]) -> list[list[str]]:
    names = dict.fromkeys(n for m in models for n in m.columns["mean slope"])
    outside = f"mean slope {OUTSIDE}"
    head = ["data set", *(h for m in models for h in (m.name, f"{m.name}, {OUTSIDE}"))]
    rows = [head]
    for n in names:
        cells = [m.columns[c].get(n) for m in models for c in ("mean slope", outside)]
        rows.append([n, *("" if x is None else f"{x:+.3f}" for x in cells)])
    return rows


def _scatter(a: Model, b: Model) -> Plot:
    """Mean slopes of one model against the other's, where they were learned and under shifts."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for column, mark, color in (("mean slope", "o", ACCENT), (f"mean slope {OUTSIDE}", "x", QUIET)):
            names = _shared(a, b, column)
            points = [(a.columns[column][n], b.columns[column][n]) for n in names]
            if points:
                label = "in distribution" if mark == "o" else OUTSIDE
                ax.plot([p[0] for p in points], [p[1] for p in points], mark, color=color, ms=5, label=label)
        ax.axhline(0, color=QUIET, lw=0.6)
        ax.axvline(0, color=QUIET, lw=0.6)
        ax.set_xlabel(f"mean slope, {a.name}")
        ax.set_ylabel(f"mean slope, {b.name}")
        ax.legend(frameon=False, fontsize=8)

    return picture(paint, (4.8, 4.2), f"{a.name} and {b.name}", "One point a data set.")


# ---------------------------------------------------------------- one-shot vectors


def _one_shot(runs: Sequence[Run], to: Run) -> Path:
    """Is the signal that picks best on one model a good one on another?"""
    results = [run.typed(RESULTS, one_shot.Results) for run in runs]
    names = [f"{r.model} ({k})" for k, r in enumerate(results, 1)]
    findings: list[str] = []
    for (a, one), (b, two) in permutations(zip(names, results, strict=True), 2):
        known = {p.signal: p for p in two.picked}
        best = next((p for p in one.picked if p.signal in known), None)
        if best is not None:
            there = known[best.signal]
            findings.append(
                f"Chosen on {a}, the signal is {best.signal} ({best.kept:.0%} of the way from a blind draw to the best "
                f"vector there). On {b} it goes {one_shot.kept(there)} of the way: the vector it picks does "
                f"{there.picked:+.3f} nats per token, the best {there.best:+.3f}, a blind draw {there.drawn:+.3f}."
            )
    signals = dict.fromkeys(p.signal for r in results for p in r.picked)
    of = [{p.signal: p for p in r.picked} for r in results]
    rows = [["signal", *names], *([s, *(one_shot.kept(k[s]) if s in k else "" for k in of)] for s in signals)]
    ranks = [{f.signal: f for f in r.foreseen} for r in results]
    every = dict.fromkeys(f.signal for r in results for f in r.foreseen)
    within = [["signal", *names]]
    for s in every:
        within.append([s, *(f"{k[s].within:+.2f} ({k[s].within_lo:+.2f} to {k[s].within_hi:+.2f})" if s in k else ""
                            for k in ranks)])  # fmt: skip
    figures = [
        Figure(f"{n}: {p.signal}, share of the way", p.kept, p.lo, p.hi, p.groups, "share", 0.0)
        for n, r in zip(names, results, strict=True)
        for p in r.picked
    ]
    sections = [
        ("Of the way from a blind draw to the best vector, by the signal that picks", rows),
        ("Rank correlation with the effect, within kinds", within),
    ]
    about = f"One-shot vectors of {', '.join(names)}; signals are known before a vector is measured."
    title = "Foreseeing one-shot vectors across models"
    return write_sections(to, title, about, findings or ["No signal was measured on both."], {}, sections, figures)
