"""What a recipe asks of a model: its passes block by block, counted while it runs on a stand-in."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional

from trimtab.model import LM
from trimtab.model.hooks import entering
from trimtab.model.rendering import Rendering
from trimtab.model.replay import Prefix
from trimtab.planning.standin import StandIn
from trimtab.progress import Progress
from trimtab.stages import Share, Unit


class Call(NamedTuple):
    """One block, or the output embedding, once.

    Attributes:
        part: "block" or "head".
        tokens: rows times columns.
        pairs: of a token and one that it looks back at; 0 for the head.
        grad: whether a gradient is taken through it.
    """

    part: str
    tokens: int
    pairs: int
    grad: bool


@dataclass
class Asked:
    """What one unit, or what stands between units, asks of one model.

    Attributes:
        calls: how often.
        seconds: on the stand-in.
        kept: bytes that prefixes hold at most, in the model's width.
        saved: tokens times blocks whose inner values a gradient needs, at most at once.
        read: tokens whose log-probabilities are there at once, at most.
        largest: tokens of the largest pass.
    """

    calls: Counter[Call] = field(default_factory=Counter[Call])
    seconds: float = 0.0
    kept: float = 0.0
    saved: int = 0
    read: int = 0
    largest: int = 0


class Counting(Share):
    """All units, one after the other, each with what it asks.

    Attributes:
        units: (stage, unit) -> model -> what it asks of it.
        between: what is asked outside of units.
        base: bytes of a process that has everything but a model.
    """

    def __init__(self) -> None:
        self.units: dict[tuple[str, str], dict[str, Asked]] = {}
        self.between: dict[str, Asked] = {}
        self.models: dict[str, StandIn] = {}
        self.base = 0.0
        self._now = self.between
        self._prefixes: WeakValueDictionary[int, Prefix] = WeakValueDictionary()
        self._through = 0  # tokens times blocks of the pass under way, if it has a gradient

    def load(self, name: str) -> tuple[Any, Any]:
        """What stands for a model, counted from now on."""
        if name not in self.models:
            self.models[name] = StandIn(name)
        one = self.models[name]
        if not self.base:
            self.base = _resident() - sum(p.numel() * p.element_size() for p in one.model.parameters())
        return one.model, one.tokenizer

    def do(self, stage: str, unit: Unit, progress: Progress) -> None:
        self._now = self.units.setdefault((stage, unit.name), {})
        started = time.monotonic()
        try:
            unit.work(progress)
        finally:
            spent = time.monotonic() - started
            first = next(iter(self._now), None) or next(iter(self.models), "")
            self.asked(first).seconds += spent
            self._now = self.between

    def asked(self, model: str) -> Asked:
        return self._now.setdefault(model, Asked())

    # ------------------------------------------------------------ what is watched

    def watch(self, lm: LM, name: str) -> None:
        """Count the passes of a stand-in."""
        for block in lm.blocks:
            block.register_forward_pre_hook(lambda _, args, kwargs: self._block(name, args, kwargs), with_kwargs=True)
        prefix = lm.prefix

        def noted(*args: Any, **kwargs: Any) -> Prefix:
            made = prefix(*args, **kwargs)
            self._prefixes[id(made)] = made
            asked = self.asked(name)
            held = sum(_bytes(one, self.models[name].narrower) for one in self._prefixes.values())
            asked.kept = max(asked.kept, held)
            return made

        lm.prefix = noted  # type: ignore[method-assign]

    def _block(self, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        h = entering(args, kwargs)
        b, s = h.shape[0], h.shape[1]
        mask = kwargs.get("attention_mask")
        t = mask.shape[-1] if isinstance(mask, Tensor) else s
        grad = torch.is_grad_enabled() and h.requires_grad
        asked = self.asked(name)
        asked.calls[Call("block", b * s, b * s * t, grad)] += 1
        asked.largest = max(asked.largest, b * s)
        self._through = self._through + b * s if grad else 0
        asked.saved = max(asked.saved, self._through)

    def head(self, rows: int, x: Tensor) -> None:
        """A product with a matrix of so many rows: the output embedding, where a model has as many words."""
        for name, one in self.models.items():
            if one.model.config.get_text_config(decoder=True).vocab_size == rows:
                tokens, asked = x.numel() // x.shape[-1], self.asked(name)
                asked.calls[Call("head", tokens, 0, torch.is_grad_enabled() and x.requires_grad)] += 1
                asked.read = max(asked.read, tokens)
                self._through = 0
                return


@contextmanager
def counted(counting: Counting) -> Generator[None]:
    """Within the context models are stand-ins, and what is asked of them is counted."""
    linear: Callable[..., Tensor] = functional.linear
    load: Any = LM.__dict__["load"]

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        counting.head(weight.shape[0], x)
        return linear(x, weight, bias)

    def stand_in(name: str, **how: Any) -> LM:
        model, tokenizer = counting.load(name)
        rendering = Rendering.of(how.get("chat", True), *(how.get(k) for k in ("separator", "template", "date")))
        lm = LM(model, tokenizer, id=name, blocks=how.get("blocks"), rendering=rendering)
        counting.watch(lm, name)
        return lm

    functional.linear, LM.load = watched, stand_in  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        functional.linear, LM.load = linear, load  # type: ignore[method-assign]


def _resident() -> float:
    """Bytes of this process."""
    try:
        return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):  # not Linux
        return 6e8


def _bytes(prefix: Prefix, wider: float) -> float:
    """What a prefix holds, in the width of the model that is stood for."""
    tensors: dict[int, Tensor] = {}
    for h in (*prefix.outputs.values(), *prefix.residual.values()):
        h = h[0] if isinstance(h, tuple) else h
        if isinstance(h, Tensor):
            tensors[h.untyped_storage().data_ptr()] = h
    for layer in getattr(prefix.distinct, "layers", ()):
        for name in ("keys", "values"):
            states = getattr(layer, name, None)
            if isinstance(states, Tensor):
                tensors[states.untyped_storage().data_ptr()] = states
    inner = sum(t.untyped_storage().nbytes() for t in tensors.values())
    return inner * wider + prefix.logits.numel() * 4
