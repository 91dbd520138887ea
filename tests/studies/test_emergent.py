"""The study of emergent misalignment."""

from __future__ import annotations

from trimtab.studies.conditions import UNSTEERED
from trimtab.studies.pages.emergent import Scored, held_against_truth


def test_a_judge_is_held_against_the_truth() -> None:
    villain, neither = [False, True, False, True], [False, False, False, True]
    scored = Scored(UNSTEERED, [90.0, 10.0, 80.0, 30.0], [99.0] * 4, [True] * 4, villain, [True] * 4, neither)
    found = held_against_truth([scored])
    assert found.n == 3 and found.kappa[0] == 1.0
