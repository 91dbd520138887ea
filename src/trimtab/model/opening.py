"""Prompts that begin alike (a template, a system message) share the pass over what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimtab.model.tokens import Row, Tokens

LEAST = 0.2  # of the tokens of all prompts: below this a second pass costs more than it saves


@dataclass(frozen=True)
class Opening:
    """The tokens that begin every row of a batch, up to column `start`.

    A pass over them as one row, then one over what is left of each row, leaves a cache with the opening first, then
    padding, then the rest. `settle` puts the columns where a pass over whole rows would have left them: padding
    first.

    Attributes:
        shared: (1, n) the tokens they have in common.
        ids, index: (g, start) of the rows, as in `Tokens`.
    """

    shared: Int[Tensor, "1 n"]
    ids: Int[Tensor, "g s"]
    index: Int[Tensor, "g s"]

    @classmethod
    def of(cls, tokens: Tokens, rows: Sequence[int], start: int) -> Opening | None:
        """The opening of some rows of a batch; None where sharing it would not pay."""
        if len(rows) < 2:
            return None
        ids, index = tokens.ids[rows, :start], tokens.index[rows, :start]
        n = _alike([tokens.rows[k] for k in rows], int((index >= 0).sum(-1).min()) - 1)
        if n * (len(rows) - 1) < LEAST * int((index >= 0).sum()):
            return None
        return cls(torch.tensor([tokens.rows[rows[0]].ids[:n]], device=ids.device), ids, index)

    @property
    def length(self) -> int:
        return self.shared.shape[1]

    @property
    def rest(self) -> Bool[Tensor, "g w"]:
        """Which columns from `length` on hold what is not the opening."""
        return self.index[:, self.length :] >= self.length

    @property
    def mask(self) -> Int[Tensor, "g s"]:
        """Over the opening and what follows it: 1 where a token stands."""
        return torch.cat([torch.ones_like(self.ids[:, : self.length]), self.rest.long()], 1)

    def settle(self, cache: Any) -> None:
        """Move the keys and values of a cache of plain attention layers to where the rows have their tokens."""
        column = torch.arange(self.index.shape[1], device=self.index.device)
        source = torch.where(self.index >= self.length, column, self.index.clamp(min=0))[:, None, :, None]
        for layer in [one for one in cache.layers if one.is_initialized]:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                setattr(layer, name, states.gather(2, source.expand(-1, states.shape[1], -1, states.shape[3])))


def _alike(rows: Sequence[Row], most: int) -> int:
    """How many tokens, at most `most`, all rows begin with."""
    first = rows[0].ids
    for k in range(most):
        if any(r.ids[k] != first[k] for r in rows):
            return k
    return max(0, most)
