"""The sides of the preference benchmark: training steps of one vector on a few pairs each, in four ways.

published: a second model as reference, full passes, logits of both at every position, as the published trainer does
it. cached: the same without a second model, its numbers computed once. replay: trimtab, every answer with a prompt of
its own. shared: trimtab as it is, the two answers of a pair behind one prompt.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from turns import DEVICE, inputs, serve

from trimtab import LM
from trimtab.optimize import Place, Prefer, Training
from trimtab.optimize.minibatch import _AdamW, _School

work, words = inputs()
side, pairs = words.split()
lm = LM.load("smollm2", device=DEVICE)
lm.exact = replace(lm.exact, foldable=lm.exact.foldable and side != "replay")
place, how = Place((lm.n_layers // 2,)), Training(0.02, batch=int(pairs), epochs=1000, warm=0, signs="one")
STEPS = work["steps"]["preference"]
terms = [Prefer(p["prompt"], p["positive"], p["negative"]) for p in work["preferences"][: int(pairs) * STEPS]]


def batches() -> list[list[int]]:
    """The pairs of each step, as the training draws them."""
    split = np.array_split(np.random.default_rng(how.seed).permutation(len(terms)), len(terms) // how.batch)
    order = np.random.default_rng([how.seed, 0]).permutation(len(split))
    return [split[b].tolist() for b in order][:STEPS]


@cache
def school() -> Any:
    """The training, made in the first repeat so that what it keeps counts as memory."""
    made = _School(lm, terms, place, how, held_out=terms[:2])
    made._end_epoch = lambda epoch: None  # the steps alone are timed
    return made


def replayed() -> list[float]:
    made = school()
    made.v, made.adam, made.steps, made.epochs = torch.zeros_like(made.v), _AdamW(made.v, how), [], []
    for _ in range(STEPS):
        made.step()
    return [s.loss for s in made.steps]


def said(model: Any, picked: list[int]) -> torch.Tensor:
    """Summed log-probability of the answers: positives of the picked pairs, then negatives; right-padded."""
    batch = [terms[k].rows(lm)[side] for side in (0, 1) for k in picked]
    width = max(len(r.ids) for r in batch)
    ids = torch.tensor([[*r.ids, *[0] * (width - len(r.ids))] for r in batch], device=lm.device)
    mask = torch.tensor([[1] * len(r.ids) + [0] * (width - len(r.ids)) for r in batch], device=lm.device)
    answer = torch.tensor([[r.prompt <= j < len(r.ids) for j in range(width)] for r in batch], device=lm.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (logp * answer[:, 1:]).sum(-1).unflatten(0, (2, -1))


@cache
def second_model() -> Any:
    return copy.deepcopy(lm.model)


@cache
def known(k: int) -> torch.Tensor:
    with torch.no_grad():
        return said(lm.model, [k])[:, 0]


def full(reference: Callable[[list[int]], torch.Tensor]) -> list[float]:
    lm.model.requires_grad_(False)
    v, out = torch.zeros(1, 1, lm.width, device=lm.device), list[float]()
    adam = _AdamW(v, how)
    for t, picked in enumerate(batches()):
        leaf = v.clone().requires_grad_()

        def add(module: Any, args: Any, output: Any, leaf: torch.Tensor = leaf) -> Any:
            return (output[0] + leaf[0, 0], *output[1:]) if isinstance(output, tuple) else output + leaf[0, 0]

        handle = lm.blocks[place.layers[0]].register_forward_hook(add)
        mine = said(lm.model, picked)
        handle.remove()
        with torch.no_grad():
            plain = reference(picked)
        margin = (mine[0] - plain[0]) - (mine[1] - plain[1])
        loss = torch.nn.functional.softplus(-0.1 * margin).mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        v = adam.step(v, gradient, how.rate_at(t, len(terms) // how.batch))
        out.append(float(loss.detach()))
    return out


serve(
    {
        "published": lambda: full(lambda picked: said(second_model(), picked)),
        "cached": lambda: full(lambda picked: torch.stack([known(k) for k in picked], 1)),
        "replay": replayed,
        "shared": replayed,
    }[side]
)
