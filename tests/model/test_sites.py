"""Sites that need no name of their own: what a block's last part returns is added to the stream, so a vector there acts
as one after the block.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pico import pico
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_vector_added_to_what_an_mlp_returns_is_one_after_its_block(name: str) -> None:
    lm, layer = pico(name), 1
    v = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    tokens = lm.tokens(["is it rain ?"])
    with steer(lm, Intervention(SteeringVector({layer: v}), positions="everywhere")):
        after = lm.logits(tokens)
    mlp: Any = lm.blocks[layer].mlp
    handle = mlp.register_forward_hook(lambda _, __, out: out + v)
    try:
        inside = lm.logits(tokens)
    finally:
        handle.remove()
    assert torch.allclose(after, inside, atol=1e-5) and not torch.allclose(after, lm.logits(tokens), atol=1e-2)
