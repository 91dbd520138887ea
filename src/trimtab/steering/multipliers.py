"""A batch under interventions at many multipliers, by replays of one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import SteerError
from trimtab.model import LM, Frame, Layer, Prefix, Tokens
from trimtab.steering.interventions import Intervention, Receipt, edits


def replay_multipliers(
    lm: LM,
    prefix: Prefix,
    ivs: Sequence[Intervention],
    multipliers: Sequence[float],
    keep: Sequence[int],
    layer: Layer | None = None,
) -> Float[Tensor, "c b k v"]:
    """Logits of a recorded batch under interventions at several multipliers, in one replay: c is every multiplier of
    the first, then of the next.

    Args:
        ivs: one that may act at several layers, or several that act at one and the same layer.
        layer: act at this layer alone; by default at all layers of the vector.

    Raises:
        SteerError: several interventions that do not act at one layer.
    """
    acting = {iv.vector.layers if layer is None else (layer,) for iv in ivs}
    layers = acting.pop()
    if acting or len(ivs) > 1 < len(layers):
        raise SteerError(
            "several interventions in one replay",
            given=sorted({layers, *acting}),
            expected="one and the same layer for all of them",
        )
    lowest = min(layers)
    c, b = len(multipliers), len(prefix.tokens.rows)
    m = torch.tensor(multipliers, device=lm.device).repeat_interleave(b)[:, None, None]
    index = prefix.tokens.index[:, prefix.start :].repeat(c, 1)
    frame = Frame(index, prefix.tokens.rows * c)
    h = torch.cat([iv.apply(prefix.residual[lowest].repeat(c, 1, 1), lowest, frame, m)[0] for iv in ivs])
    above = replace(ivs[0], vector=ivs[0].vector.at(*[k for k in layers if k != lowest])) if len(layers) > 1 else None
    later = edits([above], Receipt(), m) if above else None
    return lm.replay(prefix, lowest, h.unflatten(0, (c * len(ivs), b)), keep=keep, edits=later, share=True)


def replays(
    lm: LM, iv: Intervention, tokens: Tokens, keep: Sequence[int], multipliers: Sequence[float]
) -> Iterator[tuple[float, Float[Tensor, "b k v"]]]:
    """Logits of a batch at each multiplier, 0 among them, by replays of one pass."""
    chosen = iv.where.select(tokens.index, tokens.rows)
    start = min(int(chosen.any(0).nonzero()[0]) if chosen.any() else tokens.pivot - 1, tokens.pivot - 1)
    prefix = lm.prefix(tokens, start, [min(iv.vector.layers)], keep=keep)
    yield 0.0, prefix.logits
    for m in multipliers:
        if m != 0:
            yield float(m), replay_multipliers(lm, prefix, [iv], (m,), keep)[0]
