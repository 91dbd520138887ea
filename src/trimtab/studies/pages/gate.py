"""A gate for continuous integration: do a run's figures keep to budgets? From folders alone, without a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import RecipeError, RunError
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.steering.use import Use
from trimtab.studies.pages.capability import Results

KNOWLEDGE = "knowledge"


@dataclass(frozen=True)
class Budgets:
    """What is allowed; None is not asked for.

    Attributes:
        min_slope: least steerability, per multiplier, in the run's own unit.
        max_wrong: largest share of items that go the wrong way.
        max_drift: most nats a token by which the recommended dose moves the model from itself.
        max_knowledge_drop: largest fall of the share of knowledge questions that are right, at the strongest
            multiplier of the run either way.
        surely: hold the unfavorable end of the 95 % interval to the budget, not the figure itself.
    """

    min_slope: float | None = None
    max_wrong: float | None = None
    max_drift: float | None = None
    max_knowledge_drop: float | None = None
    surely: bool = False

    @property
    def asked(self) -> dict[str, float]:
        """Those that were given, by name."""
        return {name: getattr(self, name) for name in LEAST if getattr(self, name) is not None}


LEAST = {
    "min_slope": True,
    "max_wrong": False,
    "max_drift": False,
    "max_knowledge_drop": False,
}  # a lower bound, or upper
SOURCES = {
    "min_slope": "`trimtab run` or `trimtab measure`",
    "max_wrong": "`trimtab run` or `trimtab measure`",
    "max_drift": "`trimtab run`, or `trimtab measure` of a vector with a dose",
    "max_knowledge_drop": "`trimtab capability`",
}


@dataclass(frozen=True)
class Held:
    """A budget against what was measured."""

    run: str
    budget: str
    limit: float
    figure: Figure
    surely: bool

    @property
    def value(self) -> float:
        """What is held to the limit."""
        if not self.surely:
            return self.figure.value
        return self.figure.lo if LEAST[self.budget] else self.figure.hi

    @property
    def kept(self) -> bool:
        if math.isnan(self.value):
            return False
        return self.value >= self.limit if LEAST[self.budget] else self.value <= self.limit

    def __str__(self) -> str:
        sign, f = (">=" if LEAST[self.budget] else "<="), self.figure
        spread = "" if math.isnan(f.lo) else f" ({f.lo:.3g} to {f.hi:.3g}, n {f.n})"
        state = "kept" if self.kept else "broken"
        return f"{state}: {self.run}, {f.name} {f.value:.3g} {f.unit}{spread}, budget {sign} {self.limit:g}"


def gate(runs: Sequence[str | Path], budgets: Budgets) -> list[Held]:
    """Every budget against every folder that measures it.

    Raises:
        RecipeError: no budget was given.
        RunError: a folder without figures, or a budget that no folder measures: nothing would be held to it.
    """
    if not budgets.asked:
        flags = ", ".join("--" + name.replace("_", "-") for name in LEAST)
        raise RecipeError("no budget was given", expected=f"at least one of {flags}")
    if not runs:
        raise RunError("no folder was given", expected="the folders of finished runs")
    figures = [(str(run), name, f) for run in runs for name, f in _figures(Run(run)) if name in budgets.asked]
    for name in budgets.asked:
        if name not in {measured for _, measured, _ in figures}:
            raise RunError(
                f"nothing in {', '.join(map(str, runs))} measures --{name.replace('_', '-')}",
                expected=f"the folder of {SOURCES[name]}",
            )
    for run in map(str, runs):
        if run not in {one for one, _, _ in figures}:
            raise RunError(f"{run} measures none of it", given=list(budgets.asked), do="leave the folder out")
    for run, _, f in figures:
        if budgets.surely and (math.isnan(f.lo) or math.isnan(f.hi)):
            raise RunError(f"{run}: {f.name} has no interval to be sure by", do="leave out --surely, or this budget")
    return [Held(run, name, budgets.asked[name], f, budgets.surely) for run, name, f in figures]


def markdown(held: Sequence[Held]) -> str:
    """The same as a table."""
    broken = sum(not h.kept for h in held)
    head = f"**{broken} of {len(held)} budgets broken**" if broken else f"All {len(held)} budgets kept"
    rows = ["| | run | figure | value | 95 % | n | budget |", "|---|---|---|---:|---|---:|---:|"]
    for h in held:
        f, sign = h.figure, "≥" if LEAST[h.budget] else "≤"
        spread = "" if math.isnan(f.lo) else f"{f.lo:.3g} to {f.hi:.3g}"
        mark = "kept" if h.kept else "**broken**"
        rows.append(
            f"| {mark} | {h.run} | {f.name} | {f.value:.3g} {f.unit} | {spread} | {f.n or ''} | {sign} {h.limit:g} |"
        )
    return "\n".join([head, "", *rows, ""])


def _figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The figures of a folder, by the budget they are held to."""
    summary = run.read("summary.json")
    if summary is None:
        raise RunError(
            f"{run.path} holds no summary.json", expected="the folder of a finished run", do="trimtab report DIR"
        )
    try:
        named = {f["name"]: _figure(f) for f in summary["figures"]}
    except (KeyError, TypeError) as problem:
        raise RunError(f"{run.path}: summary.json has no figures that can be read", given=str(problem)) from problem
    for name, key in (("min_slope", "steerability"), ("max_wrong", "anti-steerable share")):
        if key in named:
            yield name, named[key]
    use = run.read("use.json")
    if use is not None:
        yield from _drift(Use.from_json(use, str(run.file("use.json"))))
    if run.manifest.get("study") == "capability":
        yield from _drops(run.typed(RESULTS, Results))


def _figure(row: dict[str, Any]) -> Figure:
    """A figure of summary.json, where null is what was not measured."""
    known: dict[str, Any] = {k: math.nan if v is None and k in ("value", "lo", "hi") else v for k, v in row.items()}
    made = Figure(**known)
    for x in (made.value, made.lo, made.hi):
        float(x)  # a text is no figure
    return made


def _drift(use: Use) -> Iterator[tuple[str, Figure]]:
    points = () if use.dose is None else use.dose.points
    point = next((p for p in points if math.isclose(p.multiplier, use.multiplier, rel_tol=1e-6)), None)
    if point is not None and use.dose is not None:
        name = f"drift at {use.multiplier:g}"
        yield "max_drift", Figure(name, point.drift, math.nan, math.nan, use.dose.prompts, "nats/token")


def _drops(r: Results) -> Iterator[tuple[str, Figure]]:
    """How far the share of right answers falls at the ends of the grid."""
    mine = r.of(KNOWLEDGE, "correct", random=False)
    ends = {f(row.at.multiplier for row in mine) for f in (min, max) if mine} - {0.0}
    for row in mine:
        a = row.at
        if a.multiplier in ends:
            name = f"fall of knowledge at {a.multiplier:g}"
            yield "max_knowledge_drop", Figure(name, -a.change, -a.change_hi, -a.change_lo, a.n, "share")
