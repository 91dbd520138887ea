"""Pairs."""

from __future__ import annotations

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair, dedup, to_choices


def test_dedup_and_hash() -> None:
    a, b = Pair("a", "x", "y"), Pair("b", "x", "y")
    assert dedup([a, b, Pair("a", "x", "y")]) == (a, b)
    assert Dataset("d", (a, b)).hash != Dataset("d", (b, a)).hash
    assert Pair("ab", "c", "d").id != Pair("a", "bc", "d").id


def test_choices_alternate_within_polarity() -> None:
    pairs = [Pair(f"q{k}", "Yes, x." if k % 2 else "No, x.", "z") for k in range(8)]
    asked = to_choices(pairs)
    assert [p.meta["matching_letter"] for p in asked if p.meta["polarity"] == "yes"] == list("ABAB")
    assert [p.meta["matching_letter"] for p in asked if p.meta["polarity"] == "no"] == list("BABA")
