"""The sides of the one-shot benchmark: gradient steps on one prompt and completion, in four ways.

replay: trimtab. batch: trimtab, 16 vectors at once. full: full passes with hooks and frozen weights. published: the
same as the published package does it (whole model, weights not frozen, softmax of every row, one token after the
other).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from turns import inputs, serve

from trimtab import LM, generated, last_k
from trimtab.optimize import Descent, MaxSteps, Place, Problem, losses_in_full, promote
from trimtab.optimize.losses import Losses
from trimtab.optimize.walk import Walk

work, kind = inputs()
side, case, dtype = kind.split()
lm = LM.load("smollm2", dtype=dtype)
if case == "all":
    prompt, place = work["short"], Place((lm.n_layers // 2,))
else:
    prompt, place = work["long"], Place((3 * lm.n_layers // 4,), positions=last_k(20) | generated)
RATE = 0.01
goal = promote(prompt, work["said"])
problem = Problem(goal, place, (), Descent(RATE, (MaxSteps(1000),)))
g = torch.Generator().manual_seed(0)
starts = 0.1 * torch.randn(16, 1, 1, lm.width, generator=g)


def replayed(n: int, steps: int) -> list[Any]:
    """Losses and gradients by replay, Adam and constraints as in optimize(); the gradient of the first vector at the
    start.
    """
    problems = [problem] * n
    losses, walks = Losses(lm, problems, 32), [Walk.begin(p, lm) for p in problems]
    first: list[Any] = []
    for k, w in enumerate(walks):
        w.v = starts[k].clone()
    for _ in range(steps):
        found = losses.at({k: w.v[None] for k, w in enumerate(walks)}, gradients=set(range(n)))
        first = first or found.gradients[0].flatten().tolist()
        for k, w in enumerate(walks):
            w.note(*([float(x[0]) for x in part[k]] for part in (found.terms, found.raw)))
            w.step(found.gradients[k][0])
    return first


def full(steps: int) -> list[Any]:
    v = starts[0].clone().requires_grad_()
    adam, first = torch.optim.Adam([v], lr=RATE), list[Any]()
    for _ in range(steps):
        adam.zero_grad()
        losses_in_full(lm, problem, v)[0].backward()
        first = first or v.grad.flatten().tolist()
        adam.step()
    return first


def published(steps: int) -> list[Any]:
    lm.model.requires_grad_(True)
    row = goal.terms[0][1].rows(lm)[0]
    ids = torch.tensor([row.ids])
    mask = place.where.select(torch.arange(len(row.ids))[None], [row])[..., None]
    v = starts[0].flatten().clone().requires_grad_()
    adam, first = torch.optim.Adam([v], lr=RATE), list[Any]()

    def hook(module: Any, args: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        steered = h.detach() + mask * v.to(h.dtype) if case == "all" else h + mask * v.to(h.dtype)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    for _ in range(steps):
        adam.zero_grad()
        handle = lm.blocks[place.layers[0]].register_forward_hook(hook)
        p = (0.7 * lm.model(input_ids=ids, use_cache=False).logits[0]).softmax(-1)
        handle.remove()
        loss = torch.zeros(())
        for k in range(row.prompt, len(row.ids)):
            loss = loss - torch.log(p[k - 1, row.ids[k]] + 1e-6)
        loss.item()
        loss.backward()
        first = first or v.grad.tolist()
        adam.step()
    return first


STEPS = work["steps"]
serve(
    {
        "replay": lambda: replayed(1, STEPS["replay"]),
        "batch": lambda: replayed(16, STEPS["batch"]),
        "full": lambda: full(STEPS["full"]),
        "published": lambda: published(STEPS["published"]),
    }[side]
)
