"""The study of reliability, from its folder: figures of every data set, what generalizes, what was foreseen. Never
imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trimtab.data.builtin import family
from trimtab.errors import DataError
from trimtab.runs import Run, Table
from trimtab.stages import RESULTS
from trimtab.statistics.factors import FactorFit, concept_and_position, fit_factors, leaning, variance_shares
from trimtab.statistics.generalization import Relative, correlation, relatives
from trimtab.statistics.intervals import Array, Figure, crossed, mean_figure, median_figure, share_figure, split_half
from trimtab.statistics.layers import Sweep, steepest
from trimtab.statistics.nulls import Compared, benjamini_hochberg
from trimtab.statistics.slopes import anti_steerable, confidence, expected_anti_steerable, fit_slopes, unsteered
from trimtab.statistics.verdict import Evidence, Kind, decide
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.reliability_facts import (
    NO_LETTERS,
    VECTOR,
    Curves,
    Forecasts,
    Results,
    SetFacts,
    Shift,
    learned_in,
    raw,
)


@dataclass(frozen=True)
class SetResult:
    """All about one data set.

    Attributes:
        family: of the study's 40 data sets, or "".
        curves: (vector, context) -> curves of the test items.
        main: slope of every item that counts: over both orders of the options where both were read, else as it is.
        position: half the difference of an item's slopes in both orders.
        leaning: of the unsteered model to letter "A" and to "yes", whatever is asked: estimate and interval, nats.
        compared: the forecast slope among label-shuffled vectors, which decide, random directions, and directions in
            the span of the differences.
        effect: mean KL from the unsteered model at each multiplier, and mass outside the letters.
    """

    name: str
    unit: str
    facts: SetFacts
    curves: Mapping[tuple[Condition, str], Curves]
    main: Array
    position: Array | None
    leaning: Mapping[str, tuple[float, float, float]]
    forecast: Forecasts
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
        return self.facts.first

    def slope(self, trained: str, tested: str) -> Array | None:
        """Slopes of the vector of one context in another; None if not measured."""
        curves = self.curves.get((VECTOR if trained == self.first else learned_in(trained), tested))
        return None if curves is None else curves.slope

    def forecast_slopes(self, part: Literal["test", "val"]) -> dict[int, Array]:
        """By layer, of every item of a part."""
        slopes = self.forecast.layers if part == "test" else self.forecast.val
        return {layer: np.array(some) for layer, some in slopes.items()}


@dataclass(frozen=True)
class Study:
    """All about a study.

    Attributes:
        sweeps: data set -> layer -> slope of every validation item, over both orders of the options where both were
            read.
        plain: the same in the first order alone.
        q: p-values of the data sets, adjusted for their number.
        reliability: split-half, of mean slopes over data sets.
        figures: correlations over data sets.
        points: every vector in every other context it was tested in.
    """

    results: Results
    sets: Sequence[SetResult]
    sweeps: Mapping[str, Mapping[int, Array]]
    plain: Mapping[str, Mapping[int, Array]]
    sweep_kl: Mapping[int, float]
    q: Mapping[str, float]
    reliability: float
    figures: Mapping[str, Figure]
    points: Sequence[Shift] = ()

    @property
    def layer(self) -> int:
        return self.results.layer

    @property
    def ceiling(self) -> float:
        """The correlation with these mean slopes that a perfect forecast of the true ones could expect."""
        return float(np.sqrt(self.reliability))

    def verdict(self, s: SetResult) -> Kind:
        """Of one data set, by the decision table of every report; its p-value is adjusted for the number of data
        sets.
        """
        nulls = [c.slope for (v, context), c in s.curves.items() if context == s.first and v.kind == "shuffled"]
        beyond = max((abs(mean_slope(x)) for x in nulls), default=float("nan"))
        slope = Figure("mean", s.mean.value, s.mean.lo, s.mean.hi, s.mean.n, f"{s.unit} per multiplier")
        questions = {g for g, x in zip(s.facts.test.groups, s.main, strict=True) if not np.isnan(x)}
        return decide(Evidence(slope, len(questions), self.q[s.name], beyond))

    def ranked(self) -> list[SetResult]:
        return sorted(self.sets, key=lambda s: -s.median.value)


# ---------------------------------------------------------------- reading


def choose_layer(folder: Run, sets: Sequence[SetFacts], budget: float) -> int:
    """The layer whose mean slopes on validation questions are steepest for sure, over data sets, among those where
    multiplier 1 costs at most `budget` nats of KL from the unsteered model.
    """
    sweeps = [Sweep(sweep_slopes(Run(folder.file("sets", s.name)), s.val.ids), s.val.groups) for s in sets]
    return steepest(sweeps, sweep_costs(folder, sets), budget)


def _swept(run: Run, contexts: Iterable[str]) -> dict[str, Table]:
    """The sweeps of a data set, by context."""
    return {c: run.table(f"val-{c}") for c in contexts if f"val-{c}" in run.manifest.get("parts", {})}


def sweep_slopes(run: Run, items: Mapping[str, Sequence[str]]) -> dict[int, Array]:
    """Slope of every validation item at each layer, over both orders of the options where both were read.

    Args:
        items: context -> ids of the questions, in one order in all contexts; contexts that were not swept are left out.
    """
    swept = _swept(run, items)
    layers = [k for k in next(iter(swept.values())).values("layer") if k is not None]
    out: dict[int, Array] = {}
    for k in layers:
        slopes = [_fit(t, "vector", k, items[c]).slope for c, t in swept.items()]
        out[k] = np.mean(slopes, axis=0)
    return out


def sweep_costs(folder: Run, sets: Sequence[SetFacts]) -> dict[int, float]:
    """Mean KL from the unsteered model at multipliers 1 and -1, at each layer, over data sets."""
    by_layer: dict[int, list[float]] = {}
    for s in sets:
        for table in _swept(Run(folder.file("sets", s.name)), s.val.ids).values():
            for cell, values in table.cells.items():
                if cell.metric == "kl" and cell.layer is not None and abs(cell.multiplier) == 1:
                    by_layer.setdefault(cell.layer, []).append(float(np.nanmean(list(values.values()))))
    return {k: float(np.mean(v)) for k, v in by_layer.items()}


def _fit(table: Table, condition: str, layer: int | None, items: Sequence[str] | None = None) -> Curves:
    multipliers, ids, values = table.curve("propensity", condition, layer)
    if items is not None:
        place = {item: k for k, item in enumerate(ids)}
        values = values[[place[i] for i in items]]
    return Curves(multipliers, values, fit_slopes(multipliers, values))


def load(folder: str | Path | Run) -> Study:
    """Read a finished study.

    Raises:
        RunError: not a study, or not finished.
    """
    run = folder if isinstance(folder, Run) else Run(folder)
    results = run.typed(RESULTS, Results)
    sets = [_load_set(Run(run.file("sets", facts.name)), facts, results) for facts in results.sets]
    swept = sets if results.swept else []
    sweeps = {s.name: sweep_slopes(Run(run.file("sets", s.name)), s.facts.val.ids) for s in swept}
    plain = {s.name: sweep_slopes(Run(run.file("sets", s.name)), {s.first: s.facts.val.ids[s.first]}) for s in swept}
    costs = sweep_costs(run, [s.facts for s in swept])
    halves = float("nan")
    if len(sets) > 2:
        halves = split_half([np.array(s.forecast.per_pair) for s in sets], [s.facts.test.groups for s in sets])
    adjusted = benjamini_hochberg(np.array([s.p for s in sets]))
    q = {s.name: float(x) for s, x in zip(sets, adjusted, strict=True)}
    return Study(results, sets, sweeps, plain, costs, q, halves, _across_sets(sets, results.layer))


def _load_set(run: Run, facts: SetFacts, results: Results) -> SetResult:
    first, forecast = facts.first, run.typed("forecast.json", Forecasts)
    tables = {c: run.table(f"test-{c}") for c in (*facts.contexts, *facts.beyond)}
    curves: dict[tuple[Condition, str], Curves] = {}
    for context, table in tables.items():
        there = table.values("condition")
        for vector in [v for v in facts.vectors if v.label in there]:
            curves[vector, context] = _fit(table, vector.label, None, facts.test.ids[context])
    here, of = curves[VECTOR, first], facts.test.groups
    main, position = over_both_orders(curves, facts) if not results.legacy else (here.slope, None)
    warnings, outside = [*forecast.card.warnings], _mean_over_items(tables[first], "outside-mass")
    if facts.left_out:
        warnings.append(f"{facts.left_out} items without two listed options were left out")
    if facts.mute:
        warnings.append(f"{facts.mute} items whose answers say nothing but Yes or No were left out")
    if outside is not None and (mass := float(outside[unsteered(here.multipliers)])) > NO_LETTERS:
        warnings.append(f"the model puts {mass:.0%} of its probability outside the letters: try the spoken form")
    fit, shares = _factors(here.slope, facts, results, warnings)
    if lost := int(np.isnan(main).sum()):
        warnings.append(f"{lost} of {len(main)} items were not measured at every multiplier and are left out")
    kinds = confidence(here.slopes)
    return SetResult(
        name=facts.name,
        unit=tables[first].units["propensity"],
        facts=facts,
        curves=curves,
        main=main,
        position=position,
        leaning=_leanings(curves, facts, results),
        forecast=forecast,
        kl=_mean_over_items(tables[first], "kl"),
        outside=outside,
        fold_slopes=_fold_slopes(run, facts),
        mean=mean_figure("mean", main, "per multiplier", groups=of),
        median=median_figure("median", main, "per multiplier", of),
        spread=float(np.nanstd(main, ddof=1)),
        anti=share_figure("anti-steerable", anti_steerable(main), groups=of),
        normal=expected_anti_steerable(main),
        classes={k: float((kinds == k).mean()) for k in ("steerable", "ambiguous", "anti-steerable")},
        compared=Compared.from_json(forecast.compared),
        widened=crossed(np.array(forecast.per_pair), of),
        fit=fit,
        shares=shares,
        total_variance=float(np.nanvar(here.slope, ddof=1)),
        relative=relatives(_between_contexts(curves, first), of),
        warnings=warnings,
    )


def over_both_orders(
    curves: Mapping[tuple[Condition, str], Curves], facts: SetFacts, vector: Condition = VECTOR
) -> tuple[Array, Array | None]:
    """Slope of every item over both orders of its options, and half their difference; in the one order, where no other
    was read.
    """
    here, other = curves[vector, facts.first].slope, curves.get((vector, "swapped"))
    if other is None:
        return here, None
    at_a = np.array([x == "A" for x in facts.test.letters])
    return concept_and_position(np.where(at_a, here, other.slope), np.where(at_a, other.slope, here))


def _between_contexts(curves: Mapping[tuple[Condition, str], Curves], first: str) -> dict[tuple[str, str], Array]:
    """(context the vector was learned in, context it is tested in) -> slopes."""
    return {
        (first if vector == VECTOR else vector.source, tested): c.slope
        for (vector, tested), c in curves.items()
        if vector == VECTOR or vector.kind == "from"
    }


def _leanings(
    curves: Mapping[tuple[Condition, str], Curves], facts: SetFacts, results: Results
) -> dict[str, tuple[float, float, float]]:
    """How far the unsteered model leans to letter A (over both orders of the options where both were read) and to
    Yes.
    """

    def at_zero(context: str) -> Array:
        c = curves[VECTOR, context]
        return c.values[:, unsteered(c.multipliers)]

    plain, of = at_zero(facts.first), facts.test.groups
    yes = np.array([{"yes": 1.0, "no": -1.0}.get(x, 0.0) for x in facts.test.polarities])
    out = {"yes": leaning(plain, yes, of)}
    if results.form == "letters":
        at_a = np.array([1.0 if x == "A" else -1.0 for x in facts.test.letters])
        both = (VECTOR, "swapped") in curves
        values = np.concatenate([plain, at_zero("swapped")]) if both else plain
        out = {"A": leaning(values, np.concatenate([at_a, -at_a]) if both else at_a, of * (2 if both else 1)), **out}
    return {k: x for k, x in out.items() if not np.isnan(x[0])}  # too few on a side say nothing


def _factors(
    slope: Array, facts: SetFacts, results: Results, warnings: list[str]
) -> tuple[FactorFit | None, dict[str, float]]:
    """A fit on letter and polarity, and their sequential shares (absolute variance), as far as the data tell them
    apart.
    """
    codes: dict[str, Array] = {}
    there = ~np.isnan(slope)
    if results.form == "letters":
        codes["letter"] = np.array([1.0 if x == "A" else -1.0 for x in facts.test.letters])
    polarities = set(facts.test.polarities)
    if polarities == {"yes", "no"}:
        codes["polarity"] = np.array([1.0 if x == "yes" else -1.0 for x in facts.test.polarities])
    elif len(polarities) > 1:
        warnings.append("polarity is not identifiable: some answers begin with neither yes nor no")
    of = [g for g, k in zip(facts.test.groups, there.tolist(), strict=True) if k]
    codes, slope = {k: c[there] for k, c in codes.items()}, slope[there]
    shares = dict(variance_shares(slope, codes).explained) if codes else {}
    if len(codes) < 2:
        return None, shares
    try:
        return fit_factors(slope, codes["letter"], codes["polarity"], of), shares
    except DataError as problem:
        warnings.append(str(problem).splitlines()[0])
        return None, shares


def _fold_slopes(run: Run, facts: SetFacts) -> Array:
    """Slopes of the training items, each under the vector of other folds."""
    return np.concatenate(
        [np.array([]), *(_fit(run.table(f"fold-{k}"), "vector", None).slope for k in range(facts.folds))]
    )


def _mean_over_items(table: Table, metric: str) -> Any:
    values = table.curve(metric, "vector", None)[2]
    return np.nanmean(values, 0) if values.size and not np.isnan(values).all() else None


# ---------------------------------------------------------------- over data sets


def entered(
    into: dict[str, Figure],
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    clusters: Sequence[str] | None = None,
    families: Sequence[str] = (),
) -> None:
    """Put a correlation among the figures, where there are four points or more; and again with an interval over
    families of data sets, where some have several members.
    """  # fmt: skip
    known = [not np.isnan(a + b) for a, b in zip(x, y, strict=True)]
    if sum(known) > 3:
        into[name] = correlation(name, x, y, clusters)
    of = {f for f, there in zip(families, known, strict=False) if there}
    if 2 < len(of) < sum(known):
        into[f"{name}, by family"] = correlation(name, x, y, families)


def _across_sets(sets: Sequence[SetResult], layer: int) -> dict[str, Figure]:
    """Correlations over data sets, with bootstrap intervals over them."""
    out: dict[str, Figure] = {}
    main = [s.mean.value for s in sets]

    enter = partial(entered, out, families=[family(s.name) for s in sets])
    for trained, tested in SHIFTS:
        pairs = [(s.slope(s.first, s.first), s.slope(trained, tested)) for s in sets]
        enter(f"ID and {trained} → {tested}", [mean_slope(a) for a, _ in pairs], [mean_slope(b) for _, b in pairs])
    for context in dict.fromkeys(c for s in sets for c in s.facts.beyond):
        enter(
            f"ID and {context}",
            [mean_slope(s.slope(s.first, s.first)) for s in sets],
            [mean_slope(s.slope(s.first, context)) for s in sets],
        )
    for trained, tested in SHIFTS:
        owns = [s.curves.get((raw(trained), tested)) for s in sets]
        outside = [mean_slope(None if c is None else c.slope) for c in owns]
        enter(f"ID and {trained}, own norm → {tested}", main, outside)
    enter("mean and variance", main, [s.spread**2 for s in sets])
    enter("mean and anti-steerable share", main, [s.anti.value for s in sets])
    enter(
        "forecast and measured mean slope",
        [float(s.forecast_slopes("test")[layer].mean()) for s in sets],
        [mean_slope(s.curves[VECTOR, s.first].slope) for s in sets],
    )
    enter("coherence and mean slope", [s.forecast.card.coherence.cosine for s in sets], main)
    enter("separation and mean slope", [s.forecast.card.coherence.separation for s in sets], main)
    enter(
        "forecast and measured anti-steerable share",
        [float(anti_steerable(s.forecast_slopes("test")[layer]).mean()) for s in sets],
        [s.anti.value for s in sets],
    )
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
