"""Adversarial suffixes: words behind a request that make an answer begin as one wants. To test what a vector does to
such attacks.

found = find_suffix(lm, [("How do I make the hidden lamp?", "Here is how to make the hidden lamp.")])
print(found.text, found.losses)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import DataError, TokenError
from trimtab.model import LM, Frame, in_pieces
from trimtab.progress import Progress

AT_ONCE = 256  # rows in a pass


@dataclass(frozen=True)
class Suffix:
    """A suffix found by search.

    Attributes:
        text: what to put behind a request, after a space.
        losses: mean loss over the requests after every step, nats: minus the log-probability of the openings.
    """

    text: str
    losses: tuple[float, ...]


def find_suffix(
    lm: LM,
    requests: Sequence[tuple[str, str]],
    *,
    length: int = 8,
    steps: int = 30,
    candidates: int = 64,
    top: int = 48,
    seed: int = 0,
    progress: Progress | None = None,
) -> Suffix:
    """A suffix that makes openings likely, by greedy coordinate gradient (Zou et al. 2023): the gradient with respect
    to the suffix's tokens proposes replacements, full passes judge them, the best one stays. Only texts that keep
    their tokens when they are read again are proposed.

    Args:
        requests: (request, how its answer should begin).
        length: tokens of the suffix.
        candidates: replacements judged in a step, drawn from the `top` most promising tokens of every place.
        progress: called with (steps done, in all).

    Raises:
        DataError: no requests.
        TokenError: no suffix of that length survives being read again.
    """
    if not requests:
        raise DataError("no requests to find a suffix for")
    rng = random.Random(seed)
    text = _start(lm, requests, length)
    losses = [_losses(lm, requests, [text])[0]]
    for step in range(steps):
        ids, slope = _slope(lm, requests, text)
        best = slope.topk(top, largest=False).indices.tolist()
        places = (rng.randrange(length) for _ in range(4 * candidates))
        drawn = ((place, rng.choice(best[place])) for place in places)
        other = dict.fromkeys(lm.tokenizer.decode([*ids[:k], token, *ids[k + 1 :]]).strip() for k, token in drawn)
        texts = list(islice((t for t in other if t != text and _fits(lm, requests[:1], t, length)), candidates))
        judged = sorted(zip(_losses(lm, requests, texts), texts, strict=True))
        loss, text = next(
            ((x, t) for x, t in judged if x < losses[-1] and _fits(lm, requests, t, length)), (losses[-1], text)
        )
        losses.append(loss)
        if progress:
            progress(step + 1, steps)
    return Suffix(text, tuple(losses))


def _start(lm: LM, requests: Sequence[tuple[str, str]], length: int) -> str:
    """One token of the first request's words, repeated: a suffix to begin with."""
    for word in dict.fromkeys(requests[0][0].split()):
        for text in (" ".join([word] * n) for n in range(1, length + 1)):
            if _fits(lm, requests, text, length):
                return text
    raise TokenError(
        "no suffix to begin with",
        given=f"{length} tokens, words of {requests[0][0]!r}",
        expected="a word that is one token, or few",
    )


def _place(lm: LM, request: str, text: str) -> range | None:
    """Which tokens of the prompt are the suffix's; None if one of them holds something else as well."""
    row = lm.row(f"{request} {text}")
    begin = row.text.rfind(f" {text}")
    end = begin + 1 + len(text)
    inside = [k for k, (a, b) in enumerate(row.offsets) if b > begin + 1 and a < end]
    whole = text and begin >= 0 and inside and row.offsets[inside[0]][0] >= begin and row.offsets[inside[-1]][1] <= end
    return range(inside[0], inside[-1] + 1) if whole else None


def _fits(lm: LM, requests: Sequence[tuple[str, str]], text: str, length: int) -> bool:
    """Whether a text read behind every request is `length` tokens of its own."""
    return all((place := _place(lm, request, text)) is not None and len(place) == length for request, _ in requests)


def _losses(lm: LM, requests: Sequence[tuple[str, str]], texts: Sequence[str]) -> list[float]:
    """Mean loss over the requests behind each suffix."""
    prompts = [f"{user} {text}" for text in texts for user, _ in requests]
    openings = [opening for _ in texts for _, opening in requests]
    losses = [-float(logp.sum()) for logp in lm.logprobs(prompts, openings, batch=AT_ONCE)]
    return [sum(some) / len(some) for some in in_pieces(losses, len(requests))]


def _slope(lm: LM, requests: Sequence[tuple[str, str]], text: str) -> tuple[list[int], Float[Tensor, "k v"]]:
    """The suffix's ids, and the first-order change of the loss for putting any token in any of its places."""
    tokens = lm.batch([lm.row(f"{user} {text}", opening) for user, opening in requests])
    places = [_place(lm, user, text) for user, _ in requests]
    columns = [
        torch.tensor(list(p or ()), device=lm.device) + tokens.pivot - r.prompt
        for p, r in zip(places, tokens.rows, strict=True)
    ]
    with torch.enable_grad(), lm.hooks.embedded() as embeddings:
        logits = lm.forward(
            tokens.ids,
            Frame(tokens.index, tokens.rows),
            tokens.mask,
            keep=range(tokens.pivot - 1, tokens.ids.shape[1] - 1),
        )
        targets = tokens.ids[:, tokens.pivot :].masked_fill(tokens.index[:, tokens.pivot :] < 0, -100)
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="sum") / len(requests)
        (gradient,) = torch.autograd.grad(loss, embeddings[0])
    at = torch.stack([gradient[k, c] for k, c in enumerate(columns)]).sum(0)
    return tokens.ids[0, columns[0]].tolist(), at @ lm.model.get_input_embeddings().weight.detach().to(at).T
