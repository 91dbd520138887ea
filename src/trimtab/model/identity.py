"""Which model is it? Hashes of its shape, and of its weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

SEEN = 64  # values of each tensor that the hash of the weights looks at


def shape_hash(config: Any, width: int, n_layers: int) -> str:
    """16 hex digits over architecture, width, layers and size of the vocabulary."""
    c = config.get_text_config(decoder=True)
    facts = [c.model_type, width, n_layers, c.vocab_size]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def quantized_bits(config: Any) -> int | None:
    """How many bits a weight of the blocks has where they were quantized; None where they are as they were saved, or
    the configuration does not say.
    """
    how = getattr(config, "quantization_config", None)
    if how is None:
        return None
    table: dict[str, Any] = how if isinstance(how, dict) else how.to_dict()
    if table.get("load_in_4bit") or table.get("bits") == 4:
        return 4
    return 8 if table.get("load_in_8bit") or table.get("bits") == 8 or "int8" in str(table).lower() else None


@torch.no_grad()
def weights_hash(model: torch.nn.Module) -> str:
    """16 hex digits over the name, the shape and 64 evenly spaced values of every parameter, rounded to bfloat16: a
    fine-tune has others, a copy of the same checkpoint in another dtype or place has not, one in few bits has.

    Returns:
        The empty string where a parameter is not in memory.
    """
    h = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        if p.is_meta:
            return ""
        values: Any = p.detach()
        flat = (values.dequantize() if hasattr(values, "__tensor_flatten__") else values).reshape(-1)
        at = torch.linspace(0, max(0, len(flat) - 1), min(len(flat), SEEN), dtype=torch.float64).long()
        some = flat[at.to(flat.device)].float().to("cpu", torch.bfloat16)
        h.update(repr((name, tuple(p.shape))).encode() + some.view(torch.int16).numpy().tobytes())
    return h.hexdigest()[:16]
