"""Where a turn ends."""

from __future__ import annotations

import torch

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.methods.contrast import activations
from trimtab.model import (
    LM,
)
from trimtab.model.turns import turn_end


def test_what_follows_an_answer_and_which_token_names_the_next_speaker(lm: LM) -> None:
    ids, named = turn_end(lm.tokenizer)
    assert lm.tokenizer.convert_ids_to_tokens(list(ids)) == ["<end>", "<user>"] and named == 1
    pair = Pair("Do you like tea ?", "yes", "no")
    other = Pair("is it rain ?", "good .", "bad .")
    acts = activations(lm, Dataset("two", (pair, other)), [1], read="role")
    for k, p in enumerate((pair, other)):
        row = lm.row(p.prompt, p.positive).extended(ids)
        tokens = lm.batch([row])
        assert torch.allclose(acts.positive[k], lm.capture(tokens, tokens.index == len(row.ids) - 1, [1])[0], atol=1e-5)
