"""Real GGUF files, where `$TRIMTAB_MODELS` names a folder that holds them: our reading of one against llama.cpp's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.data.builtin import behavior
from trimtab.exporters import llama_cpp
from trimtab.exporters.base import logprobs
from trimtab.model import LM
from trimtab.names import MODELS

pytestmark = pytest.mark.slow
SMALL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
PROMPTS, TIE = 50, 0.15  # nats between the likeliest two tokens: three times what the two differ by


def shelved(name: str) -> Path:
    shelf = os.environ.get(MODELS, "")
    if not shelf or not Path(shelf, name).is_file():
        pytest.skip(f"{MODELS} names no folder that holds {name}")
    return Path(shelf, name)


def test_the_same_first_tokens_as_llama_cpp() -> None:
    """50 questions: log-probabilities of the first token of the answer. Weights are the same; llama.cpp also rounds
    activations, to eight bits in blocks of 256, so the likeliest token may be another one where two are nearly tied.
    """
    file = shelved(SMALL)
    lm = LM.load(SMALL)
    asked = [p.prompt for name in ("optimism", "wealth-seeking") for p in behavior(name).pairs][:PROMPTS]
    rows = lm.rows(asked)
    ours = torch.stack([p[-1] for p in logprobs(lm, rows)]).numpy()
    theirs = np.stack([p[-1] for p in llama_cpp.logprobs(file, [r.ids for r in rows])])
    same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    likely = ours > np.log(0.01)
    rms = float(np.sqrt(np.square((ours - theirs)[likely]).mean()))
    print(f"same first token {same:.0%} of {len(rows)}, log-probabilities of likely tokens within {rms:.3f} nats (rms)")
    ranked = np.sort(ours, -1)
    clear = ranked[:, -1] - ranked[:, -2] > TIE
    assert len(rows) == PROMPTS and clear.sum() > PROMPTS / 2
    assert same >= 0.9 and rms < TIE / 2
    assert (ours.argmax(-1) == theirs.argmax(-1))[clear].all()
