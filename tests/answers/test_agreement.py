"""How well judges agree."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trimtab.answers.agreement import agreement, kappa
from trimtab.errors import RecipeError


def test_agreement_and_kappa() -> None:
    one, two = np.array([True, True, False, False]), np.array([True, False, False, False])
    assert kappa(one, two) == pytest.approx((0.75 - 0.5) / 0.5)
    assert math.isnan(kappa(np.ones(3, bool), np.ones(3, bool)))
    a = [10.0, 20.0, 30.0, 80.0, 90.0, math.nan]
    found = agreement(a, [12.0, 25.0, 20.0, 70.0, 95.0, 3.0], 50.0)
    assert found.n == 5 and found.unscored == 1 and found.agree == 1.0 and found.kappa[0] == 1.0
    assert found.spearman[0] == pytest.approx(0.9) and found.apart == pytest.approx(np.mean([-2, -5, 10, 10, -5]))
    with pytest.raises(RecipeError, match="too few"):
        agreement([1.0, math.nan], [1.0, 2.0], 0.5)
