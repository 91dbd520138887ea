"""Pairs as batches, their replays under interventions, and what is read off their logits: shared by measurements and
forecasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import SteerError
from trimtab.evaluation.metrics.base import Metric, Reading, is_choice
from trimtab.methods.contrast import contrast_index, paired_rows
from trimtab.model import LM, Positions, Row, Tokens, in_pieces
from trimtab.steering.interventions import Intervention
from trimtab.steering.multipliers import replay_multipliers

REPLAYS = 32  # about how often completions are run on a prompt that is read once
SHARED = 16  # multipliers of interventions that share a replay
ROWS = 16  # pairs in a batch: fixed, so that a resumed run repeats the same arithmetic


@dataclass(frozen=True)
class Chunk:
    """Some pairs as one batch: the rows of their positive, then of their negative completions, up to the last token
    that predicts one that is read.

    Attributes:
        pairs: n of them.
        tokens: the rows; a pair whose two rows are the same (it is read at one position alone) has one.
        place: (2n) the row of every positive, then of every negative completion.
        said: (2n, m) the completions' ids, where they are read; padded.
        answers: position of every pair's answer token.
        letters: ids of its two answers there.
    """

    pairs: tuple[Pair, ...]
    tokens: Tokens
    place: tuple[int, ...]
    said: Tensor | None
    answers: tuple[int, ...]
    letters: tuple[tuple[int, int], ...]

    @property
    def keep(self) -> list[int]:
        """Columns that predict completion tokens."""
        return list(range(self.tokens.pivot - 1, self.tokens.ids.shape[1]))

    @property
    def prompts(self) -> list[int]:
        """Length of every pair's prompt."""
        return [self.tokens.rows[k].prompt for k in self.place[: len(self.pairs)]]

    @classmethod
    def of(cls, lm: LM, pairs: Sequence[Pair], rows: Sequence[tuple[Row, Row]], whole: bool) -> Chunk:
        answers = [contrast_index(r) if is_choice(p) else r[0].prompt for p, r in zip(pairs, rows, strict=True)]
        letters = [(r[0].ids[a], r[1].ids[a]) for r, a in zip(rows, answers, strict=True)]
        sides = [
            (k, _until(r[side], len(r[side].ids) - 1 if whole else a))
            for side in (0, 1)
            for k, (r, a) in enumerate(zip(rows, answers, strict=True))
        ]
        distinct = list(dict.fromkeys((k, row.ids) for k, row in sides))
        place = [distinct.index((k, row.ids)) for k, row in sides]
        by_place = dict(zip(place, (row for _, row in sides), strict=True))
        tokens = lm.batch([by_place[j] for j in range(len(distinct))])
        completions = [
            torch.tensor(r[side].ids[r[side].prompt :], device=tokens.ids.device) for side in (0, 1) for r in rows
        ]
        said = pad_sequence(completions, batch_first=True) if whole else None
        return cls(tuple(pairs), tokens, tuple(place), said, tuple(answers), tuple(letters))

    def start(self, where: Positions) -> int:
        """First column that is steered, or read.

        Raises:
            SteerError: the positions select no token of an item.
        """
        chosen = where.select(self.tokens.index, self.tokens.rows)
        if not chosen.any(-1).all():
            row = self.tokens.rows[int((~chosen.any(-1)).nonzero()[0])]
            raise SteerError(
                "the positions select no token of an item", given=str(where), expected=f"a token of {row.text[-120:]!r}"
            )
        return min(int(chosen.any(0).nonzero()[0]), self.tokens.pivot - 1)


def chunks(
    lm: LM, data: Dataset, metrics: Iterable[Metric], where: Positions, systems: Iterable[str | None] = ()
) -> list[Chunk]:
    """All items as batches, rendered under every system prompt and with positions checked, so that a bad item is
    refused before any work.
    """
    rows = [paired_rows(lm, p) for p in data]
    for system in systems:
        for p in data:
            paired_rows(lm, p, system)
    whole = any(m.whole(p) for m in metrics for p in data)
    longer = [max(r, key=lambda row: len(row.ids)) for r in rows]
    # two rows a pair, and less padding
    size = ROWS // 2 if whole and any(len(r.ids) > r.prompt + 1 for r in longer) else ROWS
    batches: list[Chunk] = []
    for picked in lm.batches(longer, size, replays=REPLAYS):
        pairs = [data[k] for k in picked]
        batches.append(Chunk.of(lm, pairs, [rows[k] for k in picked], whole))
    for chunk in batches:
        chunk.start(where)
    return batches


