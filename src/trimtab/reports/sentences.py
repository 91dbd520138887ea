"""The verdict and what supports it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trimtab.reports.curves import Curve, SideEffect, TextPoint
from trimtab.statistics.intervals import Figure
from trimtab.statistics.nulls import Compared
from trimtab.statistics.slopes import unsteered
from trimtab.statistics.verdict import FEWEST, Evidence, Kind

COSTLY = 0.5  # nats of KL from the unsteered next-token distribution
OFTEN = 0.25  # anti-steerable share from which on a single input is not to be relied on
NULLS = {
    "random": "random directions",
    "shuffled": "label-shuffled vectors",
    "span": "directions in the span of the training differences",
}


ALONE = (
    " It brought no label-shuffled vectors: vectors learned from data without the behavior are often beyond random "
    "directions, and were not compared with."
)


def verdict(kind: Kind, e: Evidence, vector: Curve, wrong: Figure) -> str:
    """The verdict as a sentence to act on.

    Args:
        wrong: the anti-steerable share.
    """
    unit = e.slope.unit.removesuffix(" per multiplier")
    if kind == "no verdict":
        return (
            "No verdict: over these items the model prefers neither answer letter, at any multiplier."
            if not e.readable
            else "No verdict: nothing without the behavior in it was measured beside the vector."
        )
    if kind == "no measurable effect":
        small = abs(e.slope.value) < e.floor
        why = (
            f"is below the least that counts ({e.floor:g} {unit} per multiplier)"
            if small
            else "cannot be told from zero"
        )
        return f"No measurable effect: the mean slope {why}."
    if kind == "works" and wrong.value > OFTEN:
        return f"Works on average, but reverses on {wrong.value:.0%} of inputs: do not rely on it for a single input."
    if kind == "too few items":
        return (
            f"Too few items to say: {e.questions} question{'s' * (e.questions != 1)}; {needed(vector)} or more are "
            "needed for this spread."
            if e.questions < FEWEST
            else f"Too few items to say: nearly all of them share one or two of the {e.questions} questions."
        )
    return {
        "not beyond controls": "Not beyond controls: vectors without the behavior in them move the model as much.",
        "breaks the text": f"Breaks the text: {e.broken:.0%} more of its answers than of the unsteered model's "
        "are no longer text.",
        "does no more than asking in words": "Does no more than asking in words: "
        "a system prompt moves the model as far, at no cost.",
        "works backwards": "Works backwards: the vector lowers the behavior, beyond its controls; use its negative.",
        "works": f"Works: it raises the behavior on {_right(wrong)}.",
    }[kind]


def _right(wrong: Figure) -> str:
    """On how many inputs it works as meant, and how many it is at least."""
    right, least = round((1 - wrong.value) * wrong.n), "" if np.isnan(wrong.hi) else f" (at least {1 - wrong.hi:.0%})"
    every = f"all {wrong.n} inputs" if right == wrong.n else f"{right} of {wrong.n} inputs"
    return every + least


def needed(vector: Curve) -> int:
    """About how many questions would tell a mean slope of this size from 0, at this spread; at least ten."""
    slope = vector.slopes.slope
    mean, spread = float(np.mean(slope)), float(np.std(slope, ddof=1)) if len(slope) > 1 else 0.0
    enough = (2 * spread / abs(mean)) ** 2 + 2 if mean else 0
    return max(FEWEST, min(1000, int(np.ceil(enough))))


NEXT: dict[Kind, str] = {
    "no verdict": "Measure it in a way that can tell: free-form answers (form = answers), and controls (draws = 499).",
    "too few items": "Add pairs; a split keeps half of them for this test.",
    "no measurable effect": "Try other layers (trimtab run sweeps them all), more or plainer pairs, or another method.",
    "not beyond controls": "Do not use it. Look at the pairs: what else than the behavior tells their sides apart?",
    "breaks the text": "Use a smaller multiplier: trimtab dose finds the range in which the text keeps whole.",
    "does no more than asking in words": "Ask in the system prompt, or use the vector where prompts are not yours.",
    "works backwards": "Use a negative multiplier, and check which side of the pairs is which.",
    "works": "Use it inside its range, and measure it on inputs like yours before you ship it.",
}


def reasons(
    e: Evidence,
    curves: Mapping[str, Curve],
    figures: Sequence[Figure],
    effects: Sequence[SideEffect],
    compared: Compared | None,
    texts: Sequence[TextPoint],
) -> list[str]:
    """The sentences that support it."""
    by = {f.name: f for f in figures}
    vector = curves["vector"]
    if not e.readable:
        most = max(float(np.abs(c.mean).max()) for c in curves.values())
        first = (
            f"Mean propensity stays within {most:.2f} nats of 0 at every multiplier, for the vector and its "
            "controls. Either this model does not bind letters to options, and an A/B question cannot measure the "
            "behavior (use free-form answers: form = answers), or the sides of these items cancel."
        )
        return [first, *_costs(effects)]
    return [
        _strength(by["steerability"], by.get("steerability beyond the strongest control"), curves),
        *_missing(vector),
        *_beside(compared),
        _reversal(by["anti-steerable share"], by["confidently anti-steerable share"]),
        *_against_asking(e, vector),
        _text(texts),
        *_costs(effects),
    ]


def _strength(f: Figure, gap: Figure | None, curves: Mapping[str, Curve]) -> str:
    c = curves["vector"]
    between = "no interval" if np.isnan(f.lo) else f"95 % interval {f.lo:+.3f} to {f.hi:+.3f}"
    of = f"{f.n} items" if c.questions == f.n else f"{f.n} items on {c.questions} questions"
    zero = c.mean[unsteered(c.multipliers)]
    text = (
        f"Each multiplier adds {f.value:+.3f} {f.unit.removesuffix(' per multiplier')} to the propensity ({between}, "
        f"{of}): {c.mean[0]:+.2f} at multiplier {c.multipliers[0]:g}, {zero:+.2f} unsteered, {c.mean[-1]:+.2f} at "
        f"{c.multipliers[-1]:g}."
    )
    text += " " + in_words(c, f.unit)
    if f.control is not None and gap is not None:
        bounds = "" if np.isnan(gap.lo) else f" ({gap.lo:+.3f} to {gap.hi:+.3f}, item by item)"
        apart = f"exceeds it by {gap.value:.3f}" if gap.value > 0 else f"falls short of it by {-gap.value:.3f}"
        text += f" The strongest of {len(curves) - 1} controls reaches {f.control:.3f}; the vector {apart}{bounds}."
    return text


def in_words(c: Curve, unit: str) -> str:
    """What the strongest multiplier does to the odds of the two answers, for readers who do not think in nats."""
    rise = float(c.mean[-1] - c.mean[unsteered(c.multipliers)])
    spoken = "token" in unit
    what = "the positive answer beside the negative one" if spoken else "the matching letter beside the other"
    per = " per token" if spoken else ""
    start = f"At multiplier {c.multipliers[-1]:g} {what}"
    times = f"{np.exp(rise):.2g}"
    return f"{start} is as likely as before{per}." if times == "1" else f"{start} becomes {times} times as likely{per}."


def _missing(vector: Curve) -> list[str]:
    if not vector.unmeasured:
        return []
    return [
        f"{vector.unmeasured} of {vector.unmeasured + len(vector.items)} items were not measured at every multiplier "
        "and are left out of every figure."
    ]


def _beside(compared: Compared | None) -> list[str]:
    """The vector among null vectors: those that decide, and the share of random directions that do as much."""
    if compared is None or not compared.tested:
        return ["No null vectors were compared with: nothing can be said of a vector alone."]
    decisive = next(n for n in compared.tested if n.kind == compared.decisive)
    where = f", each at the best of {decisive.tries} layers," if decisive.tries > 1 else ""
    text = (
        f"Beside {len(decisive.largest)} {NULLS[decisive.kind]}{where} its {compared.how} slope of "
        f"{compared.slope:+.3f} has p = {compared.p:.3f} (two-sided, {compared.items} items)."
    )
    if compared.decisive == "random":
        return [text + ALONE]
    return [
        text,
        f"Of random directions of its norm, {compared.beside('random'):.0%} move the model as far, one way or the "
        "other.",
    ]


def _reversal(f: Figure, sure: Figure) -> str:
    beside = "" if f.control is None else f"; its controls do on {f.control:.0%}, a useless vector on about half"
    wrong = f"It works the wrong way on {f.value:.0%} of inputs (95 % interval {f.lo:.0%} to {f.hi:.0%}){beside}."
    if f.value == 0:
        return wrong
    return f"{wrong} Where the curve of an input is straight enough to be sure, it does so on {sure.value:.0%}."


def _against_asking(e: Evidence, c: Curve) -> list[str]:
    if e.asked is None:
        return ["No prompt baseline: the data set does not say how to ask for the behavior in words."]
    rise = c.mean - c.mean[unsteered(c.multipliers)]
    enough = [float(m) for m, y in zip(c.multipliers, rise, strict=True) if m > 0 and y >= e.asked.value]
    match = (
        f"the vector does as much from multiplier {enough[0]:g} on"
        if enough
        else f"the vector does not reach that at multiplier {c.multipliers[-1]:g}"
    )
    between = "" if np.isnan(e.asked.lo) else f" ({e.asked.lo:+.3f} to {e.asked.hi:+.3f})"
    return [
        f"Asking for the behavior in the system prompt changes the propensity by {e.asked.value:+.3f}{between}; "
        f"{match}."
    ]


def _text(texts: Sequence[TextPoint]) -> str:
    if not texts:
        return "Its text was not looked at: whether it breaks is not known."
    shares = ", ".join(
        f"{t.broken:.0%} at {t.multiplier:+g}" if t.multiplier else f"{t.broken:.0%} unsteered" for t in texts
    )
    return f"Answers that are no longer text (strange, in circles, or no sentences): {shares} ({texts[0].n} prompts)."


def _costs(effects: Sequence[SideEffect]) -> list[str]:
    out: list[str] = []
    for e in effects:
        if e.condition != "vector":
            continue
        if e.metric == "kl":
            out.append(_kl_cost(e, [o for o in effects if o.metric == "kl" and o.condition != "vector"]))
        if e.metric == "outside-mass":
            k = int(np.argmax(e.mean))
            zero = unsteered(e.multipliers)
            out.append(
                f"Probability outside the two answer letters: {e.mean[zero]:.1%} unsteered, at most {e.mean[k]:.1%} "
                f"(multiplier {e.multipliers[k]:g})."
            )
    return out


def _kl_cost(e: SideEffect, others: Sequence[SideEffect]) -> str:
    worst = int(np.argmax(e.mean))
    text = (
        f"Cost: the next-token distribution moves by up to {e.mean[worst]:.3f} nats of KL (multiplier "
        f"{e.multipliers[worst]:g})"
    )
    if others:
        text += f"; controls move it by {np.mean([o.mean[worst] for o in others]):.3f}"
    cheap = [float(m) for m, y in zip(e.multipliers, e.mean, strict=True) if y <= COSTLY]
    return text + (f". Between {min(cheap):g} and {max(cheap):g} it stays under {COSTLY:g} nats." if cheap else ".")
