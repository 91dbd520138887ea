"""The replay engine: run a prompt once, then only the blocks and positions that an edit can change.

Editing the output of block L at columns >= start leaves the blocks up to L as they were everywhere, and the keys and
values of later blocks as they were before `start`. So the columns before `start` are run once into a cache, the
residual stream after `start` is recorded at every block, and a replay runs the blocks above L on the suffix alone.
The model's own code runs: earlier blocks are swapped for a module that emits the recorded output.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from trimtab.model.hooks import Edit, Frame, Layer, entered, replaced
from trimtab.model.packing import Packing
from trimtab.model.tokens import Tokens
from trimtab.sites import EMBEDDINGS


@dataclass(frozen=True)
class Prefix:
    """What one pass over a batch leaves for its replays.

    Attributes:
        tokens: the batch.
        start: the first column that replays run again.
        packing: how rows with equal prompts share one row.
        distinct: keys and values of the columns before `start`, for a row of every distinct prompt (None if start is
            0).
        outputs: what each recorded block returned at the columns from `start` on.
        residual: the residual stream in it, (b, s - start, d) each, in the model's dtype.
        logits: (b, k, v) unedited logits at the kept columns, fp32.
    """

    tokens: Tokens
    start: int
    packing: Packing
    distinct: Any
    outputs: Mapping[Layer, Any]
    residual: Mapping[Layer, Float[Tensor, "b s d"]]
    logits: Float[Tensor, "b k v"]

    @cached_property
    def cache(self) -> Any:
        """Keys and values of the columns before `start`, for every row."""
        return each_row(self.distinct, self.packing.place)


class Emit(nn.Module):
    """Stands in for a block that is not run again; answers for its attributes."""

    def __init__(self, output: Any, block: nn.Module) -> None:
        super().__init__()
        self.output = output
        self.__dict__["block"] = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)


class _Ended(Exception):
    """A pass has come far enough."""


@contextmanager
def ending(block: nn.Module) -> Generator[None]:
    """Within the context, a pass ends when `block` has returned and what it returned has been read."""

    def end(*_: Any) -> None:
        raise _Ended

    handle = block.register_forward_hook(end)  # behind edits, which are prepended
    try:
        yield
    except _Ended:
        pass
    finally:
        handle.remove()


@contextmanager
def emitting(blocks: nn.ModuleList, layer: Layer, output: Any) -> Generator[None]:
    """Within the context, blocks 0..layer return `output` without running; of the embeddings, block 0 is called with
    it.
    """
    if layer is EMBEDDINGS:
        handle = blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: entered(args, kwargs, output), with_kwargs=True, prepend=True
        )
        try:
            yield
        finally:
            handle.remove()
        return
    originals = {str(i): blocks[i] for i in range(layer + 1)}
    try:
        for name, block in originals.items():
            blocks._modules[name] = Emit(output, block)
        yield
    finally:
        blocks._modules.update(originals)


def emitted(recorded: Any, h: Tensor, copies: int) -> Any:
    """A recorded block output with `h` as its stream; anything else in it is repeated for each condition."""
    if not isinstance(recorded, tuple | list):
        return h
    rest = [x.repeat(copies, *[1] * (x.ndim - 1)) if isinstance(x, Tensor) else x for x in recorded[1:]]
    return replaced(recorded, h, rest)


def fork(cache: Any, order: Tensor | None = None) -> Any:
    """A cache that can be written to without touching `cache`; `order` picks its rows."""
    if cache is None:
        return None
    new = copy.copy(cache)
    new.layers = [_fork_layer(layer) for layer in cache.layers]
    if order is not None:
        for layer in new.layers:
            layer.reorder_cache(order)
    return new


def each_row(cache: Any, place: Tensor) -> Any:
    """A cache for every row, from one of the rows that differ; `place` says which of those a row is."""
    same = cache is None or torch.equal(place, torch.arange(len(place), device=place.device))
    return cache if same else fork(cache, place)


def _fork_layer(layer: Any) -> Any:
    """Plain attention layers replace their tensors when they grow, so a shallow copy is enough; others write in
    place.
    """
    return copy.copy(layer) if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) else copy.deepcopy(layer)


def new_cache(config: Any) -> Any:
    """An empty cache with the layer types the model asks for."""
    return DynamicCache(config=config.get_text_config(decoder=True))


# bytes of an fp32 output embedding that are kept between passes: converting it takes as long as a short replay
KEPT = 1 << 30
_heads: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Head]] = WeakKeyDictionary()


class Head(nn.Module):
    """The output embedding in fp32."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.fp32_weight = inner.weight.detach().float()
        bias: Any = inner.bias
        self.fp32_bias = bias.detach().float() if bias is not None else None

    @classmethod
    def of(cls, inner: nn.Linear) -> Head:
        """Made once for weights that stay as they are, unless it is very large."""
        state = (inner.weight.data_ptr(), inner.weight._version)
        if inner in _heads and _heads[inner][0] == state:
            return _heads[inner][1]
        made = cls(inner)
        if made.fp32_weight.numel() * 4 <= KEPT:
            _heads[inner] = (state, made)
        return made

    def forward(self, h: Tensor) -> Tensor:
        return functional.linear(h.float(), self.fp32_weight, self.fp32_bias)


