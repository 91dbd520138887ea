"""Which tokens an intervention touches, in words that mean the same in a full pass, under a cache, padded or batched.

A position is counted in its own row, from 0, padding left out, and set against the length of the row's prompt. It never
depends on what comes later, so a token is selected or not whether it is seen in one pass or generated one by one.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimtab.errors import SteerError, UnknownName
from trimtab.model.tokens import Row

LONGEST = 500  # characters of an expression


class Positions:
    """A set of token positions. Compose with `&`, `|` and `~`; `str()` writes what `Positions.parse` reads."""

    def select(self, index: Int[Tensor, "b s"], rows: Sequence[Row]) -> Bool[Tensor, "b s"]:
        """True where a token is selected; never at padding (index -1).

        Args:
            index: logical position of each column in its row, -1 for padding.
            rows: the b rows these columns belong to.
        """
        return self._select(index, rows) & (index >= 0)

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        raise NotImplementedError

    def __and__(self, other: Positions) -> Positions:
        return _Both(self, other)

    def __or__(self, other: Positions) -> Positions:
        return _Either(self, other)

    def __invert__(self) -> Positions:
        return _Not(self)

    @staticmethod
    def parse(text: str | Positions) -> Positions:
        """Positions from words such as `from_last_prompt_token`, `last_k(3)`, `span("user") & ~last`.

        Raises:
            UnknownName: a word that is not a position.
            SteerError: not an expression of positions.
        """
        if isinstance(text, Positions):
            return text
        if isinstance(text, str) and len(text) > LONGEST:
            raise SteerError("too long for positions", given=f"{len(text)} characters", expected=f"at most {LONGEST}")
        try:
            return _evaluate(ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, MemoryError, RecursionError, TypeError, ValueError) as problem:
            raise SteerError(
                "not a set of positions",
                given=text,
                expected=", ".join((*_WORDS, *_CALLS)) + " joined by & | ~, texts in quotes",
            ) from problem


@dataclass(frozen=True)
class _Word(Positions):
    word: str

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        ends = _column([r.prompt for r in rows], index)
        return {
            "everywhere": lambda: index >= 0,
            "prompt": lambda: index < ends,
            "generated": lambda: index >= ends,
            "last": lambda: index == ends - 1,
            "from_last_prompt_token": lambda: index >= ends - 1,
        }[self.word]()

    def __str__(self) -> str:
        return self.word


@dataclass(frozen=True)
class _LastK(Positions):
    k: int

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        ends = _column([r.prompt for r in rows], index)
        return (index >= ends - self.k) & (index < ends)

    def __str__(self) -> str:
        return f"last_k({self.k})"


@dataclass(frozen=True)
class _After(Positions):
    text: str

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        return index >= _column([r.first_after(self.text) for r in rows], index)

    def __str__(self) -> str:
        return f"after({self.text!r})"


@dataclass(frozen=True)
class _Role(Positions):
    role: str

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        chosen = torch.zeros_like(index, dtype=torch.bool)
        for k, row in enumerate(rows):
            row.check_located(str(self))
            for start, stop in row.spans.get(self.role, ()):
                chosen[k] |= (index[k] >= start) & (index[k] < stop)
        return chosen

    def __str__(self) -> str:
        return f"span({self.role!r})"


@dataclass(frozen=True)
class _Range(Positions):
    start: int
    stop: int

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        return (index >= self.start) & (index < self.stop)

    def __str__(self) -> str:
        return f"span({self.start}, {self.stop})"


@dataclass(frozen=True)
class _Both(Positions):
    one: Positions
    two: Positions

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        return self.one.select(index, rows) & self.two.select(index, rows)

    def __str__(self) -> str:
        return f"({self.one} & {self.two})"


@dataclass(frozen=True)
class _Either(Positions):
    one: Positions
    two: Positions

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        return self.one.select(index, rows) | self.two.select(index, rows)

    def __str__(self) -> str:
        return f"({self.one} | {self.two})"


@dataclass(frozen=True)
class _Not(Positions):
    one: Positions

    def _select(self, index: Tensor, rows: Sequence[Row]) -> Tensor:
        return ~self.one.select(index, rows)

    def __str__(self) -> str:
        return f"~{self.one}"


everywhere = _Word("everywhere")
prompt = _Word("prompt")
generated = _Word("generated")
last = _Word("last")
from_last_prompt_token = _Word("from_last_prompt_token")


def last_k(k: int) -> Positions:
    """The last k prompt tokens."""
    if not isinstance(k, int) or k < 1:
        raise SteerError("last_k needs a positive number", given=k)
    return _LastK(k)


def after(text: str) -> Positions:
    """Every token that starts after the last occurrence of `text` in the prompt, generated tokens too."""
    if not isinstance(text, str) or not text:
        raise SteerError("after needs some text", given=text, expected='such as after("tea")')
    return _After(text)


def span(start: str | int, stop: int | None = None) -> Positions:
    """The content of a role ("system", "user", "assistant"), or the half-open range of positions [start, stop)."""
    if isinstance(start, str) and stop is None:
        return _Role(start)
    if isinstance(start, int) and isinstance(stop, int) and 0 <= start < stop:
        return _Range(start, stop)
    raise SteerError("not a span", given=(start, stop), expected='span("user") or span(3, 7)')


_WORDS = {w.word: w for w in (everywhere, prompt, generated, last, from_last_prompt_token)}
_CALLS = {"last_k": last_k, "after": after, "span": span}


def _column(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)[:, None]


def _evaluate(node: ast.expr) -> Positions:
    match node:
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.Call(func=ast.Name(id=word), args=args, keywords=[]) if word in _CALLS:
            return _CALLS[word](*[ast.literal_eval(a) for a in args])
        case ast.Name(id=word) | ast.Call(func=ast.Name(id=word)):
            raise UnknownName("position", word, (*_WORDS, *_CALLS))
        case ast.BinOp(left=one, op=ast.BitAnd(), right=two):
            return _evaluate(one) & _evaluate(two)
        case ast.BinOp(left=one, op=ast.BitOr(), right=two):
            return _evaluate(one) | _evaluate(two)
        case ast.UnaryOp(op=ast.Invert(), operand=one):
            return ~_evaluate(one)
        case _:
            raise TypeError(ast.dump(node))
