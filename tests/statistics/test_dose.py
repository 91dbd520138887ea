"""Which multipliers are measured, shipped, and recommended."""

from __future__ import annotations

import math

import pytest

from trimtab.statistics.dose import COMFORT, DRIFTS, kept_whole, ladder, ship_range, strongest_comfortable
from trimtab.steering.use import Dose, DosePoint

Row = tuple[float, float, float, float | None, float | None]


def dose(*rows: Row, plain: float = 0.0) -> Dose:
    """Rows of multiplier, drift, share broken, lower bound of the rise, control."""
    points: list[DosePoint] = []
    for m, drift, broken, lo, c in rows:
        rise = (None, None, None) if lo is None else (lo + 0.1, lo, lo + 0.2)
        points.append(DosePoint(m, m, drift, broken, 0.0, 0.9, *rise, c))
    return Dose(tuple(points), plain, 0.9, 12, 40, 16, 8)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 40.0, 1e3])
def test_a_ladder_climbs_the_same_drifts_whatever_the_norm(scale: float) -> None:
    found = ladder(lambda m: (m * scale) ** 2)
    assert len(found) == len(DRIFTS) and found == sorted(found)
    assert [(m * scale) ** 2 for m in found] == pytest.approx(DRIFTS, rel=0.15)


def test_a_ladder_survives_a_model_that_breaks_down_and_one_that_does_not_move() -> None:
    assert max(ladder(lambda m: math.nan if m > 0.01 else m)) <= 2
    assert ladder(lambda m: 0.0) == [1.0]


def test_the_range_begins_where_controls_are_beaten_and_ends_where_text_breaks() -> None:
    d = dose((0.5, 0.05, 0.0, -0.1, 0.1), (1, 0.1, 0.0, 0.3, 0.1), (2, 0.3, 0.08, 0.6, 0.2), (4, 1.0, 0.5, 0.9, 0.3))
    assert ship_range(d) == (1, 2) and [p.multiplier for p in kept_whole(d)] == [0.5, 1, 2]
    best, why = strongest_comfortable(d, ship_range(d))
    assert best == 2 and "1 to 2" in why[0]


def test_what_moves_the_model_far_is_shipped_and_not_recommended() -> None:
    d = dose((1, COMFORT / 2, 0.0, 0.3, 0.1), (2, 2 * COMFORT, 0.0, 0.6, 0.2))
    assert ship_range(d) == (1, 2) and strongest_comfortable(d, (1, 2))[0] == 1
    far = dose((1, 2 * COMFORT, 0.0, 0.3, 0.1), (2, 4 * COMFORT, 0.0, 0.6, 0.2))
    assert strongest_comfortable(far, ship_range(far))[0] == 1  # the weakest of those that do something


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1.0, 0.1, 0.0, 0.0, 0.3)], "Not beyond its controls"),
        ([(1.0, 0.1, 0.0, 0.2, 0.25)], "Likely to work, but 8 held-out questions are too few to be sure: +0.300 at 1"),
        ([(1.0, 0.1, 0.0, None, None)], "not measured"),
        ([(1.0, 0.1, 0.6, 0.5, 0.1)], "text breaks at every"),
    ],
)
def test_no_range_is_said_to_be_none(rows: list[Row], words: str) -> None:
    d = dose(*rows)
    assert ship_range(d) is None and words in strongest_comfortable(d, None)[1][0]


def test_text_that_was_broken_before_does_not_count_against_the_vector() -> None:
    assert ship_range(dose((1.0, 0.1, 0.6, 0.5, 0.1), plain=0.55)) == (1.0, 1.0)
