"""Passes over a model's own code: its residual stream is captured, edited, run once and replayed; token ids in, logits out.

Which columns are run, and on top of what, is decided here and nowhere else: `_resumes` asks what the check at load found exact (`exactness.py`), and what is not exact is
run in full. With prompts of 9 and 5 tokens that end in column 9, and answers of 3 and 2:

    column       0 1 2 3 4 5 6 7 | 8 9 10 11        prefix(tokens, start=8): columns 0-7 once into a cache, 8-11 on top of it, streams recorded
    row 0        p p p p p p p p | p a a  a         replay(prefix, layer, h): the blocks above `layer` alone, on columns 8-11, from the stream h
    row 1        . . . . p p p p | p a a  .         capture, gradient, logprobs: the same two passes, with hooks that read or nudge
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import index
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.errors import ModelError, TokenError
from trimtab.model import positions as at
from trimtab.model import replay as engine
from trimtab.model.blocks import find_blocks
from trimtab.model.exactness import Exactness, switches
from trimtab.model.hooks import Edit, Frame, Hooks, Layer, Layers, Threads, stream
from trimtab.model.opening import Opening
from trimtab.model.packing import Packing
from trimtab.model.positions import Positions
from trimtab.model.replay import Prefix
from trimtab.model.tokens import Row, Tokens, distinct_prompts, grouped
from trimtab.sites import EMBEDDINGS


class Passes:
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
        self._accepts = set(inspect.signature(self.inner.forward).parameters)
        self._rotary = [m for m in model.modules() if hasattr(m, "original_max_seq_len") and "dynamic" in str(getattr(m, "rope_type", ""))]

    @property
    def device(self) -> torch.device:
        weight = self.model.get_input_embeddings().weight
        hook = getattr(self.model.get_input_embeddings(), "_hf_hook", None)  # of accelerate: where weights that are kept on disk are brought to
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
                given=f"prompts of {sorted({r.prompt for r in rows})} tokens, rows of {sorted({len(r.ids) for r in rows})}",
                expected=self._needs(),
                do="run them in the batches that lm.batches(rows, size) gives",
            )
        return Tokens.of(rows, self.pad, self.device)

    def batches(self, rows: Sequence[Row], size: int, *, replays: int = 1, new: int = 0) -> list[list[int]]:
        """Indices of rows that go well together: at most `size`, with little padding, and only rows that may share a batch; see `grouped`.

        Args:
            replays: how often completions are run for every time that prompts are.
            new: tokens that will be added to each row.
        """
        if size < 1:
            raise TokenError("not a size of batches", given=size, expected="at least 1")
        kinds = [self._kind(row, new) for row in rows]
        found: list[list[int]] = []
        for kind in dict.fromkeys(kinds):
            alike = [k for k, mine in enumerate(kinds) if mine == kind]
            found += [[alike[j] for j in some] for some in grouped([rows[k] for k in alike], size, replays)]
        return found

    def together(self, rows: Sequence[Row], new: int = 0) -> bool:
        """Whether rows, longer by `new` tokens, may share a batch."""
        return len({self._kind(row, new) for row in rows}) <= 1

    def _kind(self, row: Row, new: int) -> tuple[Any, ...]:
        """What rows of one batch must have in common: the side of every switch; and the length of the prompt, where padding or a switch on the way demands it."""
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
        """One pass of the model's own code; fp32 logits at the kept columns (all by default), or none where the pass ends behind block `upto`."""
        for rotary in self._rotary:
            _forget_length(rotary)
        chosen = None if keep is None else torch.as_tensor(keep, device=ids.device)
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, "use_cache": cache is not None}
        if "position_ids" in self._accepts:
            given["position_ids"] = frame.index.clamp(min=0)
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
    def logits(self, tokens: Tokens, edits: Mapping[Layer, Edit] | None = None, *, keep: Sequence[int] | None = None) -> Float[Tensor, "b k v"]:
        """The slow path: one full pass with hooks and no cache. Every fast path is tested against it."""
        with self._editing(edits or {}):
            return self.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask, keep=keep)

    @torch.no_grad()
    def not_finite(self, tokens: Tokens) -> ModelError:
        """The error for numbers that are none: which block is the first to give them, in a full pass under the edits that are on."""
        with self.hooks.record(range(self.n_layers)) as outputs:
            self.logits(tokens)
        real = tokens.mask.bool()
        lost = (k for k, o in sorted(outputs.items()) if not stream(o)[real.to(stream(o).device)].isfinite().all())
        where = next((f"at block {k}" for k in lost), "in the logits")
        smaller = ", or a smaller multiplier" if self.hooks.editing else ""
        return ModelError(f"{self.id}: not finite {where}", given=str(self.dtype), do=f'use dtype="bfloat16" or "float32"{smaller}')

    def edit(self, edits: Mapping[Layer, Edit], *, threads: Threads = "own") -> AbstractContextManager[None]:
        """Within the context, every pass of this thread (or of all) has the output h (b, s, d) of block L replaced by `edits[L](h, frame)`.

        A pass in another thread, which entered no context of its own, raises SteerError.
        """
        self.places(list(edits))
        return self.hooks.edit(edits, threads=threads)

    def _editing(self, edits: Mapping[Layer, Edit]) -> AbstractContextManager[None]:
        """The same for a pass of ours: it does not stand for a thread's own steering."""
        self.places(list(edits))
        return self.hooks.edit(edits, asked=False)

    @torch.no_grad()
    def capture(
        self, tokens: Tokens, positions: Positions | str | Bool[Tensor, "b s"] = at.generated, layers: Layers | None = None
    ) -> Float[Tensor, "b l d"]:
        """Mean residual stream over the selected positions of each row, at every layer, in one pass (fp32, on the CPU).

        Prompts that several rows share are run once, and nothing above the highest layer. The last layer is the output of the last block, before the
        final norm.

        Raises:
            TokenError: a row in which nothing is selected.
        """
        layers = self.places(layers)
        if not layers:
            raise ModelError("no layer to capture", given=layers, expected="at least one")
        chosen = positions & tokens.mask.bool() if isinstance(positions, Tensor) else Positions.parse(positions).select(tokens.index, tokens.rows)
        if not chosen.any(-1).all():
            k = int((~chosen.any(-1)).nonzero()[0])
            raise TokenError(f"positions {positions} select nothing", given=tokens.rows[k].text[-80:] or tokens.rows[k].ids)
        start = min(int(chosen.any(0).nonzero()[0]), tokens.pivot)
        weights = (chosen / chosen.sum(-1, keepdim=True))[:, start:].float()
        kept: dict[Layer, Tensor] = {}

        def reader(layer: Layer) -> Edit:
            def read(h: Tensor, frame: Frame) -> Tensor:
                kept[layer] = torch.einsum("bs,bsd->bd", weights.to(h.device), h.float()).cpu()
                return h

            return read

        if not self._resumes(tokens, start):
            weights, start = torch.nn.functional.pad(weights, (start, 0)), 0
        self._suffix(tokens, start, {layer: reader(layer) for layer in layers}, upto=max(0, *layers))
        return torch.stack([kept[layer] for layer in layers], 1)

    @torch.no_grad()
    def norms(self, rows: Sequence[Row], layers: Layers | None = None) -> dict[Layer, float]:
        """Median norm of the residual stream per layer, over the tokens of some rows: the yardstick of a vector's norm."""
        found: dict[Layer, list[Tensor]] = {}
        for some in self.batches(rows, len(rows)):
            tokens = self.batch([rows[k] for k in some])
            prefix = self.prefix(tokens, 0, layers, keep=[tokens.pivot - 1])
            for layer, h in prefix.residual.items():
                found.setdefault(layer, []).append(h.float().norm(dim=-1)[tokens.mask.bool().to(h.device)].cpu())
        return {layer: float(torch.cat(norms).median()) for layer, norms in found.items()}

    # ------------------------------------------------------------ replay

    @torch.no_grad()
    def prefix(self, tokens: Tokens, start: int | None = None, layers: Layers | None = None, *, keep: Sequence[int] | None = None) -> Prefix:
        """Run a batch once and keep what replays need.

        Args:
            start: first column an edit may touch, at most `tokens.pivot`; by default the last prompt token.
            layers: the layers to replay from; all by default.
            keep: columns whose logits are wanted (all from `start` by default).
        """
        start = tokens.pivot - 1 if start is None else start
        if not self._resumes(tokens, start):
            return self._prefix_in_full(tokens, start, layers, keep)
        distinct, packing = self._distinct(tokens, start), Packing.of(tokens, start)
        columns = engine.columns(tokens, keep, start)
        with self.hooks.record(self.places(layers)) as outputs:
            if self.hooks.editing or not self._packs(packing, distinct):
                frame, cache = Frame(tokens.index[:, start:], tokens.rows), engine.each_row(distinct, packing.place)
                logits = self.forward(tokens.ids[:, start:], frame, tokens.mask, engine.fork(cache), keep=columns)
                return Prefix(tokens, start, packing, distinct, outputs, {k: stream(o) for k, o in outputs.items()}, logits)
            kept, at = packing.kept(columns)
            logits = self.forward(packing.ids, packing.frame(), packing.mask(self.dtype), engine.fork(distinct), keep=kept)
        residual = {k: packing.unpack(h[None])[0] for k, h in outputs.items()}
        return Prefix(tokens, start, packing, distinct, residual, residual, packing.unfold(logits, at, 1)[0])

    def _prefix_in_full(self, tokens: Tokens, start: int, layers: Layers | None, keep: Sequence[int] | None) -> Prefix:
        """The same by a full pass, where nothing may be cut off at `start`; its replays are full passes, too."""
        with self.hooks.record(self.places(layers)) as outputs:
            logits = self.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask, keep=engine.columns(tokens, keep, start) + start)
        residual = {k: stream(o)[:, start:] for k, o in outputs.items()}
        return Prefix(tokens, start, Packing.of(tokens, start), None, residual, residual, logits)

    def _resumes(self, tokens: Tokens, start: int) -> bool:
        """Whether the columns before `start` may be run first, and gone on from; and replays run the blocks above a layer alone.

        One column alone is no prompt to recurrent layers: they take it for the next token of a state, and do not see that it is padding in other rows.

        Raises:
            ModelError: a start outside the prompts.
        """
        if not 0 <= start <= tokens.pivot:
            raise ModelError("a replay starts inside the prompt or at its end", given=start, expected=f"0..{tokens.pivot}")
        if start == 0:
            return self.exact.replayable
        before = [start - (tokens.pivot - row.prompt) for row in tokens.rows]
        return start > 1 and self.exact.resumes(before, [len(row.ids) for row in tokens.rows])

    def replay(
        self,
        prefix: Prefix,
        layer: Layer,
        h: Float[Tensor, "c b s d"],
        *,
        keep: Sequence[int] | None = None,
        edits: Mapping[Layer, Edit] | None = None,
        share: bool = False,
    ) -> Float[Tensor, "c b k v"]:
        """Logits with the residual stream after block `layer` set to `h` from `prefix.start` on, for c conditions at once.

        Differentiable in `h`. Only the blocks above `layer` run, on the columns from `prefix.start`.

        Args:
            keep: columns whose logits are wanted; all from `prefix.start` by default.
            edits: further edits, of blocks above `layer`; they see c * b rows, conditions first, from `prefix.start` on.
            share: rows with equal prompts have equal `h` there, so that it is enough to run it once (where that is exact, and saves anything).
        """
        grad = torch.is_grad_enabled() and (h.requires_grad or bool(edits))
        if not self._resumes(prefix.tokens, prefix.start) or (grad and not self.exact.cache_differentiable):
            return self._replay_in_full(prefix, layer, h, keep, edits)
        packs = share and self._packs(prefix.packing, prefix.distinct)
        folds = self._folds(prefix, h.shape[0], prefix.packing.width if packs else h.shape[2])
        run = partial(self._packed, fold=folds) if packs else self._folded if folds else self._batched
        with self.lock, torch.set_grad_enabled(grad):
            return run(prefix, layer, h, columns=engine.columns(prefix.tokens, keep, prefix.start), edits=edits or {})

    def _folds(self, prefix: Prefix, conditions: int, length: int) -> bool:
        """Conditions share a row, and its cache, while they are short beside what they share."""
        short = conditions * length <= 4 * (prefix.start + length)
        return self.exact.foldable and conditions > 1 and short and engine.can_fold(prefix.distinct)

    def _packs(self, packing: Packing, cache: Any) -> bool:
        """Rows with equal prompts share a row while every layer is plain attention over all that came before."""
        return self.exact.foldable and packing.saves and engine.can_fold(cache if cache is not None else engine.new_cache(self.model.config))

    def _packed(
        self, prefix: Prefix, layer: Layer, h: Tensor, *, columns: Tensor, edits: Mapping[Layer, Edit], fold: bool
    ) -> Float[Tensor, "c b k v"]:
        """Rows with equal prompts stand behind one prompt, hidden from each other by the mask; and conditions side by side, if they fold."""
        c, packing = h.shape[0], prefix.packing
        rows, side = (1, c) if fold else (c, 1)
        kept, at = packing.kept(columns)
        frame = packing.frame(rows, side)
        cache = engine.fork(engine.each_row(prefix.distinct, torch.arange(len(packing.first), device=h.device).repeat(rows)))
        mask = packing.mask(self.dtype, side).repeat(rows, 1, 1, 1)
        apart = {k: packing.edit(edit, c) for k, edit in edits.items()}
        inside = {k: engine.folded_edit(edit, c, frame) for k, edit in apart.items()} if fold else apart
        packed = packing.pack(h)
        kept = torch.cat([kept + k * packing.width for k in range(side)])
        with self._editing(inside), engine.emitting(self.blocks, layer, engine.fold(packed) if fold else packed.flatten(0, 1)):
            logits = self.forward(packing.ids.repeat(rows, side), frame, mask, cache, keep=kept)
        return torch.cat([packing.unfold(part, at, side) for part in logits.chunk(rows)])

    def _batched(self, prefix: Prefix, layer: Layer, h: Tensor, *, columns: Tensor, edits: Mapping[Layer, Edit]) -> Float[Tensor, "c b k v"]:
        """Every condition has its own rows, and its own copy of the cache."""
        c, b = h.shape[:2]
        tokens = engine.repeat_rows(prefix.tokens, c)
        order = torch.arange(b, device=h.device).repeat(c) if c > 1 else None
        cache = engine.fork(prefix.cache, order)
        output = engine.emitted(prefix.outputs[layer], h.flatten(0, 1), c)
        frame = Frame(tokens.index[:, prefix.start :], tokens.rows)
        with self._editing(edits), engine.emitting(self.blocks, layer, output):
            logits = self.forward(tokens.ids[:, prefix.start :], frame, tokens.mask, cache, keep=columns)
        return logits.unflatten(0, (c, b))

    def _folded(self, prefix: Prefix, layer: Layer, h: Tensor, *, columns: Tensor, edits: Mapping[Layer, Edit]) -> Float[Tensor, "c b k v"]:
        """The conditions of a row stand side by side in its sequence, on one cache, hidden from each other by the mask."""
        c, s, tokens = h.shape[0], h.shape[2], prefix.tokens
        index = tokens.index[:, prefix.start :]
        apart = Frame(index.repeat(c, 1), tokens.rows * c)
        inside = {k: engine.folded_edit(edit, c, apart) for k, edit in edits.items()}
        mask = engine.folded_mask(tokens, prefix.start, c, self.dtype)
        kept = torch.cat([columns + k * s for k in range(c)])
        ids = tokens.ids[:, prefix.start :].repeat(1, c)
        with self._editing(inside), engine.emitting(self.blocks, layer, engine.fold(h)):
            logits = self.forward(ids, Frame(index.repeat(1, c), tokens.rows), mask, engine.fork(prefix.cache), keep=kept)
        return logits.unflatten(1, (c, -1)).transpose(0, 1)

    def gradient(
        self, tokens: Tokens, score: Callable[[Float[Tensor, "b k v"]], Tensor], start: int | None = None, *, keep: Sequence[int] | None = None
    ) -> dict[Layer, Float[Tensor, "b s d"]]:
        """Gradient of a scalar score of the kept logits with respect to the residual stream at every layer, in one backward pass.

        Args:
            score: from fp32 logits (b, k, v) to a scalar. A sum over rows gives every row its own gradient.
            start: first column of the gradient; by default the last prompt token.

        Returns:
            For each layer (b, s - start, d), fp32: the first-order effect of an addition there.
        """
        start = tokens.pivot - 1 if start is None else start
        origin = start if self._resumes(tokens, start) and self.exact.cache_differentiable else 0
        shape = (tokens.ids.shape[0], tokens.ids.shape[1] - origin, self.width)
        zeros = {layer: torch.zeros(shape, device=self.device, requires_grad=True) for layer in range(self.n_layers)}

        def nudge(layer: Layer) -> Edit:
            return lambda h, frame: (h.float() + zeros[layer].to(h.device)).to(h.dtype)

        with torch.enable_grad():
            columns = engine.columns(tokens, range(start, tokens.ids.shape[1]) if keep is None else keep, origin)
            value = score(self._suffix(tokens, origin, {layer: nudge(layer) for layer in zeros}, columns))
            grads = torch.autograd.grad(value, list(zeros.values()))
        return {layer: g[:, start - origin :] for layer, g in zip(zeros, grads, strict=True)}

    def _before(self, tokens: Tokens, start: int, upto: Layer | None = None) -> Any:
        """Keys and values of the columns before `start`, in blocks up to `upto`."""
        return engine.each_row(self._distinct(tokens, start, upto), torch.tensor(distinct_prompts(tokens)[1], device=self.device))

    def _distinct(self, tokens: Tokens, start: int, upto: Layer | None = None) -> Any:
        """The same for a row of every distinct prompt."""
        if start == 0:
            return None
        first, _ = distinct_prompts(tokens)
        upto = self.n_layers - 1 if upto is None else upto
        cache = engine.new_cache(self.model.config)
        opening = Opening.of(tokens, first, start) if self.exact.openable and engine.can_fold(cache) and not self.hooks.editing else None
        with torch.no_grad():
            if opening and self.exact.sides(opening.length) == self.exact.sides(len(tokens.rows[0].ids)):
                return self._opened(opening, cache, upto)
            frame = Frame(tokens.index[first, :start], [tokens.rows[k] for k in first])
            self.forward(tokens.ids[first, :start], frame, tokens.mask[first, :start], cache, upto=upto)
        return cache

    def _opened(self, opening: Opening, cache: Any, upto: Layer) -> Any:
        """Keys and values of prompts that begin alike: one pass over what they share, one over the rest of each."""
        n, g = opening.length, len(opening.ids)
        alike = torch.arange(n, device=self.device)[None]
        self.forward(opening.shared, Frame(alike, [Row((), n)]), torch.ones_like(alike), cache, upto=upto)
        cache = engine.fork(cache, torch.zeros(g, dtype=torch.long, device=self.device))
        frame = Frame(opening.index[:, n:].masked_fill(~opening.rest, -1), [Row((), n)] * g)
        self.forward(opening.ids[:, n:], frame, opening.mask, cache, upto=upto)
        opening.settle(cache)
        return cache

    def _suffix(
        self, tokens: Tokens, start: int, edits: Mapping[Layer, Edit], columns: Tensor | None = None, upto: Layer | None = None
    ) -> Float[Tensor, "b k v"]:
        """One pass over the columns from `start` on, on top of those before it; logits at `columns`, counted from `start`."""
        cache = self._before(tokens, start, upto)
        frame = Frame(tokens.index[:, start:], tokens.rows)
        with self._editing(edits):
            return self.forward(tokens.ids[:, start:], frame, tokens.mask, cache, keep=columns, upto=upto)

    def _replay_in_full(self, prefix: Prefix, layer: Layer, h: Tensor, keep: Sequence[int] | None, edits: Mapping[Layer, Edit] | None) -> Tensor:
        """The same as `replay` by full passes with hooks: its oracle, and its stand-in for models that cannot be resumed."""
        c, b = h.shape[:2]
        tokens = engine.repeat_rows(prefix.tokens, c)

        def put(old: Tensor, frame: Frame) -> Tensor:
            return torch.cat([old[:, : prefix.start], h.flatten(0, 1).to(old)], 1)

        def suffix_only(edit: Edit) -> Edit:
            def change(h: Tensor, frame: Frame) -> Tensor:
                before, after = h[:, : prefix.start], h[:, prefix.start :]
                return torch.cat([before, edit(after, Frame(frame.index[:, prefix.start :], frame.rows))], 1)

            return change

        kept = keep if keep is not None else range(prefix.start, tokens.ids.shape[1])
        with self._editing({layer: put, **{k: suffix_only(edit) for k, edit in (edits or {}).items()}}):
            logits = self.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask, keep=list(kept))
        return logits.unflatten(0, (c, b))


def _forget_length(rotary: Any) -> None:
    """Rotary embeddings that grow with the longest row seen would make a pass depend on the passes before it."""
    if int(rotary.max_seq_len_cached) != int(rotary.original_max_seq_len):
        rotary.max_seq_len_cached = rotary.original_max_seq_len
        rotary.register_buffer("inv_freq", rotary.original_inv_freq.to(rotary.inv_freq.device), persistent=False)
