"""What trimtab finds in a model: blocks, exactness of replays, memory and time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from trimtab.model.tokens import Row
from trimtab.model.trials import replay_error

if TYPE_CHECKING:
    from trimtab.model import LM


def examine(lm: LM) -> dict[str, str | float | int | bool]:
    """Facts about a loaded model; times are of one pass on this machine."""
    config = lm.model.config.get_text_config(decoder=True)
    prompt = lm.batch([Row(tuple(k % min(config.vocab_size, 1000) for k in range(120)), 119)])
    size = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    full = _seconds(lambda: lm.logits(prompt, keep=[119]))
    prefix = lm.prefix(prompt, keep=[119])
    middle = lm.n_layers // 2
    h = prefix.residual[middle]
    replay = _seconds(lambda: lm.replay(prefix, middle, torch.stack([h] * 6), keep=[119]))
    sweep = full + lm.n_layers * replay
    return {
        "model": lm.id,
        "architecture": f"{config.model_type}, {lm.dtype}, on {lm.device}".replace("torch.", ""),
        "blocks": f"{lm.n_layers} at {lm.blocks_path}, width {lm.width}",
        "context": lm.context,
        "chat template": bool(lm.tokenizer is not None and lm.tokenizer.chat_template),
        "replay": f"exact, largest relative error {max(replay_error(lm, k) for k in (0, middle, lm.n_layers - 1)):.1e}"
        if lm.exact.replayable
        else "not possible: full passes are used (slow, exact)",
        "padding": "exact" if lm.exact.batchable else "changes a row: rows with prompts of equal length share a batch",
        "tried on": f"{lm.exact.tried_on}: {', '.join(f'{k} {e:.0e}' for k, e in lm.exact.worst)}",
        "length": ", ".join(f"positions change beyond {s.length} tokens" for s in lm.exact.switches)
        or "one computation at every length",
        "noise of the dtype": f"{lm.exact.noise:.1e} between a row alone and beside others",
        "letters": _letters(lm),
        "weights": f"{size / 2**20:.0f} MiB",
        "cache per token": f"{_cache_bytes(lm) / 1024:.1f} KiB",
        "120-token pass": f"{full * 1000:.0f} ms",
        "sweep of one item": f"{sweep:.2f} s for {lm.n_layers} layers x 7 multipliers ({sweep / full:.1f} passes)",
    }


def _letters(lm: LM) -> str:
    if lm.tokenizer is None:
        return "no tokenizer"
    a, b = (lm.tokenizer(f"({x})", add_special_tokens=False).input_ids for x in "AB")
    different = [k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    good = len(a) == len(b) and len(different) == 1
    return (
        '"(A)" and "(B)" differ in one token'
        if good
        else '"(A)" and "(B)" differ in more than one token: letter propensity is not to be trusted'
    )


def _cache_bytes(lm: LM) -> float:
    """Bytes of keys and values per token, read off a real cache."""
    tokens = lm.batch([Row(tuple(range(5, 13)), 8)])
    cache = lm.prefix(tokens, 7, [0], keep=[7]).cache
    held = [
        t
        for layer in cache.layers
        for t in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if isinstance(t, torch.Tensor)
    ]
    return sum(t.numel() * t.element_size() for t in held) / 7


def _seconds(run: Callable[[], object]) -> float:
    run()
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
