"""A model on which steering has a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pico import build, tokenizer
from trimtab.model import LM


class Linear(nn.Module):
    """Replaces a norm so that logits are linear in the residual stream."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h


@pytest.fixture(scope="module")
def linear() -> LM:
    """A model whose logits are the output embedding times the stream: its blocks add nothing."""
    model = build("llama")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    model.model.norm = Linear()
    return LM(model, tokenizer(), id="linear")
