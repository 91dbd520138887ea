"""The one owner of hooks: what stands in a forward pass (the frame), and edits of the blocks' outputs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from trimtab.errors import ModelError
from trimtab.model.tokens import Row

Layer = int
Edit = Callable[[Tensor, "Frame"], Tensor]


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
            "the residual stream is not (batch, sequence, width)", given=shape, do="this architecture keeps several streams and cannot be steered"
        )
    return h


def replaced(output: Any, h: Tensor) -> Any:
    """What a block returned, with `h` as its residual stream."""
    return type(output)((h, *output[1:])) if type(output) in (tuple, list) else (h, *output[1:]) if isinstance(output, tuple) else h


@dataclass
class Hooks:
    """All hooks on a model's blocks. Edits of one layer run in the order they were added."""

    model: Any
    blocks: nn.ModuleList
    frame: Frame | None = None
    _edits: dict[Layer, list[Edit]] = field(default_factory=dict[Layer, list[Edit]])
    _foreign: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def editing(self) -> bool:
        """Whether passes are edited now."""
        return any(self._edits.values())

    @contextmanager
    def edit(self, edits: Mapping[Layer, Edit]) -> Generator[None]:
        """Within the context, the output h of each named block becomes `edits[layer](h, frame)`."""
        handles = [self._attach(layer) for layer in edits if not self._edits.get(layer)]
        if edits:
            handles.append(self.model.register_forward_pre_hook(self._see, with_kwargs=True, prepend=True))
        for layer, change in edits.items():
            self._edits.setdefault(layer, []).append(change)
        try:
            yield
        finally:
            for layer, change in edits.items():
                self._edits[layer].remove(change)
            for handle in handles:
                handle.remove()

    @contextmanager
    def record(self, layers: Sequence[Layer]) -> Generator[dict[Layer, Any]]:
        """Within the context, whatever each named block returns last, edits included, is kept in the dictionary."""
        outputs: dict[Layer, Any] = {}

        def keeper(layer: Layer) -> Callable[[Any, Any, Any], None]:
            def keep(module: Any, args: Any, output: Any) -> None:
                outputs[layer] = output

            return keep

        handles = [self.blocks[layer].register_forward_hook(keeper(layer)) for layer in layers]  # behind the edits, which are prepended
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
        """Declare the columns of the forward passes inside the context."""
        before, self.frame = self.frame, frame
        try:
            yield
        finally:
            self.frame = before

    def _attach(self, layer: Layer) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            h = stream(output)
            frame = self.frame or self._foreign["frame"]
            changed = h
            for change in self._edits[layer]:
                changed = change(changed, frame)
            return None if changed is h else replaced(output, changed)

        return self.blocks[layer].register_forward_hook(hook, prepend=True)

    def _see(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Work out the columns of a forward pass someone else started (`model.generate`, an evaluation harness)."""
        if self.frame is None:
            self._foreign["frame"] = _frame_of(args, kwargs, self._foreign)


def _frame_of(args: Any, kwargs: dict[str, Any], memory: dict[str, Any]) -> Frame:
    """A first pass is all prompt; what later passes add to its cache is generated."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    ids = kwargs["inputs_embeds"][..., 0] if ids is None else ids
    b, s = ids.shape
    cache = kwargs.get("past_key_values")
    past = cache.get_seq_length() if cache is not None else 0
    mask = kwargs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        mask = torch.ones(b, past + s, dtype=torch.long, device=ids.device)
    mask = mask[:, : past + s]
    index = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, -1)[:, -s:]
    if past == 0 or len(memory.get("prompt", ())) != b:
        memory["prompt"] = [int(n) for n in mask.sum(-1)]
    return Frame(index, [Row((), n) for n in memory["prompt"]])
