"""Passes over a model's blocks: its residual stream is captured, run once and replayed, and its gradient taken.

Which columns are run, and on top of what, is decided here and nowhere else: `_resumes` asks what the check at load
found exact (`exactness.py`), and what is not exact is run in full. With prompts of 9 and 5 tokens that end in column
9, and answers of 3 and 2:

    column       0 1 2 3 4 5 6 7 | 8 9 10 11
    row 0        p p p p p p p p | p a a  a
    row 1        . . . . p p p p | p a a  .

    prefix(tokens, start=8)      columns 0-7 once into a cache; 8-11 on top of it, streams recorded
    replay(prefix, layer, h)     the blocks above `layer` alone, on columns 8-11, from the stream h
    capture, gradient, logprobs  the same two passes, with hooks that read or nudge
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.errors import ModelError, TokenError
from trimtab.model import positions as at
from trimtab.model import replay as engine
from trimtab.model.forward import Forward
from trimtab.model.hooks import Edit, Frame, Layer, Layers, stream
from trimtab.model.opening import Opening
from trimtab.model.packing import Packing
from trimtab.model.positions import Positions
from trimtab.model.replay import Prefix
from trimtab.model.tokens import Row, Tokens, distinct_prompts


class Passes(Forward):
    """A causal language model, seen as blocks with a residual stream between them, which need not all be run again."""

    @torch.no_grad()
    def capture(
        self,
        tokens: Tokens,
        positions: Positions | str | Bool[Tensor, "b s"] = at.generated,
        layers: Layers | None = None,
    ) -> Float[Tensor, "b l d"]:
        """Mean residual stream over the selected positions of each row, at every layer, in one pass (fp32, on the CPU).

        Prompts that several rows share are run once, and nothing above the highest layer. The last layer is the
        output of the last block, before the final norm.

        Raises:
            TokenError: a row in which nothing is selected.
        """
        layers = self.places(layers)
        if not layers:
            raise ModelError("no layer to capture", given=layers, expected="at least one")
        chosen = (
            positions & tokens.mask.bool()
            if isinstance(positions, Tensor)
            else Positions.parse(positions).select(tokens.index, tokens.rows)
        )
        if not chosen.any(-1).all():
            k = int((~chosen.any(-1)).nonzero()[0])
            raise TokenError(
                f"positions {positions} select nothing", given=tokens.rows[k].text[-80:] or tokens.rows[k].ids
            )
        start = min(int(chosen.any(0).nonzero()[0]), tokens.pivot)
        weights = (chosen / chosen.sum(-1, keepdim=True))[:, start:].float()
        means: dict[Layer, Tensor] = {}

        def reader(layer: Layer) -> Edit:
            def read(h: Tensor, frame: Frame) -> Tensor:
                means[layer] = torch.einsum("bs,bsd->bd", weights.to(h.device), h.float()).cpu()
                return h

            return read

        if not self._resumes(tokens, start):
            weights, start = torch.nn.functional.pad(weights, (start, 0)), 0
        self._suffix(tokens, start, {layer: reader(layer) for layer in layers}, upto=max(0, *layers))
        return torch.stack([means[layer] for layer in layers], 1)

    @torch.no_grad()
    def norms(self, rows: Sequence[Row], layers: Layers | None = None) -> dict[Layer, float]:
        """Median norm of the residual stream per layer, over the tokens of some rows: the yardstick of a vector's
        norm.
        """
        by_layer: dict[Layer, list[Tensor]] = {}
        for some in self.batches(rows, len(rows)):
            tokens = self.batch([rows[k] for k in some])
            prefix = self.prefix(tokens, 0, layers, keep=[tokens.pivot - 1])
            for layer, h in prefix.residual.items():
                by_layer.setdefault(layer, []).append(h.float().norm(dim=-1)[tokens.mask.bool().to(h.device)].cpu())
        return {layer: float(torch.cat(norms).median()) for layer, norms in by_layer.items()}

    # ------------------------------------------------------------ replay

    @torch.no_grad()
    def prefix(
        self,
        tokens: Tokens,
        start: int | None = None,
        layers: Layers | None = None,
        *,
        keep: Sequence[int] | None = None,
    ) -> Prefix:
        """Run a batch once and keep what replays need.

        Args:
            start: first column an edit may touch, at most `tokens.pivot`; by default the last prompt token.
            layers: the layers to replay from; all by default.
            keep: columns whose logits are wanted (all from `start` by default).
        """
        start = tokens.pivot - 1 if start is None else start
        if not self._resumes(tokens, start):
            return self._prefix_in_full(tokens, start, layers, keep)
        # keys and values are kept once for every distinct prompt: copying them for each answer would cost more than
        # the pass itself
        distinct, packing = self._distinct(tokens, start), Packing.of(tokens, start)
        columns = engine.columns(tokens, keep, start)
        with self.hooks.record(self.places(layers)) as outputs:
            if self.hooks.editing or not self._packs(packing, distinct):
                frame, cache = Frame(tokens.index[:, start:], tokens.rows), engine.each_row(distinct, packing.place)
                logits = self.forward(tokens.ids[:, start:], frame, tokens.mask, engine.fork(cache), keep=columns)
                return Prefix(
                    tokens, start, packing, distinct, outputs, {k: stream(o) for k, o in outputs.items()}, logits
                )
            wanted, at = packing.kept(columns)
            logits = self.forward(
                packing.ids, packing.frame(), packing.mask(self.dtype), engine.fork(distinct), keep=wanted
            )
        residual = {k: packing.unpack(h[None])[0] for k, h in outputs.items()}
        return Prefix(tokens, start, packing, distinct, residual, residual, packing.unfold(logits, at, 1)[0])

    def _prefix_in_full(self, tokens: Tokens, start: int, layers: Layers | None, keep: Sequence[int] | None) -> Prefix:
        """The same by a full pass, where nothing may be cut off at `start`; its replays are full passes, too."""
        with self.hooks.record(self.places(layers)) as outputs:
            logits = self.forward(
                tokens.ids,
                Frame(tokens.index, tokens.rows),
                tokens.mask,
                keep=engine.columns(tokens, keep, start) + start,
            )
        residual = {k: stream(o)[:, start:] for k, o in outputs.items()}
        return Prefix(tokens, start, Packing.of(tokens, start), None, residual, residual, logits)

    def _resumes(self, tokens: Tokens, start: int) -> bool:
        """Whether the columns before `start` may be run first, and gone on from; and replays run the blocks above a
        layer alone.

        One column alone is no prompt to recurrent layers: they take it for the next token of a state, and do not see
        that it is padding in other rows.

        Raises:
            ModelError: a start outside the prompts.
        """
        if not 0 <= start <= tokens.pivot:
            raise ModelError(
                "a replay starts inside the prompt or at its end", given=start, expected=f"0..{tokens.pivot}"
            )
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
        """Logits with the residual stream after block `layer` set to `h` from `prefix.start` on, for c conditions at
        once.

        Differentiable in `h`. Only the blocks above `layer` run, on the columns from `prefix.start`.

        Args:
            keep: columns whose logits are wanted; all from `prefix.start` by default.
            edits: further edits, of blocks above `layer`; they see c * b rows, conditions first, from `prefix.start`
                on.
            share: rows with equal prompts have equal `h` there, so that it is enough to run it once (where that is
                exact, and saves anything).
        """
        grad = torch.is_grad_enabled() and (h.requires_grad or bool(edits))
        if not self._resumes(prefix.tokens, prefix.start) or (grad and not self.exact.cache_differentiable):
            return self._replay_in_full(prefix, layer, h, keep, edits)
        # three ways to run c conditions on b rows, from the fewest tokens to the most general: answers of a prompt in
        # one row, conditions in one row, or a row for everything
        packs = share and self._packs(prefix.packing, prefix.distinct)
        folds = self._folds(prefix, h.shape[0], prefix.packing.width if packs else h.shape[2])
        run = partial(self._packed, fold=folds) if packs else self._folded if folds else self._batched
        with self.lock, torch.set_grad_enabled(grad):
            return run(prefix, layer, h, columns=engine.columns(prefix.tokens, keep, prefix.start), edits=edits or {})

    def _folds(self, prefix: Prefix, conditions: int, length: int) -> bool:
        """Conditions share a row, and its cache, while they are short beside what they share."""
        # every condition looks at the shared part once more for itself, so folding pays while it is short beside it
        short = conditions * length <= 4 * (prefix.start + length)
        return self.exact.foldable and conditions > 1 and short and engine.can_fold(prefix.distinct)

    def _packs(self, packing: Packing, cache: Any) -> bool:
        """Rows with equal prompts share a row while every layer is plain attention over all that came before."""
        return (
            self.exact.foldable
            and packing.saves
            and engine.can_fold(cache if cache is not None else engine.new_cache(self.model.config))
        )

    def _packed(
        self, prefix: Prefix, layer: Layer, h: Tensor, *, columns: Tensor, edits: Mapping[Layer, Edit], fold: bool
    ) -> Float[Tensor, "c b k v"]:
        """Rows with equal prompts stand behind one prompt, hidden from each other by the mask; and conditions side by
        side, if they fold.
        """
        c, packing = h.shape[0], prefix.packing
        # (c, g, w, d) -> (g, c * w, d) where conditions fold into the row, else (c * g, w, d)
        rows, side = (1, c) if fold else (c, 1)
        wanted, at = packing.kept(columns)
        frame = packing.frame(rows, side)
        cache = engine.fork(
            engine.each_row(prefix.distinct, torch.arange(len(packing.first), device=h.device).repeat(rows))
        )
        mask = packing.mask(self.dtype, side).repeat(rows, 1, 1, 1)
        apart = {k: packing.edit(edit, c) for k, edit in edits.items()}
        inside = {k: engine.folded_edit(edit, c, frame) for k, edit in apart.items()} if fold else apart
        packed = packing.pack(h)  # (c, b, s, d) -> (c, g, w, d)
        wanted = torch.cat([wanted + k * packing.width for k in range(side)])
        with (
            self._editing(inside),
            engine.emitting(self.blocks, layer, engine.fold(packed) if fold else packed.flatten(0, 1)),
        ):
            logits = self.forward(packing.ids.repeat(rows, side), frame, mask, cache, keep=wanted)
        return torch.cat([packing.unfold(part, at, side) for part in logits.chunk(rows)])

    def _batched(
        self, prefix: Prefix, layer: Layer, h: Tensor, *, columns: Tensor, edits: Mapping[Layer, Edit]
    ) -> Float[Tensor, "c b k v"]:
        """Every condition has its own rows, and its own copy of the cache."""
        c, b = h.shape[:2]
        tokens = engine.repeat_rows(prefix.tokens, c)  # (b, s) -> (c * b, s), conditions first
        order = torch.arange(b, device=h.device).repeat(c) if c > 1 else None
        cache = engine.fork(prefix.cache, order)
        output = engine.emitted(prefix.outputs[layer], h.flatten(0, 1), c)
        frame = Frame(tokens.index[:, prefix.start :], tokens.rows)
        with self._editing(edits), engine.emitting(self.blocks, layer, output):
            logits = self.forward(tokens.ids[:, prefix.start :], frame, tokens.mask, cache, keep=columns)
        return logits.unflatten(0, (c, b))  # (c * b, k, v) -> (c, b, k, v)

    def _folded(
        self, prefix: Prefix, layer: Layer, h: Tensor, *, columns: Tensor, edits: Mapping[Layer, Edit]
    ) -> Float[Tensor, "c b k v"]:
        """The conditions of a row stand side by side in its sequence, on one cache, hidden from each other by the
        mask.
        """
        c, s, tokens = h.shape[0], h.shape[2], prefix.tokens
        index = tokens.index[:, prefix.start :]
        apart = Frame(index.repeat(c, 1), tokens.rows * c)
        inside = {k: engine.folded_edit(edit, c, apart) for k, edit in edits.items()}
        mask = engine.folded_mask(tokens, prefix.start, c, self.dtype)
        wanted = torch.cat([columns + k * s for k in range(c)])  # the same columns in every condition's stretch
        ids = tokens.ids[:, prefix.start :].repeat(1, c)
        with self._editing(inside), engine.emitting(self.blocks, layer, engine.fold(h)):
            logits = self.forward(
                ids, Frame(index.repeat(1, c), tokens.rows), mask, engine.fork(prefix.cache), keep=wanted
            )
        return logits.unflatten(1, (c, -1)).transpose(0, 1)  # (b, c * k, v) -> (c, b, k, v)

    def gradient(
        self,
        tokens: Tokens,
        score: Callable[[Float[Tensor, "b k v"]], Tensor],
        start: int | None = None,
        *,
        keep: Sequence[int] | None = None,
    ) -> dict[Layer, Float[Tensor, "b s d"]]:
        """Gradient of a scalar score of the kept logits with respect to the residual stream at every layer, in one
        backward pass.

        Args:
            score: from fp32 logits (b, k, v) to a scalar. A sum over rows gives every row its own gradient.
            start: first column of the gradient; by default the last prompt token.

        Returns:
            For each layer (b, s - start, d), fp32: the first-order effect of an addition there.
        """
        start = tokens.pivot - 1 if start is None else start
        origin = start if self._resumes(tokens, start) and self.exact.cache_differentiable else 0
        shape = (tokens.ids.shape[0], tokens.ids.shape[1] - origin, self.width)
        # a stream plus zeros is the stream; the gradient with respect to the zeros is that with respect to the stream
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
        return engine.each_row(
            self._distinct(tokens, start, upto), torch.tensor(distinct_prompts(tokens)[1], device=self.device)
        )

    def _distinct(self, tokens: Tokens, start: int, upto: Layer | None = None) -> Any:
        """The same for a row of every distinct prompt."""
        if start == 0:
            return None
        first, _ = distinct_prompts(tokens)
        upto = self.n_layers - 1 if upto is None else upto
        cache = engine.new_cache(self.model.config)
        opening = (
            Opening.of(tokens, first, start)
            if self.exact.openable and engine.can_fold(cache) and not self.hooks.editing
            else None
        )
        with torch.no_grad():
            if opening and self.exact.sides(opening.length) == self.exact.sides(len(tokens.rows[0].ids)):
                return self._opened(opening, cache, upto)
            frame = Frame(tokens.index[first, :start], [tokens.rows[k] for k in first])
            self.forward(tokens.ids[first, :start], frame, tokens.mask[first, :start], cache, upto=upto)
        return cache

    def _opened(self, opening: Opening, cache: Any, upto: Layer) -> Any:
        """Keys and values of prompts that begin alike: one pass over what they share, one over the rest of each."""
        # (1, n) once, then (g, w) of what is left of each prompt on g copies of its cache
        n, g = opening.length, len(opening.ids)
        alike = torch.arange(n, device=self.device)[None]
        self.forward(opening.shared, Frame(alike, [Row((), n)]), torch.ones_like(alike), cache, upto=upto)
        cache = engine.fork(cache, torch.zeros(g, dtype=torch.long, device=self.device))
        frame = Frame(opening.index[:, n:].masked_fill(~opening.rest, -1), [Row((), n)] * g)
        self.forward(opening.ids[:, n:], frame, opening.mask, cache, upto=upto)
        opening.settle(cache)
        return cache

    def _suffix(
        self,
        tokens: Tokens,
        start: int,
        edits: Mapping[Layer, Edit],
        columns: Tensor | None = None,
        upto: Layer | None = None,
    ) -> Float[Tensor, "b k v"]:
        """One pass over the columns from `start` on, on top of those before it; logits at `columns`, counted from
        `start`.
        """
        cache = self._before(tokens, start, upto)
        frame = Frame(tokens.index[:, start:], tokens.rows)
        with self._editing(edits):
            return self.forward(tokens.ids[:, start:], frame, tokens.mask, cache, keep=columns, upto=upto)

    def _replay_in_full(
        self, prefix: Prefix, layer: Layer, h: Tensor, keep: Sequence[int] | None, edits: Mapping[Layer, Edit] | None
    ) -> Tensor:
        """The same as `replay` by full passes with hooks: its oracle, and its stand-in for models that cannot be
        resumed.
        """
        c, b = h.shape[:2]
        tokens = engine.repeat_rows(prefix.tokens, c)

        def put(old: Tensor, frame: Frame) -> Tensor:
            return torch.cat([old[:, : prefix.start], h.flatten(0, 1).to(old)], 1)

        def suffix_only(edit: Edit) -> Edit:
            def change(h: Tensor, frame: Frame) -> Tensor:
                before, after = h[:, : prefix.start], h[:, prefix.start :]
                return torch.cat([before, edit(after, Frame(frame.index[:, prefix.start :], frame.rows))], 1)

            return change

        wanted = keep if keep is not None else range(prefix.start, tokens.ids.shape[1])
        with self._editing({layer: put, **{k: suffix_only(edit) for k, edit in (edits or {}).items()}}):
            logits = self.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask, keep=list(wanted))
        return logits.unflatten(0, (c, b))
