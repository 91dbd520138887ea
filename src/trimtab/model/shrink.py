"""A small fp32 copy of a model's architecture, with random weights: exactness can be tried there at every length.

Whether padding, caches and masks of ours change a row depends on the model's code and on the kinds of its blocks, not
on its size or weights. What depends on length (a window, a chunk, the context before a rotary embedding changes) is
scaled down with it, so that a row of 40 tokens goes beyond its window:

    Mistral-7B    32 blocks, width 4096, window 4096    ->    4 blocks, width 128, window 12
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trimtab.model.blocks import find_blocks

VOCABULARY = 256
CONTEXT = 128  # of the copy; rows that are tried have at most 45 tokens
WIDE = 40_000_000  # weights up to which a copy keeps the model's width
MOST = 400_000_000  # weights of the largest copy worth making
LENGTHS = (  # what attributes of a configuration are called that name a length, and what it becomes
    (re.compile(r"original_max_position_embeddings$"), 16),
    (re.compile(r"(index_topk|attention_chunk_size)$"), 8),
    (re.compile(r"window(_size)?$"), 12),
    (re.compile(r"chunk_size$"), 8),
)
WIDTHS = re.compile(  # sizes that are divided by one number, so that what must agree still agrees
    r"(hidden_size|n_embd|d_model|word_embed_proj_dim|\w*intermediate_size|ffn_dim|ffn_hidden_size|n_inner|lru_width|mamba_d_ssm|"
    r"num_attention_heads|n_head|n_heads|num_heads|num_key_value_heads|num_kv_heads|mamba_n_heads|mamba_num_heads|linear_num_\w+_heads)$"
)


def shrunken(model: Any) -> Any | None:
    """The copy, on the model's device; None where the class cannot be built small, or a small one has other kinds of
    blocks.
    """
    kinds = _kinds(model)
    for config in _candidates(model, kinds):
        try:
            made = _built(model, config)
            if made is not None and set(_kinds(made)) == set(kinds):
                return made
        except Exception:  # whatever a foreign constructor raises at sizes it was not written for
            continue
    return None


def _candidates(model: Any, kinds: list[Any]) -> Iterator[Any]:
    """Configurations to try, the cheapest first: few blocks, then all of them; narrow where the model is wide."""
    few = max(min(4, len(kinds)), 1 + max(kinds.index(kind) for kind in set(kinds)))
    for blocks in dict.fromkeys((few, len(kinds))):
        for divisor in _divisors(model):
            config = copy.deepcopy(model.config)
            for part in _parts(config):
                _shorten(part)
            keep_blocks(config.get_text_config(decoder=True), blocks, len(kinds))
            _narrow(config.get_text_config(decoder=True), divisor)
            yield config


def _divisors(model: Any) -> tuple[int, ...]:
    """By how much to divide widths: down to about 128 first, where heads allow it, then not at all."""
    text = model.config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None) or 1
    divisor = 1
    while text.hidden_size // (2 * divisor) >= 128 and isinstance(heads, int) and heads % (2 * divisor) == 0:
        divisor *= 2
    return (divisor, 1) if divisor > 1 else (1,)


def _parts(config: Any) -> list[Any]:
    """A configuration and those inside it."""
    inside = [value for value in vars(config).values() if hasattr(value, "to_diff_dict")]
    return [config, *(part for one in inside for part in _parts(one))]


def _shorten(config: Any) -> None:
    """Scale down every length a configuration names, also those of its rotary embeddings."""
    for name, value in list(vars(config).items()):
        if name == "max_window_layers":
            continue
        for pattern, length in LENGTHS:
            if pattern.search(name) and isinstance(value, int) and not isinstance(value, bool) and value > length:
                setattr(config, name, length)
    dynamic = False
    for rope in _ropes(config):
        if (rope.get("original_max_position_embeddings") or 0) > 16:
            rope["original_max_position_embeddings"] = 16
        dynamic = dynamic or "dynamic" in str(rope.get("rope_type", rope.get("type", "")))
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int):
        config.max_position_embeddings = 16 if dynamic else min(longest, CONTEXT)


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The tables of rotary parameters: one, or one for every kind of layer."""
    table = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in table.values() if isinstance(value, dict)]
    return nested or [table]


def keep_blocks(text: Any, blocks: int, of: int) -> None:
    """Only the first blocks, in every list that has an entry for each."""
    text.num_hidden_layers = blocks
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == of:
            setattr(text, name, value[:blocks])


def _narrow(text: Any, divisor: int) -> None:
    """Fewer heads of the same size, a small vocabulary, few experts."""
    for name, value in list(vars(text).items()):
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if divisor > 1 and WIDTHS.match(name):
            setattr(text, name, max(1, value // divisor))
        elif re.fullmatch(r"num_experts|num_local_experts|n_routed_experts|moe_num_experts", name) and divisor > 1:
            setattr(text, name, min(value, 8))
        elif re.fullmatch(r"(pad|bos|eos)_token_id", name) and value >= VOCABULARY:
            setattr(text, name, 0 if name[0] == "p" else 1)
    text.vocab_size = min(text.vocab_size, VOCABULARY)


def _built(model: Any, config: Any) -> Any | None:
    """A copy with random weights large enough for every part to matter; None where it would be too large."""
    kind = type(model)
    with torch.device("meta"):
        size = sum(p.numel() for p in kind(config).parameters())
    if size > (WIDE if config.get_text_config(decoder=True).hidden_size >= 512 else MOST):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = kind(config).float()
        with torch.no_grad():
            for p in made.parameters():
                if p.ndim > 1:
                    p.normal_(0, min(0.15, p.shape[-1] ** -0.5))
    return made.to(next(model.parameters()).device).eval().requires_grad_(False)


def _kinds(model: Any) -> list[Any]:
    """What kind every block is of: the classes of its parts, and what they were told (a window or none, which
    attention), not how large they are.
    """
    return [_kind(block) for block in find_blocks(model)[1]]


def _kind(block: nn.Module) -> Any:
    home = type(block).__module__
    parts = [(name, type(m).__name__, *_settings(m)) for name, m in block.named_modules() if type(m).__module__ == home]
    return (type(block).__name__, *parts)


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """Plain attributes; of a number only that it is one."""
    plain = {
        k: v
        for k, v in vars(module).items()
        if not k.startswith("_") and k not in ("training", "layer_idx", "layer_id", "gradient_checkpointing")
    }
    settings = [
        (k, "a number" if isinstance(v, int | float) and not isinstance(v, bool) else v) for k, v in plain.items()
    ]
    return tuple((k, v) for k, v in settings if v is None or isinstance(v, bool | str))
