"""The page of a vector made from a sentence: the verdict, what it rests on, what is said, and what was thrown out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import ACCENT, QUIET, WARN, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.statistics.shipping import FEWEST, Kind, Trial
from trimtab.studies.pages.findings import Answer, answer_rows


@dataclass(frozen=True)
class Candidate:
    """A method in the race, on validation questions.

    Attributes:
        ship: multipliers between which it beats its controls and keeps the text; None if there are none.
        rise, lo, control: at equal drift: the mean rise, the lower end of its interval, and the largest of a control.
        drift: at its recommended multiplier, nats per token.
    """

    method: str
    layer: int
    multiplier: float
    ship: tuple[float, float] | None
    rise: float
    lo: float
    control: float
    drift: float


@dataclass(frozen=True)
class Scored:
    """Answers under a condition: how far from unsteered (0) to asked for in words (1), and how many break."""

    condition: str
    text: float
    lo: float
    hi: float
    broken: float


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        help: what would help; "" where nothing has to.
        thrown: why questions were thrown out, and how many.
        parts: pairs to learn on, to choose on, to test on.
        first: the commonest first word of the answers that were asked for, and its share.
    """

    model: str
    sentence: str
    kind: Kind
    help: str
    trial: Trial
    thrown: dict[str, int]
    candidates: list[Candidate]
    winner: Candidate | None
    scored: list[Scored]
    answers: list[Answer]
    parts: list[int]
    first: tuple[str, float]
    data: str
    seed: int


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    sections = [("What it says", answer_rows(r.answers))]
    plots: dict[str, Plot] = {}
    if r.winner is not None:
        sections += [("Answers, from unsteered (0) to asked for in words (1)", _scored(r)), ("The race", _race(r))]
        plots["answers"] = _plot(r)
    sections.append(("Thrown out", [["why", "questions"], *([why, f"{n}"] for why, n in r.thrown.items())]))
    about = (
        f"{r.model}; {r.trial.contrasts} pairs of {r.trial.questions} questions"
        + (f" ({r.parts[0]} to learn on, {r.parts[1]} to choose on, {r.parts[2]} to test on)" if r.parts else "")
        + f"; {r.first[1]:.0%} of the asked-for answers begin with {r.first[0]!r}; seed {r.seed}. How far a text is "
        "towards the behavior is read off the model's own likelihoods: how much likelier it is when that is asked for."
    )
    return write_sections(run, f"somebody who {r.sentence}", about, findings(r), plots, sections, _figures(r))


def findings(r: Results) -> list[str]:
    """The verdict and what it rests on, in sentences."""
    head = r.kind.capitalize()
    if r.kind == "ship it" and r.winner is not None:
        head = f"Ship it at multiplier {r.winner.multiplier:.3g}, layer {r.winner.layer}"
    out = [head + (f": {r.help}." if r.help else ".")]
    t = r.trial
    if r.winner is None or t.rise is None:
        most = max(r.thrown, key=lambda why: r.thrown[why], default="")
        out.append(
            f"{t.contrasts} pairs in {r.data}; those of {FEWEST} questions are needed." if r.data else
            f"Asked for it, the model gave a real contrast on {t.contrasts} of {t.questions} questions; {FEWEST} are "
            f"needed. Most of the others: {most} ({r.thrown.get(most, 0)})."
        )  # fmt: skip
        return out
    w = r.winner
    out.append(
        f"{w.method} won of {len(r.candidates)} at equal drift; at its dose the preference for answers with the "
        f"behavior rises by {t.rise.value:.2f} {t.rise.unit} ({t.rise.lo:.2f} to {t.rise.hi:.2f}, {t.rise.n} test "
        f"questions), of vectors without the behavior by at most {t.control:.2f}; drift {w.drift:.2f} nats a token."
    )
    if t.text is not None and np.isfinite(t.text.value):
        out.append(
            f"Its answers go {t.text.value:.0%} of the way from unsteered ones to asked ones ({t.text.lo:.0%} to "
            f"{t.text.hi:.0%}, {t.text.n} questions), those of controls at most {t.text_control:.0%}; "
            f"{max(0.0, t.broken):.0%} more of them break."
        )
    if t.gain is not None and np.isfinite(t.gain.value):
        out.append(f"On top of asking in words it adds {t.gain.value:+.0%} ({t.gain.lo:+.0%} to {t.gain.hi:+.0%}).")
    return out


def _scored(r: Results) -> list[list[str]]:
    head = ["answers", "towards asked for", "95 %", "break"]
    return [
        head,
        *([s.condition, *_share(s), f"{s.broken:.0%}"] for s in r.scored),
    ]


def _share(s: Scored) -> tuple[str, str]:
    """How far, and its interval; nothing where asking in words does nothing to be a share of."""
    return (f"{s.text:.0%}", f"{s.lo:.0%} to {s.hi:.0%}") if np.isfinite(s.text) else ("", "")


def _race(r: Results) -> list[list[str]]:
    head = ["method", "layer", "rise at equal drift", "lower end", "a control", "dose", "drift there", "range"]
    rows = [
        [c.method, f"{c.layer}", f"{c.rise:+.3f}", f"{c.lo:+.3f}", f"{c.control:.3f}", f"{c.multiplier:.3g}",
         f"{c.drift:.2f}", f"{c.ship[0]:.3g} to {c.ship[1]:.3g}" if c.ship else "none"]
        for c in r.candidates
    ]  # fmt: skip
    return [head, *rows]


def _figures(r: Results) -> list[Figure]:
    t = r.trial
    out = [Figure(r.kind, float(t.contrasts), float("nan"), float("nan"), t.questions, "contrasts")]
    if t.rise is not None:
        out.append(Figure("rise at the dose", t.rise.value, t.rise.lo, t.rise.hi, t.rise.n, t.rise.unit, t.control))
    if t.text is not None:
        out.append(
            Figure("text, of asking in words", t.text.value, t.text.lo, t.text.hi, t.text.n, "share", t.text_control)
        )
    return out


def _plot(r: Results) -> Plot:
    def paint(canvas: Any) -> None:
        ax = canvas.subplots()
        y = np.arange(len(r.scored))[::-1]
        colors = [QUIET if "control" in s.condition else WARN if "asked" in s.condition else ACCENT for s in r.scored]
        for k, s, color in zip(y, r.scored, colors, strict=True):
            ax.plot([s.lo, s.hi], [k, k], "-", color=color)
            ax.plot([s.text], [k], "o", color=color)
        ax.axvline(0, color=QUIET, lw=0.8)
        ax.axvline(1, color=QUIET, lw=0.8, ls=":")
        ax.set_yticks(y, [s.condition for s in r.scored], fontsize=8)
        ax.set_xlabel("from unsteered (0) to asked for in words (1)")

    caption = "Mean and 95 % interval over test questions; gray: vectors without the behavior."
    return picture(paint, (6.4, 0.6 + 0.3 * len(r.scored)), "How far answers go", caption)
