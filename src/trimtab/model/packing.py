"""Rows that share a prompt as one row: the prompt once, its completions one after the other behind it.

The mask hides completions from each other. From column `start` on, three rows of which the first two share a prompt
(p q, answers a b and c), packed into two:

    batch, (b, s) = (3, 4)        packed, (g, w) = (2, 5)       part, (g, w)         at, (b, s)
    p q a b                       p q a b c                     0 0 1 1 2            0 1 2 3
    p q c .                       r s d . .                     0 0 3 . .            0 1 4 .
    r s d .                                                                          0 1 2 .
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from trimtab.model.hooks import Edit, Frame
from trimtab.model.tokens import Tokens, distinct_prompts


@dataclass(frozen=True)
class Packing:
    """How the b rows of a batch, from column `start` on, go into g packed rows of w columns.

    Attributes:
        tokens: the batch.
        start: its first column that is packed.
        first: (g,) a row for every distinct prompt.
        row, column: (g, w) where every packed column comes from; columns are counted from `start`.
        part: (g, w) 0 for the prompt, the number of the row, from 1, for the completions behind it, -1 for padding.
        place: (b,) the packed row of a row.
        at: (b, s) the packed column of each of its columns; of its padding, that of the last prompt column.
    """

    tokens: Tokens
    start: int
    first: Int[Tensor, " g"]
    row: Int[Tensor, "g w"]
    column: Int[Tensor, "g w"]
    part: Int[Tensor, "g w"]
    place: Int[Tensor, " b"]
    at: Int[Tensor, "b s"]

    @classmethod
    def of(cls, tokens: Tokens, start: int) -> Packing:
        first, place = distinct_prompts(tokens)
        shared, width = tokens.pivot - start, tokens.ids.shape[1] - start
        # every packed column as (row it comes from, its column there, part); a prompt is that of the first row with it
        packed = [[(k, i, 0) for i in range(shared)] for k in first]
        at: list[list[int]] = []
        for k, row in enumerate(tokens.rows):
            mine, n = packed[place[k]], len(row.ids) - row.prompt
            # its prompt, its completion behind those that stand there already, and padding, which may read anything
            at.append([*range(shared), *range(len(mine), len(mine) + n), *[max(0, shared - 1)] * (width - shared - n)])
            mine += [(k, shared + i, k + 1) for i in range(n)]
        longest = max(map(len, packed))
        full = torch.tensor(
            [[*mine, *[(k, 0, -1)] * (longest - len(mine))] for k, mine in zip(first, packed, strict=True)],
            device=tokens.ids.device,
        )
        heads, where, columns = (torch.tensor(x, device=tokens.ids.device) for x in (first, place, at))
        return cls(tokens, start, heads, full[..., 0], full[..., 1], full[..., 2], where, columns)

    @property
    def width(self) -> int:
        return self.row.shape[1]

    @property
    def saves(self) -> bool:
        """Whether there are so much fewer tokens to run that packing pays."""
        return self.row.numel() <= 0.85 * self.at.numel()

    def pack(self, h: Shaped[Tensor, "c b s *d"]) -> Shaped[Tensor, "c g w *d"]:
        """Columns of the batch from `start` on, as packed columns; the prompt is that of the first row that has it."""
        return _picked(h, self.row, self.column)

    def unpack(self, h: Shaped[Tensor, "c g w *d"]) -> Shaped[Tensor, "c b s *d"]:
        """The reverse."""
        return _picked(h, self.place[:, None].expand_as(self.at), self.at)

    def unfold(self, h: Shaped[Tensor, "g ck *d"], at: Int[Tensor, "b n"], copies: int) -> Shaped[Tensor, "c b n *d"]:
        """The same of packed rows side by side, of which some columns were kept.

        Args:
            at: where the wanted columns of each row are among the kept ones of one copy; see `kept`.
        """
        side = torch.arange(copies, device=at.device)[:, None, None] * (h.shape[1] // copies)
        place = self.place[:, None].expand_as(at).expand(copies, -1, -1)
        return _picked(h[None], place, side + at)[0]

    def kept(self, columns: Int[Tensor, " k"]) -> tuple[Int[Tensor, " n"], Int[Tensor, "b k"]]:
        """The packed columns that hold some columns of the batch (counted from `start`), and for each row where among
        them.
        """
        places: tuple[Tensor, Tensor] = self.at[:, columns].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        return places

    @cached_property
    def ids(self) -> Int[Tensor, "g w"]:
        return self.pack(self.tokens.ids[None, :, self.start :])[0]

    @cached_property
    def index(self) -> Int[Tensor, "g w"]:
        """Logical position of every packed column, -1 for padding."""
        return self.pack(self.tokens.index[None, :, self.start :])[0].masked_fill(self.part < 0, -1)

    def frame(self, copies: int = 1, side: int = 1) -> Frame:
        """The columns of the packed rows, `copies` times as rows and `side` times in each row."""
        return Frame(self.index.repeat(copies, side), tuple(self.tokens.rows[k] for k in self.first.tolist()) * copies)

    def mask(self, dtype: torch.dtype, copies: int = 1) -> Float[Tensor, "g 1 cw t"]:
        """The prompt sees what came before it, a completion sees the prompt and itself. Additive: 0 or the lowest
        number.

        Args:
            copies: packed rows side by side in one row, on one cache, hidden from each other.
        """
        real, n = self.index >= 0, self.width
        # (g, w, w): a column sees the prompt and its own completion, ...
        related = (self.part[:, :, None] == self.part[:, None, :]) | (self.part[:, None, :] == 0)
        # ... what stands before it, ...
        own = related & torch.ones(n, n, dtype=torch.bool, device=real.device).tril() & real[:, None]
        # ... and of packed rows side by side, (g, c * w, c * w), its own one alone
        apart = torch.eye(copies, dtype=torch.bool, device=real.device)
        side = (apart[:, None, :, None] & own[:, None, :, None, :]).flatten(3, 4).flatten(1, 2)
        before = (self.tokens.index >= 0)[self.first, None, : self.start].expand(-1, copies * n, -1)
        seen = torch.cat([before, side], -1)[:, None]
        return torch.zeros(seen.shape, dtype=dtype, device=real.device).masked_fill(~seen, torch.finfo(dtype).min)

    def edit(self, edit: Edit, copies: int) -> Edit:
        """An edit of (c * b, s, d) for packed rows (c * g, w, d)."""
        apart = Frame(self.tokens.index[:, self.start :].repeat(copies, 1), self.tokens.rows * copies)

        def change(h: Tensor, _: Frame) -> Tensor:
            rows = self.unpack(h.unflatten(0, (copies, -1))).flatten(0, 1)
            changed = edit(rows, apart)
            return h if changed is rows else self.pack(changed.unflatten(0, (copies, -1))).flatten(0, 1)

        return change


def _picked(
    h: Shaped[Tensor, "c b s *d"], row: Int[Tensor, "*i"], column: Int[Tensor, "*i"]
) -> Shaped[Tensor, "c *i *d"]:
    """h[:, row, column], in a form whose gradient is as quick as its value."""
    where = (row * h.shape[2] + column).flatten().to(h.device)
    return h.flatten(1, 2).index_select(1, where).unflatten(1, row.shape)
