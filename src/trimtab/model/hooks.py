"""The one owner of hooks: what stands in a forward pass (the frame), and edits of the blocks' outputs.

Edits belong to the thread that entered them, unless they are for all. A pass that another thread starts meanwhile is
refused: to steer it and not to steer it would both be silent mistakes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, SupportsIndex
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn

from trimtab.errors import ModelError, SteerError
from trimtab.model.tokens import Row
from trimtab.sites import EMBEDDINGS

Layer = int
Layers = Sequence[SupportsIndex] | SupportsIndex  # one or several; integers of numpy will do
Edit = Callable[[Tensor, "Frame"], Tensor]
Threads = Literal["own", "all"]


@dataclass(frozen=True)
class Frame:
    """The columns of one forward pass.

    Attributes:
        index: (b, s) logical position of each column, -1 for padding.
        rows: the b conversations.
    """

    index: Int[Tensor, "b s"]
    rows: Sequence[Row]


def stream(output: Any) -> Tensor:
    """The residual stream in what a block returned.

    Raises:
        ModelError: the stream is not (b, s, d): a vector would broadcast over an unknown axis.
    """
    h = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(h, Tensor) or h.ndim != 3:
        shape = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
        raise ModelError(
            "the residual stream is not (batch, sequence, width)",
            given=shape,
            do="this architecture keeps several streams and cannot be steered",
        )
    return h


def replaced(output: Any, h: Tensor, rest: Sequence[Any] | None = None) -> Any:
    """What a block returned, with `h` as its residual stream (and `rest` in the place of what else it returned)."""
    if not isinstance(output, tuple | list):
        return h
    parts = (h, *(output[1:] if rest is None else rest))
    return list(parts) if type(output) is list else parts


def entering(args: Any, kwargs: dict[str, Any]) -> Tensor:
    """The residual stream that a block is called with."""
    return stream(args[0] if args else kwargs["hidden_states"])


def entered(args: Any, kwargs: dict[str, Any], h: Tensor) -> tuple[Any, dict[str, Any]]:
    """What a block is called with, with `h` as its residual stream."""
    return ((h, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": h})


def _holds(module: nn.Module, blocks: nn.ModuleList) -> bool:
    """Whether the blocks are a child of a module."""
    return any(child is blocks for child in module.children())


@dataclass(frozen=True, eq=False)
class _Acting:
    """An edit, the thread whose passes it changes (None for all), and whether it was asked for, or belongs to a pass of
    ours.
    """

    edit: Edit
    owner: int | None
    asked: bool


class _Local(threading.local):
    """What a thread's passes are about."""

    def __init__(self) -> None:
        self.frame: Frame | None = None  # of a pass of ours
        self.seen: Frame | None = None  # of the last pass that someone else started
        self.fresh = False  # whether the pass under way has been seen already
        self.prompt: _Prompt | None = None  # of the `generate` under way
        self.turns = _Turns()


