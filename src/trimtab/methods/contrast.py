"""What contrast methods learn from: residual streams of both answers of every pair, averaged over the tokens that are
read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import TokenError, VectorError
from trimtab.model import LM, Layer, Row, Tokens
from trimtab.model.hooks import Layers
from trimtab.model.rendering import as_prompt
from trimtab.model.turns import turn_end
from trimtab.progress import Progress
from trimtab.steering.controls import Tied, coins

Read = Literal["auto", "completion", "contrast", "penultimate", "last", "role"]


@dataclass(frozen=True)
class Activations:
    """Residual streams of positive and negative completions, one mean over the read positions per pair.

    Attributes:
        positive, negative: (n, l, d) fp32.
        layers: the l layers.
        tied: question and answer letter of every pair, by which label-shuffled controls are drawn; None where nobody
            knows.
    """

    positive: Float[Tensor, "n l d"]
    negative: Float[Tensor, "n l d"]
    layers: tuple[Layer, ...]
    tied: Tied = None

    @property
    def deltas(self) -> Float[Tensor, "n l d"]:
        """positive - negative, pair by pair."""
        return self.positive - self.negative

    def at(self, layers: Sequence[Layer]) -> Activations:
        """The same at some of the layers."""
        if tuple(layers) == self.layers:
            return self
        chosen = [self.layers.index(k) for k in layers]
        return Activations(self.positive[:, chosen], self.negative[:, chosen], tuple(layers), self.tied)

    def mean_difference(self) -> Float[Tensor, "l d"]:
        return self.deltas.mean(0)

    def by_coin(self, seed: int) -> Activations:
        """The same pairs with their sides drawn by coin: what is learned from them has no behavior in it."""
        swap = (coins(len(self.positive), 1, seed, self.tied)[0] < 0)[:, None, None]
        sides = torch.where(swap, self.negative, self.positive), torch.where(swap, self.positive, self.negative)
        return Activations(*sides, self.layers, self.tied)


def activations(
    lm: LM,
    data: Dataset,
    layers: Layers | None = None,
    *,
    read: Read = "auto",
    batch: int = 16,
    progress: Progress | None = None,
) -> Activations:
    """Residual streams of every pair's completions; the prompt of a pair is run once for both, and for all layers.

    Args:
        read: which tokens to average over: "completion" (all of them), "contrast" (the first that differs: the answer
            letter of an A/B question), "last" (the final one), "penultimate" (the one before it), "role" (the one
            that names the next speaker in the chat template, where a model may sum up what was said), or "auto":
            contrast for A/B questions, else completion.
        progress: called with (pairs done, pairs in all).
    """
    chosen = lm.layers(layers)
    rows = [paired_rows(lm, p) for p in data]
    if read == "role":
        end, _ = turn_end(lm.tokenizer, lm.rendering)
        rows = [(one.extended(end), two.extended(end)) for one, two in rows]
    stacked: dict[int, Tensor] = {}
    done = 0
    for picked in lm.batches([r[0] for r in rows], batch):
        tokens = lm.batch([rows[k][side] for side in (0, 1) for k in picked])
        spots = torch.stack([_spot(lm, tokens, j, rows[k], _rule(read, data[k])) for j, k in enumerate(picked * 2)])
        both = lm.capture(tokens, spots, chosen)
        n = len(picked)
        stacked.update({k: torch.stack([both[j], both[n + j]]) for j, k in enumerate(picked)})
        done += n
        if progress:
            progress(done, len(data))
    out = torch.stack([stacked[k] for k in range(len(data))])
    return Activations(out[:, 0], out[:, 1], tuple(chosen), tied(data))


def tied(data: Iterable[Pair]) -> tuple[tuple[str, str], ...]:
    """Question and answer letter of every pair."""
    return tuple((p.group, str(p.meta.get("matching_letter", ""))) for p in data)


def paired_rows(lm: LM, pair: Pair, system: str | None = None) -> tuple[Row, Row]:
    """The two rows of a pair.

    Raises:
        TokenError: the completions have the same tokens.
    """
    prompt = as_prompt(pair.asked)
    one, two = (lm.row(prompt, completion, system=system) for completion in (pair.positive, pair.negative))
    if one.ids == two.ids:
        raise TokenError(
            "positive and negative have the same tokens",
            given=(pair.positive, pair.negative),
            expected="two different completions",
        )
    return one, two


def contrast_index(rows: tuple[Row, Row]) -> int:
    """Position of the first token at which two rows differ (or at which the shorter one has ended, its last token)."""
    one, two = rows
    shared = next(
        (i for i, (a, b) in enumerate(zip(one.ids, two.ids, strict=False)) if a != b), min(len(one.ids), len(two.ids))
    )
    return min(shared, len(one.ids) - 1, len(two.ids) - 1)


def _rule(read: Read, pair: Pair) -> Read:
    return read if read != "auto" else "contrast" if "matching_letter" in pair.meta else "completion"


def _spot(lm: LM, tokens: Tokens, j: int, rows: tuple[Row, Row], rule: Read) -> Tensor:
    index, row = tokens.index[j], tokens.rows[j]
    if rule == "contrast":
        return index == contrast_index(rows)
    if rule == "penultimate":
        return index == max(row.prompt, len(row.ids) - 2)
    if rule == "role":
        ids, named = turn_end(lm.tokenizer, lm.rendering)
        return index == len(row.ids) - len(ids) + named
    return index == len(row.ids) - 1 if rule == "last" else index >= row.prompt


def rescaled(directions: Float[Tensor, "l d"], like: Float[Tensor, "l d"]) -> Float[Tensor, "l d"]:
    """Each direction with the norm of `like`.

    Raises:
        VectorError: a direction of norm zero.
    """
    norms = directions.norm(dim=-1, keepdim=True)
    if not (norms > 0).all() or not (like.norm(dim=-1) > 0).all():
        raise VectorError(
            "the data give no direction: positive and negative activations do not differ",
            do="check the completions of the data set",
        )
    return directions / norms * like.norm(dim=-1, keepdim=True)
