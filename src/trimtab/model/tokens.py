"""Chats to token ids, once: rows with their spans, and padded batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from trimtab.errors import TokenError

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
Said = tuple[str, str]  # role and content
Span = tuple[int, int]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One conversation as ids. `ids[:prompt]` is the prompt, the rest is the completion.

    `spans` maps a role to its half-open token ranges; `offsets` are the character ranges of the prompt's tokens in
    `text`.
    """

    ids: tuple[int, ...]
    prompt: int
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict[str, tuple[Span, ...]], hash=False)
    text: str = ""
    offsets: tuple[Span, ...] = ()

    def first_after(self, text: str) -> int:
        """Index of the first token that starts at or after the end of the last occurrence of `text` in the prompt.

        Raises:
            TokenError: the prompt does not contain `text`, or the tokenizer does not say where its tokens are in it.
        """
        self.check_located(f"after({text!r})")
        return _first_after(self.text, self.offsets, self.prompt, text)

    def check_located(self, wanted: str) -> None:
        """Refuse to look for a text where nobody says which token is where.

        Raises:
            TokenError: no offsets.
        """
        if self.text and not self.offsets:
            raise TokenError(
                f"{wanted}: this tokenizer gives no offsets, so texts cannot be found in its tokens",
                do="use positions by number, or a fast tokenizer",
            )

    @property
    def asked(self) -> tuple[object, ...]:
        """What makes a prompt: its ids, and where the texts are in them (positions may ask)."""
        return (self.ids[: self.prompt], self.text, tuple(sorted(self.spans.items())))

    def extended(self, more: Sequence[int]) -> Row:
        """The same prompt with `more` ids appended to the completion."""
        return Row((*self.ids, *more), self.prompt, self.spans, self.text, self.offsets)


@lru_cache(maxsize=4096)
def _first_after(text: str, offsets: tuple[Span, ...], prompt: int, wanted: str) -> int:
    at = text.rfind(wanted)
    if at < 0:
        raise TokenError(f"after({wanted!r}): the prompt does not contain this text", given=text[-200:])
    end = at + len(wanted)
    return next((i for i, (start, stop) in enumerate(offsets) if start >= end and stop > start), prompt)


@dataclass(frozen=True)
class Tokens:
    """A batch whose prompts end in the same column: prompts are padded on the left, completions on the right.

    Attributes:
        rows: the conversations, unpadded.
        ids: (b, s) token ids.
        index: (b, s) logical position of every column in its own row, -1 for padding.
    """

    rows: tuple[Row, ...]
    ids: Int[Tensor, "b s"]
    index: Int[Tensor, "b s"]

    @classmethod
    def of(cls, rows: Sequence[Row], pad: int, device: torch.device | str = "cpu") -> Tokens:
        pivot = max(r.prompt for r in rows)
        width = pivot + max(len(r.ids) - r.prompt for r in rows)
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        index = torch.full((len(rows), width), -1, dtype=torch.long)
        for k, row in enumerate(rows):
            start, n = pivot - row.prompt, len(row.ids)
            ids[k, start : start + n] = torch.tensor(row.ids, dtype=torch.long)
            index[k, start : start + n] = torch.arange(n)
        return cls(tuple(rows), ids.to(device), index.to(device))

    @property
    def mask(self) -> Int[Tensor, "b s"]:
        """1 where a token stands, 0 at padding."""
        return (self.index >= 0).long()

    @property
    def pivot(self) -> int:
        """The column where completions begin: logical position `prompt` of every row."""
        return max(r.prompt for r in self.rows)


def distinct_prompts(tokens: Tokens) -> tuple[list[int], list[int]]:
    """Rows whose prompts differ, and for every row its place among them."""
    seen: dict[tuple[object, ...], int] = {}
    first: list[int] = []
    place: list[int] = []
    for k, row in enumerate(tokens.rows):
        key = row.asked
        if key not in seen:
            seen[key] = len(first)
            first.append(k)
        place.append(seen[key])
    return first, place


def grouped(rows: Sequence[Row], size: int, replays: int = 1) -> list[list[int]]:
    """Indices of rows in batches of at most `size`, by the length of their prompts or of their completions, whichever
    pads less.

    Args:
        replays: how often completions are run for every time that prompts are.
    """
    shapes = [(r.prompt, len(r.ids) - r.prompt) for r in rows]
    by_completion = sorted(range(len(rows)), key=lambda k: (shapes[k][::-1], k))

    def cost(batches: list[list[int]]) -> int:
        total = 0
        for some in batches:
            prompt = max(shapes[k][0] for k in some)
            completion = max(shapes[k][1] for k in some)
            total += len(some) * (prompt + replays * completion)
        return total

    orders = (by_completion, sorted(range(len(rows)), key=lambda k: (shapes[k], k)))
    return min((in_pieces(order, size) for order in orders), key=cost)


def in_pieces(values: Sequence[Value], size: int) -> list[list[Value]]:
    """The values in order, `size` at a time; the last piece may be shorter."""
    return [list(values[k : k + size]) for k in range(0, len(values), size)]
