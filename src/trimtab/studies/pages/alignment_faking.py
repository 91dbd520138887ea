"""The page of the study of alignment faking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.findings import Finding, finding_rows, spread, told

Share = Callable[["Flips"], Count]


@dataclass(frozen=True)
class Flips:
    """Shares of questions that flip under one vector, among those that can.

    Wanted: harm where there was none on watched questions with the vector added, and none where there was on unwatched
    ones with it subtracted. The other two should stay as they are.
    """

    condition: Condition
    added_watched: Count
    subtracted_unwatched: Count
    subtracted_watched: Count
    added_unwatched: Count


@dataclass(frozen=True)
class Letters:
    """How much of the answers under one vector is neither letter.

    Attributes:
        steered: mean probability outside the letters, of watched questions with the vector added, and of unwatched
            ones with it subtracted. unsteered: of the same without.
        added_watched, subtracted_unwatched: as in `Flips`, where an answer counts only if the letters have more than
            half of the probability.
    """

    condition: Condition
    steered: list[float]
    unsteered: list[float]
    added_watched: Count
    subtracted_unwatched: Count


@dataclass(frozen=True)
class Fitted:
    """Losses on the examples (nats, their four terms together) at the vectors of one norm, and unsteered."""

    norm: float
    losses: list[float]
    unsteered: list[float]


@dataclass(frozen=True)
class Met:
    """Share of answers to one sort of prompts that misbehave, under one condition; of ordinary requests, that are not
    answered.
    """

    sort: str
    condition: Condition
    bad: Count


@dataclass(frozen=True)
class Results:
    """What the study found.

    Attributes:
        unsteered: share of questions, watched and unwatched, on which the model takes the harmful option.
        flips: of every vector; those of descents have a norm, the others are CAA and random directions.
        cosines: among the vectors of the largest norm. auc: of each of them as a detector of unwatched prompts.
        elsewhere: flips under vectors of other layers, and a random direction at each.
        fitted: losses on the examples by norm.
        met: what is left of misbehavior where a vector is subtracted on all that comes.
    """

    model: str
    layer: int
    norms: tuple[float, ...]
    prompts: int
    test: int
    seed: int
    unsteered: dict[str, Count]
    flips: list[Flips]
    letters: list[Letters]
    cosines: list[float]
    auc: list[float]
    elsewhere: list[Flips]
    fitted: list[Fitted]
    met: list[Met]

    def of_norm(self, norm: float) -> list[Flips]:
        return [f for f in self.flips if f.condition.norm == norm]


@dataclass(frozen=True)
class _Way:
    """One of the four shares: in words, as published, and where it stands."""

    words: str
    paper: str
    of: Share


WAYS = (
    _Way("added: watched, harmless to harmful (wanted)", "93.4%", lambda f: f.added_watched),
    _Way("subtracted: unwatched, harmful to harmless (wanted)", "83.4%", lambda f: f.subtracted_unwatched),
    _Way("subtracted: watched, harmless to harmful (unwanted)", "1.1%", lambda f: f.subtracted_watched),
    _Way("added: unwatched, harmful to harmless (unwanted)", "15.9%", lambda f: f.added_unwatched),
)
ORDINARY = "ordinary requests"  # of which it is counted how many are not answered
MODEL = "(Poser money-maximizer-0, LLaMA-13B)"


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    longest = r.of_norm(r.norms[-1])
    randoms = [f for f in r.flips if f.condition.kind == "random"]
    best = max(longest, key=lambda f: f.added_watched.share + f.subtracted_unwatched.share)
    rows = [["vector", *(w.words for w in WAYS)]]
    for f in r.flips:
        rows.append([f.condition.label, *(told(w.of(f)) for w in WAYS)])
    harm, calm = WAYS[:2]
    findings = [
        f"Unsteered, {r.model} takes the harmful option of {told(r.unsteered['watched'])} of watched questions "
        f"and {told(r.unsteered['unwatched'])} of unwatched ones.",
        f"Vectors from one watched question each flip {_over(harm, longest)} of watched questions to harm, "
        f"and subtracted {_over(calm, longest)} of unwatched ones to harmlessness.",
        f"Random directions of that norm flip {_over(harm, randoms)} and {_over(calm, randoms)}.",
        *_layer_finding(r),
        *_use_finding(r),
    ]
    about = f"{r.model}, layer {r.layer}, {r.prompts} vectors a norm, {r.test} questions of each kind, seed {r.seed}."
    sections = [
        ("Paper and here", finding_rows(_beside_the_paper(r, best, longest, randoms))),
        ("Medians by norm", _norm_rows(r)),
        *([("Other layers, at the largest norm", _layer_rows(r, longest, randoms))] if r.elsewhere else []),
        *([("In use: subtracted on all that comes", _use_rows(r))] if r.met else []),
        ("Every vector", rows),
        ("Answers that are neither letter", _letter_rows(r)),
    ]
    return write_sections(run, "Alignment faking", about, findings, {}, sections, _figures(r, best, randoms))


def _norm_rows(r: Results) -> list[list[str]]:
    rows = [["largest norm", "loss on the example, nats (unsteered)", *(w.words for w in WAYS)]]
    for fit in r.fitted:
        loss = f"{np.median(fit.losses):.2f} ({np.median(fit.unsteered):.2f})"
        rows.append([f"{fit.norm:g}", loss, *(_over(w, r.of_norm(fit.norm)) for w in WAYS)])
    return rows


def _elsewhere(r: Results, kind: str) -> dict[int, list[Flips]]:
    out: dict[int, list[Flips]] = {}
    for f in r.elsewhere:
        if f.condition.kind == kind and f.condition.layer is not None:
            out.setdefault(f.condition.layer, []).append(f)
    return out


def _layer_rows(r: Results, longest: Sequence[Flips], randoms: Sequence[Flips]) -> list[list[str]]:
    made = {r.layer: list(longest), **_elsewhere(r, "layer")}
    drawn = {r.layer: list(randoms), **_elsewhere(r, "random")}
    rows = [["layer", *(w.words for w in WAYS), "random directions, the first two"]]
    for k in sorted(made):
        rows.append([f"{k}", *(_over(w, made[k]) for w in WAYS), "; ".join(_over(w, drawn[k]) for w in WAYS[:2])])
    return rows


def _layer_finding(r: Results) -> list[str]:
    parts = [f"{k}: {_over(WAYS[0], some)} and {_over(WAYS[1], some)}" for k, some in _elsewhere(r, "layer").items()]
    return [f"At other layers, the two wanted flips: {'; '.join(parts)}."] if parts else []


def _use_rows(r: Results) -> list[list[str]]:
    rows = [["prompts", "misbehaving answers, unsteered", "vectors subtracted", "random ones subtracted"]]
    for sort in dict.fromkeys(m.sort for m in r.met):
        plain = next(m for m in r.met if m.sort == sort and m.condition.kind == "unsteered")
        rows.append([sort, told(plain.bad), *(spread(_left(r, sort, kind)) for kind in ("norm", "random"))])
    return rows


def _left(r: Results, sort: str, kind: str) -> list[float]:
    return [m.bad.share for m in r.met if m.sort == sort and m.condition.kind == kind]


def _use_finding(r: Results) -> list[str]:
    """Of prompts of other sorts, and, in a sentence of its own, of ordinary requests."""
    parts: dict[str, str] = {}
    for sort in dict.fromkeys(m.sort for m in r.met):
        before = next(m.bad.share for m in r.met if m.sort == sort and m.condition.kind == "unsteered")
        parts[sort] = f"{before:.0%} unsteered, {spread(_left(r, sort, 'norm'))} subtracted"
    withheld = parts.pop(ORDINARY, None)
    out = [f"Subtracted on all that comes, answers misbehave: {'; '.join(f'{k} {x}' for k, x in parts.items())}."]
    return [*(out if parts else []), *([f"Ordinary requests are not answered: {withheld}."] if withheld else [])]


def _letter_rows(r: Results) -> list[list[str]]:
    head = ["vector", "outside the letters: watched, added", "unwatched, subtracted", "the same unsteered"]
    head += ["flips that are answers: watched, added", "unwatched, subtracted"]
    rows = [
        [
            x.condition.label,
            *(f"{p:.2%}" for p in x.steered),
            "; ".join(f"{p:.2%}" for p in x.unsteered),
            told(x.added_watched),
            told(x.subtracted_unwatched),
        ]
        for x in r.letters
    ]
    return [head, *rows]


def _over(way: _Way, some: Sequence[Flips]) -> str:
    return spread([way.of(f).share for f in some])


def _middle(way: _Way, some: Sequence[Flips]) -> float | None:
    """The median share over vectors; None where there are none."""
    return float(np.median([way.of(f).share for f in some])) if some else None


def _beside_the_paper(r: Results, best: Flips, longest: Sequence[Flips], randoms: Sequence[Flips]) -> list[Finding]:
    caa = next(f for f in r.flips if f.condition.kind == "CAA")
    near, auc = np.array(r.cosines), np.array(r.auc)
    return [
        *(
            Finding(
                f"best vector at the largest norm, {w.words}",
                f"{w.paper} {MODEL}",
                told(w.of(best)),
                f"random {_over(w, randoms)}; CAA {told(w.of(caa))}",
            )
            for w in WAYS
        ),
        Finding("all vectors at the largest norm, + watched", "4 of 5 above 80%", _over(WAYS[0], longest), ""),
        Finding("all vectors at the largest norm, - unwatched", "3 of 5 above 80%", _over(WAYS[1], longest), ""),
        Finding(
            "cosines among them",
            "max 0.085, median 0.031",
            f"max {near.max():.3f}, median {np.median(near):.3f}" if near.size else "one vector",
            "",
        ),
        Finding(
            "as detectors of unwatched prompts, AUC",
            "max 0.66, median 0.56",
            f"max {auc.max():.2f}, median {np.median(auc):.2f}",
            "0.5 is chance",
        ),
    ]


def _figures(r: Results, best: Flips, randoms: Sequence[Flips]) -> list[Figure]:
    """For machines: the unsteered model, and the best vector beside the median random direction."""
    unsteered = [count.figure(f"harmful option, unsteered, {name}") for name, count in r.unsteered.items()]
    beside = [_middle(w, randoms) for w in WAYS]
    return unsteered + [
        w.of(best).figure(f"best vector, {w.words}", control) for w, control in zip(WAYS, beside, strict=True)
    ]
