"""The page of the study of false statements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import INK, QUIET, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Array, Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.findings import COLORS, Answer, Finding, answer_rows, finding_rows, spread, told

# By kind of vector: free of retraction, and telling the truth all the same, as published.
PAPER = {
    "promote": ("100%", "mostly (the real attribute is primary far more often)"),
    "suppress": ("100%", "60% to 90% (real attribute primary)"),
    "mean difference": ("100% (CAA)", "60% to 90%"),
    "reentrant": ("99.0%", "about 20%"),
    "distilled": ("not in the paper", "not in the paper"),
}
KEPT = {"reentrant": "74.2%", "promote": "35% at layer 1, 4% at layer 13", "suppress": "up to 20%",
        "mean difference": "up to 20%"}  # fmt: skip
FEWEST = 10  # texts from which bits are shown as a median
SUBJECTS = ("real", "incongruous", "fictitious")
PAPER_BITS = (
    "Published medians in bits a token, Gemma-2-2B: real 0.99, incongruous 1.04, unsteered 1.31, fictitious 1.49; "
    "promoted at layers 11 and 13 about 1.06, suppressed about 1.12 at 9 to 11, reentrant at layer 10 1.37 (mean)."
)


@dataclass(frozen=True)
class Rates:
    """Of continuations of statements under one condition: taken back in words we look for; the true value told; told
    without such words; nothing more said; and the fiction kept (the false value told again).
    """

    condition: Condition
    marked: Count
    true: Count
    ignoring: Count
    silent: Count
    kept: Count


@dataclass(frozen=True)
class Strange:
    """Bits per token of what one condition says, for the base model, after continuations that take a statement back and
    after ones that go on from a true one: means, and medians, over n.
    """

    condition: Condition
    retracting: float
    going_on: float
    n: int
    middle_retracting: float
    middle_going_on: float

    @classmethod
    def of(cls, condition: Condition, retracting: Array, going_on: Array) -> Strange:
        n = int((~np.isnan(retracting)).sum())
        means, medians = ([float(f(x[~np.isnan(x)])) if (~np.isnan(x)).any() else math.nan
                           for x in (retracting, going_on)] for f in (np.mean, np.median))  # fmt: skip
        return cls(condition, means[0], means[1], n, medians[0], medians[1])


@dataclass(frozen=True)
class Abnormality:
    """Of every condition, and bits per token of the contexts themselves."""

    strange: list[Strange]
    contexts: dict[str, float]


@dataclass(frozen=True)
class Judged:
    """Of continuations under one condition: which a judge finds to describe their subject as what it is, and as what it
    was said to be.

    Attributes:
        question: "primary", whether most of a text says so; "mentioned", whether it says so at all.
        agrees: share of texts on which the judge's word about what is real is that of the words looked for.
        unrated: questions, of both attributes, that it answered with neither Yes nor No.
    """

    condition: Condition
    question: str
    real: Count
    fictitious: Count
    agrees: float
    unrated: int = 0


@dataclass(frozen=True)
class Results:
    """What the study found.

    Attributes:
        rates, strange: by condition; continuations of true statements have no second.
        contexts: bits per token of the contexts themselves; nothing where there is no base model.
        recovered: what the base model itself says after a false statement, alone and behind each context.
        detected: how well each vector tells true statements from false ones (area under the ROC curve).
        judge: who judged what is described; "" for nobody.
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
    recovered: list[Rates]
    detected: dict[str, float]
    judge: str
    judged: list[Judged]

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
    findings = [
        f"Unsteered, {r.model} takes back {told(plain.true)} of false statements put into its mouth (the true value "
        "is told); "
        f"marker phrases see {told(plain.marked)}; the fiction is kept in {told(plain.kept)}.",
        *_reentrant_finding(r),
        *_bits_finding(r),
        *_recovery_finding(r),
        *_judged_finding(r),
    ]
    about = (
        f"{r.model}, layers {r.layers[0]} to {r.layers[-1]}, norm {r.norm:g} of the median residual norm, "
        f"{r.sources} sources, "
        f"{r.test} held-out facts, greedy, base model {r.base}, seed {r.seed}."
    )
    sections = [
        ("Paper and here", finding_rows(_beside_the_paper(r))),
        ("Medians over vectors, by kind and layer", _layer_rows(r)),
        *([("What a judge finds described", _judged_rows(r))] if r.judged else []),
        *([("What the base model says by itself", _recovery_rows(r))] if r.recovered else []),
        *([("Real, incongruous and fictitious subjects", _subject_rows(r))] if r.strange else []),
        ("Every condition", _every(r)),
        ("To read", answer_rows(r.read)),
    ]
    plots = {"abnormality": _bits_plot(r)} if r.strange else {}
    return write_sections(run, "Retraction of false statements", about, findings, plots, sections, _figures(r))


