"""Rows that share a prompt share its pass: the same logits and gradients as each row alone, on every architecture that
allows it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pico import architectures, pico
from trimtab.model import LM, Frame, Row, Tokens
from trimtab.model.packing import Packing
from trimtab.model.trials import relative
from zoo import FAST

PLAIN = ("llama", "qwen2", "qwen3", "gpt_neox", "phi", "gemma", "olmo2", "granite", "stablelm", "cohere")


def batch(lm: LM) -> Tokens:
    a, b = tuple(range(5, 14)), tuple(range(20, 26))
    return lm.batch([Row((*a, 3, 4, 5), 9), Row((*b, 7, 8), 6), Row((*a, 6), 9), Row((*a, 9, 10), 9)])


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("name", FAST)
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
        logits = lm.replay(
            prefix, layer, prefix.residual[layer] + v, keep=keep, edits={lm.n_layers - 1: nudge}, share=share
        )
        kept = logits[:, tokens.mask[:, tokens.pivot - 1 : -1].bool()]
        (gradient,) = torch.autograd.grad(kept.log_softmax(-1)[..., :5].sum(), v)
        found.append((kept.detach(), gradient))
    (one, g), (two, h) = found
    assert torch.allclose(one, two, atol=1e-4 * float(two.abs().max())) and torch.allclose(
        g, h, atol=1e-4 * float(h.abs().max())
    )


@pytest.mark.parametrize("name", architectures(*PLAIN))
def test_plain_architectures_do_share(name: str) -> None:
    lm = pico(name)
    prefix = lm.prefix(batch(lm), 0, [0])
    assert lm._packs(prefix.packing, prefix.distinct)


def test_packing_and_back() -> None:
    lm = pico()
    tokens = batch(lm)
    packing = Packing.of(tokens, 2)
    h = torch.randn(2, 4, tokens.ids.shape[1] - 2, 5)
    h[:, [2, 3], : tokens.pivot - 2] = h[:, [0, 0], : tokens.pivot - 2]
    real = tokens.mask[:, 2:].bool()
    assert torch.equal(packing.unpack(packing.pack(h))[:, real], h[:, real])
    assert packing.saves and packing.first.tolist() == [0, 1]
    assert packing.ids.shape == packing.index.shape == (2, 7 + 3 + 1 + 2), (
        "the prompt from column 2 on, and three completions"
    )
    assert int((packing.index >= 0).sum()) == (7 + 6) + (3 + 2 + 1 + 2), "no token twice"


def test_a_packed_replay_folds_its_conditions() -> None:
    """Conditions on one cache, and each on a copy of its own, give the same."""
    lm = pico("llama")
    prefix = lm.prefix(batch(lm), 4, [1])
    h = torch.stack([m * prefix.residual[1] for m in (0.5, 1.0, 1.5)])
    how = {
        "columns": torch.arange(prefix.residual[1].shape[1]),
        "edits": {2: lambda x, frame: x + 0.1 * frame.index.clamp(min=0)[..., None]},
    }
    real = prefix.tokens.mask[:, 4:].bool()
    with torch.no_grad():
        side, apart = (lm._packed(prefix, 1, h, fold=fold, **how)[:, real] for fold in (True, False))  # type: ignore[arg-type]
    assert lm._folds(prefix, 3, prefix.packing.width) and torch.allclose(side, apart, atol=1e-5)


@pytest.mark.parametrize("start", [0, 4, None])
@pytest.mark.parametrize("name", architectures(*PLAIN))
def test_a_prefix_whose_rows_share_their_prompts_is_that_of_whole_rows(
    name: str, start: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = pico(name)
    tokens = batch(lm)
    packed = lm.prefix(tokens, start)
    monkeypatch.setattr(lm, "exact", replace(lm.exact, foldable=False))
    apart = lm.prefix(tokens, start)
    real = tokens.mask[:, packed.start :].bool()
    assert relative(packed.logits[real], apart.logits[real]) <= 1e-5
    assert relative(packed.logits[real], lm.logits(tokens)[:, packed.start :][real]) <= 1e-5
    for layer, h in apart.residual.items():
        assert relative(packed.residual[layer][real], h[real]) <= 1e-5
    for mine, whole in zip(*(p.cache.layers if p.cache is not None else () for p in (packed, apart)), strict=True):
        assert relative(mine.keys, whole.keys) <= 1e-5 and len(mine.keys) == len(tokens.rows)
