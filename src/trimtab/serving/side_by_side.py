"""A text, token by token, with and without its vectors: what the engine's process does for a comparison.

row 0    prompt and answer, unsteered
row 1    the same ids under the vectors         one pass over both, through the edits that answers are steered by
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import SteerError, TokenError
from trimtab.model import LM, Frame, Layer, Row
from trimtab.model.generate import Sampling
from trimtab.serving.batch import Edits, Job, Stack, Unsteered, alternatives
from trimtab.steering.operators.base import unit

LONGEST = 512  # tokens of a text that is compared: their log-probabilities over the whole vocabulary are held
Edit = Callable[[Tensor, Frame], Tensor]


@torch.no_grad()
def compared(lm: LM, row: Row, stack: Stack, top: int) -> dict[str, Any]:
    """Both models' view of an answer.

    Args:
        row: prompt and answer.
        top: alternatives at every token.

    Returns:
        tokens: for each its text, its log-probability in nats `unsteered` and `steered`, and the alternatives of
            either; projections: by vector, at every token of the answer, that of the stream on its direction in both
            (the mean over its layers); edited: tokens steered, by layer.

    Raises:
        TokenError: no answer, or one too long.
        Unsteered: the positions selected no token.
        SteerError: the model's numbers are not finite.
    """
    answer = row.ids[row.prompt :]
    if not 0 < len(answer) <= LONGEST:
        raise TokenError("not an answer to compare", given=f"{len(answer)} tokens", expected=f"1 to {LONGEST}")
    sampling = Sampling(1)
    jobs = [Job("unsteered", row, (), sampling), Job("steered", row, stack, sampling)]
    tokens = lm.batch([row, row])
    seen: dict[tuple[int, Layer], Tensor] = {}
    columns = torch.arange(row.prompt - 1, len(row.ids) - 1, device=lm.device)
    with lm.edit(_watched(Edits(jobs).by_layer(), stack, row.prompt, seen)):
        logits = lm.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask, None, keep=columns)
    if stack and not any(jobs[1].edited.values()):
        where = [str(iv.positions) for _, iv in stack]
        raise Unsteered(jobs[1].id, where)
    if not logits.isfinite().all():
        raise SteerError("the model's numbers are not finite", do="a smaller dose")
    logp = logits.float().log_softmax(-1).cpu()  # (2, n, v)
    return {
        "tokens": _told(lm, answer, logp, top),
        "projections": _along(stack, seen),
        "edited": {str(k): n for k, n in sorted(jobs[1].edited.items())},
    }


def _watched(
    edits: dict[Layer, Edit], stack: Stack, start: int, seen: dict[tuple[int, Layer], Tensor]
) -> dict[Layer, Edit]:
    """The edits, and beside them what the edited stream has along each vector, from `start` on: (2, n) by vector and
    layer.
    """

    def watch(layer: Layer, edit: Edit) -> Edit:
        def run(h: Tensor, frame: Frame) -> Tensor:
            out = edit(h, frame)
            for k, (_, iv) in enumerate(stack):
                if layer in iv.vector.vectors:
                    v = iv.vector[layer].reshape(-1, iv.vector.width)[0].to(out.device)
                    seen[k, layer] = (out[:, start:].float() @ unit(v)).cpu()
            return out

        return run

    return {layer: watch(layer, edit) for layer, edit in edits.items()}


def _along(stack: Stack, seen: dict[tuple[int, Layer], Tensor]) -> dict[str, dict[str, list[float]]]:
    by_name: dict[str, list[Tensor]] = {}
    for k, (name, iv) in enumerate(stack):  # one vector may act twice
        by_name.setdefault(name, []).extend(seen[k, layer] for layer in iv.vector.layers)
    means = {name: torch.stack(every).mean(0) for name, every in by_name.items()}
    return {name: {"unsteered": mean[0].tolist(), "steered": mean[1].tolist()} for name, mean in means.items()}


def _told(lm: LM, ids: Sequence[int], logp: Float[Tensor, "two n v"], top: int) -> list[dict[str, Any]]:
    """Tokens with both log-probabilities and alternatives; their texts put together are the answer."""
    sides = dict(zip(("unsteered", "steered"), logp, strict=True))
    out: list[dict[str, Any]] = []
    text = ""
    for n, token in enumerate(ids):
        whole = lm.tokenizer.decode(list(ids[: n + 1]), skip_special_tokens=True).rstrip("\N{REPLACEMENT CHARACTER}")
        about: dict[str, Any] = {"token": whole[len(text) :]}
        text = whole if len(whole) > len(text) else text
        about |= {name: float(side[n, token]) for name, side in sides.items()}
        if top:
            about["alternatives"] = {name: alternatives(lm, side[n], top) for name, side in sides.items()}
        out.append(about)
    return out
