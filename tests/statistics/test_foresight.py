"""Signals that foresee."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.statistics.foresight import Carried, foreseen


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
