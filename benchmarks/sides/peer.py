"""Loads the model in a peer's environment, whose transformers may be older than the one that wrote the folder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def load(folder: str) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    theta = 100000.0
    # written by transformers 5 as rope_parameters: an older one falls back to its default
    if getattr(model.config, "rope_theta", theta) != theta:
        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, rope_theta=theta).eval()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer.json", pad_token="<|im_end|>", padding_side="right"
    )
    return model.requires_grad_(False), tokenizer
