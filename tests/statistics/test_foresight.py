"""Signals that foresee."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.statistics.foresight import Carried, foreseen, picked


def test_a_signal_that_ranks_the_vectors_is_found_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    found = [
        Carried(
            b,
            "promote",
            f"promote-{k}",
            np.full(5, 0.1 * k + (b == "two")),
            np.zeros(5),
            1.0,
            {"good": -2.0 * k, "bad": float(rng.normal())},
        )
        for b in ("one", "two")
        for k in range(20)
    ]
    by_signal = {f.signal: f for f in foreseen(found)}
    good, bad = by_signal["good"], by_signal["bad"]
    assert good.spearman == pytest.approx(-1.0) and good.hi < -0.9
    assert abs(bad.spearman) < 0.5 and bad.lo < 0 < bad.hi


def test_picking_by_a_signal_is_held_against_a_blind_draw_and_the_best() -> None:
    rng = np.random.default_rng(0)

    def vectors(telling: bool) -> list[Carried]:
        out: list[Carried] = []
        for behavior in "abcdef":
            effects = rng.normal(0, 1, 5)
            losses = -effects if telling else rng.normal(0, 1, 5)
            out += [
                Carried(behavior, "promote", f"{k}", np.full(4, e), np.zeros(4), 1.0, {"held-out loss": float(x)})
                for k, (e, x) in enumerate(zip(effects, losses, strict=True))
            ]
        return out

    (told,) = picked(vectors(True))
    assert told.kept == 1 and told.picked == told.best > told.drawn and (told.groups, told.k) == (6, 5)
    blind = np.mean([picked(vectors(False))[0].kept for _ in range(60)])
    assert abs(blind) < 0.15, "a signal that says nothing does no better than a blind draw"
    assert picked(vectors(True)[:2]) == [], "of two vectors nothing is picked"
