"""Rows and batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pico import pico, rows
from trimtab.model import (
    LM,
    Row,
)
from trimtab.model.tokens import Tokens, grouped


def test_batches_end_their_prompts_in_one_column(lm: LM) -> None:
    tokens = lm.batch(rows((5, 2), (3, 4)))
    assert tokens.pivot == 5 and tokens.ids.shape == (2, 9)
    assert tokens.index.tolist() == [[0, 1, 2, 3, 4, 5, 6, -1, -1], [-1, -1, 0, 1, 2, 3, 4, 5, 6]]


def test_tokens_without_rows_of_one_width() -> None:
    assert Tokens.of([Row((1, 2), 2)], 0).mask.tolist() == [[1, 1]]
    assert pico("llama").context == 128


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from([1, 32]),
)
def test_batches_hold_every_row_once_and_pad_no_more_than_either_order(
    shapes: list[tuple[int, int]], size: int, replays: int
) -> None:
    made = [Row(tuple(range(p + c)), p) for p, c in shapes]

    def cost(batches: list[list[int]]) -> int:
        return sum(len(b) * (max(shapes[k][0] for k in b) + replays * max(shapes[k][1] for k in b)) for b in batches)

    found = grouped(made, size, replays)
    assert sorted(k for b in found for k in b) == list(range(len(made))) and max(map(len, found)) <= size
    for order in (
        sorted(range(len(made)), key=lambda k: shapes[k]),
        sorted(range(len(made)), key=lambda k: shapes[k][::-1]),
    ):
        assert cost(found) <= cost([order[k : k + size] for k in range(0, len(order), size)])
