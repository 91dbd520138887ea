"""What foretells how much of a vector's steerability is kept in another context: how differently the unsteered model
behaves there, and how differently a vector learned there points (Tan et al. 2024, section 5). Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from safetensors.numpy import load_file
from scipy.special import xlogy

from trimtab.runs import Run
from trimtab.statistics.generalization import (
    apart,
    closer,
    correlation,
    left_out,
    linear,
    mean_only,
    partial_correlation,
)
from trimtab.statistics.intervals import Array, Figure
from trimtab.statistics.slopes import fit_slopes, unsteered
from trimtab.studies.pages.reliability_facts import VECTOR, Shift, learned_in
from trimtab.studies.pages.reliability_results import SHIFTS, SetResult, Study, entered, mean_slope

Directions = Mapping[str, Array]  # context -> (d,)
GAP_COSINE = "behavior gap and cosine of the vectors"
PREDICTORS = {
    "behavior gap": "gap",
    "gap in probability": "probability",
    "Jensen-Shannon divergence": "divergence",
    "cosine of the vectors": "cosine",
    "share of the forecast slope": "foreseen",
}  # of the share that is kept, and where a point has them
BETWEEN = "place of base between for and against, and mean slope"
FLAT = 1e-3  # differences, in units of propensity, of which no share is taken
VARIANCES = "variance in base and under shifts"


def with_shifts(study: Study, run: Run) -> Study:
    """The same with every vector in every other context, and the correlations over them."""
    points: list[Shift] = []
    for s in study.sets:
        file = Run(run.file("sets", s.name)).file("vectors", "contexts.safetensors")
        points += _points(s, load_file(file))
    return replace(study, points=points, figures={**study.figures, **_correlations(study.sets, points)})


def _points(s: SetResult, vectors: Directions) -> list[Shift]:
    """Of one data set; ratios that say nothing are left out."""
    out: list[Shift] = []
    at0: dict[str, Array] = {}
    for c in s.facts.contexts:
        curves = s.curves.get((VECTOR, c))
        if curves is not None:
            at0[c] = curves.values[:, unsteered(curves.multipliers)]
    for r in s.relative:
        if r.train in at0 and r.test in at0 and not np.isnan(r.value):
            a, b = vectors[r.train], vectors[r.test]
            cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
            gap, (probability, divergence) = apart(at0, r.train, r.test), _between_answers(at0[r.train], at0[r.test])
            more = (probability, divergence, _foreseen(s, r.train, r.test))
            out.append(Shift(s.name, r.train, r.test, gap, cosine, r.value, *more))
    return out


def _between_answers(one: Array, two: Array) -> tuple[float, float]:
    """Of unsteered propensities in two contexts: mean absolute difference of the matching answer's probability among
    the two, and mean Jensen-Shannon divergence of the two answers (nats).
    """
    p, q = (1 / (1 + np.exp(-x)) for x in (one, two))
    middle = (p + q) / 2
    divergence = (_entropy(middle) - (_entropy(p) + _entropy(q)) / 2).clip(0)
    return float(np.nanmean(np.abs(p - q))), float(np.nanmean(divergence))


def _entropy(p: Array) -> Array:
    """Of two answers, nats."""
    return -(xlogy(p, p) + xlogy(1 - p, 1 - p))


def _foreseen(s: SetResult, train: str, test: str) -> float:
    """Share of the forecast slope of the vector learned there that this one has, by gradients where it is tested; NaN
    where that one is not foreseen to steer.
    """
    here = s.forecast.contexts.get(test, {})
    mine, theirs = (here.get(_label(s, c), np.nan) for c in (train, test))
    return float(mine / theirs) if abs(theirs) > FLAT else float("nan")


def _label(s: SetResult, context: str) -> str:
    return str(VECTOR if context == s.first else learned_in(context))


def _correlations(sets: Sequence[SetResult], points: Sequence[Shift]) -> dict[str, Figure]:
    """Over points, whose intervals count data sets; and of means and variances under each shift, over data sets."""
    out: dict[str, Figure] = {}

    enter = partial(entered, out)
    who = [p.data for p in points]
    gap, cosine, kept = ([getattr(p, k) for p in points] for k in ("gap", "cosine", "kept"))
    enter(GAP_COSINE, gap, cosine, who)
    for what, field in PREDICTORS.items():
        enter(f"{what} and share kept", [getattr(p, field) for p in points], kept, who)
    enter(BETWEEN, [_place_of_base(s) for s in sets], [mean_slope(s.slope(s.first, s.first)) for s in sets])
    for trained, tested in SHIFTS:
        slopes = [s.slope(trained, tested) for s in sets]
        told = [s.forecast.contexts.get(tested, {}).get(_label(s, trained), np.nan) for s in sets]
        enter(f"forecast and measured, {trained} → {tested}", told, [mean_slope(x) for x in slopes])
    for most in (1.0, 0.5):
        narrow = [_narrow(s, most) for s in sets]
        enter(
            f"mean slope, whole grid and up to {most:g}",
            [mean_slope(s.curves[VECTOR, s.first].slope) for s in sets],
            narrow,
        )
    outside: list[list[float]] = []
    for shift in SHIFTS:
        slopes = [s.slope(*shift) for s in sets]
        means, variances = ([_moment(x, f) for x in slopes] for f in (np.nanmean, _variance))
        enter(f"mean and variance, {shift[0]} → {shift[1]}", means, variances)
        outside.append(variances)
    enter(VARIANCES, [_moment(s.slope(s.first, s.first), _variance) for s in sets], _mean_of(outside))
    return out


def _place_of_base(s: SetResult) -> float:
    """Where the unsteered model lies in the first context between being told to have the behavior (1) and its opposite
    (0), in mean propensity; NaN where the two hardly differ.
    """
    told = [s.curves.get((VECTOR, c)) for c in ("system-negative", s.first, "system-positive")]
    if any(c is None for c in told):
        return float("nan")
    low, here, high = (float(np.nanmean(c.values[:, unsteered(c.multipliers)])) for c in told if c is not None)
    return (here - low) / (high - low) if abs(high - low) > FLAT else float("nan")


def _narrow(s: SetResult, most: float) -> float:
    """Mean slope over the multipliers up to `most`; NaN where they are fewer than three, or all."""
    c = s.curves[VECTOR, s.first]
    inside = np.abs(c.multipliers) <= most
    few = inside.sum() < 3 or bool(inside.all())
    return float("nan") if few else mean_slope(fit_slopes(c.multipliers[inside], c.values[:, inside]).slope)


def _mean_of(columns: Sequence[Sequence[float]]) -> list[float]:
    """Over the shifts, of each data set; NaN where none was measured."""
    table = np.array(columns)  # (shifts, sets)
    known = np.logical_not(np.isnan(table))
    total = np.where(known, table, 0.0).sum(0)
    return [float(t / n) if n else float("nan") for t, n in zip(total, known.sum(0), strict=True)]


def _variance(x: Array) -> float:
    return float(np.nanvar(x, ddof=1))


def _moment(x: Array | None, of: object) -> float:
    return float("nan") if x is None or np.isnan(x).all() else float(of(x))  # type: ignore[operator]


# ---------------------------------------------------------------- sentences and tables


def sentences(study: Study) -> list[str]:
    """Whether the behavior gap foretells the loss, and whether the cosine does better."""
    out: list[str] = []
    for name in (GAP_COSINE, *(f"{what} and share kept" for what in PREDICTORS)):
        f = study.figures.get(name)
        if f:
            between = "" if np.isnan(f.lo) else f" ({f.lo:+.2f} to {f.hi:+.2f})"
            out.append(f"{name} at {f.value:+.2f}{between}")
    return [f"Over {len(study.points)} pairs of contexts correlate: {'; '.join(out)}."] if out else []


def foretold_rows(study: Study) -> list[list[str]]:
    """Each predictor alone, beside the behavior gap (which stands beside the cosine), and on data sets it was not
    fitted to.
    """
    points = study.points
    who = [p.data for p in points]
    gap, cosine, kept = (np.array([getattr(p, k) for p in points]) for k in ("gap", "cosine", "kept"))
    head = ["predictor", "Spearman with the share kept", "95 % interval", "given the gap (the gap: given the cosine)",
            "mean error on other data sets", "n"]  # fmt: skip
    rows = [head]
    for name, field in PREDICTORS.items():
        x, other = np.array([getattr(p, field) for p in points]), cosine if field == "gap" else gap
        there = np.isfinite(x)
        if there.sum() < 4:
            continue
        mine = [w for w, known in zip(who, there, strict=True) if known]
        f = correlation(name, x[there].tolist(), kept[there].tolist(), mine)
        given = partial_correlation(x[there].tolist(), kept[there].tolist(), other[there].tolist())
        error = _error(x[there, None], kept[there], mine, linear)
        rows.append([name, f"{f.value:+.2f}", _between(f.lo, f.hi), f"{given:+.2f}", error, f"{f.n}"])
    both = _error(np.stack([gap, cosine], 1), kept, who, linear)
    rows.append(["both", "", "", "", both, f"{len(points)}"])
    rows.append(["neither: the mean", "", "", "", _error(gap[:, None], kept, who, mean_only), f"{len(points)}"])
    value, lo, hi = closer(cosine.tolist(), (-gap).tolist(), kept.tolist(), who)
    rows.append(["cosine, less minus the gap", f"{value:+.2f}", _between(lo, hi), "", "", f"{len(points)}"])
    return rows


def _error(features: Array, kept: Array, who: Sequence[str], fit: object) -> str:
    """Mean absolute error, each data set predicted from all others; nothing of a single one."""
    if len(set(who)) < 2:
        return ""
    predicted = left_out(features, kept, who, fit)  # type: ignore[arg-type]
    return f"{np.abs(predicted - kept).mean():.2f}"


def _between(lo: float, hi: float) -> str:
    return "" if np.isnan(lo) else f"{lo:+.2f} to {hi:+.2f}"
