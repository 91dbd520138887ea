"""The check at load: on the model in hand, a replay equals the full hooked pass, and a padded row equals the row alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.errors import ModelError
from trimtab.model.hooks import Frame
from trimtab.model.tokens import Row, Tokens

if TYPE_CHECKING:
    from trimtab.model.lm import LM

log = logging.getLogger("trimtab")
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}


@torch.no_grad()
def self_check(lm: LM) -> None:
    """Set `lm.replayable`, `lm.foldable`, `lm.openable`, `lm.batchable` and `lm.cache_differentiable`; warn where exactness costs speed.

    Raises:
        ModelError: the model cannot run, or its blocks do not return a residual stream.
    """
    try:
        lm.batchable = padding_error(lm) <= TOLERANCE[lm.dtype]
    except ModelError:
        raise
    except Exception as problem:
        raise ModelError(f"{lm.id} fails on a batch of two short rows: {type(problem).__name__}: {problem}") from problem
    if not lm.batchable:
        log.warning("%s: a left-padded row differs from the row alone; only rows of equal length will share a batch", lm.id)
    try:
        lm.replayable = replay_error(lm) <= TOLERANCE[lm.dtype]
    except ModelError:
        raise
    except Exception as problem:  # whatever a foreign architecture raises when it is resumed
        log.warning("%s cannot be resumed in the middle (%s: %s)", lm.id, type(problem).__name__, problem)
        lm.replayable = False
    lm.foldable = lm.replayable and _folds_exactly(lm)
    lm.openable = lm.replayable and lm.batchable and _opens_exactly(lm)
    try:
        lm.cache_differentiable = cache_gradient(lm)
    except RuntimeError:  # recurrent layers write to their state in place
        lm.cache_differentiable = False
    if not lm.replayable:
        log.warning("%s: replay does not equal the full pass; full passes will be used, which is exact and slow", lm.id)


def _folds_exactly(lm: LM) -> bool:
    """Whether passes with conditions or completions side by side in a row are as exact as those with a row for each."""
    if any(isinstance(output, tuple) for output in lm.prefix(probe(lm, padded=False)).outputs.values()):
        return False  # what else a block returns is not taken apart
    lm.foldable = True
    try:
        return max(replay_error(lm), packing_error(lm)) <= TOLERANCE[lm.dtype]
    except Exception:  # a model that takes no mask of ours
        return False


def _opens_exactly(lm: LM) -> bool:
    """Whether prompts that share the pass over their beginning are as exact as each on its own."""
    try:
        return opening_error(lm) <= TOLERANCE[lm.dtype]
    except Exception:  # a model that cannot tell padding in the middle of a row
        return False


def probe(lm: LM, padded: bool) -> Tokens:
    """Two rows of arbitrary ids, of different lengths if `padded`."""
    size = lm.model.config.get_text_config(decoder=True).vocab_size
    ids = [(97 * k + 11) % min(size, 30000) for k in range(1, 12)]
    short = ids[2:9] if padded else ids[2:] + ids[:2]
    return lm.batch([Row(tuple(ids), 9), Row(tuple(short), len(short) - 2)])


def padding_error(lm: LM) -> float:
    """Largest relative difference between the logits of a left-padded row and of the row alone."""
    tokens = probe(lm, padded=True)
    alone = lm.batch([tokens.rows[1]])
    n = len(tokens.rows[1].ids)
    return relative(lm.logits(tokens)[1, -n:], lm.logits(alone)[0])


def replay_error(lm: LM, layer: int | None = None) -> float:
    """Largest relative difference between a replay of two conditions and full passes with a hook."""
    tokens = probe(lm, padded=lm.batchable)
    layer = lm.n_layers // 2 if layer is None else layer
    prefix = lm.prefix(tokens, layers=[layer])
    h = prefix.residual[layer]
    push = torch.randn(lm.width, generator=torch.Generator().manual_seed(0)).to(h) * h.float().norm(dim=-1).mean() / lm.width**0.5
    worst = 0.0
    fast = lm.replay(prefix, layer, torch.stack([h + push, h - push]))

    def slow(sign: int) -> Tensor:
        def add(x: Tensor, frame: Frame) -> Tensor:
            return torch.cat([x[:, : prefix.start], x[:, prefix.start :] + sign * push], 1)

        return lm.logits(tokens, {layer: add}, keep=range(prefix.start, tokens.ids.shape[1]))

    real = tokens.mask[:, prefix.start :].bool()
    for k, sign in enumerate((1, -1)):
        worst = max(worst, relative(fast[k][real], slow(sign)[real]))
    return worst


def packing_error(lm: LM) -> float:
    """Largest relative difference between passes in which two rows share their prompt and those in which each has its own."""
    (one, _) = probe(lm, padded=False).rows
    tokens = lm.batch([one, Row((*one.ids[: one.prompt], *one.ids[:3]), one.prompt)])
    said: list[Tensor] = []
    for lm.foldable in (False, True):
        prefix = lm.prefix(tokens, 0, [0])
        again = lm.replay(prefix, 0, 1.1 * prefix.residual[0][None], share=True)[0]
        said.append(torch.cat([prefix.logits, again])[tokens.mask.bool().repeat(2, 1)])
    return relative(said[1], said[0])


def opening_error(lm: LM) -> float:
    """Largest relative difference between prompts that share the pass over their beginning and each on its own."""
    (one, _) = probe(lm, padded=False).rows
    tokens = lm.batch([one, Row((*one.ids[:6], *one.ids[:1]), 7)])
    logits: list[Tensor] = []
    for lm.openable in (True, False):
        logits.append(lm.prefix(tokens, layers=[0]).logits[tokens.mask[:, tokens.pivot - 1 :].bool()])
    return relative(*logits)


def cache_gradient(lm: LM) -> bool:
    """Whether a gradient can be taken through a pass on top of a cache."""
    tokens = probe(lm, padded=lm.batchable)
    prefix = lm.prefix(tokens, layers=[0])
    with torch.enable_grad():
        h = prefix.residual[0][None].clone().requires_grad_()
        (grad,) = torch.autograd.grad(lm.replay(prefix, 0, h).sum(), h)
    return bool(torch.isfinite(grad).all())


def relative(one: Tensor, two: Tensor) -> float:
    """Largest absolute difference over the largest absolute value; infinite where anything is not finite."""
    if not (torch.isfinite(one).all() and torch.isfinite(two).all()):
        return float("inf")
    return float((one - two).abs().max() / two.abs().max().clamp(min=1e-9))
