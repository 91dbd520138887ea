"""The page of transfer: what a vector does on another model, beside that model's own vector and random directions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, INK, QUIET, WARN, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.bipo_results import Value

HOME, OWN = Condition("at home"), Condition("own vector")
CARRIED, MAPPED = Condition("as it is"), Condition("through a map")
LANGUAGE = "another language"
PUBLISHED = (
    "Published: vectors of Llama-2-7b-chat steer Vicuna-7b-v1.5 and Llama2-Chinese-7b-Chat as they are, the second in "
    "Chinese (figure 3, table 17; plotted and shown by examples)."
)


@dataclass(frozen=True)
class Moved:
    """What a vector does to the margin of test pairs, +1 less -1, in nats.

    Attributes:
        where: the model, `LANGUAGE`, or nothing for the model it was learned on.
    """

    behavior: str
    where: str
    condition: Condition
    effect: Value


@dataclass(frozen=True)
class Effects:
    """Of one behavior on another model; and the cosine of the mapped vector with the model's own."""

    moved: list[Moved]
    cosine: float


@dataclass(frozen=True)
class Place:
    """A model vectors were carried to: the layer there, the variance its map explains on the texts that chose its ridge
    (it was learned from others), and by behavior the cosine of the mapped vector with the model's own.
    """

    name: str
    layer: int
    explained: float
    cosines: dict[str, float]


@dataclass(frozen=True)
class Results:
    """What came out."""

    model: str
    layer: int
    seed: int
    train: int
    moved: list[Moved]
    places: list[Place]

    def at(self, behavior: str, where: str) -> dict[Condition, Value]:
        return {m.condition: m.effect for m in self.moved if (m.behavior, m.where) == (behavior, where)}

    @property
    def behaviors(self) -> list[str]:
        return list(dict.fromkeys(m.behavior for m in self.moved))

    @property
    def destinations(self) -> list[str]:
        return [w for w in dict.fromkeys(m.where for m in self.moved) if w]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = (
        f"BiPO vectors of {r.model}, layer {r.layer}, learned on {r.train} pairs; seed {r.seed}. The effect is the "
        "margin (log-probability of the positive answer less the negative's, nats) at +1 less that at -1, over test "
        "pairs."
    )
    findings = [_finding(r, where, b) for where in r.destinations for b in r.behaviors if r.at(b, where)]
    sections = [(where, _rows(r, where)) for where in r.destinations]
    if r.places:
        sections += [("Maps", _map_rows(r))]
    plots = {"transfer": _plot(r)}
    return write_sections(run, "Transfer", about, [*findings, PUBLISHED], plots, sections, _figures(r))


def _finding(r: Results, where: str, behavior: str) -> str:
    """What arrives, as a share of the effect at home and of the place's own vector, beside random directions."""
    here, home = r.at(behavior, where), r.at(behavior, "")[HOME]
    parts = [
        f"{c.label} {here[c]}{_share(here[c], home, 'of its effect at home')}"
        + (f", random directions at most {most:.2f}" if (most := _random(here, c)) is not None else "")
        for c in (CARRIED, MAPPED)
        if c in here
    ]
    own = f"; the model's own vector {here[OWN]}" if OWN in here else ""
    return f"{behavior}, {where}: {'; '.join(parts)}{own}."


def _share(value: Value, of: Value, words: str) -> str:
    return f", {value.value / of.value:.0%} {words}" if of.value > 0 and not np.isnan(value.value) else ""


def _random(here: dict[Condition, Value], of: Condition) -> float | None:
    """The largest effect of a random direction that stands for a vector: of its norm, and mapped if it was mapped."""

    def stands(c: Condition) -> bool:
        if of == MAPPED:
            return c.kind == "map of random" or (c.kind == "random" and not c.how)
        unlike = of == CARRIED and OWN in here and c.how != CARRIED.kind  # on another model: those carried as it was
        return c.kind == "random" and not unlike and not (of == OWN and c.how)

    return max((abs(v.value) for c, v in here.items() if stands(c)), default=None)


def _rows(r: Results, where: str) -> list[list[str]]:
    head = ["behavior", "vector", "effect, nats", "share of the effect at home", "share of the own vector's", "n"]
    rows: list[list[str]] = []
    for b in r.behaviors:
        here, home = r.at(b, where), r.at(b, "")[HOME]
        for c, v in here.items():
            own = f"{v.value / here[OWN].value:.0%}" if OWN in here and here[OWN].value > 0 else ""
            rows.append([b, c.label, str(v), f"{v.value / home.value:.0%}" if home.value > 0 else "", own, f"{v.n}"])
    return [head, *rows]


def _map_rows(r: Results) -> list[list[str]]:
    head = [
        "model",
        "layer",
        "variance explained, texts that chose the ridge",
        "cosine of the mapped and the own vector",
    ]
    return [
        head,
        *(
            [p.name, f"{p.layer}", f"{p.explained:.0%}", ", ".join(f"{b} {x:+.2f}" for b, x in p.cosines.items())]
            for p in r.places
        ),
    ]


def _figures(r: Results) -> list[Figure]:
    """Every effect, beside the largest of a random direction there."""
    out = [
        Figure(f"{m.behavior}, at home", m.effect.value, m.effect.lo, m.effect.hi, m.effect.n, "nats", None)
        for m in r.moved if m.condition == HOME
    ]  # fmt: skip
    for m in r.moved:
        if m.condition in (OWN, CARRIED, MAPPED):
            control = _random(r.at(m.behavior, m.where), m.condition)
            label = f"{m.behavior}, {m.where}, {m.condition}"
            out.append(Figure(label, m.effect.value, m.effect.lo, m.effect.hi, m.effect.n, "nats", control))
    return out


def _plot(r: Results) -> Plot:
    """Effects, a group of bars for every place and behavior."""
    groups = [(where, b) for where in r.destinations for b in r.behaviors if r.at(b, where)]
    kinds = {"at home": INK, "own vector": ACCENT, "as it is": WARN, "through a map": "#4d7c4a", "random": QUIET}

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for j, (kind, color) in enumerate(kinds.items()):
            for k, (where, b) in enumerate(groups):
                here = {**r.at(b, where), HOME: r.at(b, "")[HOME]}
                value = next((v.value for c, v in here.items() if c.kind == kind), float("nan"))
                height = max((abs(v.value) for c, v in here.items() if "random" in c.kind), default=float("nan"))
                height = height if kind == "random" else value
                ax.bar(k + 0.16 * (j - 2), height, 0.15, color=color, label=kind if k == 0 else None)
        ax.axhline(0, color=INK, lw=0.6)
        ax.set_xticks(range(len(groups)), [f"{b}\n{where}" for where, b in groups], fontsize=7)
        ax.set_ylabel("effect, nats")
        ax.legend(frameon=False, fontsize=7)

    caption = "Margin at +1 less margin at -1; of random directions the largest."
    return picture(paint, (max(5.6, 1.3 * len(groups)), 3.5), "What arrives", caption)
