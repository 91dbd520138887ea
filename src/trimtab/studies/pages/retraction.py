"""The page of the study of false statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.contract import RESULTS
from trimtab.studies.pages.findings import Answer, Finding, answer_rows, finding_rows, spread, told

# By kind of vector: free of retraction, and telling the truth all the same, as published.
PAPER = {
    "promote": ("100%", "mostly (the real attribute is primary far more often)"),
    "suppress": ("100%", "60% to 90% (real attribute primary)"),
    "mean difference": ("100% (CAA)", "60% to 90%"),
    "reentrant": ("99.0%", "about 20%; the false attribute is kept in 74.2%"),
}


@dataclass(frozen=True)
class Rates:
    """Of continuations of statements under one condition: taken back in words we look for; the true value told; told
    without such words; and nothing more said.
    """

    condition: Condition
    marked: Count
    true: Count
    ignoring: Count
    silent: Count


@dataclass(frozen=True)
class Strange:
    """Bits per token of what one condition says, for the base model, after continuations that take a statement back and
    after ones that do not; means over n.
    """

    condition: Condition
    retracting: float
    going_on: float
    n: int


@dataclass(frozen=True)
class Abnormality:
    """Of every condition, and bits per token of the contexts themselves."""

    strange: list[Strange]
    contexts: dict[str, float]


@dataclass(frozen=True)
class Results:
    """What the study found.

    Attributes:
        rates, strange: by condition; continuations of true statements have no second.
        contexts: bits per token of the contexts themselves.
    """

    model: str
    layers: list[int]
    source: int
    norm: float
    sources: int
    test: int
    base: str
    seed: int
    rates: list[Rates]
    strange: list[Strange]
    contexts: dict[str, float]
    read: list[Answer]

    def unsteered(self) -> Rates:
        return next(r for r in self.rates if r.condition.kind == "unsteered")

    def bits(self, condition: Condition) -> Strange | None:
        return next((s for s in self.strange if s.condition == condition), None)


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    plain = r.unsteered()
    strange = r.bits(plain.condition)
    assert strange is not None
    findings = [
        f"Unsteered, {r.model} takes back {told(plain.true)} of false statements put into its mouth (the true value "
        "is told); "
        f"marker phrases see {told(plain.marked)}.",
        f"The base model needs {strange.retracting:.2f} bits a token for what it says after samples of retraction and "
        f"{strange.going_on:.2f} after samples that go on; the contexts themselves cost "
        f"{r.contexts['retracting']:.2f} and "
        f"{r.contexts['going on']:.2f}.",
    ]
    about = (
        f"{r.model}, layers {r.layers[0]} to {r.layers[-1]}, norm {r.norm:g} of the median residual norm, "
        f"{r.sources} sources, "
        f"{r.test} held-out facts, greedy, base model {r.base}, seed {r.seed}."
    )
    sections = [
        ("Paper and here", finding_rows(_beside_the_paper(r))),
        ("Every condition", _every(r)),
        ("To read", answer_rows(r.read)),
    ]
    return write_sections(run, "Retraction of false statements", about, findings, {}, sections, _figures(r))


def best_layer(r: Results, kind: str) -> tuple[int, list[Rates]]:
    """The layer whose vectors leave the fewest marked retractions; of equals, the one whose text is most natural to the
    base model. And those vectors' rates.
    """
    by_layer = {k: _rates_of(r, kind, k) for k in r.layers}
    seen = {k: _middle_marked(some) for k, some in by_layer.items() if some}
    odd = {k: _middle_bits(r, by_layer[k]) for k in seen}
    layer = min(seen, key=lambda k: (round(seen[k], 2), odd[k]))
    return layer, by_layer[layer]


def _rates_of(r: Results, kind: str, layer: int) -> list[Rates]:
    """Rates of the vectors of a kind at one layer."""
    return [x for x in r.rates if (x.condition.kind, x.condition.layer) == (kind, layer)]


def _middle_marked(some: Sequence[Rates]) -> float:
    """The median share of continuations that are taken back in words we look for."""
    return float(np.median([x.marked.share for x in some]))


def _middle_bits(r: Results, some: Sequence[Rates]) -> float:
    """Median bits after samples of retraction, with a very strange one added: vectors that say nothing have no bits,
    and must not win.
    """
    measured = [s.retracting for x in some if (s := r.bits(x.condition)) is not None]
    return float(np.nanmedian([*measured, 99.0]))


def _beside_the_paper(r: Results) -> list[Finding]:
    plain = r.unsteered()
    out = [
        Finding(
            "retraction, unsteered",
            "73.2% (Gemma-2-2B-it)",
            f"{told(plain.marked)} by marker, {told(plain.true)} by truth",
            "",
        )
    ]
    for kind, (free, telling) in PAPER.items():
        if not any(x.condition.kind == kind for x in r.rates):  # nothing above the layer that is distilled
            out.append(Finding(f"free of retraction, {kind}", free, "not run", f"layers {r.layers}, source {r.source}"))
            continue
        layer, some = best_layer(r, kind)
        random = next(x for x in r.rates if (x.condition.kind, x.condition.layer) == ("random", layer))
        unmarked = spread([1 - x.marked.share for x in some])
        out.append(
            Finding(
                f"free of retraction, {kind}, best layer ({layer})",
                free,
                unmarked,
                f"random {1 - random.marked.share:.0%}",
            )
        )
        true = spread([x.true.share for x in some])
        out.append(
            Finding(f"truth told all the same, {kind}, same layer", telling, true, f"random {random.true.share:.0%}")
        )
    return out


def _every(r: Results) -> list[list[str]]:
    words = ("retracted (marker)", "truth told", "truth told, no marker", "says nothing more")
    rows = [["condition", *words, "bits after retracting", "bits after going on", "n"]]
    for x in r.rates:
        s = r.bits(x.condition)
        strange = [f"{s.retracting:.2f}", f"{s.going_on:.2f}", f"{s.n}"] if s else ["", "", "0"]
        rows.append([x.condition.label, *(told(c) for c in (x.marked, x.true, x.ignoring, x.silent)), *strange])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: the unsteered model, and of each kind of vector the best layer's, beside a random direction
    there.
    """
    plain = r.unsteered()
    out = [plain.marked.figure("retracted (marker), unsteered"), plain.true.figure("truth told, unsteered")]
    for kind in PAPER:
        if any(x.condition.kind == kind for x in r.rates):
            layer, some = best_layer(r, kind)
            random = next(x for x in r.rates if (x.condition.kind, x.condition.layer) == ("random", layer))
            out += [x.marked.figure(f"retracted (marker), {x.condition}", random.marked.share) for x in some]
            out += [x.true.figure(f"truth told, {x.condition}", random.true.share) for x in some]
    return out
