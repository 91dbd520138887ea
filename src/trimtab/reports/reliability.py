"""The study of reliability, from its folder: figures of every data set, what generalizes, what was foreseen. Never imports torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import DataError, RunError
from trimtab.recipe import Run, Table
from trimtab.statistics.factors import FactorFit, concept_and_position, fit_factors, leaning, variance_shares
from trimtab.statistics.generalization import Relative, apart, correlation, transfer
from trimtab.statistics.intervals import Array, Figure, crossed, interval, mean_figure, median_figure, share_figure, spearman, split_half
from trimtab.statistics.nulls import Compared, benjamini_hochberg
from trimtab.statistics.slopes import Slopes, anti_steerable, at_cost, confidence, expected_anti_steerable, fit_slopes, unsteered
from trimtab.statistics.verdict import Evidence, Kind, decide

COST = 0.1  # nats of KL at which vectors are compared
NO_LETTERS = 0.5  # probability outside the two letters above which they mean little


@dataclass(frozen=True)
class Curves:
    """Propensity of the test items under one vector in one context: (n, K), and the line through each item."""

    multipliers: Array
    values: Array
    slopes: Slopes

    @property
    def slope(self) -> Array:
        return self.slopes.slope


@dataclass(frozen=True)
class SetResult:
    """All about one data set.

    Attributes:
        family: of the study's 40 data sets, or "".
        curves: (vector, context) -> curves of the test items; vectors are "vector" (the first context's), "from CONTEXT", "from mean", controls.
        main: slope of every item that counts: over both orders of the options where both were read, else as it is.
        position: half the difference of an item's slopes in both orders.
        leaning: of the unsteered model to letter "A" and to "yes", whatever is asked: estimate and interval, nats.
        forecast: what forecast.json holds.
        compared: the forecast slope among label-shuffled vectors, which decide, random directions, and directions in the span of the differences.
        effect: mean KL from the unsteered model at each multiplier, and mass outside the letters.
    """

    name: str
    unit: str
    facts: Mapping[str, Any]
    curves: Mapping[tuple[str, str], Curves]
    main: Array
    position: Array | None
    leaning: Mapping[str, tuple[float, float, float]]
    forecast: Mapping[str, Any]
    kl: Array
    outside: Array | None
    fold_slopes: Array
    mean: Figure
    median: Figure
    spread: float
    anti: Figure
    normal: float
    classes: Mapping[str, float]
    compared: Compared
    widened: tuple[float, float]
    fit: FactorFit | None
    shares: Mapping[str, float]
    total_variance: float
    relative: Sequence[Relative]
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def p(self) -> float:
        """Beside label-shuffled vectors."""
        return self.compared.p

    @property
    def first(self) -> str:
        return self.facts["contexts"][0]

    def slope(self, trained: str, tested: str) -> Array | None:
        """Slopes of the vector of one context in another; None if not measured."""
        found = self.curves.get(("vector" if trained == self.first else f"from {trained}", tested))
        return None if found is None else found.slope

    def layer_slopes(self, which: str) -> dict[int, Array]:
        return {int(k): np.array(v) for k, v in self.forecast[which].items()}


@dataclass(frozen=True)
class Study:
    """All about a study.

    Attributes:
        sweeps: data set -> layer -> slope of every validation item, over both orders of the options where both were read.
        plain: the same in the first order alone.
        q: p-values of the data sets, adjusted for their number.
        reliability: split-half, of mean slopes over data sets.
        figures: correlations over data sets.
    """

    plan: Mapping[str, Any]
    model: Mapping[str, Any]
    layer: int
    sets: Sequence[SetResult]
    sweeps: Mapping[str, Mapping[int, Array]]
    plain: Mapping[str, Mapping[int, Array]]
    sweep_kl: Mapping[int, float]
    q: Mapping[str, float]
    reliability: float
    figures: Mapping[str, Figure]

    @property
    def ceiling(self) -> float:
        """The correlation with these mean slopes that a perfect forecast of the true ones could expect."""
        return float(np.sqrt(self.reliability))

    def verdict(self, s: SetResult) -> Kind:
        """Of one data set, by the decision table of every report; its p-value is adjusted for the number of data sets."""
        nulls = [c.slope for (v, context), c in s.curves.items() if context == s.first and v.startswith("shuffled")]
        beyond = max((abs(mean_slope(x)) for x in nulls), default=float("nan"))
        slope = Figure("mean", s.mean.value, s.mean.lo, s.mean.hi, s.mean.n, f"{s.unit} per multiplier")
        asked = {g for g, x in zip(s.facts["group"], s.main, strict=True) if not np.isnan(x)}
        return decide(Evidence(slope, len(asked), self.q[s.name], beyond))

    def ranked(self) -> list[SetResult]:
        return sorted(self.sets, key=lambda s: -s.median.value)


# ---------------------------------------------------------------- reading


def choose_layer(folder: Run, facts: Mapping[str, Mapping[str, Any]], budget: float) -> int:
    """The layer with the highest lower confidence bound of the mean slope on validation questions, averaged over data sets, among those where
    multiplier 1 costs at most `budget` nats of KL from the unsteered model (or all, if none is that cheap).

    Args:
        facts: of each data set, with the ids of its validation questions in each context, in one order, and their groups.
    """
    bounds: dict[int, list[float]] = {}
    for name, mine in facts.items():
        for layer, slope in sweep_slopes(Run(folder.file("sets", name)), mine["items"]["val"]).items():
            lo, mean = interval(slope, mine["groups"]["val"])[0], mean_slope(slope)
            bounds.setdefault(layer, []).append(mean if np.isnan(lo) else lo)  # too few questions for a bound: the mean
    cost = sweep_costs(folder, list(facts))
    cheap = [k for k in bounds if cost[k] <= budget] or list(bounds)
    return max(cheap, key=lambda k: float(np.mean(bounds[k])))


def sweep_slopes(run: Run, items: Mapping[str, Sequence[str]]) -> dict[int, Array]:
    """Slope of every validation item at each layer, over both orders of the options where both were read.

    Args:
        items: context -> ids of the questions, in one order in all contexts; contexts that were not swept are left out.
    """
    swept = {c: run.table(f"val-{c}") for c in items if f"val-{c}" in run.manifest.get("parts", {})}
    layers = [k for k in next(iter(swept.values())).values("layer") if k is not None]
    return {k: np.mean([_fit(t, "vector", k, items[c]).slope for c, t in swept.items()], axis=0) for k in layers}


def sweep_costs(folder: Run, names: Sequence[str]) -> dict[int, float]:
    """Mean KL from the unsteered model at multipliers 1 and -1, at each layer, over data sets."""
    found: dict[int, list[float]] = {}
    for name in names:
        run = Run(folder.file("sets", name))
        for part in (p for p in run.manifest["parts"] if p.startswith("val-")):
            table = run.table(part)
            for cell, values in table.cells.items():
                if cell.metric == "kl" and cell.layer is not None and abs(cell.multiplier) == 1:
                    found.setdefault(cell.layer, []).append(float(np.nanmean(list(values.values()))))
    return {k: float(np.mean(v)) for k, v in found.items()}


def _fit(table: Table, condition: str, layer: int | None, items: Sequence[str] | None = None) -> Curves:
    multipliers, found, values = table.curve("propensity", condition, layer)
    if items is not None:
        place = {item: k for k, item in enumerate(found)}
        values = values[[place[i] for i in items]]
    return Curves(multipliers, values, fit_slopes(multipliers, values))


def load(folder: str | Path | Run) -> Study:
    """Read a finished study.

    Raises:
        RunError: not a study, or not finished.
    """
    run = folder if isinstance(folder, Run) else Run(folder)
    manifest = run.manifest
    if "sets" not in manifest or "study" not in manifest.get("parts", {}):
        raise RunError(f"{run.path} holds no study of reliability that has got past its sweep", do="run it again: it resumes")
    plan, layer = manifest["parts"]["study"]["plan"], manifest["layer"]
    sets = [_load_set(Run(run.file("sets", f["name"])), f, plan) for f in manifest["sets"]]
    swept = plan["layer"] is None
    asked = {s.name: s.facts["items"]["val"] for s in sets}
    sweeps = {n: sweep_slopes(Run(run.file("sets", n)), x) for n, x in asked.items()} if swept else {}
    plain = {s.name: sweep_slopes(Run(run.file("sets", s.name)), {s.first: asked[s.name][s.first]}) for s in sets} if swept else {}
    costs = sweep_costs(run, [s.name for s in sets]) if swept else {}
    adjusted = benjamini_hochberg(np.array([s.p for s in sets]))
    halves = split_half([np.array(s.forecast["per_pair"]) for s in sets], [s.facts["group"] for s in sets]) if len(sets) > 2 else float("nan")
    q = {s.name: float(x) for s, x in zip(sets, adjusted, strict=True)}
    return Study(plan, manifest["parts"]["study"]["model"], layer, sets, sweeps, plain, costs, q, halves, _across_sets(sets, layer))


def _load_set(run: Run, facts: Mapping[str, Any], plan: Mapping[str, Any]) -> SetResult:
    first = facts["contexts"][0]
    tables = {c: run.table(f"test-{c}") for c in (*facts["contexts"], *facts["beyond"])}
    curves = {
        (condition, c): _fit(t, condition, None, facts["items"]["test"][c])
        for c, t in tables.items()
        for condition in t.values("condition")
    }  # fmt: skip
    forecast = run.read("forecast.json")
    if ("vector", first) not in curves or forecast is None:
        raise RunError(f"{run.path} is not finished", do="run the study again: it resumes")
    here = curves["vector", first]
    main, position = here.slope, None
    if ("vector", "swapped") in curves and not plan["legacy"]:
        other = curves["vector", "swapped"].slope
        at_a = np.array([x == "A" for x in facts["letter"]["test"]])
        main, position = concept_and_position(np.where(at_a, here.slope, other), np.where(at_a, other, here.slope))
    outside = _mean_over_items(tables[first], "outside-mass")
    warnings = [*forecast["card"]["warnings"]]
    if facts["left_out"]:
        warnings.append(f"{facts['left_out']} items without two listed options were left out")
    if outside is not None and float(outside[unsteered(here.multipliers)]) > NO_LETTERS:
        warnings.append(
            f"the model puts {float(outside[unsteered(here.multipliers)]):.0%} of its probability outside the letters: try the spoken form"
        )
    fit, shares = _factors(here.slope, facts, plan, warnings)
    grid = {
        (c if v == "vector" else v.removeprefix("from "), t): x.slope
        for (v, t), x in curves.items()
        for c in [first]
        if v == "vector" or v.startswith("from ")
    }
    kinds, of = confidence(here.slopes), facts["group"]
    if lost := int(np.isnan(main).sum()):
        warnings.append(f"{lost} of {len(main)} items were not measured at every multiplier and are left out")
    per_pair = np.array(forecast["per_pair"])
    return SetResult(
        name=facts["name"], unit=tables[first].units["propensity"], facts=facts, curves=curves, main=main, position=position, leaning=_leanings(curves, facts, plan), forecast=forecast,
        kl=_mean_over_items(tables[first], "kl"), outside=outside, fold_slopes=_fold_slopes(run),
        mean=mean_figure("mean", main, "per multiplier", groups=of), median=median_figure("median", main, "per multiplier", of),
        spread=float(np.nanstd(main, ddof=1)), anti=share_figure("anti-steerable", anti_steerable(main), groups=of), normal=expected_anti_steerable(main),
        classes={k: float((kinds == k).mean()) for k in ("steerable", "ambiguous", "anti-steerable")},
        compared=_compared(forecast), widened=crossed(per_pair, of), fit=fit, shares=shares,
        total_variance=float(np.nanvar(here.slope, ddof=1)), relative=transfer(grid, of), warnings=warnings,
    )  # fmt: skip


def _compared(forecast: Mapping[str, Any]) -> Compared:
    """The vector among null vectors; none in folders of before they could choose their layer."""
    return Compared.from_json(forecast["compared"]) if "compared" in forecast else Compared("", float("nan"), 0, "forecast", ())


def _leanings(curves: Mapping[tuple[str, str], Curves], facts: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """How far the unsteered model leans to letter A (over both orders of the options where both were read) and to Yes."""

    def at_zero(context: str) -> Array:
        found = curves["vector", context]
        return found.values[:, unsteered(found.multipliers)]

    first = facts["contexts"][0]
    codes = {"A": [{"A": 1, "B": -1}[x] for x in facts["letter"]["test"]], "yes": [{"yes": 1, "no": -1}.get(x, 0) for x in facts["polarity"]["test"]]}
    values, groups = {"A": at_zero(first), "yes": at_zero(first)}, {"A": [*facts["group"]], "yes": [*facts["group"]]}
    if ("vector", "swapped") in curves:
        values["A"], groups["A"] = np.concatenate([values["A"], at_zero("swapped")]), groups["A"] * 2
        codes["A"] += [-c for c in codes["A"]]
    found = {k: leaning(values[k], np.array(c, float), groups[k]) for k, c in codes.items() if k == "yes" or plan["form"] == "letters"}
    return {k: x for k, x in found.items() if not np.isnan(x[0])}  # too few on a side say nothing


def _factors(slope: Array, facts: Mapping[str, Any], plan: Mapping[str, Any], warnings: list[str]) -> tuple[FactorFit | None, dict[str, float]]:
    """FactorFit on letter and polarity, and their sequential shares (absolute variance), as far as the data tell them apart."""
    codes: dict[str, Array] = {}
    there = ~np.isnan(slope)
    if plan["form"] == "letters":
        codes["letter"] = np.array([1.0 if x == "A" else -1.0 for x in facts["letter"]["test"]])
    polarity = facts["polarity"]["test"]
    if set(polarity) == {"yes", "no"}:
        codes["polarity"] = np.array([1.0 if x == "yes" else -1.0 for x in polarity])
    elif len(set(polarity)) > 1:
        warnings.append("polarity is not identifiable: some answers begin with neither yes nor no")
    of = [g for g, k in zip(facts["group"], there.tolist(), strict=True) if k]
    codes, slope = {k: c[there] for k, c in codes.items()}, slope[there]
    shares = dict(variance_shares(slope, codes).explained) if codes else {}
    if len(codes) < 2:
        return None, shares
    try:
        return fit_factors(slope, codes["letter"], codes["polarity"], of), shares
    except DataError as problem:
        warnings.append(str(problem).splitlines()[0])
        return None, shares


def _fold_slopes(run: Run) -> Array:
    """Slopes of the training items, each under the vector of other folds."""
    parts = [p for p in run.manifest["parts"] if p.startswith("fold-")]
    return np.concatenate([_fit(run.table(p), "vector", None).slope for p in parts]) if parts else np.array([])


def _mean_over_items(table: Table, metric: str) -> Any:
    values = table.curve(metric, "vector", None)[2]
    return np.nanmean(values, 0) if values.size and not np.isnan(values).all() else None


# ---------------------------------------------------------------- over data sets


def _across_sets(sets: Sequence[SetResult], layer: int) -> dict[str, Figure]:
    """Correlations over data sets, with bootstrap intervals over them."""
    out: dict[str, Figure] = {}
    main = [s.mean.value for s in sets]

    def enter(name: str, x: Sequence[float], y: Sequence[float], clusters: Sequence[str] | None = None) -> None:
        if len([1 for a, b in zip(x, y, strict=True) if not np.isnan(a) and not np.isnan(b)]) > 3:
            out[name] = correlation(name, x, y, clusters)

    for trained, tested in SHIFTS:
        pairs = [(s.slope(s.first, s.first), s.slope(trained, tested)) for s in sets]
        enter(f"ID and {trained} → {tested}", [mean_slope(a) for a, _ in pairs], [mean_slope(b) for _, b in pairs])
    for context in dict.fromkeys(c for s in sets for c in s.facts["beyond"]):
        enter(f"ID and {context}", [mean_slope(s.slope(s.first, s.first)) for s in sets], [mean_slope(s.slope(s.first, context)) for s in sets])
    enter("mean and variance", main, [s.spread**2 for s in sets])
    enter("mean and anti-steerable share", main, [s.anti.value for s in sets])
    enter(
        "forecast and measured mean slope",
        [float(s.layer_slopes("layers")[layer].mean()) for s in sets],
        [mean_slope(s.curves["vector", s.first].slope) for s in sets],
    )
    enter("coherence and mean slope", [s.forecast["card"]["coherence"]["cosine"] for s in sets], main)
    enter("separation and mean slope", [s.forecast["card"]["coherence"]["separation"] for s in sets], main)
    enter(
        "forecast and measured anti-steerable share",
        [float(anti_steerable(s.layer_slopes("layers")[layer]).mean()) for s in sets],
        [s.anti.value for s in sets],
    )
    x, y, who = _similarity_points(sets)
    enter("behavior gap and relative steerability", x, y, who)
    return out


SHIFTS = (
    ("base", "user-negative"),
    ("base", "user-positive"),
    ("system-positive", "user-negative"),
    ("system-negative", "user-positive"),
)


def mean_slope(x: Array | None) -> float:
    """Over the items that were measured; NaN where none was."""
    return float("nan") if x is None or np.isnan(x).all() else float(np.nanmean(x))


def _similarity_points(sets: Sequence[SetResult]) -> tuple[list[float], list[float], list[str]]:
    """For every ordered pair of different contexts: how differently the unsteered model behaves there, and how much of the steerability is kept."""
    x: list[float] = []
    y: list[float] = []
    who: list[str] = []
    for s in sets:
        at0 = {
            c: s.curves["vector", c].values[:, unsteered(s.curves["vector", c].multipliers)] for c in s.facts["contexts"] if ("vector", c) in s.curves
        }
        for r in s.relative:
            if r.train in at0 and r.test in at0 and not np.isnan(r.value):
                x.append(apart(at0, r.train, r.test))
                y.append(r.value)
                who.append(s.name)
    return x, y, who


@dataclass(frozen=True)
class LayerForecast:
    """How well one layer's slopes were foreseen: rank correlation over items (mean over data sets), and over data sets."""

    layer: int
    items: float
    sets: float


def foreseen_by_layer(study: Study) -> list[LayerForecast]:
    """Forecast on validation questions against the sweep there."""
    out: list[LayerForecast] = []
    for layer in sorted(next(iter(study.sweeps.values()), {})):
        plain = {s.name: study.plain[s.name][layer] for s in study.sets}
        expected = {s.name: s.layer_slopes("val")[layer] for s in study.sets}
        items = [correlation("", expected[n].tolist(), plain[n].tolist()).value for n in plain]
        over = (
            spearman(np.array([mean_slope(expected[n]) for n in plain]), np.array([mean_slope(plain[n]) for n in plain]))
            if len(plain) > 2
            else float("nan")
        )
        out.append(LayerForecast(layer, float(np.nanmean(items)), over))
    return out


def regret(study: Study) -> dict[str, float]:
    """What is lost by taking the layer the forecast likes best, in mean validation slope, as a share of the best layer's; mean over data sets."""
    lost: list[float] = []
    for s in study.sets:
        swept = {k: mean_slope(v) for k, v in study.plain.get(s.name, {}).items()}
        expected = {k: float(v.mean()) for k, v in s.layer_slopes("val").items() if k in swept}
        if swept and max(swept.values()) > 0:
            lost.append(1 - swept[max(expected, key=lambda k: expected[k])] / max(swept.values()))
    return {"mean": float(np.mean(lost)) if lost else float("nan"), "worst": float(np.max(lost)) if lost else float("nan"), "sets": len(lost)}


def item_rows(study: Study) -> Iterator[dict[str, Any]]:
    """One row per item, context, layer, vector and multiplier."""
    for s in study.sets:
        for (vector, context), c in s.curves.items():
            for i, item in enumerate(s.facts["items"]["test"][context]):
                for k, m in enumerate(c.multipliers):
                    yield {
                        "data": s.name, "part": "test", "item": item, "group": s.facts["group"][i], "letter": s.facts["letter"]["test"][i],
                        "polarity": s.facts["polarity"]["test"][i], "context": context, "layer": study.layer, "vector": vector, "multiplier": float(m),
                        "propensity": float(c.values[i, k]), "unit": s.unit,
                    }  # fmt: skip


def set_rows(study: Study) -> list[dict[str, Any]]:
    """One row per data set: the ranking table."""
    return [
        {
            "data": s.name, "n": s.mean.n, "unit": s.unit, "mean": s.mean.value, "mean_lo": s.mean.lo, "mean_hi": s.mean.hi, "median": s.median.value,
            "median_lo": s.median.lo, "median_hi": s.median.hi, "sd": s.spread, "anti": s.anti.value, "anti_lo": s.anti.lo, "anti_hi": s.anti.hi,
            "anti_normal": s.normal, **{f"confident_{k.replace('-', '_')}": v for k, v in s.classes.items()}, "p": s.p, "q": study.q[s.name], "p_random": s.compared.beside("random"), "p_span": s.compared.beside("span"), "verdict": study.verdict(s),
            "two_level_lo": s.widened[0], "two_level_hi": s.widened[1], "cross_fitted": mean_slope(s.fold_slopes) if len(s.fold_slopes) else float("nan"),
            **{f"variance_{k}": v for k, v in s.shares.items()}, "variance": s.total_variance,
            "gain_at_kl": _gain(s, 1), "loss_at_kl": _gain(s, -1),
            "position": float("nan") if s.position is None else float(s.position.mean()), "kl_at_1": _at(s, s.kl, 1.0),
            "forecast": float(s.layer_slopes("layers")[study.layer].mean()), "coherence": s.forecast["card"]["coherence"]["cosine"],
            "yes_gap": s.forecast["card"]["confounds"]["yes_gap"], "warnings": "; ".join(s.warnings),
        }
        for s in study.ranked()
    ]  # fmt: skip


def _gain(s: SetResult, sign: int) -> float:
    """Change of mean propensity where the vector costs `COST` nats of KL, going up or down, read between the multipliers of the grid; NaN beyond it."""
    c = s.curves["vector", s.first]
    mean = np.nanmean(c.values, 0) - np.nanmean(c.values, 0)[unsteered(c.multipliers)]
    return at_cost(c.multipliers, np.asarray(s.kl), mean, COST, sign)[1]


def _at(s: SetResult, values: Any, multiplier: float) -> float:
    grid = s.curves["vector", s.first].multipliers
    return float(values[int(np.flatnonzero(grid == multiplier)[0])]) if values is not None and multiplier in grid else float("nan")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]) -> Path:
    """Rows as CSV, with the columns of all of them."""
    found = list(rows)
    columns = list(dict.fromkeys(k for r in found for k in r))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(found)
    return path


