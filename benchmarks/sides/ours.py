"""The sides that run trimtab: replay, the batched hooked loop, capture, generation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from turns import inputs, serve

from trimtab import LM, Intervention, SteeringVector, from_last_prompt_token, steer
from trimtab.model import Row
from trimtab.steering.interventions import Receipt, edits
from trimtab.steering.multipliers import replay_multipliers

work, kind = inputs()
lm = LM.load("smollm2")
vectors = torch.from_numpy(np.load(work["vectors"]))
grid: list[float] = work["multipliers"]
letters = torch.tensor(work["letters"])


def intervention(layer: int) -> Intervention:
    return Intervention(SteeringVector({layer: vectors[layer]}), positions=from_last_prompt_token)


def question(k: int) -> Row:
    """Prompt and "(", so that the last position predicts the letter."""
    return Row(tuple(work["positive"][k][: work["spot"][k]]), work["prompt"][k])


def difference(logits: torch.Tensor, items: range) -> torch.Tensor:
    """(..., items, v) logits -> logit of the matching letter minus the other."""
    chosen = letters[list(items)]
    return logits.gather(-1, chosen.expand(*logits.shape[:-1], 2)).diff(dim=-1)[..., 0].neg()


@torch.no_grad()
def replay() -> list[Any]:
    items = range(8)
    tokens = lm.batch([question(k) for k in items])
    last = tokens.ids.shape[1] - 1
    prefix = lm.prefix(tokens, keep=[last])
    unsteered = difference(prefix.logits[:, 0], items)
    out = torch.empty(len(items), lm.n_layers, len(grid))
    moving = [m for m in grid if m != 0]
    for layer in range(lm.n_layers):
        logits = replay_multipliers(lm, prefix, [intervention(layer)], moving, [last])
        out[:, layer, [grid.index(m) for m in moving]] = difference(logits[:, :, 0], items).T
        out[:, layer, grid.index(0.0)] = unsteered
    return out.tolist()


@torch.no_grad()
def hooked() -> list[Any]:
    """A careful loop: for each layer one full pass of all multipliers as a batch, logits at the last position alone."""
    tokens = lm.batch([question(0)] * len(grid))
    last = tokens.ids.shape[1] - 1
    multipliers = torch.tensor(grid)[:, None, None]
    out = torch.empty(1, lm.n_layers, len(grid))
    for layer in range(lm.n_layers):
        logits = lm.logits(tokens, edits([intervention(layer)], Receipt(), multipliers), keep=[last])
        out[0, layer] = (
            difference(logits[:, 0], range(1))[:, 0] if logits.ndim == 4 else difference(logits, range(1))[:, 0]
        )
    return out.tolist()


CROSS = [vectors[k] for k in range(6)]  # six vectors of one layer, as the vectors of five contexts and their mean
MIDDLE = lm.n_layers // 2


def crossing(v: torch.Tensor) -> Intervention:
    return Intervention(SteeringVector({MIDDLE: v}), positions=from_last_prompt_token)


@torch.no_grad()
def cross() -> list[Any]:
    """Six vectors at seven multipliers, on 16 items."""
    items = range(16)
    tokens = lm.batch([question(k) for k in items])
    last = tokens.ids.shape[1] - 1
    prefix = lm.prefix(tokens, layers=[MIDDLE], keep=[last])
    unsteered = difference(prefix.logits[:, 0], items)
    out = torch.empty(len(items), len(CROSS), len(grid))
    moving = [m for m in grid if m != 0]
    for j, v in enumerate(CROSS):
        logits = replay_multipliers(lm, prefix, [crossing(v)], moving, [last])
        out[:, j, [grid.index(m) for m in moving]] = difference(logits[:, :, 0], items).T
        out[:, j, grid.index(0.0)] = unsteered
    return out.tolist()


@torch.no_grad()
def cross_published() -> list[Any]:
    """The published way: one vector, one multiplier and one answer at a time, each a full pass over the whole string
    with all its logits.
    """
    out = torch.empty(1, len(CROSS), len(grid))
    for j, v in enumerate(CROSS):
        for k, m in enumerate(grid):
            said: list[float] = []
            for side in ("positive", "negative"):
                row = Row(tuple(work[side][0]), work["prompt"][0])
                logits = lm.logits(lm.batch([row]), edits([crossing(v).times(m)], Receipt()) if m else None)
                logits.log_softmax(-1)
                said.append(float(logits[0, work["spot"][0] - 1, work[side][0][work["spot"][0]]]))
            out[0, j, k] = said[0] - said[1]
    return out.tolist()


def capture() -> list[Any]:
    from trimtab.model import span

    n = len(work["positive"])
    total = torch.zeros(lm.n_layers, lm.width)
    order = sorted(range(n), key=lambda k: work["prompt"][k])
    for part in (order[k : k + 8] for k in range(0, n, 8)):
        rows = [Row(tuple(work[side][k]), work["prompt"][k]) for side in ("positive", "negative") for k in part]
        tokens = lm.batch(rows)
        spots = torch.stack(
            [
                span(work["spot"][k], work["spot"][k] + 1).select(tokens.index[j : j + 1], [rows[j]])[0]
                for j, k in enumerate(part * 2)
            ]
        )
        both = lm.capture(tokens, spots)
        total += (both[: len(part)] - both[len(part) :]).sum(0)
    return (total / n).tolist()


def generate() -> list[Any]:
    lm.generate(work["questions"][:4], max_new_tokens=48)
    return [0.0]


def generate_steered() -> list[Any]:
    """A vector small enough to leave the text, and so the number of tokens, as it is."""
    with steer(lm, Intervention(SteeringVector({15: vectors[15] * 1e-4}))):
        lm.generate(work["questions"][:4], max_new_tokens=48)
    return [0.0]


serve(
    {
        "replay": replay,
        "hooked": hooked,
        "cross": cross,
        "cross_published": cross_published,
        "capture": capture,
        "generate": generate,
        "generate_steered": generate_steered,
    }[kind]
)
