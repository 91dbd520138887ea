"""A/B questions taken apart: the question, the option that matches the behavior, the other; and their options in the
other order.
"""

from __future__ import annotations

import re

from trimtab.data.pairs import Pair, as_choice
from trimtab.errors import DataError

_LISTED = re.compile(
    r"(.*?\S)\s*\n\s*(?:(?:[A-Z][\w ]{0,30}:)\s*\n\s*)?\(A\):?[ \t]*(\S.*?)\s*\n\s*\(B\):?[ \t]*(\S.*?)\s*", re.DOTALL
)


def options(pair: Pair) -> tuple[str, str, str]:
    """The question of an A/B question without its choices, the option that matches the behavior, and the other.

    Raises:
        DataError: choices that are not listed as trimtab's converters, or the published files, list them.
    """
    letter = pair.meta.get("matching_letter")
    match = _LISTED.fullmatch(pair.prompt)
    if letter not in ("A", "B") or not match or re.search(r"\n\s*\([C-Z]\)", match[3]):
        raise DataError(
            "not an A/B question with two listed options",
            given=pair.prompt[-120:],
            expected="two lines '(A): ...' and '(B): ...'",
        )
    stem, one, two = match.groups()
    matching, other = (one, two) if letter == "A" else (two, one)
    return stem, matching, other


def is_listed(pair: Pair) -> bool:
    """Whether `options` can read it."""
    try:
        options(pair)
    except DataError:
        return False
    return True


def swapped(pair: Pair) -> Pair:
    """The same A/B question with its options in the other order, the behavior-matching one at the other letter.

    Raises:
        DataError: not an A/B question with two listed options.
    """
    stem, matching, other = options(pair)
    return as_choice(
        Pair(stem, matching, other, pair.meta, pair.before), "B" if pair.meta["matching_letter"] == "A" else "A"
    )
