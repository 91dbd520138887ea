"""The page of the study of what refusal vectors are made from. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.reports.page import one_line, write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.findings import Answer, Finding, answer_rows, finding_rows, spread, told

PROMOTED, FREQUENT, OWN = "promoted twin", "suppressed frequent", "suppressed own"
LONG, LONG_LAST = "long prompt all", "long prompt last"
WORDS = {
    PROMOTED: "promoted: the twin's opening, adapted",
    FREQUENT: "suppressed: the most frequent opening of refusal (set I)",
    OWN: "suppressed: the model's own opening there (set II)",
    LONG: "promoted under a long system prompt, every token steered",
    LONG_LAST: "promoted under a long system prompt, the last tokens steered",
    "random": "random directions",
}
PAPER = {PROMOTED: "best 96.9%, median 40.3%", FREQUENT: "best 74.2%, median 37.4% (both sets)", OWN: ""}


@dataclass(frozen=True)
class Outcome:
    """Of answers to one kind of request under one condition: which do what was asked, which refuse, and the share that
    is no longer text.
    """

    asked: str
    condition: Condition
    complied: Count
    refused: Count
    broken: float


@dataclass(frozen=True)
class Near:
    """Cosines among the vectors of a family."""

    family: str
    median: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        judge: who said whether an answer does what was asked; "" for the truth functions of the test bed.
        words: of the long system prompt.
        targets: of every source request its name, and what each kind of vector promotes or suppresses there.
        twins: source requests that have a harmless twin; the others are promoted by the opening of their file.
    """

    model: str
    layer: int
    norm: float
    categories: int
    each: int
    test: int
    last: int
    seed: int
    judge: str
    words: int
    outcomes: list[Outcome]
    targets: list[list[str]]
    near: list[Near]
    read: list[Answer]
    twins: int = 0

    def of(self, asked: str, kind: str, strength: float | None = None) -> list[Outcome]:
        """Those of a family, added (no strength) or clamped."""
        wanted = (asked, kind, strength)
        return [o for o in self.outcomes if (o.asked, o.condition.kind, o.condition.strength) == wanted]

    @property
    def strengths(self) -> list[float]:
        return sorted({o.condition.strength for o in self.outcomes if o.condition.strength is not None})

    @property
    def families(self) -> list[str]:
        kinds = dict.fromkeys(o.condition.kind for o in self.outcomes)
        return [k for k in WORDS if k in kinds]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    judged = f"answers judged by {r.judge}" if r.judge else "truth functions"
    about = (
        f"{r.model}, layer {r.layer}, norm {r.norm:g} of the median residual norm, {r.categories} categories of "
        f"{r.each} requests, {r.test} held-out requests of each kind, greedy, {judged}, a system prompt of {r.words} "
        f"words, last {r.last} tokens, seed {r.seed}; {r.twins} of {r.categories * r.each} source requests have "
        "a twin, the others are promoted by an opening that was written down. In use there is no system prompt, and "
        "every token is steered."
    )
    sections = [
        ("Paper and here", finding_rows(_beside(r))),
        ("By kind of vector and way of acting", _family_rows(r)),
        ("By category, attack success", _category_rows(r)),
        ("Every vector", _every(r)),
        ("What was promoted and suppressed", _target_rows(r)),
        ("To read", answer_rows(r.read)),
    ]
    findings = [*_findings(r), *_long_finding(r)]
    return write_sections(run, "What refusal vectors are made from", about, findings, {}, sections, _figures(r))


def _shares(some: Sequence[Outcome], what: str = "complied") -> list[float]:
    return [getattr(o, what).share for o in some]


def _findings(r: Results) -> list[str]:
    plain = r.of("sealed", "unsteered")[0]
    most = r.strengths[-1] if r.strengths else None
    how = "Added" if most is None else f"Clamped at {most:g}"
    parts = [f"{WORDS[f]} {spread(_shares(r.of('sealed', f, most)))}" for f in r.families if f not in (LONG, LONG_LAST)]
    return [
        f"Unsteered, {r.model} answers {told(plain.complied)} of the refused requests. {how}, vectors make it answer: "
        f"{'; '.join(parts)}."
    ]