@dataclass(frozen=True)
class Readings:
    """Log-probabilities of a chunk under c conditions."""

    chunk: Chunk
    answer: Float[Tensor, "c p v"]
    chosen: Float[Tensor, "c b m"] | None

    @classmethod
    def of(cls, chunk: Chunk, logits: Float[Tensor, "c b k v"]) -> Readings:
        """From logits at the kept columns to the log-probabilities that are read off them."""
        n, device = len(chunk.pairs), logits.device
        rows = torch.tensor(chunk.place, device=device)
        logp = logits.log_softmax(-1)
        columns = torch.tensor([a - p for a, p in zip(chunk.answers, chunk.prompts, strict=True)], device=device)
        answer = logp[:, rows[:n], columns].cpu()
        if answer.isnan().any():
            raise SteerError(
                "log-probabilities are not numbers",
                given=chunk.tokens.rows[int(rows[int(answer.isnan().any(-1).any(0).nonzero()[0])])].text[-80:],
                do='a multiplier is too large for the dtype of the model: use smaller ones, or dtype="bfloat16"',
            )
        chosen = None
        if chunk.said is not None:
            chosen = logp[:, rows[:, None], torch.arange(chunk.said.shape[1], device=device), chunk.said].cpu()
        return cls(chunk, answer, chosen)

    def split(self, size: int) -> list[Readings]:
        """The conditions, `size` at a time."""
        chosen = self.chosen.split(size) if self.chosen is not None else [None] * (len(self.answer) // size)
        return [
            Readings(self.chunk, answer, completions)
            for answer, completions in zip(self.answer.split(size), chosen, strict=True)
        ]

    def at(self, j: int, base: Readings) -> Reading:
        """The reading of pair j; `base` is the unsteered model without any system prompt of ours."""
        n, rows = len(self.chunk.pairs), self.chunk.tokens.rows
        sides: list[Tensor | None] = [None, None]
        if self.chosen is not None:
            length = [len(rows[self.chunk.place[k]].ids) + 1 - self.chunk.prompts[j] for k in (j, n + j)]
            sides = [self.chosen[:, k, :m] for k, m in zip((j, n + j), length, strict=True)]
        return Reading(
            self.chunk.pairs[j], self.answer[:, j], base.answer[0, j], self.chunk.letters[j], sides[0], sides[1]
        )


def values_under(
    lm: LM, batches: Iterable[Chunk], ivs: Sequence[Intervention], metric: Metric, multipliers: Sequence[float]
) -> Iterator[tuple[Chunk, list[int], Float[Tensor, "i n k"], Float[Tensor, " n"]]]:
    """A metric of every pair under interventions at the same layers, by replays of one pass over each batch.

    Yields:
        The batch; which interventions (several share a replay where they act at one layer); their values at each
        multiplier; and those of the unsteered model.
    """
    at_once = max(1, SHARED // len(multipliers)) if len(ivs[0].vector.layers) == 1 else 1
    for chunk in batches:
        prefix = lm.prefix(chunk.tokens, chunk.start(ivs[0].where), [min(ivs[0].vector.layers)], keep=chunk.keep)
        base = Readings.of(chunk, prefix.logits[None])

        def values(reading: Readings, chunk: Chunk = chunk, base: Readings = base) -> Float[Tensor, "n k"]:
            return torch.stack([metric.value(reading.at(j, base)) for j in range(len(chunk.pairs))])

        plain = values(base)[:, 0]
        for piece in in_pieces(range(len(ivs)), at_once):
            some = [ivs[k] for k in piece]
            reading = Readings.of(chunk, replay_multipliers(lm, prefix, some, multipliers, chunk.keep))
            yield chunk, piece, torch.stack([values(r) for r in reading.split(len(multipliers))]), plain


def _until(row: Row, index: int) -> Row:
    return Row(row.ids[:index], row.prompt, row.spans, row.text, row.offsets)
