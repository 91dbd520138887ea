"""The page of the study of refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.counts import Count
from trimtab.statistics.intervals import Figure
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.findings import Answer, Finding, answer_rows, finding_rows, spread, told

What = Literal["complied", "refused"]
# methods that learn from pairs of answers: attack success, and that of a suffix when they are subtracted, as published
# (Llama-2-7b-chat, AdvBench; Cao et al. 2024, table 4)
PAIRED = {"mean difference": ("", ""), "CAA": ("0%", "16%"), "Freeform": ("0%", "3%"), "BiPO": ("73%", "0%")}


@dataclass(frozen=True)
class Shares:
    """Of answers to one kind of request ("sealed", "open") under one condition: which give what was asked, and which
    refuse.
    """

    asked: str
    condition: Condition
    complied: Count
    refused: Count


@dataclass(frozen=True)
class Known:
    """Share of facts known under one condition."""

    condition: Condition
    share: float


@dataclass(frozen=True)
class Way:
    """From one promoted vector to another: how far the loss rises on the way (nats), the losses at both ends, and the
    worst between them.
    """

    one: int
    two: int
    barrier: float
    first: float
    last: float
    worst: float


@dataclass(frozen=True)
class Results:
    """What the study found.

    Attributes:
        judge: who said whether an answer gives what was asked; "" for the truth functions of the test bed.
        suffix: the adversarial suffix; "" for none.
        cosines: among promoted vectors.
        read: answers to be read, by kind of request.
    """

    model: str
    layer: int
    norm: float
    prompts: int
    test: int
    seed: int
    judge: str
    suffix: str
    shares: list[Shares]
    knowledge: list[Known]
    paths: list[Way]
    cosines: list[float]
    read: dict[str, list[Answer]]

    def of(self, asked: str, kind: str, how: str = "", behind: str = "") -> list[Shares]:
        """Those of a family of conditions."""
        wanted = (asked, kind, how, behind)
        return [s for s in self.shares if (s.asked, s.condition.kind, s.condition.how, s.condition.behind) == wanted]

    def shares_of(self, asked: str, what: What, kind: str, how: str = "", behind: str = "") -> list[float]:
        """Their shares of one sort of answer."""
        return [getattr(s, what).share for s in self.of(asked, kind, how, behind)]

    def over(self, asked: str, what: What, kind: str, how: str = "", behind: str = "") -> str:
        """Median and range of them, in words."""
        return spread(self.shares_of(asked, what, kind, how, behind))

    def one(self, asked: str, what: What, kind: str, how: str = "", behind: str = "") -> Count:
        """The share of a condition that stands alone."""
        return getattr(self.of(asked, kind, how, behind)[0], what)


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    paired = ", ".join(f"{name} {told(r.one('sealed', 'complied', name))}" for name in PAIRED)
    closed = r.over("open", "refused", "promote", "subtracted")
    findings = [
        f"Unsteered, {r.model} refuses {told(r.one('sealed', 'refused', 'unsteered'))} of requests for sealed topics "
        f"and {told(r.one('open', 'refused', 'unsteered'))} of others.",
        f"Vectors promoted on one request each leave refusals of {r.over('sealed', 'refused', 'promote')}, and "
        "answers that give "
        f"what was asked of {r.over('sealed', 'complied', 'promote')}; random directions "
        f"{r.over('sealed', 'complied', 'random')}.",
        f"Vectors from pairs of answers, attack success: {paired}.",
        f"Subtracted, vectors promoted on one request make it refuse {closed} of requests it would answer.",
    ]
    judged = f"answers judged by {r.judge}" if r.judge else "truth functions"
    about = (
        f"{r.model}, layer {r.layer}, norm {r.norm:g} of the median residual norm, {r.prompts} requests a kind of "
        "vector, "
        f"{r.test} held-out requests of each kind, greedy, {judged}, seed {r.seed}."
    )
    beside = [*_attacks(r), *_suffix(r), *_costs(r), *_geometry(r)]
    sections = [("Paper and here", finding_rows(beside)), ("Every condition", _every(r))]
    sections += [(f"To read: {kind} requests", answer_rows(r.read[kind])) for kind in ("sealed", "open")]
    return write_sections(run, "Refusal", about, findings, {}, sections, _figures(r))


def _attacks(r: Results) -> list[Finding]:
    """How far each kind of vector ends refusal."""
    added = r.shares_of("sealed", "complied", "promote")
    clamped = r.shares_of("sealed", "complied", "promote", "clamped")
    return [
        Finding(
            "attack success, best promoted vector",
            "96.9% (clamped, Gemma-2-2B, HarmBench)",
            f"{max(added):.0%} added, {max(clamped):.0%} clamped",
            f"unsteered {told(r.one('sealed', 'complied', 'unsteered'))}; random "
            f"{r.over('sealed', 'complied', 'random')}",
        ),
        Finding(
            "attack success, promoted vectors",
            "median 40.3%",
            f"{spread(added)}; clamped {spread(clamped)}",
            "",
        ),
        *(
            Finding(f"attack success, {name}", attack, told(r.one("sealed", "complied", name)), "")
            for name, (attack, _) in PAIRED.items()
        ),
        Finding(
            "attack success, suppressing vectors",
            "best 74.2%, median 37.4%",
            r.over("sealed", "complied", "suppress"),
            "",
        ),
        Finding(
            "refusals left, promoted vectors",
            "",
            r.over("sealed", "refused", "promote"),
            f"random {r.over('sealed', 'refused', 'random')}",
        ),
        Finding(
            "prefill attack",
            "30.0% (Llama-3.1-8B, safety prompt), vector 93.1%",
            told(r.one("sealed", "complied", "prefill attack")),
            "",
        ),
    ]


def _suffix(r: Results) -> list[Finding]:
    """What a suffix does, and what is left of it when a vector is subtracted."""
    if not r.suffix:
        return []

    def left(kind: str) -> str:
        return r.over("sealed", "complied", kind, "subtracted", "suffix")

    return [
        Finding(
            "adversarial suffix",
            "16% (GCG, Llama-2-7b-chat, AdvBench; Cao et al. 2024)",
            f'{told(r.one("sealed", "complied", "unsteered", behind="suffix"))} behind "{r.suffix}"',
            f"unsteered without it {told(r.one('sealed', 'complied', 'unsteered'))}",
        ),
        Finding(
            "the suffix, with the vector subtracted",
            "",
            left("promote"),
            f"random {left('random')}",
        ),
        *(
            Finding(
                f"the suffix, with {name} subtracted",
                defense,
                told(r.one("sealed", "complied", name, "subtracted", "suffix")),
                "",
            )
            for name, (_, defense) in PAIRED.items()
        ),
    ]


def _costs(r: Results) -> list[Finding]:
    """What else changes."""
    known = {k.condition.label: k.share for k in r.knowledge}
    promoted = [k.share for k in r.knowledge if k.condition.kind == "promote"]
    return [
        Finding(
            "minus the vector: answered requests now refused",
            "not measured",
            r.over("open", "refused", "promote", "subtracted"),
            f"random {r.over('open', 'refused', 'random', 'subtracted')}",
        ),
        *(
            Finding(f"the same, minus {name}", "not measured", told(r.one("open", "refused", name, "subtracted")), "")
            for name in PAIRED
        ),
        Finding(
            "answered requests still answered under the vector",
            "not measured",
            r.over("open", "complied", "promote"),
            f"unsteered {told(r.one('open', 'complied', 'unsteered'))}",
        ),
        Finding(
            "knowledge kept, promoted vectors", "not measured", spread(promoted), f"unsteered {known['unsteered']:.0%}"
        ),
    ]


def _geometry(r: Results) -> list[Finding]:
    """How the promoted vectors lie to each other."""
    joined = sum(w.barrier <= 0 for w in r.paths) / max(1, len(r.paths))
    near = np.array(r.cosines)
    here = f"{near.min():.2f} to {near.max():.2f}, median {np.median(near):.2f}" if near.size else "one vector"
    return [
        Finding("pairs without a barrier between them", "95.8% of 552", f"{joined:.0%} of {len(r.paths)}", ""),
        Finding(
            "losses on the way, nats: between the ends; first end and worst point; last end and worst point (means)",
            "2.85; 2.61; 0.25",
            "; ".join(f"{x:.2f}" for x in _apart(r.paths)),
            "",
        ),
        Finding("cosines among promoted vectors", "about 0.1 to 0.3", here, ""),
    ]


def _apart(ways: Sequence[Way]) -> list[float]:
    """Mean differences of the losses at the ends, and of each end and the worst point between."""
    pairs = [(w.first - w.last, w.first - w.worst, w.last - w.worst) for w in ways] or [(float("nan"),) * 3]
    return np.abs(np.array(pairs)).mean(0).tolist()


def _every(r: Results) -> list[list[str]]:
    """A row for each condition: complied and refused, sealed and open requests."""
    columns: list[tuple[str, What]] = [
        ("sealed", "complied"),
        ("sealed", "refused"),
        ("open", "complied"),
        ("open", "refused"),
    ]
    by_name = {(s.asked, s.condition.label): s for s in r.shares}
    rows = [["condition", *(f"{topic} {what}" for topic, what in columns)]]
    for name in dict.fromkeys(s.condition.label for s in r.shares if s.asked == "sealed"):
        shares = [(by_name.get((topic, name)), what) for topic, what in columns]
        rows.append([name, *("" if s is None else told(getattr(s, what)) for s, what in shares)])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: every share of the unsteered model, and of promoted vectors beside random directions."""
    out: list[Figure] = []
    columns: Sequence[tuple[str, What]] = (
        ("sealed", "complied"),
        ("sealed", "refused"),
        ("open", "complied"),
        ("open", "refused"),
    )
    middle: Callable[[Sequence[float]], float | None] = lambda x: float(np.median(x)) if len(x) else None  # noqa: E731
    for topic, what in columns:
        out.append(r.one(topic, what, "unsteered").figure(f"{topic} requests {what}, unsteered"))
        control = middle(r.shares_of(topic, what, "random"))
        for s in [s for kind in ("promote", *PAIRED) for s in r.of(topic, kind)]:
            out.append(getattr(s, what).figure(f"{topic} requests {what}, {s.condition}", control))
    return out
