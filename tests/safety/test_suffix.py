"""Adversarial suffixes."""

from __future__ import annotations

import pytest
import torch

from pico import pico
from trimtab.errors import DataError
from trimtab.model import LM
from trimtab.safety.suffix import _losses, _place, _slope, find_suffix

ASKED = [("Do you like tea ?", "yes I think"), ("Do you like the rain ?", "yes I think")]


@pytest.fixture(scope="module")
def lm() -> LM:
    return pico("llama")


def test_the_suffix_is_found_in_the_prompt(lm: LM) -> None:
    row = lm.row("Do you like tea ? blue green")
    place = _place(lm, "Do you like tea ?", "blue green")
    assert place is not None and lm.tokenizer.decode([row.ids[k] for k in place]).split() == ["blue", "green"]


def test_the_gradient_is_that_of_the_loss(lm: LM) -> None:
    """First order: a small step of the embedding towards another token changes the loss by the step's share of the
    slope.
    """
    ids, slope = _slope(lm, ASKED, "blue green")
    table = lm.model.get_input_embeddings().weight
    other = next(k for k in range(5, len(table)) if k not in ids)
    before, step = _losses(lm, ASKED, ["blue green"])[0], 1e-2
    kept = table.detach()[ids[0]].clone()
    with torch.no_grad():  # the only place "blue" stands in is the suffix
        table[ids[0]] += step * (table[other] - kept)
        after = _losses(lm, ASKED, ["blue green"])[0]
        table[ids[0]] = kept
    assert after - before == pytest.approx(step * float(slope[0, other] - slope[0, ids[0]]), rel=0.1, abs=1e-5)


def test_a_suffix_makes_the_opening_likelier_and_is_the_same_again(lm: LM) -> None:
    found = find_suffix(lm, ASKED, length=2, steps=4, candidates=16, top=16)
    assert found.losses[-1] < found.losses[0] and list(found.losses) == sorted(found.losses, reverse=True)
    assert _losses(lm, ASKED, [found.text])[0] == pytest.approx(found.losses[-1], abs=1e-4), "of the text, read again"
    assert find_suffix(lm, ASKED, length=2, steps=4, candidates=16, top=16) == found
    with pytest.raises(DataError):
        find_suffix(lm, [])
