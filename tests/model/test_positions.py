"""Positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import SteerError, TokenError, UnknownName
from trimtab.model import (
    LM,
    Positions,
    Row,
    after,
    span,
)


def words(lm: LM, row: Row) -> list[str]:
    return lm.tokenizer.convert_ids_to_tokens(list(row.ids))


WORDS = {
    "everywhere": range(9),
    "prompt": range(6),
    "generated": range(6, 9),
    "last": [5],
    "from_last_prompt_token": range(5, 9),
    "last_k(2)": [4, 5],
    "span(1, 3)": [1, 2],
    "generated | last": range(5, 9),
    "prompt & ~last_k(4)": [0, 1],
    "~prompt": range(6, 9),
}


@pytest.mark.parametrize("text", WORDS)
@given(left=st.integers(0, 3), right=st.integers(0, 3), cut=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_positions_mean_the_same_padded_cut_and_written_down(text: str, left: int, right: int, cut: int) -> None:
    row = Row(tuple(range(9)), 6)
    index = torch.tensor([[-1] * left + list(range(9)) + [-1] * right])
    positions = Positions.parse(text)
    assert Positions.parse(str(positions)).select(index, [row]).equal(positions.select(index, [row]))
    chosen = positions.select(index, [row])[0]
    assert (chosen.nonzero()[:, 0] - left).tolist() == list(WORDS[text])
    assert not chosen[:left].any() and not chosen[left + 9 :].any()
    seen = positions.select(index[:, : left + cut], [Row(row.ids[: max(cut, 6)], 6)])[0]
    assert seen.equal(chosen[: left + cut]), "what comes later does not matter"


def test_after_text_and_role(lm: LM) -> None:
    row = lm.row("Do you like tea ?", "yes", system="be kind")
    tokens = lm.batch([row])
    chosen = after("like").select(tokens.index, tokens.rows)[0]
    assert [words(lm, row)[k] for k in chosen.nonzero()[:, 0]] == ["tea", "?", "<end>", "<bot>", "yes"]
    chosen = span("system").select(tokens.index, tokens.rows)[0]
    assert [words(lm, row)[k] for k in chosen.nonzero()[:, 0]] == ["be", "kind"]
    with pytest.raises(TokenError, match="does not contain"):
        after("coffee").select(tokens.index, tokens.rows)


@pytest.mark.parametrize("text", ["evrywhere", "last_kk(2)"])
def test_unknown_positions_propose_the_nearest(text: str) -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        Positions.parse(text)


@pytest.mark.parametrize("text", ["last_k(0)", "last and prompt", "last_k(", "__import__('os')", "span(3, 2)", "1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises((SteerError, UnknownName)):
        Positions.parse(text)
