"""What may pass for a behavior."""

from __future__ import annotations

import numpy as np

from trimtab.data.confounds import confounds
from trimtab.data.pairs import Pair, as_choice, to_choices
from trimtab.statistics.factors import (
    cells,
)


def test_audit_warns_of_polarity_letters_and_lengths() -> None:
    biased = [as_choice(Pair(f"q{k}?", "Yes, of course I would do that", "No", {}), "A") for k in range(30)]
    found = confounds(biased)
    assert found.yes_gap == 1 and found.letter_a == 1 and len(found.warnings) == 3
    fair = to_choices([Pair(f"q{k}?", "Yes" if k % 2 else "No", "No" if k % 2 else "Yes", {}) for k in range(40)])
    assert confounds(fair).warnings == () and set(cells(np.ones(40), [p.meta for p in fair])) == {
        "A, no",
        "A, yes",
        "B, no",
        "B, yes",
    }
