"""Rows that share a prompt share its pass: the same logits and gradients as each row alone, on every architecture that allows it."""

from __future__ import annotations

import pytest
import torch

from pico import ZOO, pico
from trimtab.model import LM, Frame, Row, Tokens
from trimtab.model.packing import Packing

PLAIN = ("llama", "qwen2", "qwen3", "gpt_neox", "phi", "gemma", "olmo2", "granite", "stablelm", "cohere")


def batch(lm: LM) -> Tokens:
    a, b = tuple(range(5, 14)), tuple(range(20, 26))
    return lm.batch([Row((*a, 3, 4, 5), 9), Row((*b, 7, 8), 6), Row((*a, 6), 9), Row((*a, 9, 10), 9)])


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("name", list(ZOO))
def test_a_shared_prompt_changes_nothing(name: str, start: int) -> None:
    lm = pico(name)
    tokens = batch(lm)
    layer = min(1, lm.n_layers - 2)
    prefix = lm.prefix(tokens, start, [layer])
    v = torch.randn(2, 1, 1, lm.width, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def nudge(h: torch.Tensor, frame: Frame) -> torch.Tensor:
        return h + 0.1 * frame.index.clamp(min=0)[..., None]

    keep = range(tokens.pivot - 1, tokens.ids.shape[1] - 1)
    found = []
    for share in (True, False):
        logits = lm.replay(prefix, layer, prefix.residual[layer] + v, keep=keep, edits={lm.n_layers - 1: nudge}, share=share)
        kept = logits[:, tokens.mask[:, tokens.pivot - 1 : -1].bool()]
        (gradient,) = torch.autograd.grad(kept.log_softmax(-1)[..., :5].sum(), v)
        found.append((kept.detach(), gradient))
    (one, g), (two, h) = found
    assert torch.allclose(one, two, atol=1e-4 * float(two.abs().max())) and torch.allclose(g, h, atol=1e-4 * float(h.abs().max()))


def test_plain_architectures_do_share() -> None:
    for name in PLAIN:
        lm = pico(name)
        assert lm._packs(lm.prefix(batch(lm), 0, [0])), name


def test_packing_and_back() -> None:
    lm = pico()
    tokens = batch(lm)
    packing = Packing.of(tokens, 2)
    h = torch.randn(2, 4, tokens.ids.shape[1] - 2, 5)
    h[:, [2, 3], : packing.shared] = h[:, [0, 0], : packing.shared]
    assert torch.equal(packing.unpack(packing.pack(h)), h)
    assert packing.saves and packing.members.shape == (2, 3)
    ids, index = packing.ids, packing.index
    assert ids.shape == index.shape == (2, 7 + 3 * 3)
    assert int((index >= 0).sum()) == (7 + 6) + (3 + 2 + 1 + 2), "prompts once (from column 2 on), every completion, no padding"
