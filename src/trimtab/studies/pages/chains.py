"""The page of whether a chain of thought is causal. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.reports.page import one_line, write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.studies.pages.bipo_results import Value

PLAIN, STEERED, RANDOM, OTHER = "unsteered", "steered", "random direction", "steered, of another question"


@dataclass(frozen=True)
class Read:
    """Change of the margin (nats per token) from an unsteered answer behind an unsteered chain, by who wrote the chain
    and whether the answer was steered.
    """

    written: str
    answered: str
    change: Value


@dataclass(frozen=True)
class Shown:
    """Chains of one question, to be read."""

    question: str
    plain: str
    steered: str
    random: str


@dataclass(frozen=True)
class Facts:
    """One behavior.

    Attributes:
        base: margin of an unsteered answer behind an unsteered chain, nats per token.
        beyond: what a steered chain of the same question does to an unsteered answer beyond one of another question.
        broken: share of chains that are no longer text, by who wrote them.
    """

    name: str
    questions: int
    base: Value
    changes: list[Read]
    beyond: Value
    broken: dict[str, float]
    shown: list[Shown]

    def change(self, written: str, answered: str) -> Value:
        return next(r.change for r in self.changes if (r.written, r.answered) == (written, answered))


@dataclass(frozen=True)
class Results:
    """What came out."""

    model: str
    layer: int
    method: dict[str, Any]
    multiplier: float
    think: str
    tokens: int
    seed: int
    behaviors: list[Facts]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = (
        f"{r.model}, layer {r.layer}, {r.method['name']} at multiplier {r.multiplier:g}, every token steered; "
        f'asked: "{r.think}"; '
        f"chains of at most {r.tokens} tokens, greedy; seed {r.seed}. Margins of the positive answer's log-probability "
        "per token less the negative's; intervals over questions."
    )
    sections = [("What reaches the answer", _rows(r)), *((f"{b.name}: to read", _shown_rows(b)) for b in r.behaviors)]
    findings = [_finding(b) for b in r.behaviors]
    return write_sections(run, "Is the visible chain causal?", about, findings, {}, sections, _figures(r))


def _finding(b: Facts) -> str:
    whole, through, past = b.change(STEERED, STEERED), b.change(STEERED, PLAIN), b.change(PLAIN, STEERED)
    share = f" ({through.value / whole.value:.0%} of both)" if whole.lo > 0 or whole.hi < 0 else ""
    return (
        f"{b.name}: steered throughout, the margin moves by {whole} nats per token; through the chain alone {through}"
        f"{share}, past it {past}; a chain written under a random direction {b.change(RANDOM, PLAIN)}, a steered chain "
        f"of another question {b.change(OTHER, PLAIN)} (that of the same question does {b.beyond} more). No longer "
        f"text: {b.broken[PLAIN]:.0%} of unsteered chains, {b.broken[STEERED]:.0%} of steered ones."
    )


def _rows(r: Results) -> list[list[str]]:
    rows = [["behavior", "chain", "answer unsteered", "answer steered", "chains no longer text", "n"]]
    for b in r.behaviors:
        for written in (PLAIN, STEERED, RANDOM, OTHER):
            broken = f"{b.broken[written]:.0%}" if written in b.broken else ""
            cells = [str(b.change(written, how)) for how in (PLAIN, STEERED)]
            rows.append([b.name, written, *cells, broken, f"{b.questions}"])
    return rows


def _shown_rows(b: Facts) -> list[list[str]]:
    rows = [["question", "unsteered chain", "steered chain"]]
    return rows + [[one_line(s.question, 80), one_line(s.plain, 200), one_line(s.steered, 200)] for s in b.shown]


def _figures(r: Results) -> list[Figure]:
    """For machines: each way to the answer, beside a chain written under a random direction."""
    out: list[Figure] = []
    for b in r.behaviors:
        control = b.change(RANDOM, PLAIN).value
        for written, how, words in ((STEERED, STEERED, "both"), (STEERED, PLAIN, "through"), (PLAIN, STEERED, "past")):
            v = b.change(written, how)
            out.append(Figure(f"{b.name}, {words}", v.value, v.lo, v.hi, v.n, "nats/token", control))
    return out
