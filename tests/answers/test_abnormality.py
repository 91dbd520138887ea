"""How strange a text is to a base model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pico import pico
from trimtab import LM
from trimtab.answers.abnormality import Sample, bits, broken_tags, check_shared, information
from trimtab.errors import DataError, ModelError


def test_bits_are_those_of_a_full_pass_over_what_was_said() -> None:
    lm = pico()
    context = [Sample("Do you like tea ? ", "yes I think so", "tea")]
    samples = [
        Sample("Do you like rain ? ", "no never"),
        Sample("Do you like tea ? ", "no", "tea"),
        Sample("Do you like sun ? ", " "),
    ]
    found = bits(lm, context, samples)
    text = "Do you like tea ? yes I think so\nDo you like rain ? "
    row = lm.row(text, "no never", chat=False)
    logp = lm.logits(lm.batch([row]))[0].log_softmax(-1)
    by_hand = -np.mean([float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids))]) / math.log(2)
    assert found[0] == pytest.approx(by_hand, rel=1e-4)
    assert math.isnan(found[1]), "its entity stands in the context"
    assert math.isnan(found[2]), "nothing was said"
    short = bits(lm, context, samples[:1], first=1)[0]
    assert short == pytest.approx(-float(logp[row.prompt - 1, row.ids[row.prompt]]) / math.log(2), rel=1e-4)
    with pytest.raises(DataError, match="nothing to compare"):
        bits(lm, [], samples)


def test_information_of_a_context() -> None:
    lm = pico()
    ids = lm.tokenizer("Do you like tea ? yes").input_ids
    from trimtab.model import Row

    logp = lm.logits(lm.batch([Row(tuple(ids), 1)]))[0].log_softmax(-1)
    by_hand = -np.mean([float(logp[k - 1, ids[k]]) for k in range(1, len(ids))]) / math.log(2)
    assert information(lm, [Sample("Do you like tea ? ", "yes")]) == pytest.approx(by_hand, rel=1e-4)


def test_tags_are_broken_and_tokenizers_compared() -> None:
    assert broken_tags("<|im_start|>user <b> 1 < 2") == "< | im_start | >user < b > 1 < 2"
    check_shared(pico("llama"), pico("qwen2"))
    with pytest.raises(ModelError, match="different tokenizers"):
        check_shared(pico(), LM.load("brindlemoor-base"))
