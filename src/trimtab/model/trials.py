"""The check at load: which shortcuts give the numbers of full passes over single, unpadded rows.

It is decided on a small fp32 copy of the architecture (`shrink.py`), on rows that go below and beyond every length
the configuration names, and then confirmed with a few tokens on the model in hand. The outcome is remembered
(`exactness.py`): a second load of the same configuration pays nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from trimtab.errors import ModelError
from trimtab.model.exactness import Exactness, remembered, switches
from trimtab.model.generate import CachedSteps
from trimtab.model.hooks import Edit, Frame, Layer
from trimtab.model.passes import Passes
from trimtab.model.shrink import shrunken
from trimtab.model.tokens import Row, Tokens

log = logging.getLogger("trimtab")
EXACT = 5e-5  # of fp32, relative to the largest value: where shortcuts are decided
# of the model in hand, which only confirms
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}

# (tokens of the prompt, of the completion): below every length of a shrunken copy, around it, beyond it, and
# everything at once
SHAPES = (((3, 2), (1, 1), (2, 1)), ((12, 4), (9, 2), (16, 3)), ((34, 4), (30, 9)), ((22, 3), (5, 1), (13, 6)))


def self_check(lm: Passes) -> Exactness:
    """What is exact for the model; warns where exactness costs speed.

    Raises:
        ModelError: the model cannot run, gives numbers that are not finite, or its blocks do not return a residual
            stream.
    """
    noise = _runs(lm)
    exact = remembered(lm.inner, lambda: _examined(lm))
    if not exact.batchable:
        log.warning(
            "%s: a left-padded row differs from the row alone; only rows with prompts of equal length will share a "
            "batch",
            lm.id,
        )
    if not exact.replayable:
        log.warning(
            "%s: a pass that goes on from a cache does not equal the full pass; full passes will be used, which is "
            "exact and slow",
            lm.id,
        )
    return replace(exact, switches=switches(lm.inner), noise=noise)


@torch.no_grad()
def _runs(lm: Passes) -> float:
    """One pass on the model in hand: what a row alone and the same row beside others differ by."""
    row, other = _rows(lm, ((9, 2), (9, 4)))
    try:
        with _counted(lm) as runs:
            alone, streams = _alone(lm, row)
        noise = relative(lm.logits(lm.batch([row, other, other]))[0, : len(row.ids)], alone)
    except ModelError:
        raise
    except Exception as problem:
        raise ModelError(f"{lm.id} fails on a short row: {type(problem).__name__}: {problem}") from problem
    again = {layer: n for layer, n in runs.items() if n != 1}
    if again:
        raise ModelError(
            f"{lm.id}: a block does not run once in a pass",
            given=again,
            do="a vector would act every time; this architecture cannot be steered",
        )
    for layer, h in streams.items():
        if h.shape[-1] != lm.width:
            raise ModelError(
                f"{lm.id}: the residual stream has another width than the model", given=h.shape[-1], expected=lm.width
            )
        if not torch.isfinite(h).all():
            raise ModelError(
                f"{lm.id}: not finite at block {layer}",
                given=str(lm.dtype),
                do='use dtype="bfloat16" or "float32"; or look at the weights of this block',
            )
    if not torch.isfinite(alone).all():
        raise ModelError(
            f"{lm.id}: the logits are not finite", given=str(lm.dtype), do='use dtype="bfloat16" or "float32"'
        )
    return noise


@contextmanager
def _counted(lm: Passes) -> Generator[dict[Layer, int]]:
    """How often every block runs in the passes inside the context."""
    runs = dict.fromkeys(range(lm.n_layers), 0)

    def counter(layer: Layer) -> Callable[..., None]:
        def count(*_: object) -> None:
            runs[layer] += 1

        return count

    handles = [block.register_forward_hook(counter(layer)) for layer, block in enumerate(lm.blocks)]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def _examined(lm: Passes) -> Exactness:
    """Decided on a copy, or on the model itself where none can be made."""
    small = shrunken(lm.inner)
    if small is None:
        exact = _decided(lm, TOLERANCE[lm.dtype])
        return replace(exact, tried_on="the model itself, which cannot be copied small")
    copy = Passes(small, id=f"a small copy of {lm.id}", blocks=lm.blocks_path)
    exact = replace(_decided(copy, EXACT), tried_on=f"an fp32 copy of {len(copy.blocks)} blocks, width {copy.width}")
    return _confirmed(lm, exact)


def _confirmed(lm: Passes, exact: Exactness) -> Exactness:
    """The same with what does not hold on the model in hand taken back: it has other weights, another dtype, device and
    kernels.
    """
    before, most = lm.exact, TOLERANCE[lm.dtype]

    def holds(error: Callable[[Passes], float]) -> bool:
        try:
            return error(lm) <= most
        except Exception as problem:
            log.info("%s: %s: %s", lm.id, type(problem).__name__, problem)
            return False

    try:
        lm.exact = replace(exact, batchable=True, openable=False, foldable=False)
        exact = replace(exact, batchable=exact.batchable and holds(lambda lm: padding_error(lm, SHAPES[-1:])))
        lm.exact = exact
        if not holds(replay_error):
            exact = replace(exact, replayable=False)
    finally:
        lm.exact = before
        _truths.pop(lm, None)
    both = exact.replayable and exact.batchable
    return replace(exact, foldable=exact.foldable and exact.replayable, openable=exact.openable and both)


def _decided(lm: Passes, tolerance: float) -> Exactness:
    """Each shortcut in turn, built on those found exact before it."""
    worst: dict[str, float] = {}

    def holds(kind: str, error: Callable[[Passes], float], most: float = tolerance) -> bool:
        try:
            worst[kind] = error(lm)
        # whatever a foreign architecture raises when it is run in a way it was not written for
        except Exception as problem:
            log.info("%s: %s fails with %s: %s", lm.id, kind, type(problem).__name__, problem)
            worst[kind] = float("inf")
        return worst[kind] <= most

    before = lm.exact
    try:
        lm.exact = exact = Exactness(switches=switches(lm.inner))
        lm.exact = exact = replace(exact, batchable=holds("padding", padding_error))
        lm.exact = exact = replace(exact, replayable=holds("resuming", resuming_error))
        if exact.replayable:
            exact = replace(exact, steppable=holds("generation", stepping_error))
            lm.exact = exact = replace(exact, cache_differentiable=holds("gradient", gradient_error, 10 * tolerance))
            tuples = any(isinstance(output, tuple) for output in lm.prefix(_batch(lm, SHAPES[0])).outputs.values())
            foldable = not tuples and holds("folding", folding_error)  # what else a block returns is not taken apart
            openable = exact.batchable and holds("opening", opening_error)
            lm.exact = exact = replace(exact, foldable=foldable, openable=openable)
        return replace(exact, worst=tuple(worst.items()))
    finally:
        lm.exact = before
        _truths.pop(lm, None)


# ------------------------------------------------------------ what is tried


@torch.no_grad()
def padding_error(lm: Passes, every: Sequence[Sequence[tuple[int, int]]] = SHAPES) -> float:
    """Rows padded into one batch against each alone."""
    worst = 0.0
    for shapes in every:
        for tokens in _batches(lm, shapes):
            logits = lm.logits(tokens)
            worst = max(
                worst,
                *(relative(logits[k, tokens.mask[k].bool()], _truth(lm, row)[0]) for k, row in enumerate(tokens.rows)),
            )
    return worst


@torch.no_grad()
def resuming_error(lm: Passes) -> float:
    """Passes on a cache, and replays of two conditions on top of them, against full passes with hooks over each row
    alone; from early and late columns.
    """
    worst = 0.0
    for shapes in SHAPES:
        for tokens in _batches(lm, shapes):
            last = tokens.pivot - 1
            worst = max(
                worst,
                *(
                    _prefix_error(lm, tokens, start)
                    for start in {2, tokens.pivot // 2, last, tokens.pivot}
                    if 1 < start <= tokens.pivot
                ),
            )
            worst = max(worst, _replays_error(lm, tokens, 0, 0), _replays_error(lm, tokens, last, lm.n_layers // 2))
    return worst


def _prefix_error(lm: Passes, tokens: Tokens, start: int) -> float:
    """Logits and recorded streams of a prefix."""
    prefix = lm.prefix(tokens, start)
    worst = 0.0
    for k, row in enumerate(tokens.rows):
        logits, streams = _truth(lm, row)
        n = int((tokens.index[k, start:] >= 0).sum())
        real = tokens.mask[k, start:].bool()
        pairs = [(prefix.logits[k], logits), *((prefix.residual[layer][k], streams[layer]) for layer in streams)]
        worst = max(worst, *(relative(mine[real], whole[len(row.ids) - n :]) for mine, whole in pairs))
    return worst


def _replays_error(lm: Passes, tokens: Tokens, start: int, layer: Layer, share: bool = False) -> float:
    """A replay with a vector added and subtracted, from `start` on."""
    prefix = lm.prefix(tokens, start, [layer])
    h = prefix.residual[layer]
    push = (
        torch.randn(lm.width, generator=torch.Generator().manual_seed(0)).to(h)
        * h.float().norm(dim=-1).mean()
        / lm.width**0.5
    )
    fast = lm.replay(prefix, layer, torch.stack([h + push, h - push]), share=share)
    worst = 0.0
    for k, row in enumerate(tokens.rows):
        n = int((tokens.index[k, start:] >= 0).sum())
        real, begin = tokens.mask[k, start:].bool(), len(row.ids) - n
        for c, sign in enumerate((1, -1)):

            def add(x: Tensor, frame: Frame, begin: int = begin, sign: int = sign) -> Tensor:
                return torch.cat([x[:, :begin], x[:, begin:] + sign * push], 1)

            worst = max(worst, relative(fast[c, k][real], _alone(lm, row, {layer: add})[0][begin:]))
    return worst


@torch.no_grad()
def replay_error(lm: Passes, layer: Layer | None = None) -> float:
    """A replay of one short batch: what the model in hand is asked."""
    tokens = _batch(lm, ((9, 2), (5, 2)) if lm.exact.batchable else ((9, 2), (9, 2)))
    return _replays_error(lm, tokens, tokens.pivot - 1, lm.n_layers // 2 if layer is None else layer)


@torch.no_grad()
def stepping_error(lm: Passes) -> float:
    """One token at a time on a growing cache, as in generation, against one full pass."""
    worst = 0.0
    for prompts in ((1, 1), (3, 2), (9, 14), (20, 22)):
        rows = _rows(lm, tuple((p, 0) for p in prompts))
        for some in lm.batches(rows, len(rows), new=14):
            chosen = [rows[k] for k in some]
            if any(lm.exact.sides(r.prompt) != lm.exact.sides(r.prompt + 14) for r in chosen):
                continue
            longer: list[Row] = []
            for j, row in enumerate(chosen):
                ids = [(31 * (k + 3 * j)) % 90 + 5 for k in range(14)]
                longer.append(row.extended(ids))
            steps = CachedSteps(lm, lm.batch(chosen), None)
            logits = [steps(None, torch.ones(len(chosen), dtype=torch.bool))]
            for k in range(13):
                tokens = torch.tensor([row.ids[row.prompt + k] for row in longer])
                logits.append(steps(tokens, torch.ones(len(chosen), dtype=torch.bool)))
            for j, row in enumerate(longer):
                worst = max(
                    worst, relative(torch.stack([x[j] for x in logits]), _truth(lm, row)[0][row.prompt - 1 : -1])
                )
    return worst


def gradient_error(lm: Passes) -> float:
    """The gradient through a cached pass, and through a replay, against that through full passes."""
    tokens = _batch(lm, ((9, 3), (6, 3)) if lm.exact.batchable else ((9, 3), (9, 3)))
    exact, gradients = lm.exact, list[list[Tensor]]()
    for through in (True, False):
        lm.exact = replace(exact, cache_differentiable=through)
        weight = torch.linspace(-1, 1, lm.logits(tokens).shape[-1], device=lm.device)
        every = lm.gradient(tokens, lambda logits, w=weight: (logits.log_softmax(-1) * w).sum())
        prefix = lm.prefix(tokens, layers=[0])
        with torch.enable_grad():
            h = prefix.residual[0][None].clone().requires_grad_()
            (grad,) = torch.autograd.grad((lm.replay(prefix, 0, h).log_softmax(-1) * weight).sum(), h)
        gradients.append([grad[0], *every.values()])
    lm.exact = exact
    return max(relative(one, two) for one, two in zip(*gradients, strict=True))


@torch.no_grad()
def folding_error(lm: Passes) -> float:
    """Conditions, and completions of one prompt, side by side in a row, against each alone."""
    exact, worst = lm.exact, 0.0
    lm.exact = replace(exact, foldable=True)
    try:
        for prompt, starts in ((9, (0, 4, 8)), (26, (0, 2, 25))):
            (one, *_) = _rows(lm, ((prompt, 3), (prompt, 2)))
            rows = [one, Row((*one.ids[:prompt], *one.ids[:2]), prompt)]
            if not lm.together(rows):
                continue
            tokens = lm.batch(rows)
            for start in starts:
                worst = max(worst, _prefix_error(lm, tokens, start))
                worst = max(worst, *(_replays_error(lm, tokens, start, 0, share) for share in (False, True)))
    finally:
        lm.exact = exact
    return worst


@torch.no_grad()
def opening_error(lm: Passes) -> float:
    """Prompts that share the pass over their beginning, against each alone."""
    exact, worst = lm.exact, 0.0
    lm.exact = replace(exact, openable=True)
    try:
        for alike in (6, 13, 24):
            (one, *_) = _rows(lm, ((alike + 6, 2),))
            rows = [one, *(Row((*one.ids[:alike], *one.ids[k : 2 * k], 7), alike + k) for k in (1, 4))]
            if not lm.together(rows):
                continue
            tokens = lm.batch(rows)
            for start in (tokens.pivot - 1, alike + 1):
                worst = max(worst, _prefix_error(lm, tokens, start))
    finally:
        lm.exact = exact
    return worst


# ------------------------------------------------------------ rows, and the truth about them


def _rows(lm: Passes, shapes: Sequence[tuple[int, int]]) -> list[Row]:
    """Rows of arbitrary ids that differ, of (prompt, completion) tokens."""
    size = min(lm.model.config.get_text_config(decoder=True).vocab_size, 30000)
    rows: list[Row] = []
    for j, (p, c) in enumerate(shapes):
        ids = tuple((97 * (k + 5 * j) + 11) % (size - 3) + 3 for k in range(p + c))
        rows.append(Row(ids, p))
    return rows


def _batch(lm: Passes, shapes: Sequence[tuple[int, int]]) -> Tokens:
    return lm.batch(_rows(lm, shapes if lm.exact.batchable else shapes[:1]))


def _batches(lm: Passes, shapes: Sequence[tuple[int, int]]) -> list[Tokens]:
    """Rows of these shapes, in batches the model can take."""
    rows = _rows(lm, shapes)
    batches: list[Tokens] = []
    for some in lm.batches(rows, len(rows)):
        batches.append(lm.batch([rows[k] for k in some]))
    return batches


@torch.no_grad()
def _alone(lm: Passes, row: Row, edits: Mapping[Layer, Edit] | None = None) -> tuple[Tensor, dict[Layer, Tensor]]:
    """Logits (n, v) of a full pass over one row, and the residual stream (n, d) after every block: the truth all else
    is held against.
    """
    streams: dict[Layer, Tensor] = {}

    def look(layer: Layer) -> Edit:
        def see(h: Tensor, frame: Frame) -> Tensor:
            streams[layer] = h[0].float()
            return h

        return see

    with lm.edit({layer: look(layer) for layer in range(lm.n_layers)}):
        return lm.logits(Tokens.of([row], 0, lm.device), edits)[0], streams


_truths: WeakKeyDictionary[Passes, dict[Row, tuple[Tensor, dict[Layer, Tensor]]]] = WeakKeyDictionary()


def _truth(lm: Passes, row: Row) -> tuple[Tensor, dict[Layer, Tensor]]:
    """`_alone` without edits, kept while a model is examined."""
    truths = _truths.setdefault(lm, {})
    if row not in truths:
        truths[row] = _alone(lm, row)
    return truths[row]


def relative(one: Tensor, two: Tensor) -> float:
    """Largest absolute difference over the largest absolute value; infinite where anything is not finite."""
    if not (torch.isfinite(one).all() and torch.isfinite(two).all()):
        return float("inf")
    if not two.numel():
        return 0.0
    two = two.to(one)
    return float((one - two).abs().max() / two.abs().max().clamp(min=1e-9))
