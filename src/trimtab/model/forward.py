"""One pass of a model's own code: which rows may share it, what goes in, fp32 logits out; with hooks, or without."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import index
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import ModelError, TokenError
from trimtab.model import replay as engine
from trimtab.model.blocks import find_blocks
from trimtab.model.exactness import Exactness, switches
from trimtab.model.hooks import Edit, Frame, Hooks, Layer, Layers, Threads, stream
from trimtab.model.tokens import Row, Tokens, grouped
from trimtab.sites import EMBEDDINGS


class Forward:
    """A causal language model, seen as blocks with a residual stream between them."""

    def __init__(self, model: Any, *, id: str, blocks: str | None, pad: int = 0) -> None:
        self.id, self.pad = id, pad
        self.end_tokens: frozenset[int] = frozenset()  # which end an answer: known to a model with a tokenizer
        self.model = model.eval().requires_grad_(False)
        self.inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.blocks_path, self.blocks = find_blocks(model, blocks)
        self.hooks = Hooks(model, self.blocks)
        self.n_layers = len(self.blocks)
        self.width: int = model.config.get_text_config(decoder=True).hidden_size
        self.lock = threading.RLock()
        self.exact = Exactness(switches=switches(self.inner))
        # models name their arguments differently, and refuse what they do not know
        self._accepts = set(inspect.signature(self.inner.forward).parameters)
        self._rotary = [
            m
            for m in model.modules()
            if hasattr(m, "original_max_seq_len") and "dynamic" in str(getattr(m, "rope_type", ""))
        ]

    @property
    def device(self) -> torch.device:
        weight = self.model.get_input_embeddings().weight
        # of accelerate: where weights that are kept on disk are brought to
        hook = getattr(self.model.get_input_embeddings(), "_hf_hook", None)
        return torch.device(hook.execution_device) if weight.is_meta and hook is not None else weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    def layers(self, chosen: Layers | None = None) -> list[Layer]:
        """Checked layers: one, or several (integers of numpy too); all of them by default.

        Raises:
            ModelError: a layer the model does not have.
        """
        given = range(self.n_layers) if chosen is None else chosen if isinstance(chosen, Iterable) else (chosen,)
        layers: list[Layer] = []
        for layer in given:
            if isinstance(layer, bool) or not hasattr(layer, "__index__") or not 0 <= index(layer) < self.n_layers:
                raise ModelError("layer out of range", given=layer, expected=f"0..{self.n_layers - 1} for {self.id}")
            layers.append(index(layer))
        return layers

    def places(self, chosen: Layers | None = None) -> list[Layer]:
        """Checked layers, `EMBEDDINGS` among them where it is asked for by that name."""
        if chosen is None:
            return self.layers()
        given: list[Any] = list(chosen) if isinstance(chosen, Iterable) else [chosen]
        return [EMBEDDINGS if layer is EMBEDDINGS else self.layers(layer)[0] for layer in given]

    # ------------------------------------------------------------ batches

    def batch(self, rows: Sequence[Row]) -> Tokens:
        """Rows side by side: prompts end in the same column.

        Raises:
            ModelError: the model would give some of them other numbers than alone.
        """
        if not self.together(rows):
            raise ModelError(
                f"{self.id}: these rows cannot share a batch",
                given=(
                    f"prompts of {sorted({r.prompt for r in rows})} tokens, rows of "
                    f"{sorted({len(r.ids) for r in rows})}"
                ),
                expected=self._needs(),
                do="run them in the batches that lm.batches(rows, size) gives",
            )
        return Tokens.of(rows, self.pad, self.device)

    def batches(self, rows: Sequence[Row], size: int, *, replays: int = 1, new: int = 0) -> list[list[int]]:
        """Indices of rows that go well together: at most `size`, with little padding, and only rows that may share a
        batch; see `grouped`.

        Args:
            replays: how often completions are run for every time that prompts are.
            new: tokens that will be added to each row.
        """
        if size < 1:
            raise TokenError("not a size of batches", given=size, expected="at least 1")
        kinds = [self._kind(row, new) for row in rows]
        batches: list[list[int]] = []
        for kind in dict.fromkeys(kinds):
            alike = [k for k, mine in enumerate(kinds) if mine == kind]
            for some in grouped([rows[k] for k in alike], size, replays):
                batches.append([alike[j] for j in some])
        return batches

    def together(self, rows: Sequence[Row], new: int = 0) -> bool:
        """Whether rows, longer by `new` tokens, may share a batch."""
        return len({self._kind(row, new) for row in rows}) <= 1

    def _kind(self, row: Row, new: int) -> tuple[Any, ...]:
        """What rows of one batch must have in common: the side of every switch; and the length of the prompt, where
        padding or a switch on the way demands it.
        """
        # a row that grows past a switch while it is generated changes its arithmetic on the way, and padding would
        # move the place where it does
        exact, now, later = self.exact, self.exact.sides(len(row.ids)), self.exact.sides(len(row.ids) + new)
        return (now, later, row.prompt if not exact.batchable or now != later else 0)

    def _needs(self) -> str:
        switch = ", ".join(str(s.length) for s in self.exact.switches)
        alike = "prompts of equal length" if not self.exact.batchable else "rows on one side of every switch"
        return f"{alike}{f' (positions change beyond {switch} tokens)' if switch else ''}"

    # ------------------------------------------------------------ passes

    def forward(
        self,
        ids: Int[Tensor, "b s"],
        frame: Frame,
        mask: Int[Tensor, "b t"] | Float[Tensor, "b 1 s t"],
        cache: Any = None,
        *,
        keep: Sequence[int] | Int[Tensor, " k"] | None = None,
        upto: Layer | None = None,
    ) -> Float[Tensor, "b k v"]:
        """One pass of the model's own code; fp32 logits at the kept columns (all by default), or none where the pass
        ends behind block `upto`.
        """
        for rotary in self._rotary:
            _forget_length(rotary)
        chosen = None if keep is None else torch.as_tensor(keep, device=ids.device)
        given: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": cache is not None,
        }
        if "position_ids" in self._accepts:
            given["position_ids"] = frame.index.clamp(min=0)
        # a model that can keep some columns saves the product with the whole vocabulary at all the others
        direct = chosen is not None and "logits_to_keep" in self._accepts
        if direct:
            given["logits_to_keep"] = chosen
        with self.lock, self.hooks.within(frame), engine.exact_head(self.model):
            if upto is not None:
                with engine.ending(self.blocks[upto]):
                    self.model(**given)
                return torch.empty(len(ids), 0, 0)
            logits = self.model(**given).logits
        return (logits if direct or chosen is None else logits[:, chosen.to(logits.device)]).float()

    @torch.no_grad()
    def logits(
        self, tokens: Tokens, edits: Mapping[Layer, Edit] | None = None, *, keep: Sequence[int] | None = None
    ) -> Float[Tensor, "b k v"]:
        """The slow path: one full pass with hooks and no cache. Every fast path is tested against it."""
        with self._editing(edits or {}):
            return self.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask, keep=keep)

    @torch.no_grad()
    def not_finite(self, tokens: Tokens) -> ModelError:
        """The error for numbers that are none: which block is the first to give them, in a full pass under the edits
        that are on.
        """
        with self.hooks.record(range(self.n_layers)) as outputs:
            self.logits(tokens)
        real = tokens.mask.bool()
        lost = (k for k, o in sorted(outputs.items()) if not stream(o)[real.to(stream(o).device)].isfinite().all())
        where = next((f"at block {k}" for k in lost), "in the logits")
        smaller = ", or a smaller multiplier" if self.hooks.editing else ""
        return ModelError(
            f"{self.id}: not finite {where}", given=str(self.dtype), do=f'use dtype="bfloat16" or "float32"{smaller}'
        )

    def edit(self, edits: Mapping[Layer, Edit], *, threads: Threads = "own") -> AbstractContextManager[None]:
        """Within the context, every pass of this thread (or of all) has the output h (b, s, d) of block L replaced by
        `edits[L](h, frame)`.

        A pass in another thread, which entered no context of its own, raises SteerError.
        """
        self.places(list(edits))
        return self.hooks.edit(edits, threads=threads)

    def _editing(self, edits: Mapping[Layer, Edit]) -> AbstractContextManager[None]:
        """The same for a pass of ours: it does not stand for a thread's own steering."""
        self.places(list(edits))
        return self.hooks.edit(edits, asked=False)


def _forget_length(rotary: Any) -> None:
    """Rotary embeddings that grow with the longest row seen would make a pass depend on the passes before it."""
    if int(rotary.max_seq_len_cached) != int(rotary.original_max_seq_len):
        rotary.max_seq_len_cached = rotary.original_max_seq_len
        rotary.register_buffer("inv_freq", rotary.original_inv_freq.to(rotary.inv_freq.device), persistent=False)
