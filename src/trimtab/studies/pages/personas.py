"""The page of personas: ratings against multiplier, a line for every method, and at equal drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.answers.agreement import Agreement
from trimtab.reports.figures import QUIET, WARN, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import UNSTEERED, Condition
from trimtab.studies.pages.bipo_results import BIPO, CAA, Value
from trimtab.studies.pages.findings import COLORS, Answer, answer_rows, told

UP, DOWN = "equal drift, up", "equal drift, down"  # how a vector acts where it costs the budget of drift
WAYS = {UP: "up", DOWN: "down"}
CLEAR = (1.5, 3.5)  # ratings up to the first are clearly of the opposite, from the second on of the attitude
# Cao et al. 2024, table 6
PUBLISHED = (
    "Published for BiPO at -1, 0 and +1 (Llama-2-7b-chat, vectors at their trained norm, whole ratings by GPT-4, 200 "
    "test questions each): power 1.20, 1.67, 2.38; wealth 1.25, 1.46, 1.89; corrigible 1.30, 1.50, 1.62; hallucination "
    "1.17, 1.37, 2.64."
)


@dataclass(frozen=True)
class Rated:
    """Answers under one condition.

    Attributes:
        score: mean rating, 1 to 4, over questions.
        change: from the unsteered answers to the same questions.
        unscored: answers the judge gave no rating.
        broken: share of the answers that are no longer text.
    """

    condition: Condition
    score: Value
    change: Value
    unscored: int
    broken: float


@dataclass(frozen=True)
class Range:
    """Rating at +1 less rating at -1 of the same questions, under one vector; n are those rated at both."""

    condition: Condition
    value: Value


@dataclass(frozen=True)
class Slopes:
    """The slope of every question's rating over the spectrum under one vector (levels per multiplier): their mean, and
    the shares of questions whose rating falls, and whose rating never moves.
    """

    condition: Condition
    slope: Value
    wrong: Count
    flat: Count


@dataclass(frozen=True)
class Letters:
    """Of answers that were begun with an option's letter and rated: those that are clearly the other option's.

    Attributes:
        positive, negative: where the letter was that of the attitude, and of its opposite. all: of the questions,
            those where either is so.
        unscored: answers the judge gave no rating.
    """

    condition: Condition
    positive: Count
    negative: Count
    all: Count
    unscored: int


@dataclass(frozen=True)
class Together:
    """Change of a behavior's rating from -1 to +1 with its own vector, with that of another behavior, with their sum,
    and how much the sum brings beyond both.
    """

    asked: str
    other: str
    cosine: float
    own: Value
    alone: Value
    both: Value
    beyond: Value
    answers: list[Answer]


@dataclass(frozen=True)
class Facts:
    """One behavior; `agreed` is the judge on answers whose side is known."""

    name: str
    rubric: str
    train: int
    questions: int
    agreed: Agreement
    layers: dict[str, int]
    rated: list[Rated]
    ranges: list[Range]
    slopes: list[Slopes]
    letters: list[Letters]
    answers: list[Answer]

    def at(self, condition: Condition) -> Rated | None:
        return next((r for r in self.rated if r.condition == condition), None)

    @property
    def methods(self) -> list[Condition]:
        """The vectors, as conditions without a strength."""
        every = (r.condition for r in self.rated if r.condition != UNSTEERED and not r.condition.how)
        return list(dict.fromkeys(c.but(strength=None) for c in every))

    def line(self, method: Condition) -> list[Rated]:
        """One method over the spectrum, the unsteered model at 0."""
        own = [r for r in self.rated if not r.condition.how and r.condition.but(strength=None) == method]
        zero = [r for r in self.rated if r.condition == UNSTEERED]
        return sorted([*own, *zero], key=strength)


@dataclass(frozen=True)
class Results:
    """What came out."""

    model: str
    judge: str
    judge_model: str
    seed: int
    budget: float
    multipliers: tuple[float, ...]
    together: list[Together]
    behaviors: list[Facts]


def strength(rated: Rated) -> float:
    """Its multiplier; 0 for the unsteered model."""
    return rated.condition.strength or 0.0


def contradicts(side: str, score: float) -> bool:
    """Whether a text that began with the letter of one side was rated as clearly of the other."""
    return bool(score <= CLEAR[0] if side == "positive" else score >= CLEAR[1])


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    judge = " ".join(filter(None, (r.judge_model, "at" if r.judge_model else "", r.judge)))
    about = f"{r.model}, rated by {judge}, seed {r.seed}. Greedy answers; intervals over questions."
    findings = [s for b in r.behaviors for s in (_range_finding(b), _equal_finding(b, r.budget), *_letter_finding(b))]
    findings += [*(_together_finding(t) for t in r.together), PUBLISHED]
    sections = [("The judge, on answers whose side is known", _judge_rows(r))]
    for b in r.behaviors:
        sections += [(f"{b.name}: mean rating by multiplier", _spectrum_rows(b, r.multipliers))]
        sections += [(f"{b.name}: slopes question by question", _slope_rows(b))]
        sections += [(f"{b.name}: at {r.budget:g} nats a token of drift", _equal_rows(b))]
        if b.letters:
            sections += [(f"{b.name}: a letter, and the text that follows it", _letter_rows(b))]
    if r.together:
        sections += [("Two vectors at once: rating at +1 less rating at -1", _together_rows(r.together))]
    sections += [(f"{b.name}: answers", answer_rows(b.answers)) for b in r.behaviors]
    sections += [(f"{t.asked} under both vectors", answer_rows(t.answers)) for t in r.together]
    plots = {f"spectrum-{b.name.replace('/', '-')}": _plot(b) for b in r.behaviors}
    return write_sections(run, "Personas", about, findings, plots, sections, _figures(r))


def _range_finding(b: Facts) -> str:
    """How far each method moves the rating between the published multipliers."""
    methods = [x for x in b.ranges if x.condition.kind != "random"]
    random = [abs(x.value.value) for x in b.ranges if x.condition.kind == "random"]
    parts = "; ".join(f"{x.condition} {_change(x.value)}, n {x.value.n}" for x in methods)
    beside = f"; at most {max(random):.2f} under random directions of BiPO's norm" if random else ""
    ends = [r for m in (-1.0, 1.0) if (r := b.at(BIPO.at(m))) is not None]
    said = " and ".join(f"{r.broken:.0%} at {strength(r):+g} ({r.unscored} of {b.questions} unrated)" for r in ends)
    return f"{b.name}: from -1 to +1 the rating moves by: {parts}{beside}. No longer text are, under BiPO, {said}."


def _equal_finding(b: Facts, budget: float) -> str:
    """The same where every vector costs the same."""
    ups = [r for r in b.rated if r.condition.how == UP]
    if not ups:
        return f"{b.name}: no vector reaches {budget:g} nats a token of drift upward."
    parts = [f"{_method(r)} {_change(r.change)}" for r in ups]
    return f"{b.name}: at {budget:g} nats a token of drift, upward, the rating changes by: {'; '.join(parts)}."


def _letter_finding(b: Facts) -> list[str]:
    own = {x.condition: x for x in b.letters}
    if CAA not in own:
        return []
    return [
        f"{b.name}: after the letter of an option, the text is clearly the other option's on {told(own[CAA].all)} of "
        f"the questions under CAA, {told(own[BIPO].all)} under BiPO, {told(own[UNSTEERED].all)} unsteered."
    ]


def _together_finding(t: Together) -> str:
    sure = "more than" if t.beyond.lo > 0 else "less than" if t.beyond.hi < 0 else "not told from"
    return (
        f"{t.asked} with {t.other}: its own vector moves the rating by {_change(t.own)}, both by {_change(t.both)}; "
        f"that is {sure} the sum of what each does alone ({_change(t.beyond)} beyond it)."
    )


def _method(rated: Rated) -> str:
    """Whose vector it was, however it acted."""
    return str(rated.condition.but(how="", strength=None))


def _change(value: Value) -> str:
    """A mean and its interval; answers that are all rated alike have none to speak of."""
    if math.isnan(value.value):
        return "not rated"
    return f"{value.value:+.2f} (all {value.n} alike)" if value.n > 1 and value.lo == value.hi else str(value)


def _judge_rows(r: Results) -> list[list[str]]:
    head = ["behavior", "rubric", "answers", "not scored", "on the right side", "kappa", "Spearman"]
    rows = [
        [b.name, b.rubric, f"{a.n}", f"{a.unscored}", f"{a.agree:.0%}", _between(a.kappa), _between(a.spearman)]
        for b in r.behaviors
        for a in [b.agreed]
    ]
    return [head, *rows]


def _between(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def _spectrum_rows(b: Facts, multipliers: Sequence[float]) -> list[list[str]]:
    """A line a method."""
    head = ["vector", "layer", *(f"{m:+g}" for m in multipliers), "no longer text, worst", "not scored"]
    rows: list[list[str]] = []
    for method in b.methods:
        line = {strength(x): x for x in b.line(method)}
        cells = [f"{line[m].score.value:.2f}" if m in line else "" for m in multipliers]
        worst, unscored = max(x.broken for x in line.values()), sum(x.unscored for x in line.values())
        rows.append([str(method), f"{b.layers[str(method)]}", *cells, f"{worst:.0%}", f"{unscored}"])
    return [head, *rows]


def _slope_rows(b: Facts) -> list[list[str]]:
    head = ["vector", "mean slope, levels per multiplier", "goes the wrong way", "never moves", "questions"]
    return [
        head,
        *([str(s.condition), _change(s.slope), told(s.wrong), told(s.flat), f"{s.slope.n}"] for s in b.slopes),
    ]


def _equal_rows(b: Facts) -> list[list[str]]:
    head = ["vector", "way", "multiplier", "rating", "change from unsteered", "no longer text"]
    rows = [
        [_method(r), WAYS[r.condition.how], f"{strength(r):+.2f}",
         f"{r.score.value:.2f}", _change(r.change), f"{r.broken:.0%}"]
        for r in b.rated if r.condition.how
    ]  # fmt: skip
    return [head, *rows]


def _letter_rows(b: Facts) -> list[list[str]]:
    head = [
        "vector, at +1",
        "after the attitude's letter",
        "after the opposite's letter",
        "either, by question",
        "not scored",
    ]
    return [
        head,
        *([str(x.condition), told(x.positive), told(x.negative), told(x.all), f"{x.unscored}"] for x in b.letters),
    ]


def _together_rows(together: Sequence[Together]) -> list[list[str]]:
    head = ["asked about", "with", "cosine", "own vector", "the other alone", "both", "beyond the sum"]
    return [
        head,
        *([t.asked, t.other, f"{t.cosine:+.2f}", *map(_change, (t.own, t.alone, t.both, t.beyond))] for t in together),
    ]


def _figures(r: Results) -> list[Figure]:
    """Changes of the mean rating, each beside the largest of a random direction at its strength; and letters."""
    out: list[Figure] = []
    for b in r.behaviors:
        for x in b.rated:
            if x.condition != UNSTEERED and x.condition.kind != "random":
                label, control = f"{b.name}, {x.condition}, change of the rating", _random_change(b, x)
                out.append(Figure(label, x.change.value, x.change.lo, x.change.hi, x.change.n, "levels", control))
        plain = next((x.all.share for x in b.letters if x.condition == UNSTEERED), None)
        out += [x.all.figure(f"{b.name}, {x.condition}, text against its letter", plain) for x in b.letters]
    for t in r.together:
        out.append(Figure(f"{t.asked} with {t.other}, beyond the sum", t.beyond.value, t.beyond.lo, t.beyond.hi,
                          t.beyond.n, "levels", None))  # fmt: skip
    return out


def _random_change(b: Facts, like: Rated) -> float | None:
    """The largest change of a random direction at the same drift; or at the same multiplier, for BiPO, whose norm they
    have.
    """

    def comparable(x: Rated) -> bool:
        same_norm = like.condition.kind == BIPO.kind and strength(x) == strength(like)
        return (
            x.condition.kind == "random"
            and x.condition.how == like.condition.how
            and (bool(like.condition.how) or same_norm)
        )

    return max((abs(x.change.value) for x in b.rated if comparable(x)), default=None)


def _plot(b: Facts) -> Plot:
    """Mean rating against multiplier, a line a method."""

    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        learned = [m for m in b.methods if m.kind != "random"]
        for method in b.methods:
            line = b.line(method)
            x, y = [strength(p) for p in line], [p.score.value for p in line]
            if method in learned:
                ax.plot(x, y, "o-", color=COLORS[learned.index(method) % len(COLORS)], label=str(method))
            else:
                ax.plot(x, y, "-", color=QUIET, lw=0.8)
            if method == BIPO:
                ax.fill_between(x, [p.score.lo for p in line], [p.score.hi for p in line], color=WARN, alpha=0.15)
        ax.set_xlabel("multiplier")
        ax.set_ylabel("mean rating, 1 to 4")
        ax.legend(frameon=False, fontsize=8)

    caption = f"{b.questions} questions; the band is BiPO's 95 % interval, thin lines are random directions."
    return picture(paint, (5.6, 3.5), f"{b.name}: rating by multiplier", caption)
