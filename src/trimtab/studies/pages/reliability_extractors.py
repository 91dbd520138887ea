"""Vectors of other extractors beside the mean difference: does the anti-steerable share fall? Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.statistics.intervals import Array, Figure, mean_figure
from trimtab.statistics.slopes import anti_steerable
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.reliability_facts import VECTOR
from trimtab.studies.pages.reliability_results import SetResult, Study, over_both_orders

BALANCED = "balanced"  # letter and polarity evened out
BOTH_ORDERS = "both-orders"  # read with the options in either order


KINDS = {BALANCED: "Balanced vectors", BOTH_ORDERS: "Vectors of both orders of the options"}


def extracted_by(name: str) -> Condition:
    """The vector of another extractor than the mean difference."""
    return Condition("by", name, label=f"by {name}")


@dataclass(frozen=True)
class Extracted:
    """One extractor on one data set, over the test items (both orders of the options where both were read).

    Attributes:
        slope, anti: mean slope and anti-steerable share.
        steeper, fewer: their differences from the mean difference's, item by item.
        letter: share of the variance of the slopes in the first order that the matching letter explains.
    """

    data: str
    name: str
    slope: Figure
    anti: float
    steeper: Figure
    fewer: Figure
    letter: float


def extracted(study: Study) -> list[Extracted]:
    """All of them; the mean difference itself first for every data set."""
    out: list[Extracted] = []
    for s in study.ranked():
        own = [v for v, context in s.curves if context == s.first and v.kind == "by"]
        out += [_extracted(s, v) for v in (VECTOR, *own)] if own else []
    return out


def _extracted(s: SetResult, vector: Condition) -> Extracted:
    main, groups = over_both_orders(s.curves, s.facts, vector)[0], s.facts.test.groups
    flags, plain = _flags(main), _flags(s.main)
    return Extracted(
        s.name,
        vector.source or "mean difference",
        mean_figure("slope", main, s.unit, groups=groups),
        float(np.nanmean(flags)),
        mean_figure("steeper", main - s.main, s.unit, groups=groups),
        mean_figure("fewer", flags - plain, "share", groups=groups),
        _explained(s.curves[vector, s.first].slope, s.facts.test.letters),
    )


def _flags(slopes: Array) -> Array:
    """1 where an item goes the wrong way, 0 where not, NaN where it was not measured."""
    return np.where(np.isnan(slopes), np.nan, anti_steerable(np.nan_to_num(slopes)).astype(float))


def _explained(slope: Array, letters: Sequence[str]) -> float:
    """R² of the slopes on the matching letter."""
    at_a = np.array([x == "A" for x in letters])
    known = ~np.isnan(slope)
    if not slope[known].var() > 0 or len(set(at_a[known].tolist())) < 2:
        return float("nan")
    return float(np.corrcoef(slope[known], at_a[known])[0, 1] ** 2)


def sentences(study: Study) -> list[str]:
    """For each extractor: how many data sets have fewer, or more, items that go the wrong way."""
    some = extracted(study)
    out: list[str] = []
    for name in dict.fromkeys(x.name for x in some if x.name != "mean difference"):
        mine = [x for x in some if x.name == name]
        before = {x.data: x for x in some if x.name == "mean difference"}
        fewer, more = sum(x.fewer.hi < 0 for x in mine), sum(x.fewer.lo > 0 for x in mine)
        shares = [float(np.median([x.anti for x in group])) for group in ([before[x.data] for x in mine], mine)]
        kind = KINDS.get(name, f"Vectors by {name}")
        steeper, flatter = sum(x.steeper.lo > 0 for x in mine), sum(x.steeper.hi < 0 for x in mine)
        out.append(
            f"{kind}, at the norm of the mean difference: the anti-steerable share falls in "
            f"{fewer} of {len(mine)} data sets and rises in {more} (median {shares[0]:.0%} before, {shares[1]:.0%} "
            f"after); slopes are steeper in {steeper}, flatter in {flatter}."
        )
    return out


def extractor_rows(study: Study) -> list[list[str]]:
    """A table, its head first."""
    head = ["data set", "vector", "mean slope", "from the mean difference", "anti-steerable", "change of that share",
            "variance explained by the letter"]  # fmt: skip
    rows = [head]
    for x in extracted(study):
        first = x.name == "mean difference"
        letter = "" if np.isnan(x.letter) else f"{x.letter:.0%}"
        rows.append([
            x.data, x.name, _number(x.slope, ".3f"), "" if first else _number(x.steeper, "+.3f"), f"{x.anti:.0%}",
            "" if first else _number(x.fewer, "+.0%"), letter,
        ])  # fmt: skip
    return rows


def _number(f: Figure, form: str) -> str:
    return f"{f.value:{form}}" + ("" if np.isnan(f.lo) else f" ({f.lo:{form}} to {f.hi:{form}})")
