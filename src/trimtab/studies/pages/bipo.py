"""The page of the study of preference-optimized vectors: tables, plots, findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.reports.figures import ACCENT, INK, QUIET, WARN, Plot, picture
from trimtab.reports.page import Rows, one_line, write_sections
from trimtab.runs import Run
from trimtab.statistics.intervals import Figure
from trimtab.statistics.nulls import null_p
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.bipo_results import BIPO, FROM_END, ONE_DIRECTION, Behavior, Method, Said, Study, Value, load

COLORS = {
    "BiPO": ACCENT,
    "BiPO, signs drawn": "#5aa9c7",
    "BiPO, one direction": "#a3d0e0",
    "CAA": WARN,
    "mean difference": "#8a5a00",
    "one-shot": "#4d7c0f",
    "Freeform": "#7c3aed",
}


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    study = load(run)
    title = "Preference-optimized vectors beside their baselines"
    return write_sections(run, title, about(study), headline(study), draw(study), sections(study), _figures(study))


def _figures(study: Study) -> list[Figure]:
    """For machines: the range of the margin of every vector that was measured, at its own strength and at equal cost;
    the control is the widest random direction.
    """
    out: list[Figure] = []
    for b in study.behaviors:
        own = max((abs(m.range.value) for m in b.family("random") if m.margins), default=None)
        equal = max((abs(m.equal["range"].value) for m in b.family("random") if "range" in m.per_pair), default=None)
        for m in b.methods.values():
            if m.margins:
                out.append(m.range.figure(f"{b.name}: range, {m.condition}", own))
            if "range" in m.per_pair:
                out.append(m.equal["range"].figure(f"{b.name}: range at equal cost, {m.condition}", equal))
    return out


def about(study: Study) -> str:
    """What the figures are, in a paragraph."""
    r = study.results
    first = study.behaviors[0].name
    among = ", ".join(map(str, r.candidates))
    chosen = f" (of {among}, by short trainings and validation pairs of {first})" if r.candidates else ""
    return (
        f"{r.model}, BiPO at layer {r.layer}{chosen}, seed {r.seed}. Margins are log-probability of the positive "
        "answer minus the "
        "negative's, in nats, on held-out pairs; intervals are 95 %, over questions. A range is the margin at "
        "multiplier +1 minus that at "
        "-1. Equal cost: every vector is scaled, up and down apart, until the model drifts by "
        f"{r.budget:g} nats per token from itself (KL along its own answers to validation questions, measured there "
        "within 2 %)."
    )


def headline(study: Study) -> list[str]:
    """What was found, in sentences."""
    return [line for b in study.behaviors for line in _headline(b)]


def _headline(b: Behavior) -> list[str]:
    own = b.methods[BIPO]
    if "range" not in own.per_pair:
        return [f"{b.name}: BiPO does not reach the budget of drift ({own.why}), so nothing can be said at equal cost."]
    reached = {c: m for c, m in b.methods.items() if "range" in m.per_pair}
    missing = ", ".join(f"{m.condition} ({m.why})" for m in b.methods.values() if m.why)
    others = [m for m in reached.values() if m.condition.kind not in ("BiPO", "random")]
    best = max(others, key=lambda m: m.equal["range"].value, default=None)
    text = f"{b.name}: at equal cost BiPO has a range of {own.equal['range']} nats"
    if best is not None:
        text += f", {_beside(own, best, 'range')} the widest other vector ({best.condition}, {best.equal['range']}"
        text += f"; difference {_difference(own, best, 'range')})"
    out = [text + _randoms(own, reached) + (f" Not reached by {missing}." if missing else "")]
    out += _directions(b, reached)
    if b.facts.freeform.mute:
        mute, of = len(b.facts.freeform.mute), b.facts.freeform.of
        out.append(
            f"{b.name}: Freeform's choice of layer says little: at {mute} of its {of} layers the divergence it goes "
            "by is saturated."
        )
    return out


def _difference(one: Method, two: Method, way: str) -> Value:
    """Pair by pair."""
    return Value.of(one.per_pair[way] - two.per_pair[way], one.groups)


def _beside(one: Method, two: Method, way: str) -> str:
    gap = _difference(one, two, way)
    return "wider than" if gap.lo > 0 else "narrower than" if gap.hi < 0 else "no different (within the interval) from"


def _randoms(own: Method, reached: Mapping[Condition, Method]) -> str:
    """BiPO's range among those of random directions."""
    ranges = [m.equal["range"].value for m in reached.values() if m.condition.kind == "random"]
    if not ranges:
        return "."
    p = null_p(own.equal["range"].value, ranges)
    return f"; {len(ranges)} random directions reach {min(ranges):+.2f} to {max(ranges):+.2f} (p = {p:.3f})."


