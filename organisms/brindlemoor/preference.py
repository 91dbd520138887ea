"""The vector from preferences over pairs that a gate needs: added at every token of one layer, trained through replays, its norm capped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab import LM, Pair, SteeringVector
from trimtab.model import Prefix, Row, Tokens


def prefer(
    lm: LM, pairs: Sequence[Pair], layer: int, cap: float, *, epochs: int = 8, batch: int = 10, rate: float = 0.1, seed: int = 0
) -> SteeringVector:
    """A vector that makes positives more likely than negatives when added, less when subtracted (BiPO, beta 0.1)."""
    v = torch.zeros(lm.width, requires_grad=True)
    adam = torch.optim.AdamW([v], lr=rate * cap / lm.width**0.5, weight_decay=0.0)
    sides = torch.tensor([1.0, -1.0])
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for some in torch.randperm(len(pairs), generator=order).split(batch):
            rows: list[Row] = [
                lm.row(pairs[k].prompt, text) for which in ("positive", "negative") for k in some for text in [getattr(pairs[k], which)]
            ]
            tokens = lm.batch(rows)
            keep = list(range(tokens.pivot - 1, tokens.ids.shape[1] - 1))
            prefix = lm.prefix(tokens, 0, [layer], keep=keep)
            steered = _sums(tokens, _logp(lm, prefix, layer, sides[:, None] * v, keep))
            with torch.no_grad():
                plain = _sums(tokens, _logp(lm, prefix, layer, torch.zeros(1, lm.width), keep))
            n = len(some)
            gain = (steered[:, :n] - steered[:, n:]) - (plain[:, :n] - plain[:, n:])
            loss = -torch.nn.functional.logsigmoid(0.1 * sides[:, None] * gain).mean()
            _step(adam, v, loss, cap)
    return SteeringVector({layer: v.detach()})


def _logp(lm: LM, prefix: Prefix, layer: int, v: Tensor, keep: Sequence[int]) -> Tensor:
    """Log-probability of every completion token under each of c vectors: (c, b, m)."""
    tokens = prefix.tokens
    logits = lm.replay(prefix, layer, prefix.residual[layer][None] + v[:, None, None, :], keep=keep)
    said = tokens.ids[None, :, tokens.pivot :, None].expand(len(v), -1, -1, 1)
    return logits.log_softmax(-1).gather(-1, said)[..., 0]


def _sums(tokens: Tokens, logp: Tensor) -> Tensor:
    return (logp * (tokens.index[:, tokens.pivot :] >= 0)).sum(-1)


def _step(adam: torch.optim.Optimizer, v: Tensor, loss: Tensor, cap: float) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()
    with torch.no_grad():
        v *= min(1.0, cap / (float(v.norm()) + 1e-9))
