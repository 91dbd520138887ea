"""Batched, seeded generation whose rows do not depend on their neighbors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import TokenError
from trimtab.model.hooks import Frame
from trimtab.model.passes import Passes
from trimtab.model.replay import fork, new_cache
from trimtab.model.tokens import Row, Tokens

OnToken = Callable[[int, int], None]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens: temperature 0 is greedy; otherwise nucleus sampling with one random stream per row."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        cold = self.temperature == 0 or 1e-4 <= self.temperature < float("inf")
        if self.max_new_tokens < 1 or not cold or not 0 < self.top_p <= 1:
            raise TokenError(
                "sampling parameters out of range",
                given=self,
                expected="max_new_tokens >= 1, temperature 0 or from 1e-4 on, 0 < top_p <= 1",
            )


def decode(
    lm: Passes,
    tokens: Tokens,
    sampling: Sampling,
    on_token: OnToken | None = None,
    *,
    cached: bool | None = None,
    salts: Sequence[int] | None = None,
    place: Sequence[int] | None = None,
) -> list[Row]:
    """Extend every row of a batch of prompts until it ends or `max_new_tokens` is reached.

    Args:
        on_token: called with (row, token id) as tokens come.
        cached: False recomputes the whole sequence at every step (the oracle of the tests); by default a cache is
            used where it is exact.
        salts: a number for each row; rows of one prompt and one salt draw the same. By default a row's occurrence in
            the batch.
        place: rows with equal numbers (0, 1, ... in order of appearance) share the pass over their prompt: they are
            edited alike, too.
    """
    stream = _Stream(lm, tokens, sampling, salts)
    make = {True: CachedSteps, False: FullSteps}
    step = steps(lm, tokens, sampling.max_new_tokens, place) if cached is None else make[cached](lm, tokens, place)
    logits = stream.checked(step(None, stream.alive))
    for _ in range(sampling.max_new_tokens):
        chosen = stream.choose(logits, on_token)
        if not stream.alive.any() or stream.length == sampling.max_new_tokens:
            break
        logits = stream.checked(step(chosen, stream.alive))
    return [row.extended(ids) for row, ids in zip(tokens.rows, stream.new, strict=True)]


class _Stream:
    """The rows under way: what was chosen, who is still alive, one generator each."""

    def __init__(self, lm: Passes, tokens: Tokens, sampling: Sampling, salts: Sequence[int] | None) -> None:
        self.lm, self.rows, self.sampling = lm, tokens.rows, sampling
        self.ends = lm.end_tokens
        self.new: list[list[int]] = [[] for _ in tokens.rows]
        self.alive = torch.ones(len(tokens.rows), dtype=torch.bool)
        self.length = 0
        salts = occurrences(tokens.rows) if salts is None else salts
        self.generators = [generator(sampling.seed, row, salt) for row, salt in zip(tokens.rows, salts, strict=True)]

    def checked(self, logits: Tensor) -> Tensor:
        """The same, if what is to be chosen from are numbers.

        Raises:
            ModelError: not finite, at which block.
        """
        lost = (logits.isnan() | logits.isposinf()).any(-1).cpu() & self.alive
        if lost.any():
            k = int(lost.nonzero()[0])
            raise self.lm.not_finite(Tokens.of([self.rows[k].extended(self.new[k])], 0, self.lm.device))
        return logits

    def choose(self, logits: Tensor, on_token: OnToken | None) -> Tensor:
        picked = logits.argmax(-1).cpu() if self.sampling.temperature == 0 else self._sample(logits.cpu())
        self.length += 1
        for k, token in enumerate(picked.tolist()):
            if not self.alive[k]:
                continue
            if token in self.ends:
                self.alive[k] = False
                continue
            self.new[k].append(token)
            if on_token:
                on_token(k, token)
        return picked

    def _sample(self, logits: Tensor) -> Tensor:
        p = torch.softmax(logits / self.sampling.temperature, -1)
        ranked, order = p.sort(-1, descending=True)
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= self.sampling.top_p, 0.0)
        drawn = [torch.multinomial(ranked[k], 1, generator=g) for k, g in enumerate(self.generators)]
        return order.gather(-1, torch.stack(drawn))[:, 0]


def occurrences(rows: Sequence[Row]) -> list[int]:
    """For every row how many before it have the same tokens: what tells repeated prompts apart."""
    seen: dict[tuple[int, ...], int] = {}
    out: list[int] = []
    for row in rows:
        out.append(seen.get(row.ids, 0))
        seen[row.ids] = out[-1] + 1
    return out


def generator(seed: int, row: Row, salt: int) -> torch.Generator:
    """Seeded by the prompt and a number: not by its place in the batch."""
    key = hashlib.sha256(repr((seed, row.ids, salt)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)


class CachedSteps:
    """Logits of the next token of every row, (b, v), one pass over one column a step on a growing cache."""

    def __init__(self, lm: Passes, tokens: Tokens, place: Sequence[int] | None) -> None:
        self.lm, self.tokens, self.shared = lm, tokens, place is not None
        self.cache = new_cache(lm.model.config)
        self.order = torch.tensor(list(range(len(tokens.rows)) if place is None else place), device=tokens.ids.device)
        self.mask, self.lengths = tokens.mask, tokens.index[:, -1:] + 1

    def __call__(self, chosen: Tensor | None, alive: Tensor) -> Tensor:
        """After `chosen`, one token a row; None at the beginning. Rows that are not alive are padding from here on."""
        if chosen is None:
            return self._prompts()
        living = alive.to(self.mask.device)[:, None]
        self.mask = torch.cat([self.mask, living.long()], -1)
        index = self.lengths.masked_fill(~living, -1)
        self.lengths = self.lengths + 1
        frame = Frame(index, self.tokens.rows)
        return self.lm.forward(chosen.to(self.mask.device)[:, None], frame, self.mask, self.cache, keep=[0])[:, 0]

    def _prompts(self) -> Tensor:
        """Every distinct prompt once."""
        tokens, order = self.tokens, self.order.tolist()
        first = [order.index(k) for k in range(max(order) + 1)]
        frame = Frame(tokens.index[first], [tokens.rows[k] for k in first])
        logits = self.lm.forward(
            tokens.ids[first], frame, self.mask[first], self.cache, keep=[tokens.ids.shape[1] - 1]
        )[:, 0]
        if self.shared:
            self.cache.reorder_cache(self.order)
        return logits[self.order]

    def pick(self, rows: Tensor) -> None:
        """Go on with some of the rows, in this order (beams)."""
        self.cache = fork(self.cache, rows)
        self.tokens = Tokens(
            tuple(self.tokens.rows[k] for k in rows.tolist()), self.tokens.ids[rows], self.tokens.index[rows]
        )
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]


class FullSteps:
    """The same by a full pass over the whole sequence at every step: the oracle, and what models get whose caches are
    not exact.
    """

    def __init__(self, lm: Passes, tokens: Tokens, place: Sequence[int] | None = None) -> None:
        self.lm, self.rows, self.ids, self.index = lm, tokens.rows, tokens.ids, tokens.index

    def __call__(self, chosen: Tensor | None, alive: Tensor) -> Tensor:
        if chosen is not None:
            self.ids = torch.cat([self.ids, chosen.to(self.ids.device)[:, None]], -1)
            new = (self.index.max(-1, keepdim=True).values + 1).masked_fill(~alive.to(self.ids.device)[:, None], -1)
            self.index = torch.cat([self.index, new], -1)
        whole = Tokens(self.rows, self.ids, self.index)
        return self.lm.forward(self.ids, Frame(self.index, self.rows), whole.mask, None, keep=[self.ids.shape[1] - 1])[
            :, 0
        ]

    def pick(self, rows: Tensor) -> None:
        self.rows, self.ids, self.index = tuple(self.rows[k] for k in rows.tolist()), self.ids[rows], self.index[rows]


def steps(lm: Passes, tokens: Tokens, new: int, place: Sequence[int] | None = None) -> CachedSteps | FullSteps:
    """How to go on from prompts by up to `new` tokens: on a cache where that is exact."""
    prompts = [row.prompt for row in tokens.rows]
    cached = lm.exact.steppable and lm.exact.resumes(prompts, [p + new for p in prompts])
    return CachedSteps(lm, tokens, place) if cached else FullSteps(lm, tokens, place)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a turn: of the generation config, the model and the tokenizer."""
    ends: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        ends.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(ends)
