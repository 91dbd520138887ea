"""Plots of the study of reliability: the figures of Tan et al. 2024, with intervals and controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, INK, QUIET, WARN, Plot, picture
from trimtab.statistics.factors import cells
from trimtab.statistics.intervals import Array, band
from trimtab.statistics.slopes import unsteered
from trimtab.studies.pages.reliability_facts import VECTOR, Curves
from trimtab.studies.pages.reliability_results import SHIFTS, SetResult, Study
from trimtab.studies.pages.reliability_tables import foreseen_by_layer

PALE = "#b9d6e2"


def draw(study: Study) -> dict[str, Plot]:
    """All plots the study has data for, by name."""
    n = len(study.sets)
    tall = 1.2 + 0.34 * n
    plots = {
        "slopes": _plot(
            study,
            _violins,
            (9, tall),
            "Slope of every item",
            "One violin per data set, by median. Bars on the right: share of items that move the wrong way, with "
            "its interval; the tick is the share a normal distribution of that mean and spread would have.",
        ),
        "curves": _plot(
            study,
            _curves,
            (9, 1.75 * -(-n // 4) + 0.6),
            "Propensity against multiplier",
            "Change from the unsteered model: mean over test items with its 95 % interval (blue); random "
            "directions in the span of the training differences and label-shuffled vectors (gray).",
        ),
        "moments": _plot(study, _moments, (4.6, 3.6), "Mean and variance", "One point per data set."),
    }
    if any(s.shares for s in study.sets):
        caption = (
            "Variance of the slopes that letter and polarity explain: the published sequential split, in absolute "
            "units."
        )
        plots["variance"] = _plot(study, _variance, (9, tall), "What the variance is made of", caption)
        plots["cells"] = _plot(
            study,
            _cells,
            (9, tall),
            "Letter and polarity",
            "Mean slope of the items of each cell, and of the data set (line).",
        )
    plots |= _shift_plots(study)
    if study.sweeps:
        caption = (
            "Mean slope on validation questions at each layer, one line per data set, their mean (thick); dashed: "
            "the layer taken."
        )
        plots["layers"] = _plot(study, _layers, (5.6, 3.6), "Where to steer", caption)
        caption = (
            "Rank correlation of forecast and measured slope at each layer: over the items of a data set (mean over "
            "data sets), and over data sets."
        )
        plots["foreseen"] = _plot(study, _foreseen, (5.6, 3.6), "What one backward pass foresees", caption)
    plots["forecast"] = _plot(
        study, _forecast, (4.6, 3.6), "Forecast and measured slope", "Test questions, one point per data set."
    )
    return plots


def _shift_plots(study: Study) -> dict[str, Plot]:
    """What becomes of vectors in other contexts."""
    plots: dict[str, Plot] = {}
    if any(s.slope(*SHIFTS[0]) is not None for s in study.sets):
        caption = (
            "Mean slope of each data set where the vector was learned (ID) and under a shift (OOD); on the line "
            "nothing is lost."
        )
        plots["shifts"] = _plot(study, _shifts, (9, 7.2), "In and out of distribution", caption)
        caption = "Mean slope and variance of the slopes under each shift; one point per data set."
        plots["shift-moments"] = _plot(study, _shift_moments, (9, 7.2), "Mean and variance under each shift", caption)
    if study.points:
        caption = (
            "Every vector in every other context, one point each: how differently the unsteered model behaves "
            "there, the cosine with the vector learned there, and the share of that vector's steerability it keeps."
        )
        plots["gaps"] = _plot(study, _gaps, (9, 3.4), "What foretells how much is kept", caption)
    return plots


def _plot(
    study: Study, painter: Callable[[Any, Study], None], size: tuple[float, float], title: str, caption: str
) -> Plot:
    return picture(lambda canvas: painter(canvas, study), size, title, caption)


def _names(ax: Any, sets: Sequence[SetResult]) -> None:
    ax.set_yticks(range(len(sets)), [_short(s.name) for s in sets], fontsize=8)
    ax.set_ylim(len(sets) - 0.4, -0.6)


def _short(name: str, most: int = 38) -> str:
    return name if len(name) <= most else name[: most - 2] + "…"


def _violins(canvas: Any, study: Study) -> None:
    left, right = canvas.subplots(1, 2, width_ratios=(3.2, 1), sharey=True)
    sets = study.ranked()
    for k, s in enumerate(sets):
        main = s.main[~np.isnan(s.main)]
        if len(main) and np.ptp(main) > 0:
            body = left.violinplot(main, [k], orientation="horizontal", widths=0.85, showextrema=False)["bodies"][0]
            body.set(facecolor=ACCENT, alpha=0.35, edgecolor="none")
        left.plot([s.median.value], [k], "|", color=INK, ms=9, mew=1.6)
        right.barh(k, s.anti.value, color=WARN, height=0.6)
        right.plot([s.anti.lo, s.anti.hi], [k, k], color=INK, lw=1)
        right.plot([s.normal], [k], "|", color=INK, ms=8)
    left.axvline(0, color=INK, lw=0.8)
    _names(left, sets)
    left.set_xlabel(f"slope ({sets[0].unit} per multiplier)")
    right.set(xlabel="anti-steerable share", xlim=(0, 1))
    right.axvline(0.5, color=QUIET, lw=0.8, ls=":")


def _curves(canvas: Any, study: Study) -> None:
    sets = study.ranked()
    rows = -(-len(sets) // 4)
    axes = np.atleast_1d(canvas.subplots(rows, min(4, len(sets)), sharex=True, squeeze=False)).flatten()
    for ax, s in zip(axes, sets, strict=False):
        c = s.curves[VECTOR, s.first]
        for (vector, context), other in s.curves.items():
            if context == s.first and vector.kind in ("span", "shuffled"):
                ax.plot(other.multipliers, np.nanmean(_change(other), 0), color=QUIET, lw=0.8)
        lo, hi = band(_change(c), s.facts.test.groups)
        ax.fill_between(c.multipliers, lo, hi, color=ACCENT, alpha=0.25, lw=0)
        ax.plot(c.multipliers, np.nanmean(_change(c), 0), color=ACCENT, lw=1.6)
        ax.set_title(_short(s.name, 28), fontsize=7)
        ax.tick_params(labelsize=7)
    for ax in axes[len(sets) :]:
        ax.set_visible(False)
    canvas.supxlabel("multiplier", fontsize=9)
    canvas.supylabel(f"change of propensity ({sets[0].unit})", fontsize=9)


def _change(c: Curves) -> Array:
    """Propensity minus that of the unsteered model, item by item."""
    return c.values - c.values[:, [unsteered(c.multipliers)]]


def _moments(canvas: Any, study: Study) -> None:
    ax = canvas.subplots()
    ax.scatter([s.mean.value for s in study.sets], [s.spread**2 for s in study.sets], color=ACCENT, s=18)
    ax.axvline(0, color=INK, lw=0.8)
    ax.set(xlabel="mean slope", ylabel="variance of slopes")


def _variance(canvas: Any, study: Study) -> None:
    ax = canvas.subplots()
    sets = sorted(study.sets, key=lambda s: -s.total_variance)
    for k, s in enumerate(sets):
        parts = {**s.shares, "unexplained": s.total_variance - sum(s.shares.values())}
        left = 0.0
        for name, color in (("letter", WARN), ("polarity", ACCENT), ("unexplained", PALE)):
            width = max(0.0, parts.get(name, 0.0))
            ax.barh(k, width, left=left, color=color, height=0.7)
            left += width
    _names(ax, sets)
    for name, color in (("letter", WARN), ("polarity", ACCENT), ("unexplained", PALE)):
        ax.barh(0, 0, color=color, label=name)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    ax.set_xlabel("variance of the slopes")


def _cells(canvas: Any, study: Study) -> None:
    ax = canvas.subplots()
    sets = study.ranked()
    marks = {
        "A, yes": ("^", ACCENT),
        "B, yes": ("v", ACCENT),
        "A, no": ("^", WARN),
        "B, no": ("v", WARN),
        "A, none": ("^", QUIET),
        "B, none": ("v", QUIET),
    }
    shown: set[str] = set()
    for k, s in enumerate(sets):
        slope = s.curves[VECTOR, s.first].slope
        for name, (mean, _) in cells(slope, s.facts.test.metas).items():
            marker, color = marks.get(name, ("o", QUIET))
            ax.scatter(
                [mean],
                [k],
                marker=marker,
                color=color,
                s=28,
                label=None if name in shown else name.replace("none", "neither"),
            )
            shown.add(name)
        ax.plot([np.nanmean(slope)] * 2, [k - 0.35, k + 0.35], color=INK, lw=1)
    ax.axvline(0, color=INK, lw=0.8)
    _names(ax, sets)
    ax.legend(frameon=False, fontsize=8)
    ax.set_xlabel(f"mean slope ({sets[0].unit} per multiplier)")


def _shifts(canvas: Any, study: Study) -> None:
    for ax, (trained, tested) in zip(canvas.subplots(2, 2).flatten(), SHIFTS, strict=True):
        points = [(s.slope(s.first, s.first), s.slope(trained, tested)) for s in study.sets]
        known = np.array([(a.mean(), b.mean()) for a, b in points if a is not None and b is not None])
        ax.set_title(f"{trained} → {tested}", fontsize=9)
        if len(known):
            ends = [float(known.min()), float(known.max())]
            ax.plot(ends, ends, color=QUIET, lw=1, ls="--")
            ax.scatter(known[:, 0], known[:, 1], color=ACCENT, s=16)
            rho = study.figures.get(f"ID and {trained} → {tested}")
            label = "" if rho is None else f"ρ {rho.value:.2f} ({rho.lo:.2f} to {rho.hi:.2f})"
            ax.text(0.03, 0.97, label, transform=ax.transAxes, fontsize=8, va="top")
        ax.set(xlabel="ID mean slope", ylabel="OOD mean slope")


def _shift_moments(canvas: Any, study: Study) -> None:
    for ax, (trained, tested) in zip(canvas.subplots(2, 2).flatten(), SHIFTS, strict=True):
        slopes = [x for s in study.sets if (x := s.slope(trained, tested)) is not None]
        ax.scatter([np.nanmean(x) for x in slopes], [np.nanvar(x, ddof=1) for x in slopes], color=ACCENT, s=16)
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_title(f"{trained} → {tested}", fontsize=9)
        ax.set(xlabel="mean slope", ylabel="variance of slopes")


def _gaps(canvas: Any, study: Study) -> None:
    gap, cosine, kept = (np.array([getattr(p, k) for p in study.points]) for k in ("gap", "cosine", "kept"))
    pairs = (
        ("behavior gap", gap, "cosine of the vectors", cosine),
        ("behavior gap", gap, "share kept", kept),
        ("cosine of the vectors", cosine, "share kept", kept),
    )
    for ax, (across, x, up, y) in zip(canvas.subplots(1, 3), pairs, strict=True):
        ax.scatter(x, y, color=ACCENT, s=9, alpha=0.6)
        ax.set_xlabel(across, fontsize=8)
        ax.set_ylabel(up, fontsize=8)
        if up == "share kept":
            ax.axhline(1.0, color=QUIET, lw=0.8, ls="--")
        ax.tick_params(labelsize=7)


def _layers(canvas: Any, study: Study) -> None:
    ax = canvas.subplots()
    layers = sorted(next(iter(study.sweeps.values())))
    lines = np.array([[study.sweeps[s.name][k].mean() for k in layers] for s in study.sets])
    ax.plot(layers, lines.T, color=PALE, lw=0.9)
    ax.plot(layers, lines.mean(0), color=ACCENT, lw=2.2)
    ax.axvline(study.layer, color=WARN, ls="--", lw=1)
    ax.axhline(0, color=INK, lw=0.8)
    ax.set(xlabel="layer (output of block)", ylabel=f"mean slope ({study.sets[0].unit}\nper multiplier)")


def _foreseen(canvas: Any, study: Study) -> None:
    ax = canvas.subplots()
    forecasts = foreseen_by_layer(study)
    layers = [f.layer for f in forecasts]
    ax.plot(layers, [f.items for f in forecasts], color=ACCENT, marker="o", ms=3, label="over items")
    ax.plot(layers, [f.sets for f in forecasts], color=WARN, marker="o", ms=3, label="over data sets")
    ax.axhline(0, color=INK, lw=0.8)
    ax.set(xlabel="layer (output of block)", ylabel="Spearman", ylim=(min(-0.1, ax.get_ylim()[0]), 1.02))
    ax.legend(frameon=False, fontsize=8)


def _forecast(canvas: Any, study: Study) -> None:
    ax = canvas.subplots()
    x = np.array([s.forecast_slopes("test")[study.layer].mean() for s in study.sets])
    y = np.array([np.nanmean(s.curves[VECTOR, s.first].slope) for s in study.sets])
    ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
    ax.plot(ends, ends, color=QUIET, lw=1, ls="--")
    ax.scatter(x, y, color=ACCENT, s=18)
    ax.set(xlabel="forecast mean slope", ylabel="measured mean slope")
