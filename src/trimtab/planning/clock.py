"""How long a block and the output embedding of a model take on a machine: twenty seconds of trying, with random weights
of the model's own shape. Written to a file, it tells other machines of this one.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from trimtab.errors import RunError
from trimtab.model.blocks import find_blocks
from trimtab.model.hooks import stream
from trimtab.model.shrink import keep_blocks
from trimtab.planning.counting import Call
from trimtab.progress import Progress

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # tokens of a pass
GRADS = (16, 64, 256)
HEADS = (1, 8, 32, 128)
CACHED = 300e6  # bytes of weights beyond what stays in a processor's cache: a real pass reads each block anew
LONG = 512  # columns at which looking back is measured


@dataclass(frozen=True)
class Clock:
    """Seconds of one block, and of the output embedding, by how many tokens they see.

    Attributes:
        machine: where it was measured.
        curves: "block", "block grad", "head", "head grad" -> ((tokens, seconds), ...).
        pair: seconds of a pair of tokens, beyond those of a row of its own length.
        saved: bytes that a gradient keeps of a token in a block.
        inner: bytes that a block needs for a token while it runs.
    """

    machine: str
    curves: dict[str, list[tuple[int, float]]]
    pair: float
    saved: float
    inner: float

    def seconds(self, call: Call) -> float:
        """Of one call, by the nearest sizes that were measured; beyond them in proportion."""
        points = self.curves[f"{call.part} grad" if call.grad else call.part]
        n, t = np.array([p[0] for p in points], float), np.array([p[1] for p in points])
        per = t[-1] / n[-1]
        base = float(np.interp(call.tokens, n, t)) if call.tokens <= n[-1] else float(per * call.tokens)
        return base + max(0.0, self.pair * (3 if call.grad else 1) * (call.pairs - call.tokens * ROW))

    @staticmethod
    def write(path: Path, clocks: Mapping[str, Clock]) -> None:
        """Of some models, into a file."""
        table = {name: asdict(clock) for name, clock in clocks.items()}
        path.write_text(json.dumps(table, indent=1) + "\n", "utf-8")

    @staticmethod
    def read(path: Path) -> dict[str, Clock]:
        """What `write` wrote.

        Raises:
            RunError: it is not that.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Clock])
        except (OSError, msgspec.MsgspecError) as problem:
            raise RunError(
                f"{path} does not say how fast a machine is", given=str(problem)[:120],
                expected="a file that trimtab plan --save wrote",
            ) from problem  # fmt: skip


ROW = 32  # tokens of the rows that are measured


def measure(config: Any, *, dtype: str, device: str, progress: Progress) -> Clock:
    """Time a few blocks of a configuration, with random weights, and its output embedding."""
    from transformers import AutoModelForCausalLM

    few = copy.deepcopy(config)
    text = few.get_text_config(decoder=True)
    kind = getattr(torch, dtype)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
    blocks = find_blocks(whole)[1]
    size, n = sum(p.numel() for p in blocks[0].parameters()), len(blocks)
    enough = min(n, max(1, math.ceil(CACHED / (size * kind.itemsize)))) if device == "cpu" else 1
    keep_blocks(text, enough, n)
    model: Any = AutoModelForCausalLM.from_config(few, dtype=kind).to(device).eval().requires_grad_(False)
    some, head = list(find_blocks(model)[1]), model.get_output_embeddings()
    called = _arguments(model, some[0])
    width = text.hidden_size
    curves: dict[str, list[tuple[int, float]]] = {"block": [], "block grad": [], "head": [], "head grad": []}
    total = len(SIZES) + len(GRADS) + 2 * len(HEADS) - 2
    done = 0

    def told(name: str, tokens: int, seconds: float) -> None:
        nonlocal done
        done += 1
        curves[name].append((tokens, seconds))
        progress(done, total, name)

    for tokens in SIZES:
        h = torch.randn(max(1, tokens // ROW), min(ROW, tokens), width, device=device, dtype=kind)
        kwargs = called(h)
        told("block", tokens, _timed(lambda h=h, k=kwargs: _chain(some, h, k), device) / enough)
        if curves["block"][-1][1] * enough > 1.0:  # large enough: beyond it time grows in proportion
            break
    saved = 0.0
    for tokens in GRADS:
        h = torch.randn(max(1, tokens // ROW), min(ROW, tokens), width, device=device, dtype=kind, requires_grad=True)
        kwargs = called(h.detach())
        told("block grad", tokens, _timed(lambda h=h, k=kwargs: _back(_chain(some, h, k)), device) / enough)
        saved = _saved(some[0], h, kwargs) / tokens
    for tokens in HEADS:
        x = torch.randn(tokens, width, device=device, dtype=kind)
        told("head", tokens, _timed(lambda x=x: head(x), device))
    for tokens in HEADS[:2]:
        x = torch.randn(tokens, width, device=device, dtype=kind, requires_grad=True)
        told("head grad", tokens, _timed(lambda x=x: _back(head(x)), device))
    curves["head grad"] += [(n, 2 * t) for n, t in curves["head"][2:]]
    pair = _pair(some, called, width, device, kind) / enough
    inner = 2.0 * kind.itemsize * (getattr(text, "intermediate_size", None) or 4 * width) + 6.0 * kind.itemsize * width
    machine = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    return Clock(f"{machine}, {dtype}", curves, pair, saved, inner)


def _arguments(model: Any, first: nn.Module) -> Callable[[Tensor], dict[str, Any]]:
    """How a model calls its blocks, for rows of a shape."""
    names = ("past_key_values", "past_key_value", "layer_past", "cache_position", "use_cache")

    def called(h: Tensor) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []
        handle = first.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
        try:
            with torch.no_grad():
                model(input_ids=torch.zeros(h.shape[:2], dtype=torch.long, device=h.device), use_cache=False)
        finally:
            handle.remove()
        return {k: v for k, v in seen[0].items() if k not in ("hidden_states", *names)}

    return called


def _chain(blocks: Sequence[nn.Module], h: Tensor, kwargs: dict[str, Any]) -> Tensor:
    with torch.set_grad_enabled(h.requires_grad):
        for block in blocks:
            h = stream(block(h, **kwargs))
    return h


def _back(out: Tensor) -> None:
    out.sum().backward()


def _timed(work: Callable[[], object], device: str, most: float = 1.0) -> float:
    """The median of some repetitions, after one that does not count."""
    work()
    seconds: list[float] = []
    until = time.perf_counter() + most
    while len(seconds) < 7 and (len(seconds) < 2 or time.perf_counter() < until):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def _saved(block: nn.Module, h: Tensor, kwargs: dict[str, Any]) -> float:
    """Bytes that a gradient through a block keeps, its weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        stream(block(h, **kwargs))
    return float(sum(kept.values()))


def _pair(blocks: Sequence[nn.Module], called: Any, width: int, device: str, kind: torch.dtype) -> float:
    """Seconds that looking back one token further costs a token: a long row against as many tokens in short ones."""
    long, short = (
        torch.randn(b, LONG // b, width, device=device, dtype=kind) for b in (1, LONG // ROW)
    )  # fmt: skip
    apart = [_timed(partial(_chain, blocks[:1], h, called(h)), device) for h in (long, short)]
    return max(0.0, apart[0] - apart[1]) * len(blocks) / (LONG * (LONG - ROW))