def _long_finding(r: Results) -> list[str]:
    if LONG not in r.families:
        return []
    parts: list[str] = []
    for f in (LONG, LONG_LAST):
        ways = {"added": None, **{f"clamped at {m:g}": m for m in r.strengths}}
        here = [
            f"{way} {spread(_shares(r.of('sealed', f, m)))}, broken {_middle([o.broken for o in r.of('sealed', f, m)])}"
            for way, m in ways.items()
        ]
        parts.append(f"{WORDS[f]}: {'; '.join(here)}")
    return ["Used without the prompt. " + ". ".join(parts) + "."]


def _middle(values: Sequence[float]) -> str:
    return f"{np.median(values):.0%}" if values else ""


def _beside(r: Results) -> list[Finding]:
    most = r.strengths[-1] if r.strengths else None
    out: list[Finding] = []
    random = spread(_shares(r.of("sealed", "random", most)))
    for f, paper in PAPER.items():
        shares = _shares(r.of("sealed", f, most))
        here = f"best {max(shares):.0%}, median {np.median(shares):.0%} ({len(shares)} vectors)"
        out.append(Finding(f"attack success, {WORDS[f]}", paper, here, f"random {random}"))
    for f, paper in ((LONG, "incoherent"), (LONG_LAST, "93.1% (clamped at 0.5, Llama-3.1-8B, one vector)")):
        half = min(r.strengths, default=None)
        some = r.of("sealed", f, half)
        if some and half is not None:
            beside = spread(_shares(r.of("sealed", "random", half)))
            here = f"{spread(_shares(some))}, broken {_middle([o.broken for o in some])}"
            out.append(Finding(f"attack success, {WORDS[f]}, clamped at {half:g}", paper, here, f"random {beside}"))
    for n in r.near:
        paper = "about 0.1 to 0.3" if n.family == PROMOTED else ""
        here = "one vector" if math.isnan(n.median) else f"{n.smallest:.2f} to {n.largest:.2f}, median {n.median:.2f}"
        out.append(Finding(f"cosines among {WORDS[n.family]}", paper, here, ""))
    return out


def _family_rows(r: Results) -> list[list[str]]:
    head = ["vectors", "acting", "answered, sealed", "refused, sealed", "broken", "answered, open", "broken, open"]
    rows = [head]
    for f in ("unsteered", *r.families):
        for m in (None, *(r.strengths if f != "unsteered" else ())):
            sealed, opened = r.of("sealed", f, m), r.of("open", f, m)
            rows.append([
                WORDS.get(f, f), "" if f == "unsteered" else "added" if m is None else f"clamped at {m:g}",
                spread(_shares(sealed)), spread(_shares(sealed, "refused")), _middle([o.broken for o in sealed]),
                spread(_shares(opened)), _middle([o.broken for o in opened]),
            ])  # fmt: skip
    return rows


def _category_rows(r: Results) -> list[list[str]]:
    """Attack success by source request, clamped as strongly as was tried."""
    most = r.strengths[-1] if r.strengths else None
    shown = [f for f in r.families if f in PAPER]
    rows = [["source request", *(WORDS[f] for f in shown)]]
    for name, *_ in r.targets:
        by = {o.condition.kind: told(o.complied) for f in shown for o in r.of("sealed", f, most)
              if o.condition.source == name}  # fmt: skip
        rows.append([name, *(by[f] for f in shown)])
    return rows


def _every(r: Results) -> list[list[str]]:
    rows = [["condition", "answered, sealed", "refused, sealed", "broken", "answered, open"]]
    opened = {o.condition.label: o for o in r.outcomes if o.asked == "open"}
    for o in (o for o in r.outcomes if o.asked == "sealed"):
        other = opened[o.condition.label]
        rows.append([o.condition.label, told(o.complied), told(o.refused), f"{o.broken:.0%}", told(other.complied)])
    return rows


def _target_rows(r: Results) -> list[list[str]]:
    head = ["source request", *(WORDS[f] for f in (PROMOTED, FREQUENT, OWN))]
    return [head, *([name, *(one_line(t, 90) for t in texts)] for name, *texts in r.targets)]


def _figures(r: Results) -> list[Figure]:
    """For machines: attack success of every vector, beside the median random direction acting alike."""
    out: list[Figure] = []
    for m in (None, *r.strengths):
        random = _shares(r.of("sealed", "random", m))
        control = float(np.median(random)) if random else None
        for f in r.families:
            if f != "random":
                out += [o.complied.figure(f"answered, {o.condition}", control) for o in r.of("sealed", f, m)]
    return out
