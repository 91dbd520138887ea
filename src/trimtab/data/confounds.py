"""What may pass for a behavior in a data set: polarity, letters, lengths, repeats (Tan et al. 2024, section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from trimtab.data.choices import is_listed, options
from trimtab.data.pairs import Pair, polarity


@dataclass(frozen=True)
class Confounds:
    """What about a data set may pass for the behavior.

    Attributes:
        yes_gap: share of positive answers that begin with yes minus that of negative ones.
        letter_a: share of positive answers at A; NaN where answers are no letters.
        length_gap: mean length of positive answers minus negative ones, in words.
        repeated: share of items whose question occurs more than once.
        warnings: in words.
    """

    yes_gap: float
    letter_a: float
    length_gap: float
    repeated: float
    warnings: tuple[str, ...]


def confounds(data: Iterable[Pair]) -> Confounds:
    """Polarity, letters, lengths and repeats of a data set."""
    pairs = list(data)
    spoken = [options(p)[1:] if is_listed(p) else (p.positive, p.negative) for p in pairs]
    yes = np.mean([polarity(positive) == "yes" for positive, _ in spoken])
    no = np.mean([polarity(negative) == "yes" for _, negative in spoken])
    letters = [p.meta["matching_letter"] == "A" for p in pairs if "matching_letter" in p.meta and p.positive[:1] == "("]
    lengths = np.array([(len(positive.split()), len(negative.split())) for positive, negative in spoken], float)
    groups = Counter(p.group for p in pairs)
    figures = Confounds(
        float(yes - no),
        float(np.mean(letters)) if letters else float("nan"),
        float((lengths[:, 0] - lengths[:, 1]).mean()),
        float(np.mean([groups[p.group] > 1 for p in pairs])),
        (),
    )
    warnings: list[str] = []
    if abs(figures.yes_gap) > 0.2:
        warnings.append(
            f"positive answers begin with yes {figures.yes_gap:+.0%} more often than negative ones: polarity may pass "
            "for the behavior"
        )
    if letters and abs(figures.letter_a - 0.5) > 0.1:
        warnings.append(f"{figures.letter_a:.0%} of the positive answers are (A): letters are not balanced")
    if abs(figures.length_gap) > 0.25 * lengths.mean():
        warnings.append(f"positive answers are {figures.length_gap:+.1f} words longer than negative ones")
    if figures.repeated > 0.05:
        warnings.append(f"{figures.repeated:.0%} of the items share their question with another")
    return replace(figures, warnings=tuple(warnings))
