"""Weights in 8 and 4 bits: shortcuts stay exact, vectors are learned and act, and plans say which model it was."""

from __future__ import annotations

import pytest
import torch

from trimtab import LM, Dataset, Intervention, MeanDiff, OneShot, learn, steer
from trimtab.model.trials import relative, replay_error

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_in_few_bits(bits: int) -> None:
    lm = LM.load("smollm2", bits=bits)
    whole = LM.load("smollm2")
    assert lm.bits == bits and lm.facts["bits"] == bits and "bits" not in whole.facts and lm.weights != whole.weights
    blocks = [sum(p.numel() * p.element_size() for p in m.blocks.parameters()) for m in (lm, whole)]
    if bits == 4:
        assert blocks[0] < 0.2 * blocks[1]
    assert lm.exact.replayable and lm.exact.batchable
    assert max(replay_error(lm, k) for k in (0, 15, 29)) <= 1e-4
    data = Dataset.load("optimism").split(seed=0).train.take(8)
    v, w = (learn(m, data, MeanDiff(), layers=[19]) for m in (lm, whole))
    assert v.cosine(w)[19] > 0.9, "another model, and nearly the same"
    shot = OneShot(prompt="What did you do at school today?", promote=("Arr, matey!",), norm=0.3, steps=10)
    u = learn(lm, None, shot, layers=[16])
    tokens = lm.tokens(["What did you do at school today?"], ["Arr, matey!"])
    with steer(lm, Intervention(u, positions="everywhere")):
        up = lm.logprobs(["What did you do at school today?"], ["Arr, matey!"])[0].sum()
    assert up > lm.logprobs(["What did you do at school today?"], ["Arr, matey!"])[0].sum() + 1.0
    # the gradient of the steered log-probability against two passes beside it
    assert _slope_error(lm, tokens, u[16]) <= 2e-2


def _slope_error(lm: LM, tokens: object, v: torch.Tensor) -> float:
    """How far a backward pass is from a difference of two forward passes, along a vector at block 16."""
    from trimtab.model import Frame

    def total(m: torch.Tensor) -> torch.Tensor:
        with lm.edit({16: lambda h, frame: h + m * v.to(h)}):
            ids = tokens.ids  # type: ignore[attr-defined]
            logits = lm.forward(ids, Frame(tokens.index, tokens.rows), tokens.mask)  # type: ignore[attr-defined]
        return logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None]).sum()

    m = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(total(m), m)
    with torch.no_grad():
        step = 0.01
        beside = (total(torch.tensor(step)) - total(torch.tensor(-step))) / (2 * step)
    return relative(slope[None], beside[None])
