"""The study of reliability as tables, plots, Markdown and one HTML page. `write` makes all of them from the folder of a
study.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.statistics.generalization import correlation
from trimtab.statistics.intervals import Figure
from trimtab.statistics.layers import Sweep, steepest
from trimtab.studies.pages.reliability_curves import line_finding, line_rows, neutral_rows, single_plot
from trimtab.studies.pages.reliability_extractors import extracted, extractor_rows
from trimtab.studies.pages.reliability_extractors import sentences as extractor_sentences
from trimtab.studies.pages.reliability_facts import BUDGET, VECTOR
from trimtab.studies.pages.reliability_plots import draw
from trimtab.studies.pages.reliability_results import SHIFTS, Study, load, mean_slope
from trimtab.studies.pages.reliability_shifts import foretold_rows, with_shifts
from trimtab.studies.pages.reliability_shifts import sentences as shift_sentences
from trimtab.studies.pages.reliability_tables import (
    foreseen_by_layer,
    item_rows,
    published,
    regret,
    set_rows,
    summary,
    write_csv,
)

Rows = Sequence[Sequence[str]]


def page(run: Run) -> Path:
    """Write study.json, sets.csv, items.csv, plots, report.md and report.html into the folder of a study.

    Returns:
        The path of report.html.

    Raises:
        RunError: the study is not finished.
    """
    study = with_shifts(load(run), run)
    run.write("study.json", summary(study))
    write_csv(run.file("sets.csv"), set_rows(study))
    write_csv(run.file("items.csv"), item_rows(study))
    title, about = _title(study)
    plots = {**draw(study), "single": single_plot(study)}
    return write_sections(run, title, about, headline(study), plots, _sections(study, run), _figures(study))


def _figures(study: Study) -> list[Figure]:
    """For machines: the mean slope of every data set beside its steepest label-shuffled vector, and the correlations
    over data sets.
    """
    slopes: list[Figure] = []
    for s in study.sets:
        nulls = [
            abs(mean_slope(c.slope))
            for (v, context), c in s.curves.items()
            if context == s.first and v.kind == "shuffled"
        ]
        slopes.append(
            replace(
                s.mean, name=f"mean slope, {s.name}", unit=f"{s.unit} per multiplier", control=max(nulls, default=None)
            )
        )
    return [*slopes, *study.figures.values()]


def headline(study: Study) -> list[str]:
    """What was found, in sentences."""
    kinds = Counter(study.verdict(s) for s in study.sets)
    others = [f"{n} {k}" for k, n in kinds.items() if k != "works"]
    wrong = sorted(s.anti.value for s in study.sets)
    sentences = [
        f"{kinds['works']} of {len(study.sets)} data sets steer: their mean slope is above 0 (95 % interval), large "
        "enough to count, and beyond that of label-shuffled vectors "
        f"that could choose their layer as it could (q ≤ 0.05)."
        + (f" The others: {', '.join(others)}." if others else ""),
        f"Anti-steerable shares run from {wrong[0]:.0%} to {wrong[-1]:.0%}, median {median(wrong):.0%}.",
    ]
    for trained, tested in SHIFTS:
        f = study.figures.get(f"ID and {trained} → {tested}")
        if f:
            sentences.append(
                f"Mean slopes in base and under {trained} → {tested} correlate at {_number(f.value)} "
                f"({'' if math.isnan(f.lo) else f'{_between(f)}, '}{f.n} data sets)."
            )
    f = study.figures.get("forecast and measured mean slope")
    if f:
        sentences.append(
            f"One backward pass forecasts the mean slopes of data sets at {_number(f.value)}"
            + ("." if math.isnan(f.lo) else f" ({_between(f)}).")
        )
    sentences += [*_hard_layer(study), *shift_sentences(study), *extractor_sentences(study), *line_finding(study)]
    lost = regret(study)
    if lost["sets"]:
        sentences.append(
            f"The layer the forecast likes best loses {lost['mean']:.0%} of the best layer's mean slope (worst data "
            f"set {lost['worst']:.0%})."
        )
    if not math.isnan(study.ceiling):
        sentences.append(
            f"Split-half reliability of the mean slopes: {_number(study.reliability)}. A perfect forecast could "
            f"expect to correlate with them at its root, {_number(study.ceiling)}."
        )
    if study.results.legacy:
        sentences.insert(
            0,
            "LEGACY SPLIT: most training questions are tested, as in the published code. These figures reproduce "
            "the published ones, and say nothing about new questions.",
        )
    return sentences


def _hard_layer(study: Study) -> list[str]:
    """Does a sweep of those that steer badly alone choose another layer?"""
    names = [s.name for s in sorted(study.sets, key=lambda s: s.mean.value)][: len(study.sets) // 2]
    if not study.sweeps or len(names) < 2:
        return []
    groups = {s.name: s.facts.val.groups for s in study.sets}
    hard = steepest([Sweep(study.sweeps[n], groups[n]) for n in names], study.sweep_kl, BUDGET)
    same = "the same one" if hard == study.layer else f"layer {hard}"
    return [f"The half of the data sets that steers worst would have chosen {same} by itself (taken: {study.layer})."]


def _sections(study: Study, run: Run) -> list[tuple[str, Rows]]:
    """Titles and tables; the first row of a table is its head."""
    correlations = [[n, _number(f.value), _between(f), str(f.n)] for n, f in study.figures.items()]
    factors = [("Letter, polarity, position", _factor_rows(study))] if any(s.shares for s in study.sets) else []
    layers = (
        [("Layers: what the forecast foresees on validation questions", _layer_rows(study))] if study.sweeps else []
    )
    return [
        ("Ranking", _ranking_rows(study)),
        *factors,
        ("Controls: mean slope", _control_rows(study)),
        ("Lines through single items", line_rows(study)),
        *([("On neutral text", neutral)] if (neutral := neutral_rows(study, run)) else []),
        ("Other contexts: mean slope of the base vector", _context_rows(study)),
        ("Kept of the steerability of the vector learned there", _relative_rows(study)),
        *([("Vectors of other extractors", extractor_rows(study))] if extracted(study) else []),
        *([("What foretells how much is kept", foretold_rows(study))] if study.points else []),
        ("Over data sets", [["correlation", "Spearman", "95 % interval", "points"], *correlations]),
        ("Beside the published models (rank correlation over data sets)", _published_rows(study)),
        *layers,
        ("Warnings", [["data set", "warning"], *([s.name, w] for s in study.ranked() for w in s.warnings)]),
    ]


def _ranking_rows(study: Study) -> Rows:
    rows = [[
        "data set", "n", "mean slope", "median", "s.d.", "anti-steerable", "normal", "sure +", "sure −", "p", "q",
        "p, random", "p, span", "verdict", "cross-fitted", "forecast", "KL at 1", "gain at 0.1 nats",
    ]]  # fmt: skip
    for s, row in zip(study.ranked(), set_rows(study), strict=True):
        anti = f"{s.anti.value:.0%} ({s.anti.lo:.0%} to {s.anti.hi:.0%})"
        shares = [f"{x:.0%}" for x in (s.normal, s.classes["steerable"], s.classes["anti-steerable"])]
        p = [f"{x:.3f}" for x in (s.p, study.q[s.name], s.compared.beside("random"), s.compared.beside("span"))]
        figures = [str(s.mean.n), _interval(s.mean), _interval(s.median), _number(s.spread), anti]
        ends = [_number(row[k]) for k in ("cross_fitted", "forecast", "kl_at_1", "gain_at_kl")]
        rows.append([s.name, *figures, *shares, *p, study.verdict(s), *ends])
    return rows


def _layer_rows(study: Study) -> Rows:
    rows = [["layer", "over items", "over data sets", "mean slope", "KL at ±1"]]
    for f in foreseen_by_layer(study):
        mean = sum(mean_slope(study.sweeps[s.name][f.layer]) for s in study.sets) / len(study.sets)
        rows.append([str(f.layer), *map(_number, (f.items, f.sets, mean, study.sweep_kl[f.layer]))])
    return rows


def _published_rows(study: Study) -> Rows:
    """Mean slopes, and shares of items that go the wrong way, against those of the publication (reproduced from its
    repository's figures).
    """
    table = published()
    known = [s for s in study.sets if s.name in table]
    rows = [["published", "here", "Spearman", "95 % interval", "data sets"]]
    if len(known) < 4:
        return rows[:0]
    for column in ("llama-2-7b", "qwen1.5-14b", "gemma-2-2b", "llama-2-7b wrong way"):
        ours = [s.anti.value if "wrong" in column else s.mean.value for s in known]
        f = correlation(column, [float(table[s.name][column]) for s in known], ours)
        rows.append(
            [
                f"mean slope, {column}" if "wrong" not in column else column,
                "anti-steerable share" if "wrong" in column else "mean slope",
                _number(f.value),
                _between(f),
                str(f.n),
            ]
        )
    return rows


def _factor_rows(study: Study) -> Rows:
    head = [
        "data set",
        "variance",
        "letter",
        "polarity",
        "letter β",
        "polarity β",
        "concept β",
        "ω²",
        "position bias",
        "yes gap",
        "unsteered leans to A",
        "to yes",
    ]
    rows: list[list[str]] = [head]
    for s in study.ranked():
        share = [
            f"{s.shares[k] / s.total_variance:.0%}" if k in s.shares and s.total_variance > 0 else ""
            for k in ("letter", "polarity")
        ]
        betas = [
            f"{s.fit.beta[k]:+.3f} ± {s.fit.interval(k)[1] - s.fit.beta[k]:.3f}" if s.fit else ""
            for k in ("letter", "polarity", "concept")
        ]
        position = "" if s.position is None else f"{mean_slope(s.position):+.3f}"
        rows.append(
            [
                s.name,
                _number(s.total_variance),
                *share,
                *betas,
                _number(s.fit.omega2) if s.fit else "",
                position,
                f"{s.forecast.card.confounds.yes_gap:+.2f}",
                *(f"{x[0]:+.2f} ({x[1]:+.2f} to {x[2]:+.2f})" if (x := s.leaning.get(k)) else "" for k in ("A", "yes")),
            ]
        )
    return rows


def _control_rows(study: Study) -> Rows:
    beside = list(
        dict.fromkeys(v for s in study.sets for v, c in s.curves if c == s.first and v.kind not in ("vector", "from"))
    )
    rows = [["data set", "vector", *(v.label for v in beside)]]
    for s in study.ranked():
        rows.append(
            [
                s.name,
                *(
                    _number(mean_slope(s.curves[v, s.first].slope)) if (v, s.first) in s.curves else ""
                    for v in (VECTOR, *beside)
                ),
            ]
        )
    return rows


def _context_rows(study: Study) -> Rows:
    contexts = list(dict.fromkeys(c for s in study.sets for c in (*s.facts.contexts, *s.facts.beyond)))
    rows = [["data set", *contexts]]
    for s in study.ranked():
        rows.append(
            [
                s.name,
                *(_number(mean_slope(s.curves[VECTOR, c].slope)) if (VECTOR, c) in s.curves else "" for c in contexts),
            ]
        )
    return rows


def _relative_rows(study: Study) -> Rows:
    shifts = list(
        dict.fromkeys(
            (r.train, r.test)
            for s in study.sets
            for r in s.relative
            if (r.train, r.test) in SHIFTS or r.train == "mean"
        )
    )
    rows = [["data set", *(f"{a} → {b}" for a, b in shifts)]]
    for s in study.ranked():
        by_shift = {(r.train, r.test): r for r in s.relative}
        cells = [_relative(by_shift[k].value, by_shift[k].lo, by_shift[k].hi) if k in by_shift else "" for k in shifts]
        rows.append([s.name, *cells])
    return rows


def _relative(value: float, lo: float, hi: float) -> str:
    return "no different from 0" if math.isnan(value) else f"{value:.2f} ({lo:.2f} to {hi:.2f})"


def _number(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}"


def _between(f: Figure) -> str:
    """The ends of an interval; nothing where there is none."""
    return "" if math.isnan(f.lo) else f"{_number(f.lo)} to {_number(f.hi)}"


def _interval(f: Figure) -> str:
    return f"{_number(f.value)} ({_between(f)})"


def _title(study: Study) -> tuple[str, str]:
    form = "letters of A/B questions" if study.results.form == "letters" else "options spoken as answers, per token"
    n = sorted({s.mean.n for s in study.sets})
    items = str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]}"
    return (
        f"Reliability of steering vectors: {study.results.model['id']}",
        f"{len(study.sets)} data sets, layer {study.layer}, {items} test items each, "
        f"{len(study.results.multipliers)} multipliers; {form}; seed {study.results.seed}. "
        f"Vectors of all contexts have the norm of the base vector. Slopes in {study.sets[0].unit} per multiplier.",
    )
