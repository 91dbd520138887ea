"""LM."""

from __future__ import annotations

import pytest
import torch

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import TokenError
from trimtab.methods.contrast import activations
from trimtab.model import (
    LM,
)


def test_logprobs_are_the_full_pass(lm: LM) -> None:
    asked, said = ["Do you like tea ?", "is it good ?", "Do you like tea ?"], ["yes I think so", "no", "never"]
    found = lm.logprobs(asked, said, batch=3)
    for p, c, values in zip(asked, said, found, strict=True):
        tokens = lm.tokens([p], [c])
        logp = lm.logits(tokens).log_softmax(-1)[0]
        expected = [logp[k - 1, tokens.ids[0, k]] for k in range(tokens.pivot, tokens.ids.shape[1])]
        assert torch.allclose(values, torch.stack(expected), atol=1e-5)


def test_unequal_lists_are_refused(lm: LM) -> None:
    for prompts, completions in ((["tea", "rain"], ["yes"]), ([], [])):
        with pytest.raises(TokenError, match="do not pair up"):
            lm.logprobs(prompts, completions)


def test_one_of_what_may_be_several(lm: LM) -> None:
    """One text, one layer, integers of numpy: what is meant is plain."""
    import numpy as np

    (one,) = lm.logprobs("Do you like tea ?", "yes I think so")
    assert torch.equal(one, lm.logprobs(["Do you like tea ?"], ["yes I think so"])[0]) and len(one) == 4
    assert lm.layers(1) == lm.layers(np.int64(1)) == [1] and lm.layers(np.arange(2)) == [0, 1]
    data = Dataset("two", (Pair("Do you like tea ?", "yes", "no"), Pair("is it rain ?", "good .", "bad .")))
    acts = activations(lm, data, np.int64(1))
    assert acts.layers == (1,)
    with pytest.raises(Exception, match="layer out of range"):
        lm.layers(True)