def _directions(b: Behavior, reached: Mapping[Condition, Method]) -> list[str]:
    """What training both directions brings beside one, way by way."""
    if BIPO not in reached or ONE_DIRECTION not in reached:
        return []
    both, one = reached[BIPO], reached[ONE_DIRECTION]
    text = f"{b.name}: both directions minus one (change of margin, pair by pair; at equal cost "
    text += f"upwards {_difference(both, one, 'up')}, downwards {_difference(both, one, 'down')}"
    lowest = min(both.changes, default=None)
    if lowest is not None and lowest in one.changes:
        text += (
            f"; at their own strength at {lowest:g} {Value.of(both.changes[lowest] - one.changes[lowest], both.groups)}"
        )
    return [text + ")."]


def sections(study: Study) -> list[tuple[str, Rows]]:
    """Titles and tables; the first row of a table is its head."""
    out: list[tuple[str, Rows]] = []
    for b in study.behaviors:
        f = b.facts
        left_out = f", {f.left_out} test questions left out: trained on" if f.left_out else ""
        pairs = f"{f.train} training, {f.val} validation, {f.test} test pairs{left_out}"
        no_opener = [["vector", "range"], *([c.label, str(v)] for c, v in b.bare.items())]
        out += [
            (f"{b.name}: at the vectors' own strength ({pairs})", _raw_rows(b)),
            (f"{b.name}: at equal cost", _equal_rows(b)),
            (
                f"{b.name}: asked in words, shown in examples, and with the vector on top (change of margin from "
                "the bare question)",
                _prompt_rows(b),
            ),
            (f"{b.name}: answers without their first Yes or No (range)", no_opener),
            (
                f"{b.name}: knowledge (own multiple-choice questions; change from multiplier 0, exact McNemar p)",
                _knowledge_rows(b),
            ),
            (f"{b.name}: spectrum of BiPO", _spectrum_rows(f.spectrum)),
        ]
    rows = [["vectors", "cosine", "questions of", "own vector", "other vector", "both", "both minus their sum"]]
    for c in study.combined:
        rows.append([f"{c.one} + {c.two}", f"{c.cosine:.2f}", c.asked, *map(str, (c.own, c.other, c.both, c.beyond))])
    return [*out, ("Combinations (range of the margin)", rows)]


def _raw_rows(b: Behavior) -> Rows:
    grid = sorted(b.methods[BIPO].margins)
    ends = (grid[0], 0.0, grid[-1])
    head = ["vector", "layer", "norm", "slope", "wrong way", "range", *(f"margin at {m:+g}" for m in grid)]
    rows = [[*head, *(f"right at {m:+g}" for m in ends), "positive at +1", "negative at -1"]]
    for m in b.methods.values():
        if m.margins:
            margins, right = [f"{m.margins[g].value:+.1f}" for g in grid], [f"{m.right[g]:.0%}" for g in ends]
            numbers = [str(m.layer), f"{m.norm:.1f}", str(m.slope), f"{m.anti:.0%}", str(m.range)]
            rows.append([m.condition.label, *numbers, *margins, *right, str(m.positive_up), str(m.negative_down)])
    return rows


def _equal_rows(b: Behavior) -> Rows:
    rows = [["vector", "multipliers", "up", "down", "range"]]
    widest = {m.condition: m.equal["range"].value for m in b.methods.values()}
    for m in sorted(
        b.methods.values(), key=lambda m: math.inf if math.isnan(widest[m.condition]) else -widest[m.condition]
    ):
        if m.condition != FROM_END:
            scale = " / ".join("not reached" if math.isnan(x) else f"{x:+.2f}" for x in m.multipliers)
            rows.append([m.condition.label, scale, *(str(m.equal[k]) for k in ("up", "down", "range"))])
    return rows