def summary(study: Study) -> dict[str, Any]:
    """The study as JSON."""
    relative = [{"data": s.name, **asdict(r)} for s in study.sets for r in s.relative]
    told = {
        "model": study.model, "plan": study.plan, "layer": study.layer, "reliability": study.reliability, "ceiling": study.ceiling, "sets": set_rows(study),
        "correlations": {k: asdict(f) for k, f in study.figures.items()}, "relative": relative,
        "fits": {s.name: asdict(s.fit) for s in study.sets if s.fit}, "regret": regret(study), "foreseen": [asdict(f) for f in foreseen_by_layer(study)],
    }  # fmt: skip
    return json.loads(json.dumps(told, default=str))


def across(one: Study, two: Study) -> list[Figure]:
    """How well two models agree over the data sets both studied: mean slopes, raw and divided by the reliability of both, and variances."""
    a, b = ({s.name: s for s in study.sets} for study in (one, two))
    shared = [n for n in a if n in b]
    means = correlation("mean slope", [a[n].mean.value for n in shared], [b[n].mean.value for n in shared])
    spreads = correlation("variance of slopes", [a[n].spread ** 2 for n in shared], [b[n].spread ** 2 for n in shared])
    scale = one.ceiling * two.ceiling
    if not scale > 0:
        return [means, spreads]
    return [
        means,
        Figure("mean slope, corrected for reliability", means.value / scale, means.lo / scale, means.hi / scale, means.n, means.unit),
        spreads,
    ]
