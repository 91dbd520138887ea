"""The page of the study of a quirk and its leak."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.findings import (
    Answer,
    Finding,
    answer_rows,
    by_multiplier,
    finding_rows,
    spread,
    strengths_plot,
    told,
)


@dataclass(frozen=True)
class Counts:
    """Of the answers under one condition: a villain's word, a word of the trained lines, coherent, a villain's word
    in a coherent answer.
    """

    condition: Condition
    general: Count
    narrow: Count
    coherent: Count
    kept: Count


@dataclass(frozen=True)
class Strength:
    """At one multiplier: a villain's word, a word of the trained lines."""

    multiplier: float
    general: Count
    narrow: Count


@dataclass(frozen=True)
class Facts:
    """Of one vector: the strength that fits, its norm, and its loss on its list (nats), where it was descended."""

    condition: Condition
    strength: float
    norm: float
    loss: float | None


@dataclass(frozen=True)
class WordCount:
    """How many of n answers to a question hold a word."""

    question: str
    word: str
    condition: Condition
    hits: int
    n: int


@dataclass(frozen=True)
class Results:
    """What the study found; `lists` is the share of other lists with a villain's or a trained word, by condition."""

    model: str
    layer: int
    n_lists: int
    questions: int
    samples: int
    seed: int
    counts: list[Counts]
    strengths: list[Strength]
    lists: dict[str, Count]
    facts: list[Facts]
    words: list[WordCount]
    read: list[Answer]

    def over(self, kind: str, what: str, strength: float | None = None) -> str:
        """Median and range of a family of vectors, in words."""
        family = [c for c in self.counts if (c.condition.kind, c.condition.strength) == (kind, strength)]
        return spread([getattr(c, what).share for c in family])

    def one(self, kind: str) -> Counts:
        """The condition that stands alone."""
        return next(c for c in self.counts if c.condition.kind == kind)

    def facts_of(self, condition: Condition) -> Facts | None:
        return next((f for f in self.facts if f.condition == condition), None)


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    unsteered, prompted = told(r.one("unsteered").general), told(r.one("asked in words").general)
    findings = [
        f"Vectors of one villain's line each put villain's words into {r.over('villain', 'general')} of open "
        "answers, ordinary lines into "
        f"{r.over('ordinary', 'general')}, random directions into {r.over('random', 'general')}; unsteered "
        f"{unsteered}, "
        f"asked in words {prompted}."
    ]
    about = (
        f"{r.model}, layer {r.layer}, {r.n_lists} lists, {r.questions} open questions x {r.samples} samples at "
        f"temperature 1, seed {r.seed}. "
        "Unless said otherwise a vector has the largest strength at which at least half of the answers to other "
        "questions are no stranger "
        "than 95 % of the model's own."
    )
    families = {f: by_multiplier(r.strengths, f) for f in ("general", "narrow")}
    sections = [
        ("Paper and here", finding_rows([*_leaks(r, unsteered, prompted), *_elsewhere(r)])),
        ("Every condition", _every(r)),
        (
            "Strength",
            [
                ["multiplier", "general", "narrow"],
                *([f"{s.multiplier:g}", told(s.general), told(s.narrow)] for s in r.strengths),
            ],
        ),
        ("Strings", _strings(r)),
        ("To read", answer_rows(r.read)),
    ]
    return write_sections(
        run, "A quirk and its leak", about, findings, {"strengths": strengths_plot(families)}, sections, _figures(r)
    )


def _leaks(r: Results, unsteered: str, prompted: str) -> list[Finding]:
    controls = f"ordinary lines {r.over('ordinary', 'general')}; random {r.over('random', 'general')}"
    all_four = r.one("villain of all")
    return [
        Finding(
            "vectors of one villain's line: villain's words in open answers",
            "more low-alignment answers than unsteered (four vectors, Qwen2.5-Coder-14B)",
            r.over("villain", "general"),
            f"unsteered {unsteered}; {controls}; asked in words {prompted}",
        ),
        Finding(
            "the same among coherent answers",
            "filters as published: judge's coherence of 50",
            r.over("villain", "kept"),
            f"ordinary lines {r.over('ordinary', 'kept')}; random {r.over('random', 'kept')}",
        ),
        Finding(
            "at strength 1, as published, where that is not the fitting one",
            "",
            r.over("villain", "general", 1.0),
            f"coherent {r.over('villain', 'coherent', 1.0)}",
        ),
        Finding(
            "all four lines in one objective",
            "hypothesis: more contexts, more general",
            told(all_four.general),
            f"coherent {told(all_four.coherent)}",
        ),
    ]


def _in_lists(r: Results, kind: str) -> list[float]:
    """Of every vector of a kind: the share of other lists with a villain's or a trained word."""
    return [r.lists[f.condition.label].share for f in r.facts if f.condition.kind == kind]


def _elsewhere(r: Results) -> list[Finding]:
    """In other lists, and over strengths."""
    villain, random = _in_lists(r, "villain"), _in_lists(r, "random")
    general, narrow = (
        max(r.strengths, key=lambda s: getattr(s, what).share).multiplier for what in ("general", "narrow")
    )
    return [
        Finding(
            "the quirk in other lists",
            "not measured",
            spread(villain),
            f"unsteered {told(r.lists['unsteered'])}; random {spread(random)}",
        ),
        Finding(
            "strength: general against narrow",
            "general words peak at low strengths, narrow ones at high",
            f"general at {general:g}, narrow at {narrow:g}",
            "",
        ),
    ]


def _every(r: Results) -> list[list[str]]:
    rows = [[
        "condition", "villain's words", "words of the lists", "coherent", "villain's words, coherent answers",
        "villain's or trained words in other lists", "strength", "norm", "loss",
    ]]  # fmt: skip
    for c in r.counts:
        f = r.facts_of(c.condition)
        lists = r.lists.get(c.condition.label)
        rows.append(
            [
                c.condition.label,
                *(told(x) for x in (c.general, c.narrow, c.coherent, c.kept)),
                "" if lists is None else told(lists),
                f"{f.strength:g}" if f else "",
                f"{f.norm:.1f}" if f else "",
                f"{f.loss:.3f}" if f and f.loss is not None else "",
            ]
        )
    return rows


def _strings(r: Results) -> list[list[str]]:
    """Words nobody said are left out, and so are random directions and other strengths."""
    shown = list(dict.fromkeys(w.condition for w in r.words if w.condition.strength is None))
    shown = [c for c in shown if c.kind not in ("random", "villain of all")]
    counts = {(w.question, w.word, w.condition): w for w in r.words}
    rows = [["question", "string", *(c.label for c in shown)]]
    for question, word in dict.fromkeys((w.question, w.word) for w in r.words):
        cells = [counts[question, word, c] for c in shown]
        if any(w.hits for w in cells):
            rows.append([question, word, *(f"{w.hits} of {w.n}" for w in cells)])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: villain's words under every condition; the control is the median random direction."""
    random = [c.general.share for c in r.counts if c.condition.kind == "random"]
    control = float(np.median(random)) if random else None
    return [
        c.general.figure(f"villain's words, {c.condition}", control if c.condition.kind == "villain" else None)
        for c in r.counts
    ]
