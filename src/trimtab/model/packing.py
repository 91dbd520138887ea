"""Rows that share a prompt as one row: the prompt once, their completions side by side behind it, hidden from each other by the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from trimtab.model.hooks import Edit, Frame
from trimtab.model.tokens import Tokens, distinct_prompts


@dataclass(frozen=True)
class Packing:
    """How the b rows of a batch, from column `start` on, go into g packed rows.

    Attributes:
        tokens: the batch.
        start: its first column that is packed.
        first: (g,) a row for every distinct prompt.
        members: (g, k) the rows with that prompt; where there are fewer than k, the first again.
        free: (g, k) where `members` only repeats.
        place, slot: (b,) the packed row of a row, and its number there.
    """

    tokens: Tokens
    start: int
    first: Int[Tensor, " g"]
    members: Int[Tensor, "g k"]
    free: Tensor
    place: Int[Tensor, " b"]
    slot: Int[Tensor, " b"]

    @classmethod
    def of(cls, tokens: Tokens, start: int) -> Packing:
        first, place = distinct_prompts(tokens)
        members: list[list[int]] = [[] for _ in first]
        slot: list[int] = []
        for row, group in enumerate(place):
            slot.append(len(members[group]))
            members[group].append(row)
        k = max(len(m) for m in members)
        free = [[j >= len(m) for j in range(k)] for m in members]
        full = [[*m, *[m[0]] * (k - len(m))] for m in members]
        where = tokens.ids.device
        numbers = (torch.tensor(x, device=where) for x in (first, full, free, place, slot))
        return cls(tokens, start, *numbers)

    @property
    def saves(self) -> bool:
        """Whether there are so much fewer tokens to run that packing pays."""
        b, width = self.tokens.ids.shape
        g, k = self.members.shape
        return g * (self.shared + k * (width - self.tokens.pivot)) <= 0.85 * b * (width - self.start)

    @property
    def shared(self) -> int:
        """Columns of the prompt."""
        return self.tokens.pivot - self.start

    def pack(self, h: Shaped[Tensor, "c b s *d"]) -> Shaped[Tensor, "c g w *d"]:
        """Columns of the batch from `start` on, as packed columns; the prompt is that of the first row that has it."""
        prompt = h[:, :, : self.shared].index_select(1, self.first)
        said = h[:, :, self.shared :].index_select(1, self.members.flatten()).unflatten(1, self.members.shape).flatten(2, 3)
        return torch.cat([prompt, said], 2)

    def unpack(self, h: Shaped[Tensor, "c g w *d"], shared: int | None = None) -> Shaped[Tensor, "c b s *d"]:
        """The reverse. `shared`: how many of the columns are the prompt's, where not all were kept."""
        shared = self.shared if shared is None else shared
        prompt = h[:, :, :shared].index_select(1, self.place)
        said = h[:, :, shared:].unflatten(2, (self.members.shape[1], -1)).flatten(1, 2)
        return torch.cat([prompt, said.index_select(1, self.place * self.members.shape[1] + self.slot)], 2)

    @cached_property
    def ids(self) -> Int[Tensor, "g w"]:
        return self.pack(self.tokens.ids[None, :, self.start :])[0]

    @cached_property
    def index(self) -> Int[Tensor, "g w"]:
        """Logical position of every packed column, -1 for padding."""
        index = self.pack(self.tokens.index[None, :, self.start :])[0]
        unused = self.free.repeat_interleave(self.tokens.ids.shape[1] - self.tokens.pivot, 1)
        return index.masked_fill(torch.nn.functional.pad(unused, (self.shared, 0)), -1)

    def columns(self, keep: Sequence[int]) -> tuple[list[int], int]:
        """Packed columns of kept columns of the batch, and how many of them are the prompt's."""
        shared = [c - self.start for c in keep if c < self.tokens.pivot]
        said = [c - self.start for c in keep if c >= self.tokens.pivot]
        width = self.tokens.ids.shape[1] - self.tokens.pivot
        return shared + [c + j * width for j in range(self.members.shape[1]) for c in said], len(shared)

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "g 1 w t"]:
        """The prompt sees what came before it, a completion sees the prompt and itself. Additive: 0 or the lowest number."""
        real = self.index >= 0
        width = self.tokens.ids.shape[1] - self.tokens.pivot
        part = torch.cat([torch.zeros(self.shared), 1 + torch.arange(self.members.shape[1]).repeat_interleave(width)]).to(real.device)
        related = (part[:, None] == part) | (part == 0)
        causal = torch.ones(len(part), len(part), dtype=torch.bool, device=real.device).tril()
        own = (related & causal)[None] & real[:, None]
        before = (self.tokens.index >= 0)[self.first, None, : self.start].expand(-1, len(part), -1)
        seen = torch.cat([before, own], -1)[:, None]
        return torch.zeros(seen.shape, dtype=dtype, device=real.device).masked_fill(~seen, torch.finfo(dtype).min)

    def edit(self, edit: Edit, copies: int) -> Edit:
        """An edit of (c * b, s, d) for packed rows (c * g, w, d)."""
        apart = Frame(self.tokens.index[:, self.start :].repeat(copies, 1), self.tokens.rows * copies)

        def change(h: Tensor, _: Frame) -> Tensor:
            rows = self.unpack(h.unflatten(0, (copies, -1))).flatten(0, 1)
            changed = edit(rows, apart)
            return h if changed is rows else self.pack(changed.unflatten(0, (copies, -1))).flatten(0, 1)

        return change