class Hooks:
    """All hooks on a model's blocks. Edits of one layer run in the order they were added."""

    def __init__(self, model: Any, blocks: nn.ModuleList) -> None:
        self.model, self.blocks = model, blocks
        self._edits: dict[Layer, list[_Acting]] = {}
        self._handles: dict[Layer, Any] = {}  # of the layers that are edited by somebody
        self._watching: list[Any] = []  # what looks at passes while anything is edited
        # what runs the blocks, where that is not the model itself
        self._decoder = next((m for m in model.modules() if m is not model and _holds(m, blocks)), None)
        self._lock = threading.RLock()
        self._local = _Local()
        self._last: tuple[Frame, int] | None = (
            None  # of the last pass: what blocks that are run again for a gradient, maybe in another thread, are about
        )

    @property
    def editing(self) -> bool:
        """Whether this thread's passes are edited now."""
        return any(self._mine(acting) for some in self._edits.values() for acting in some)

    @contextmanager
    def edit(self, edits: Mapping[Layer, Edit], *, threads: Threads = "own", asked: bool = True) -> Generator[None]:
        """Within the context, the output h of each named block becomes `edits[layer](h, frame)`.

        Args:
            threads: whose passes: those of the thread that enters the context, or "all".
            asked: False for edits that belong to a pass of ours; they do not stand for a thread's own steering.
        """
        owner = None if threads == "all" else threading.get_ident()
        added = {layer: _Acting(change, owner, asked) for layer, change in edits.items()}
        self._enter(added)
        try:
            yield
        finally:
            self._leave(added)

    def _enter(self, added: Mapping[Layer, _Acting]) -> None:
        with self._lock:
            if added and not self._watching:
                self._watch()
            for layer, acting in added.items():
                if layer not in self._handles:
                    self._handles[layer] = self._attach(layer)
                self._edits.setdefault(layer, []).append(acting)

    def _leave(self, added: Mapping[Layer, _Acting]) -> None:
        """Take edits away; a block's hook lives until the last of its edits has left, whoever entered first."""
        with self._lock:
            for layer, acting in added.items():
                self._edits[layer].remove(acting)
                if not self._edits[layer]:
                    del self._edits[layer]
                    self._handles.pop(layer).remove()
            if added and not self._edits:
                self._unwatch()

    def _watch(self) -> None:
        """Look at every pass: of the model, of the decoder inside it when that is called alone, and of `generate`,
        which knows what its prompt is.
        """
        see = self.model.register_forward_pre_hook(self._see, with_kwargs=True, prepend=True)
        self._watching = [see]
        if self._decoder is not None:
            self._watching.append(
                self._decoder.register_forward_pre_hook(self._see_inside, with_kwargs=True, prepend=True)
            )
        generate = getattr(self.model, "generate", None)
        if generate is not None:
            self.model.generate = self._generating(generate)

    def _unwatch(self) -> None:
        for handle in self._watching:
            handle.remove()
        self._watching = []
        self.model.__dict__.pop("generate", None)
        self._last = None

    def _generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """`model.generate`, whose passes are counted from its own prompt: with any cache or none, in pieces, or several
        guesses at once.
        """

        def counted(*args: Any, **kwargs: Any) -> Any:
            ids = next(
                (
                    x
                    for x in (kwargs.get("inputs"), kwargs.get("input_ids"), args[0] if args else None)
                    if isinstance(x, Tensor)
                ),
                None,
            )
            ids = kwargs.get("inputs_embeds") if ids is None else ids
            before = self._local.prompt
            if isinstance(ids, Tensor):
                mask = kwargs.get("attention_mask")
                width = ids.shape[1]
                lengths = (
                    mask.sum(-1).tolist()
                    if isinstance(mask, Tensor) and mask.shape == ids.shape[:2]
                    else [width] * len(ids)
                )
                self._local.prompt = _Prompt(width, [int(n) for n in lengths])
            try:
                return generate(*args, **kwargs)
            finally:
                self._local.prompt = before

        return counted

    @contextmanager
    def record(self, layers: Sequence[Layer]) -> Generator[dict[Layer, Any]]:
        """Within the context, whatever each named block returns last, edits included, is kept in the dictionary."""
        outputs: dict[Layer, Any] = {}
        handles: list[Any] = []  # behind the edits, which are prepended
        for layer in layers:
            if layer is EMBEDDINGS:
                keep = partial(_keep_input, outputs)
                handles.append(self.blocks[0].register_forward_pre_hook(keep, with_kwargs=True))
            else:
                handles.append(self.blocks[layer].register_forward_hook(partial(_keep, outputs, layer)))
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def embedded(self) -> Generator[list[Tensor]]:
        """Within the context, the embeddings of every pass are leaves of the graph, kept in the list."""
        leaves: list[Tensor] = []

        def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[-1]

        handle = self.model.get_input_embeddings().register_forward_hook(cut, prepend=True)
        try:
            yield leaves
        finally:
            handle.remove()

    @contextmanager
    def within(self, frame: Frame) -> Generator[None]:
        """Declare the columns of this thread's forward passes inside the context."""
        before, self._local.frame = self._local.frame, frame
        try:
            yield
        finally:
            self._local.frame = before

    def _mine(self, acting: _Acting) -> bool:
        return acting.owner in (None, threading.get_ident())

    def _attach(self, layer: Layer) -> Any:
        if layer is EMBEDDINGS:
            return self.blocks[0].register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
        return self.blocks[layer].register_forward_hook(partial(self._behind, layer), prepend=True)

    def _behind(self, layer: Layer, module: nn.Module, args: Any, output: Any) -> Any:
        h = stream(output)
        new = self._changed(layer, h)
        return None if new is h else replaced(output, new)

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        h = entering(args, kwargs)
        new = self._changed(EMBEDDINGS, h)
        return None if new is h else entered(args, kwargs, new)

    def _changed(self, layer: Layer, h: Tensor) -> Tensor:
        """The stream after the edits of whoever started this pass; as it is in a pass nobody has told us about."""
        here = self._local.frame or self._local.seen
        about = (here, threading.get_ident()) if here is not None else self._last
        if about is None:
            return h
        frame, owner = about
        for acting in self._edits[layer]:
            if acting.owner in (None, owner):
                h = acting.edit(h, frame)
        return h

    def _see(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Refuse a pass of a thread that has no part in the edits; work out the columns of one that someone else
        started (`model.generate`, a harness).
        """
        steering = [acting for some in self._edits.values() for acting in some if acting.asked]
        if steering and not any(self._mine(acting) for acting in steering):
            raise SteerError(
                "a pass in a thread that is not steered, while another thread steers this model",
                given=threading.current_thread().name,
                do='enter steer() in the thread that runs the model, or steer(..., threads="all") for every thread',
            )
        self._local.fresh = True
        if self._local.frame is None:
            prompt = self._local.prompt
            self._local.seen = (
                prompt.frame(args, kwargs) if prompt is not None else self._local.turns.frame(args, kwargs)
            )
        frame = self._local.frame or self._local.seen
        self._last = None if frame is None else (frame, threading.get_ident())

    def _see_inside(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """The same for a pass of the decoder alone."""
        if not self._local.fresh:
            self._see(module, args, kwargs)
        self._local.fresh = False


def _keep(outputs: dict[Layer, Any], layer: Layer, module: Any, args: Any, output: Any) -> None:
    outputs[layer] = output


def _keep_input(outputs: dict[Layer, Any], module: Any, args: Any, kwargs: dict[str, Any]) -> None:
    outputs[EMBEDDINGS] = entering(args, kwargs)


def _called_with(args: Any, kwargs: dict[str, Any]) -> Tensor:
    """Ids (or embeddings) that a model is called with, as (b, s)."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    return kwargs["inputs_embeds"][..., 0] if ids is None else ids


def _cache_length(cache: Any) -> int | None:
    """Columns in a cache; None for one that does not know."""
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError):
        return None


