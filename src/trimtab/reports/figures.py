"""The plots of a report, as SVG for the page and PNG for slides."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas

from trimtab.reports.analysis import Analysis
from trimtab.reports.curves import Curve, SideEffect
from trimtab.statistics.slopes import anti_steerable, unsteered

INK, ACCENT, WARN, QUIET = "#1f2933", "#0b6e99", "#c2410c", "#9aa5b1"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "trimtab",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
}
ASKED = {"prompt-positive": ("asked for it", WARN), "prompt-negative": ("asked for the opposite", INK)}


@dataclass(frozen=True)
class Plot:
    title: str
    caption: str
    svg: str
    png: bytes


def draw(a: Analysis) -> dict[str, Plot]:
    """All plots the run has data for, by name."""
    plots = {"propensity": _plot(_propensity, a, "Propensity against multiplier", _curve_caption(a))}
    plots["slopes"] = _plot(
        _slopes, a, "Slope of every item", "One point per item; those at or below zero move the wrong way."
    )
    if a.layers:
        caption = (
            "Mean slope on the validation items at each layer, with 95 % intervals; the dashed line marks the layer "
            "that was then tested."
        )
        plots["layers"] = _plot(_layers, a, "Where to steer", caption)
    for metric in dict.fromkeys(e.metric for e in a.effects):
        caption = f"{_LABELS.get(metric, metric)} against multiplier, mean over items with 95 % interval."
        plots[metric.replace(":", "-")] = _plot(_effect(metric), a, _LABELS.get(metric, metric), caption)
    return plots


_LABELS = {
    "kl": "Side effect: KL from the unsteered next token",
    "outside-mass": "Side effect: probability outside the letters",
    "matching": "Probability of the behavior's answer among the two",
    "matching:True": "Share of items with the behavior's answer (accuracy)",
    "likelihood": "Log-probability of the positive completion",
    "likelihood:negative": "Log-probability of the negative completion",
}


def _plot(painter: Callable[[Any, Analysis], None], a: Analysis, title: str, caption: str) -> Plot:
    return picture(lambda canvas: painter(canvas.subplots(), a), (5.6, 3.5), title, caption)


def picture(painter: Callable[[Any], None], size: tuple[float, float], title: str, caption: str) -> Plot:
    """What a painter puts on an empty canvas of a size in inches."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=size, layout="constrained")
        painter(canvas)
        svg, png = io.StringIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None})
        canvas.savefig(png, format="png", dpi=160)
    text = svg.getvalue()
    return Plot(title, caption, text[text.index("<svg") :], png.getvalue())


def _curve_caption(a: Analysis) -> str:
    n = len(a.vector.items)
    return (
        f"Mean over {n} test items. Light band: its 95 % interval; dark band: that of the change from the unsteered "
        "model. Gray: controls. Dotted: the unsteered model asked in words."
    )


def _propensity(ax: Any, a: Analysis) -> None:
    for k, c in enumerate(a.controls.values()):
        ax.plot(c.multipliers, c.mean, color=QUIET, lw=1, label="controls" if k == 0 else None)
    zero = a.vector.mean[unsteered(a.vector.multipliers)]
    ax.fill_between(
        a.vector.multipliers, zero + a.vector.low_change, zero + a.vector.high_change, color=ACCENT, alpha=0.3, lw=0
    )
    _line(ax, a.vector, ACCENT)
    for name, f in a.asked.items():
        label, color = ASKED.get(name, (name, INK))
        ax.axhline(f.value, color=color, lw=1, ls=":", label=label)
    ax.set(xlabel="multiplier", ylabel=f"propensity ({a.unit})")
    ax.legend(frameon=False, fontsize=8)


def _line(ax: Any, c: Curve | SideEffect, color: str) -> None:
    ax.fill_between(c.multipliers, c.lo, c.hi, color=color, alpha=0.18, lw=0)
    ax.plot(c.multipliers, c.mean, color=color, marker="o", ms=4, lw=1.8, label="vector")


def _slopes(ax: Any, a: Analysis) -> None:
    names = list(a.curves)
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        slope = a.curves[name].slopes.slope
        color = ACCENT if name == "vector" else QUIET
        if np.ptp(slope) > 0:
            body = ax.violinplot(slope, [k], widths=0.8, showextrema=False)["bodies"][0]
            body.set(facecolor=color, alpha=0.25, edgecolor="none")
        anti = anti_steerable(slope) == 1
        x = k + rng.uniform(-0.12, 0.12, len(slope))
        ax.scatter(x[~anti], slope[~anti], s=8, color=color, lw=0)
        ax.scatter(x[anti], slope[anti], s=8, color=WARN if name == "vector" else QUIET, lw=0)
        ax.plot([k - 0.2, k + 0.2], [np.mean(slope)] * 2, color=INK, lw=1.5)
        ax.text(
            k,
            1.02,
            f"{anti.mean():.0%}",
            transform=ax.get_xaxis_transform(),
            ha="center",
            fontsize=8,
            color=WARN if name == "vector" else INK,
        )
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_xticks(range(len(names)), [n.replace("-", "\n", 1) for n in names], fontsize=8)
    ax.set(ylabel=f"slope ({a.unit} per multiplier)")
    ax.set_title("above each: share that is anti-steerable", fontsize=8, color=INK, pad=16)


def _layers(ax: Any, a: Analysis) -> None:
    x = [p.layer for p in a.layers]
    ax.fill_between(x, [p.lo for p in a.layers], [p.hi for p in a.layers], color=ACCENT, alpha=0.18, lw=0)
    ax.plot(x, [p.slope for p in a.layers], color=ACCENT, marker="o", ms=3.5, lw=1.6)
    ax.axhline(0, color=INK, lw=0.8)
    if a.manifest.get("layer") is not None:
        ax.axvline(a.manifest["layer"], color=WARN, ls="--", lw=1)
    ax.set(xlabel="layer (output of block)", ylabel=f"steerability ({a.unit}\nper multiplier)")


def _effect(metric: str) -> Callable[[Any, Analysis], None]:
    def paint(ax: Any, a: Analysis) -> None:
        shown = [e for e in a.effects if e.metric == metric]
        for k, e in enumerate(e for e in shown if e.condition != "vector"):
            ax.plot(e.multipliers, e.mean, color=QUIET, lw=1, label="controls" if k == 0 else None)
        mine = next(e for e in shown if e.condition == "vector")
        _line(ax, mine, ACCENT)
        ax.set(xlabel="multiplier", ylabel=f"{mine.name} ({mine.unit})")
        ax.legend(frameon=False, fontsize=8)

    return paint
