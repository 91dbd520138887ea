"""The curves of single items in the study of reliability: how straight they are, what shape, and what a vector costs on
neutral text (Tan et al. 2024, the figures of linearity and of single items). Never imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.reports.figures import QUIET, Plot, picture
from trimtab.runs import Run
from trimtab.statistics.intervals import Array
from trimtab.statistics.slopes import bimodality, shapes
from trimtab.studies.pages.findings import COLORS
from trimtab.studies.pages.reliability_facts import VECTOR, Curves, Neutral
from trimtab.studies.pages.reliability_results import SetResult, Study

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the slopes, whose items are drawn
HUMPS = 5 / 9  # Sarle's coefficient of a uniform distribution; more speaks for two humps, or for one that is skewed


def line_rows(study: Study) -> list[list[str]]:
    """How straight the curves of the items are, of what shape, and whether the slopes have two humps."""
    head = ["data set", "R² (median)", "RMSE (median)", "sum of squared residuals (published as MSE), mean",
            "rank correlation with the multiplier (median)", "curvature (median)", "change from -0.5 to 0.5 (mean)",
            "bimodality of the slopes"]  # fmt: skip
    rows = [head]
    for s in study.ranked():
        c = s.curves[VECTOR, s.first]
        shape, squares = shapes(c.multipliers, c.values), c.slopes.rmse**2 * c.slopes.points
        middle, mean = np.nanmedian, np.nanmean
        numbers = [(middle, c.slopes.r2), (middle, c.slopes.rmse), (mean, squares), (middle, shape.spearman),
                   (middle, shape.curvature), (mean, shape.local)]  # fmt: skip
        cells = ["" if np.isnan(x).all() else f"{float(f(x)):.3f}" for f, x in numbers]
        rows.append([s.name, *cells, f"{bimodality(c.slope):.2f}"])
    return rows


def line_finding(study: Study) -> list[str]:
    """Are the curves lines?"""
    r2 = np.concatenate([s.curves[VECTOR, s.first].slopes.r2 for s in study.sets])
    if np.isnan(r2).all():
        return []
    straight = float(np.mean(r2[~np.isnan(r2)] >= 0.8))
    two = sum(bimodality(s.curves[VECTOR, s.first].slope) > HUMPS for s in study.sets)
    return [
        f"Single curves: R² of the line is {float(np.nanmedian(r2)):.3f} in the median over items, and at least 0.8 "
        f"for {straight:.0%} of them. Sarle's coefficient of the slopes is above {HUMPS:.2f} (two humps, or one that "
        f"is skewed) in {two} of {len(study.sets)} data sets."
    ]


def neutral_rows(study: Study, run: Run) -> list[list[str]]:
    """What the vectors cost on neutral text; nothing of folders that do not hold it."""
    rows = [["data set", "unsteered, nats per token", "more at -1", "more at 1"]]
    for s in study.ranked():
        folder = Run(run.file("sets", s.name))
        if folder.read("neutral.json") is not None:
            n = folder.typed("neutral.json", Neutral)
            changes = [n.subtracted - n.unsteered, n.added - n.unsteered]
            rows.append([s.name, f"{n.unsteered:.3f}", *(f"{x:+.3f}" for x in changes)])
    return rows if len(rows) > 1 else []


def single_plot(study: Study) -> Plot:
    """Curves of single items with their lines: of the steepest data set, and of the one where most items go the wrong
    way.
    """
    first, other = study.ranked()[0], max(study.sets, key=lambda s: s.anti.value)

    def paint(canvas: Any) -> None:
        axes = canvas.subplots(1, 2)
        for ax, s in zip(axes, (first, other), strict=True):
            _draw(ax, s)
        axes[0].set_ylabel(f"propensity ({study.sets[0].unit})")

    caption = (
        "Items at the 5th, 25th, 50th, 75th and 95th percentile of the slopes: what was measured, and the line "
        "through it. Left the steepest data set, right the one where most items go the wrong way."
    )
    return picture(paint, (8, 3.4), "Curves of single items", caption)


def _draw(ax: Any, s: SetResult) -> None:
    c = s.curves[VECTOR, s.first]
    for k, color in zip(_at_quantiles(c.slope), COLORS, strict=False):
        ax.plot(c.multipliers, c.values[k], "o", ms=3.5, color=color)
        ax.plot(c.multipliers, _line(c, k), color=color, lw=0.9)
    ax.axhline(0, color=QUIET, lw=0.8, ls=":")
    ax.set_title(s.name, fontsize=9)
    ax.set_xlabel("multiplier")


def _at_quantiles(slope: Array) -> list[int]:
    known = np.flatnonzero(~np.isnan(slope))
    order = known[np.argsort(slope[known], kind="stable")]
    return list(dict.fromkeys(int(order[round(q * (len(order) - 1))]) for q in QUANTILES)) if len(order) else []


def _line(c: Curves, item: int) -> Array:
    return c.slopes.intercept[item] + c.slopes.slope[item] * c.multipliers