class BroughtHead(nn.Module):
    """The output embedding in fp32, of weights that accelerate keeps elsewhere (on disk, in main memory) and brings for
    each pass.
    """

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.__dict__["inner"] = inner

    def forward(self, h: Tensor) -> Tensor:
        inner: Any = self.__dict__["inner"]
        hook = inner._hf_hook
        (h,), _ = hook.pre_forward(inner, h)
        bias = None if inner.bias is None else inner.bias.float()
        return hook.post_forward(inner, functional.linear(h.float(), inner.weight.float(), bias))


@contextmanager
def exact_head(model: Any) -> Generator[None]:
    """Within the context, logits come from a product in fp32 or better.

    Soft-caps and scales behind the product stay the model's own. Nothing changes for a model of that precision.
    """
    inner = model.get_output_embeddings()
    if not isinstance(inner, nn.Linear) or inner.weight.dtype.itemsize >= torch.float32.itemsize:
        yield
        return
    path = next(name for name, m in model.named_modules(remove_duplicate=False) if m is inner)
    parent = model.get_submodule(path.rpartition(".")[0])
    name = path.rpartition(".")[2]
    brought = getattr(inner, "_hf_hook", None) is not None  # its weights are not, or not always, where they seem to be
    parent._modules[name] = BroughtHead(inner) if brought else Head.of(inner)
    try:
        yield
    finally:
        parent._modules[name] = inner


def repeat_rows(tokens: Tokens, copies: int) -> Tokens:
    """The batch repeated for each condition, conditions first."""
    return Tokens(tokens.rows * copies, tokens.ids.repeat(copies, 1), tokens.index.repeat(copies, 1))


def fold(h: Float[Tensor, "c b s d"]) -> Float[Tensor, "b cs d"]:
    """Conditions side by side in each row, instead of a row for each."""
    return h.transpose(0, 1).flatten(1, 2).contiguous()  # or a product of a single column takes a slow path


def unfold(h: Float[Tensor, "b cs d"], copies: int) -> Float[Tensor, "cb s d"]:
    """Rows for each condition, conditions first: what edits expect to see."""
    return h.unflatten(1, (copies, -1)).transpose(0, 1).flatten(0, 1)


def folded_edit(edit: Edit, copies: int, frame: Frame) -> Edit:
    """An edit of (c * b, s, d), for a pass in which the conditions are folded into the sequence."""

    def change(h: Tensor, _: Frame) -> Tensor:
        rows = unfold(h, copies)
        changed = edit(rows, frame)
        return h if changed is rows else fold(changed.unflatten(0, (copies, -1)))

    return change


def folded_mask(tokens: Tokens, start: int, copies: int, dtype: torch.dtype) -> Float[Tensor, "b 1 cs t"]:
    """Each condition's suffix sees the shared prefix and itself, never another condition. Additive: 0 or the lowest
    number.
    """
    real = tokens.index >= 0
    n = real.shape[1] - start
    causal = torch.ones(n, n, dtype=torch.bool, device=real.device).tril()
    own = torch.block_diag(*[causal] * copies) & real[:, None, start:].repeat(1, 1, copies)
    before = real[:, None, :start].expand(-1, copies * n, -1)
    seen = torch.cat([before, own], -1)[:, None]
    return torch.zeros(seen.shape, dtype=dtype, device=real.device).masked_fill(~seen, torch.finfo(dtype).min)


def can_fold(cache: Any) -> bool:
    """Whether every layer of a cache is plain attention over all that came before."""
    return cache is not None and all(type(layer) is DynamicLayer for layer in cache.layers)


def columns(tokens: Tokens, keep: Sequence[int] | None, start: int) -> Tensor:
    """Kept columns counted from `start`; all of them if None."""
    chosen = range(start, tokens.ids.shape[1]) if keep is None else keep
    return torch.tensor([c - start for c in chosen], device=tokens.ids.device)