# ---------------------------------------------------------------- sentences


def _reentrant_finding(r: Results) -> list[str]:
    """At the best layer: what is said, beside the other kinds."""
    if not _there(r, "reentrant"):
        return [f"Nothing stands above layer {r.source}, from which reentrant steering would be distilled: not run."]
    parts: list[str] = []
    for kind in (k for k in PAPER if _there(r, k)):
        layer, some = best_layer(r, kind)
        words = ("marked", "true", "kept", "silent")
        shares = [f"{np.median([getattr(x, what).share for x in some]):.0%}" for what in words]
        parts.append(f"{kind} ({layer}) {', '.join(shares)}")
    return [
        "Taken back in words, truth told, fiction kept, nothing more said, medians over vectors at the layer that is "
        f"freest of retraction: {'; '.join(parts)}."
    ]


def _bits_finding(r: Results) -> list[str]:
    plain = r.bits(r.unsteered().condition)
    if plain is None:
        return []
    subjects = {k: s for k in SUBJECTS if (s := r.bits(Condition("subject", k))) is not None}
    told_of = ", ".join(f"{k} {s.middle_going_on:.2f}" for k, s in subjects.items())
    return [
        f"The base model needs {plain.retracting:.2f} bits a token for what it says after samples of retraction and "
        f"{plain.going_on:.2f} after samples that go on from a true statement; the contexts themselves cost "
        f"{r.contexts['retracting']:.2f} and {r.contexts['going on']:.2f}.",
        f"Behind samples that go on, medians in bits a token: {told_of}, unsteered {plain.middle_going_on:.2f}. "
        + PAPER_BITS,
    ]


def _recovery_finding(r: Results) -> list[str]:
    """What the base model does with a false statement by itself."""
    behind = {"alone": "alone", "retracting": "behind samples of retraction", "going on": "behind samples that go on"}
    parts = [f"{behind[x.condition.source]}, {told(x.true)}" for x in r.recovered]
    kept = [x.kept.share for x in r.recovered]
    if not parts:
        return []
    return [
        f"Does the base model recover by itself? After a false statement it tells the truth, {'; '.join(parts)}; it "
        f"keeps the fiction in at most {max(kept):.0%}."
    ]


def _judged_finding(r: Results) -> list[str]:
    """What the judge finds primary, unsteered and at the layer that is freest of retraction."""
    by = {x.condition: x for x in r.judged if x.question == "primary"}
    if not by:
        return []
    parts = [f"unsteered {_of_judge(by[r.unsteered().condition])}"]
    for kind in (k for k in PAPER if _there(r, k)):
        layer, some = best_layer(r, kind)
        found = next((by[x.condition] for x in some if x.condition in by), None)
        parts += [f"{kind} ({layer}) {_of_judge(found)}"] if found is not None else []
    agreed = float(np.nanmean([x.agrees for x in r.judged if x.question == "mentioned"]))
    mute, asked = sum(x.unrated for x in r.judged), sum(x.real.n + x.fictitious.n + x.unrated for x in r.judged)
    return [
        f"Real and fictitious attribute described by most of the text, as {r.judge} finds (names replaced; n "
        f"{next(iter(by.values())).real.n} each): {'; '.join(parts)}. Published: suppression and CAA 60% to 90% and at "
        "most 20%, reentrant about 20% and 74.2%. On whether the real one is mentioned it agrees with the words "
        f"looked for in {agreed:.0%} of texts; it answers {mute} of {asked} questions with neither Yes nor No."
    ]


def _of_judge(x: Judged) -> str:
    return f"{x.real.share:.0%} and {x.fictitious.share:.0%}"


def _there(r: Results, kind: str) -> bool:
    return any(x.condition.kind == kind for x in r.rates)


# ---------------------------------------------------------------- tables


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
        kept = spread([x.kept.share for x in some])
        paper = KEPT.get(kind, "not in the paper")
        out.append(Finding(f"fiction kept, {kind}, same layer", paper, kept, f"random {random.kept.share:.0%}"))
    return out