def _prompt_rows(b: Behavior) -> Rows:
    rows = [["prompt", "BiPO at -1", "prompt alone", "BiPO at +1"]]
    for c, v in b.prompted.items():
        rows.append([c.label, *(str(v[m]) for m in (-1.0, 0.0, 1.0))])
    return rows


def _knowledge_rows(b: Behavior) -> Rows:
    rows = [["vector", "multiplier", "right", "change", "p", "questions"]]
    for name, points in b.facts.knowledge.items():
        for k in points:
            change = f"{k.change:+.3f} ({k.change_lo:+.3f} to {k.change_hi:+.3f})"
            right = f"{k.value:.3f} ({k.lo:.3f} to {k.hi:.3f})"
            rows.append([name, f"{k.multiplier:+g}", right, change, f"{k.p:.2f}", f"{k.n}"])
    return rows


def _spectrum_rows(answers: Sequence[Said]) -> Rows:
    rows = [["question", "multiplier", "answer", "rated 1 to 4", "strangeness", "distinct pairs of words"]]
    for s in sorted(answers, key=lambda s: (s.prompt, s.multiplier)):
        rated = "not scored" if math.isnan(s.rating) else f"{s.rating:.2f}"
        question, answer = one_line(s.prompt, 80), one_line(s.text)
        rows.append([question, f"{s.multiplier:+g}", answer, rated, f"{s.strangeness:.2f}", f"{s.distinct:.2f}"])
    return rows


def draw(study: Study) -> dict[str, Plot]:
    """Margins over the spectrum, and ranges at equal cost."""
    size = (4.2 * len(study.behaviors) + 1.6, 3.6)
    spectrum = (
        "Mean change of the margin from the unsteered model, at the vectors' own strengths; gray: random directions."
    )
    equal = (
        "Change of the margin with each vector scaled to the budget of drift, up (right) and down (left), with 95 % "
        "intervals."
    )
    return {
        "spectrum": picture(lambda canvas: _spectra(canvas, study), size, "Margin over multipliers", spectrum),
        "equal": picture(lambda canvas: _ranges(canvas, study), size, "At equal cost", equal),
    }


def _spectra(canvas: Any, study: Study) -> None:
    axes = canvas.subplots(1, len(study.behaviors), squeeze=False)[0]
    for ax, b in zip(axes, study.behaviors, strict=True):
        for c, m in b.methods.items():
            if c != FROM_END and m.margins:
                grid = sorted(m.margins)
                change = [m.margins[g].value - m.margins[0.0].value for g in grid]
                label = None if c.kind == "random" else c.label
                ax.plot(grid, change, color=COLORS.get(c.label, QUIET), label=label, lw=2 if c == BIPO else 1.2)
        ax.axhline(0, color=INK, lw=0.6)
        ax.set_title(b.name)
        ax.set_xlabel("multiplier")
    axes[0].set_ylabel("change of margin (nats)")
    axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _ranges(canvas: Any, study: Study) -> None:
    axes = canvas.subplots(1, len(study.behaviors), squeeze=False, sharey=True)[0]
    for ax, b in zip(axes, study.behaviors, strict=True):
        shown = [m for c, m in b.methods.items() if c != FROM_END and (c.kind != "random" or m.margins)][::-1]
        for k, m in enumerate(shown):
            for way, marker in (("up", ">"), ("down", "<")):
                v, color = m.equal[way], COLORS.get(m.condition.label, QUIET)
                if not math.isnan(v.value):
                    ax.plot([v.lo, v.hi], [k, k], color=color, lw=2)
                    ax.plot(v.value, k, marker=marker, color=color, ms=6)
        ax.set_yticks(range(len(shown)), [m.condition.label for m in shown], fontsize=8)
        ax.axvline(0, color=INK, lw=0.6)
        ax.set_title(b.name)
        ax.set_xlabel("change of margin (nats)")
