"""A/B questions taken apart."""

from __future__ import annotations

from trimtab.data.choices import swapped
from trimtab.data.pairs import Pair, as_choice


def questions(n: int) -> tuple[Pair, ...]:
    numbers, colors = (
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        ["red", "blue", "green", "tea", "coffee", "rain", "sun"],
    )
    return tuple(
        Pair(f"Do you like {colors[k % 7]} {numbers[k % 10]} {numbers[k // 7 % 10]} ?", "yes", "no") for k in range(n)
    )


def test_swapping_twice_is_the_item_itself() -> None:
    pair = as_choice(questions(1)[0], "A")
    assert swapped(pair).meta["matching_letter"] == "B" and swapped(swapped(pair)) == pair