def _layer_rows(r: Results) -> list[list[str]]:
    """Shares, bits and detection, medians over the vectors of a kind at a layer."""
    words = ("retracted (marker)", "truth told", "fiction kept", "says nothing more")
    rows = [["vectors", "layer", *words, "bits after retracting", "bits after going on", "tells true from false (AUC)"]]
    for kind in (*PAPER, "random"):
        for layer in r.layers:
            some = _rates_of(r, kind, layer)
            if not some:
                continue
            shares = [np.median([getattr(x, w).share for x in some]) for w in ("marked", "true", "kept", "silent")]
            bits = _middle(r, some)
            auc = [r.detected[x.condition.label] for x in some if x.condition.label in r.detected]
            rows.append([
                kind, f"{layer}", *(f"{x:.0%}" for x in shares), *("" if math.isnan(b) else f"{b:.2f}" for b in bits),
                f"{np.median(auc):.2f}" if auc else "",
            ])  # fmt: skip
    return rows


def _middle(r: Results, some: Sequence[Rates]) -> tuple[float, float]:
    """Medians of the median bits in both contexts, of vectors under which enough is said."""
    read = [s for x in some if (s := r.bits(x.condition)) is not None and s.n >= FEWEST]
    if not read:
        return math.nan, math.nan
    return (
        float(np.nanmedian([s.middle_retracting for s in read])),
        float(np.nanmedian([s.middle_going_on for s in read])),
    )


def _judged_rows(r: Results) -> list[list[str]]:
    rows = [["condition", "question", "real", "fictitious", "agrees with the words on what is real", "no answer"]]
    for x in r.judged:
        agrees = "" if math.isnan(x.agrees) else f"{x.agrees:.0%}"
        rows.append([x.condition.label, x.question, told(x.real), told(x.fictitious), agrees, f"{x.unrated}"])
    return rows


def _recovery_rows(r: Results) -> list[list[str]]:
    rows = [["behind", "retracted (marker)", "truth told", "fiction kept", "says nothing more"]]
    for x in r.recovered:
        rows.append([x.condition.source, *(told(c) for c in (x.marked, x.true, x.kept, x.silent))])
    return rows


def _subject_rows(r: Results) -> list[list[str]]:
    rows = [["text", "bits after retracting", "bits after going on", "n"]]
    named = {k: r.bits(Condition("subject", k)) for k in SUBJECTS} | {"unsteered": r.bits(r.unsteered().condition)}
    for name, s in named.items():
        if s is not None:
            rows.append([name, f"{s.middle_retracting:.2f}", f"{s.middle_going_on:.2f}", f"{s.n}"])
    return rows


def _bits_plot(r: Results) -> Plot:
    """Median bits by layer, a line a kind; subjects as levels (figure 5 of the paper)."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        for kind, color in zip((*PAPER, "random"), (*COLORS, QUIET), strict=False):
            points = [(k, _middle(r, some)[1]) for k in r.layers if (some := _rates_of(r, kind, k))]
            points = [p for p in points if not math.isnan(p[1])]
            if points:
                ax.plot([p[0] for p in points], [p[1] for p in points], "o-", color=color, ms=3, label=kind)
        levels = {k: r.bits(Condition("subject", k)) for k in SUBJECTS} | {"unsteered": r.bits(r.unsteered().condition)}
        for (name, s), style in zip(levels.items(), ("-", "--", ":", "-."), strict=True):
            if s is not None and not math.isnan(s.middle_going_on):
                ax.axhline(s.middle_going_on, color=INK, lw=0.8, ls=style, label=name)
        ax.set_xticks(r.layers)
        ax.set_xlabel("layer (output of block)")
        ax.set_ylabel("bits a token for the base model")
        ax.legend(frameon=False, fontsize=7, ncols=2)

    caption = "Medians over texts and vectors, behind texts that go on from a true statement; lines: texts of subjects."
    return picture(paint, (6.0, 3.8), "How strange the text is to the base model", caption)


def _every(r: Results) -> list[list[str]]:
    words = ("retracted (marker)", "truth told", "truth told, no marker", "says nothing more", "fiction kept")
    rows = [["condition", *words, "bits after retracting", "bits after going on", "n"]]
    for x in r.rates:
        s = r.bits(x.condition)
        strange = [f"{s.retracting:.2f}", f"{s.going_on:.2f}", f"{s.n}"] if s else ["", "", "0"]
        counts = (x.marked, x.true, x.ignoring, x.silent, x.kept)
        rows.append([x.condition.label, *(told(c) for c in counts), *strange])
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