@dataclass
class _Prompt:
    """What a `generate` was given: columns of its prompt, tokens of every row in them (padding is on the left); and
    columns read so far.
    """

    width: int
    lengths: list[int]
    read: int = 0

    def frame(self, args: Any, kwargs: dict[str, Any]) -> Frame:
        """The frame of one of its passes."""
        ids = _called_with(args, kwargs)
        b, s = ids.shape
        cache = kwargs.get("past_key_values")
        past = _cache_length(cache) if cache is not None else None
        if past is None:  # no cache: everything is read again; a recurrent state: what comes next
            past = 0 if s >= self.width or not self.read else self.read
        self.read = past + s
        # beams and samples stand beside each other
        lengths = [n for n in self.lengths for _ in range(max(1, b // len(self.lengths)))]
        begin = torch.tensor([self.width - n for n in lengths], device=ids.device)
        index = past + torch.arange(s, device=ids.device) - begin[:, None]
        return Frame(index.clamp(min=-1), [Row((), n) for n in lengths])


class _Turns:
    """The columns of passes that others start, one after the other, on caches of theirs.

    All that a first pass on a cache reads is prompt, and so is whatever comes in several tokens at once later
    (another turn of a conversation, the next piece of a long prompt); what comes one by one on top of it is
    generated.
    """

    def __init__(self) -> None:
        self.prompts: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()
        # tokens of every row, and of its prompt, after a pass that was given no cache
        self.last: tuple[list[int], list[int]] = ([], [])

    def frame(self, args: Any, kwargs: dict[str, Any]) -> Frame:
        """The frame of a pass, from what the model is called with."""
        ids = _called_with(args, kwargs)
        b, s = ids.shape
        cache = next(
            (kwargs[k] for k in ("past_key_values", "cache_params", "state") if kwargs.get(k) is not None), None
        )
        mask = self._mask(kwargs.get("attention_mask"), cache, b, s, ids.device)
        past = mask.shape[1] - s
        index = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, -1)[:, -s:]
        lengths = [int(n) for n in mask.sum(-1)]
        prompts = self._prompts(cache, past, s, lengths)
        if cache is None:
            self.last = (lengths, prompts)
        elif hasattr(cache, "__weakref__"):
            self.prompts[cache] = prompts
        return Frame(index, [Row((), n) for n in prompts])

    def _prompts(self, cache: Any, past: int, s: int, lengths: list[int]) -> list[int]:
        known = self.prompts.get(cache) if hasattr(cache, "__weakref__") else None
        if known is None and [n - s for n in lengths] == self.last[0]:
            known = self.last[1]  # the cache was made by the first pass, and is given from the second on
        return known if past and s == 1 and known is not None and len(known) == len(lengths) else lengths

    @staticmethod
    def _mask(mask: Any, cache: Any, b: int, s: int, device: Any) -> Tensor:
        """1 where a token stands, from the first column of the cache to the last of the pass."""
        past = _cache_length(cache) or 0
        if isinstance(mask, Tensor) and mask.ndim == 4:  # what any of the new columns may look at
            mask = (mask if mask.dtype == torch.bool else mask >= 0)[:, 0].any(-2).long()
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            return torch.ones(b, past + s, dtype=torch.long, device=device)
        if mask.shape[1] < past + s:  # of the new columns alone
            return torch.cat([torch.ones(b, past + s - mask.shape[1], dtype=mask.dtype, device=mask.device), mask], -1)
        return mask[:, : past + s] if past else mask  # a recurrent state does not say how long it is; the mask does
