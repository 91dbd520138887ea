"""Pairs as batches, and what is read off their logits: shared by measurements and forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.datasets import Dataset, Pair
from trimtab.errors import SteerError
from trimtab.methods import contrast_index, paired_rows
from trimtab.metrics import Metric, Reading, is_choice
from trimtab.model import LM, Positions, Row, Tokens

ROWS = 16  # rows in a batch: fixed, so that a resumed run repeats the same arithmetic


@dataclass(frozen=True)
class Chunk:
    """Some pairs as one batch: their positive rows, then their negative rows (or one row each up to the answer letter)."""

    pairs: tuple[Pair, ...]
    tokens: Tokens
    whole: bool
    answers: tuple[int, ...]
    letters: tuple[tuple[int, int], ...]

    @property
    def keep(self) -> list[int]:
        """Columns that predict completion tokens."""
        last = self.tokens.ids.shape[1] - (1 if self.whole else 0)
        return list(range(self.tokens.pivot - 1, last))

    @classmethod
    def of(cls, lm: LM, pairs: Sequence[Pair], rows: Sequence[tuple[Row, Row]], whole: bool) -> Chunk:
        answers = [contrast_index(r) if is_choice(p) else r[0].prompt for p, r in zip(pairs, rows, strict=True)]
        letters = [(r[0].ids[a], r[1].ids[a]) for r, a in zip(rows, answers, strict=True)]
        flat = [r[side] for side in (0, 1) for r in rows] if whole else [_until(r[0], a) for r, a in zip(rows, answers, strict=True)]
        return cls(tuple(pairs), lm.batch(flat), whole, tuple(answers), tuple(letters))

    def start(self, where: Positions) -> int:
        """First column that is steered, or read.

        Raises:
            SteerError: the positions select no token of an item.
        """
        chosen = where.select(self.tokens.index, self.tokens.rows)
        if not chosen.any(-1).all():
            row = self.tokens.rows[int((~chosen.any(-1)).nonzero()[0])]
            raise SteerError("the positions select no token of an item", given=str(where), expected=f"a token of {row.text[-120:]!r}")
        return min(int(chosen.any(0).nonzero()[0]), self.tokens.pivot - 1)


def chunks(lm: LM, data: Dataset, metrics: Iterable[Metric], where: Positions, systems: Iterable[str | None] = ()) -> list[Chunk]:
    """All items as batches, rendered under every system prompt and with positions checked, so that a bad item is refused before any work."""
    rows = [paired_rows(lm, p) for p in data]
    for system in systems:
        for p in data:
            paired_rows(lm, p, system)
    whole = any(m.whole(p) for m in metrics for p in data)
    found = [Chunk.of(lm, [data[k] for k in picked], [rows[k] for k in picked], whole) for picked in lm.batches([r[0] for r in rows], ROWS)]
    for chunk in found:
        chunk.start(where)
    return found


@dataclass(frozen=True)
class Readings:
    """Log-probabilities of a chunk under c conditions."""

    chunk: Chunk
    answer: Float[Tensor, "c p v"]
    chosen: Float[Tensor, "c b m"] | None

    @classmethod
    def of(cls, chunk: Chunk, logits: Float[Tensor, "c b k v"]) -> Readings:
        """From logits at the kept columns to the log-probabilities that are read off them."""
        tokens, n = chunk.tokens, len(chunk.pairs)
        columns = torch.tensor([a - r.prompt for a, r in zip(chunk.answers, tokens.rows, strict=False)], device=logits.device)
        answer = logits[:, torch.arange(n, device=logits.device), columns].log_softmax(-1).cpu()
        chosen = None
        if chunk.whole:
            said = tokens.ids[None, :, tokens.pivot :, None].expand(logits.shape[0], -1, -1, 1)
            chosen = (logits.gather(-1, said)[..., 0] - logits.logsumexp(-1)).cpu()
        return cls(chunk, answer, chosen)

    def at(self, j: int, base: Readings) -> Reading:
        """The reading of pair j; `base` is the unsteered model without any system prompt of ours."""
        n, rows = len(self.chunk.pairs), self.chunk.tokens.rows
        sides: list[Tensor | None] = [None, None]
        if self.chosen is not None:
            sides = [self.chosen[:, k, : len(rows[k].ids) - rows[k].prompt] for k in (j, n + j)]
        return Reading(self.chunk.pairs[j], self.answer[:, j], base.answer[0, j], self.chunk.letters[j], sides[0], sides[1])


def _until(row: Row, index: int) -> Row:
    return Row(row.ids[:index], row.prompt, row.spans, row.text, row.offsets)
