"""Capture."""

from __future__ import annotations

import pytest
import torch

from pico import rows
from trimtab.errors import TokenError
from trimtab.model import (
    LM,
    everywhere,
    from_last_prompt_token,
    generated,
    last,
    last_k,
    prompt,
)


def test_capture_is_the_mean_of_the_hooked_states(lm: LM) -> None:
    tokens = lm.batch(rows((5, 2), (3, 4), (5, 2)))
    seen: dict[int, torch.Tensor] = {}

    def record(layer: int):
        def hook(h: torch.Tensor, frame: object) -> torch.Tensor:
            seen[layer] = h
            return h

        return hook

    lm.logits(tokens, {k: record(k) for k in range(lm.n_layers)})
    for positions in (generated, last, everywhere, last_k(2), prompt, from_last_prompt_token):
        chosen = positions.select(tokens.index, tokens.rows)
        found = lm.capture(tokens, positions)
        for layer in range(lm.n_layers):
            expected = torch.stack([seen[layer][k][chosen[k]].mean(0) for k in range(3)])
            assert torch.allclose(found[:, layer], expected, atol=1e-5)
    normed = lm.model(
        input_ids=tokens.ids,
        attention_mask=tokens.mask,
        position_ids=tokens.index.clamp(min=0),
        output_hidden_states=True,
    ).hidden_states[-1]
    assert not torch.allclose(seen[lm.n_layers - 1], normed), "the last layer is read before the final norm"
    with pytest.raises(TokenError, match="select nothing"):
        lm.capture(lm.batch(rows((4, 0))), generated)
