"""What trimtab finds in a model: blocks, exactness of replays, memory and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from trimtab.model.tokens import Row
from trimtab.model.trials import replay_error
from trimtab.progress import Progress

if TYPE_CHECKING:
    from trimtab.model import LM


def examine(load: Callable[[], LM], progress: Progress) -> dict[str, Any]:
    """Facts about a model, numbers as numbers; times are of one pass on this machine.

    Args:
        progress: called with (done, in all) of loading, exactness and timing.
    """
    progress(0, 3, "loading")
    lm = load()
    progress(1, 3, "exactness")
    config, middle = lm.model.config.get_text_config(decoder=True), lm.n_layers // 2
    replayable = bool(lm.exact.replayable)
    error = max(replay_error(lm, k) for k in (0, middle, lm.n_layers - 1)) if replayable else None
    progress(2, 3, "timing")
    size = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    facts = {
        "model": lm.id,
        "architecture": config.model_type,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": str(lm.device),
        "weights_hash": lm.weights,
        "blocks": lm.n_layers,
        "blocks_path": lm.blocks_path,
        "width": lm.width,
        "context": lm.context,
        "chat_template": bool(lm.tokenizer is not None and lm.tokenizer.chat_template),
        "replay_exact": replayable,
        "replay_error": error,
        "padding_exact": bool(lm.exact.batchable),
        "tried_on": lm.exact.tried_on,
        "errors": {k: float(e) for k, e in lm.exact.worst},
        "positions_change_beyond": [s.length for s in lm.exact.switches],
        "noise": float(lm.exact.noise),
        "letters_differ_in_one_token": _letters(lm),
        "weights_mib": size / 2**20,
        "cache_kib_per_token": _cache_bytes(lm) / 1024,
        **_times(lm, middle),
    }
    progress(3, 3)
    return facts


def told(f: Mapping[str, Any]) -> dict[str, str]:
    """The same in words."""
    one = f["letters_differ_in_one_token"]
    letters = {
        None: "no tokenizer",
        True: '"(A)" and "(B)" differ in one token',
        False: '"(A)" and "(B)" differ in more than one token: letter propensity is not to be trusted',
    }
    replay = "not possible: full passes are used (slow, exact)"
    padding = "changes a row: rows with prompts of equal length share a batch"
    changes = [f"positions change beyond {n} tokens" for n in f["positions_change_beyond"]]
    return {
        "model": f["model"],
        "architecture": f"{f['architecture']}, {f['dtype']}, on {f['device']}",
        "blocks": f"{f['blocks']} at {f['blocks_path']}, width {f['width']}",
        "context": f"{f['context']} tokens",
        "chat template": "yes" if f["chat_template"] else "none: prompts are plain text",
        "replay": f"exact, largest relative error {f['replay_error']:.1e}" if f["replay_exact"] else replay,
        "padding": "exact" if f["padding_exact"] else padding,
        "tried on": f"{f['tried_on']}: {', '.join(f'{k} {e:.0e}' for k, e in f['errors'].items())}",
        "length": ", ".join(changes) or "one computation at every length",
        "noise of the dtype": f"{f['noise']:.1e} between a row alone and beside others",
        "letters": letters[one],
        "weights": f"{f['weights_mib']:.0f} MiB (hash {f['weights_hash']})",
        "cache per token": f"{f['cache_kib_per_token']:.1f} KiB",
        "120-token pass": f"{f['pass_seconds'] * 1000:.0f} ms",
        "sweep of one item": f"{f['sweep_seconds']:.2f} s for {f['blocks']} layers x 7 multipliers "
        f"({f['sweep_seconds'] / f['pass_seconds']:.1f} passes)",
    }


def _times(lm: LM, middle: int) -> dict[str, float]:
    """Seconds of a pass over 120 tokens, and of a sweep over all layers at seven multipliers."""
    config = lm.model.config.get_text_config(decoder=True)
    prompt = lm.batch([Row(tuple(k % min(config.vocab_size, 1000) for k in range(120)), 119)])
    full = _seconds(lambda: lm.logits(prompt, keep=[119]))
    prefix = lm.prefix(prompt, keep=[119])
    h = prefix.residual[middle]
    replay = _seconds(lambda: lm.replay(prefix, middle, torch.stack([h] * 6), keep=[119]))
    return {"pass_seconds": full, "sweep_seconds": full + lm.n_layers * replay}


def _letters(lm: LM) -> bool | None:
    """Whether the two answer letters differ in one token; None without a tokenizer."""
    if lm.tokenizer is None:
        return None
    a, b = (lm.tokenizer(f"({x})", add_special_tokens=False).input_ids for x in "AB")
    different = [k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    return len(a) == len(b) and len(different) == 1


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
