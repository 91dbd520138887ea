"""Chats to token ids, once: rows with their spans, and padded batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

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

    `spans` maps a role to its half-open token ranges; `offsets` are the character ranges of the prompt's tokens in `text`.
    """

    ids: tuple[int, ...]
    prompt: int
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict[str, tuple[Span, ...]], hash=False)
    text: str = ""
    offsets: tuple[Span, ...] = ()

    def first_after(self, text: str) -> int:
        """Index of the first token that starts at or after the end of the last occurrence of `text` in the prompt.

        Raises:
            TokenError: the prompt does not contain `text`.
        """
        return _first_after(self.text, self.offsets, self.prompt, text)

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
    seen: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    place: list[int] = []
    for k, row in enumerate(tokens.rows):
        key = row.ids[: row.prompt]
        if key not in seen:
            seen[key] = len(first)
            first.append(k)
        place.append(seen[key])
    return first, place


def grouped(rows: Sequence[Row], size: int, replays: int = 1, *, alike: bool = False) -> list[list[int]]:
    """Indices of rows in batches of at most `size`, by the length of their prompts or of their completions, whichever pads less.

    Args:
        replays: how often completions are run for every time that prompts are.
        alike: only rows of equal shape share a batch.
    """
    shapes = [(r.prompt, len(r.ids) - r.prompt) for r in rows]
    by_completion = sorted(range(len(rows)), key=lambda k: (shapes[k][::-1], k))
    if alike:
        groups: dict[tuple[int, int], list[int]] = {}
        for k in by_completion:
            groups.setdefault(shapes[k], []).append(k)
        return [batch for g in groups.values() for batch in in_pieces(g, size)]

    def cost(batches: list[list[int]]) -> int:
        return sum(len(some) * (max(shapes[k][0] for k in some) + replays * max(shapes[k][1] for k in some)) for some in batches)

    orders = (by_completion, sorted(range(len(rows)), key=lambda k: (shapes[k], k)))
    return min((in_pieces(order, size) for order in orders), key=cost)


def in_pieces(values: Sequence[Value], size: int) -> list[list[Value]]:
    """The values in order, `size` at a time; the last piece may be shorter."""
    return [list(values[k : k + size]) for k in range(0, len(values), size)]


def render(tokenizer: Any, prompt: Prompt, completion: str = "", *, system: str | None = None, chat: bool = True) -> Row:
    """One prompt (a user turn, or messages) and its completion as ids, in one tokenisation.

    The completion's ids are what follows the prompt's ids when both are tokenised together, so they are what the model
    would read; if a token straddles the boundary the text is refused.

    Args:
        prompt: the text of a user turn, or a list of messages with `role` and `content`. If the last message is the
            assistant's, its turn stays open: the text has been put into its mouth, and the completion goes on from there.
        completion: what the assistant goes on to say.
        system: a system message to put first; a template without a system role gets it in front of the user's text.
        chat: render through the tokenizer's chat template, if it has one.

    Raises:
        TokenError: the last prompt token and the first completion token merge, or the prompt has no tokens.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if not system and len(messages) > 1 and messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
    if chat and tokenizer.chat_template:
        text, special = _template(tokenizer, messages, system), False
    else:
        text, special = "\n\n".join([*([system] if system else []), *(m["content"] for m in messages)]), True
    ids, offsets = _encode(tokenizer, text, special)
    if not ids:
        raise TokenError("the prompt has no tokens", given=text)
    spans = _role_spans(text, offsets, messages, system)
    whole = _encode(tokenizer, text + completion, special)[0] if completion else ids
    if whole[: len(ids)] != ids:
        k = next(i for i, (a, b) in enumerate(zip([*ids, -1], [*whole, -2], strict=False)) if a != b)
        raise TokenError(
            "prompt and completion merge into one token at their boundary",
            given=f"...{tokenizer.decode(ids[k:])!r} + {completion[:20]!r}... becomes {tokenizer.decode(whole[k : k + 1])!r}",
            expected="a boundary that falls between tokens",
            do="move the space or line break to the other side of the boundary",
        )
    return Row(tuple(whole), len(ids), spans, text, offsets)


def as_prompt(asked: str | Sequence[Said]) -> Prompt:
    """Messages given as (role, content) pairs, the way they are kept in values that can be hashed."""
    return asked if isinstance(asked, str) else [{"role": role, "content": content} for role, content in asked]


@lru_cache(maxsize=16)
def turn_end(tokenizer: Any) -> tuple[tuple[int, ...], int]:
    """What the chat template puts between an answer and the next user's words, as ids; and which of them names the next speaker.

    Raises:
        TokenError: no chat template, or one that leaves an answer out.
    """
    if not tokenizer.chat_template:
        raise TokenError("the model has no chat template, so no turn follows an answer")
    talk = [{"role": r, "content": c} for r, c in (("user", "plugh"), ("assistant", "xyzzy"), ("user", "plugh"))]
    text = _template(tokenizer, talk, None)
    begin, end = text.rfind("xyzzy") + len("xyzzy"), text.rfind("plugh")
    if not len("xyzzy") <= begin < end:
        raise TokenError("the chat template leaves an answer out", given=text)
    ids, offsets = _encode(tokenizer, text[begin:end], False)
    at = text[begin:end].rfind("user")
    named = next((k for k, (a, b) in enumerate(offsets) if a <= at < b), len(ids) - 1) if at >= 0 else len(ids) - 1
    return tuple(ids), named


def _template(tokenizer: Any, messages: list[dict[str, str]], system: str | None) -> str:
    from jinja2 import TemplateError

    first = [{"role": "system", "content": system}] if system else []
    try:
        open_turn = messages[-1]["role"] == "assistant"
        how = {"continue_final_message": True} if open_turn else {"add_generation_prompt": True}
        text = tokenizer.apply_chat_template(first + messages, tokenize=False, **how)
    except TemplateError as problem:
        if not system:
            raise TokenError(f"the chat template refuses these messages: {problem}", given=messages) from problem
        folded = [{**messages[0], "content": f"{system}\n\n{messages[0]['content']}"}, *messages[1:]]
        return _template(tokenizer, folded, None)
    return text


def _encode(tokenizer: Any, text: str, special: bool) -> tuple[list[int], tuple[Span, ...]]:
    """Ids and character offsets. A chat template writes its own special tokens, so none are added to it (no double BOS)."""
    if not tokenizer.is_fast:
        return list(tokenizer(text, add_special_tokens=special).input_ids), ()
    out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    return list(out["input_ids"]), tuple((int(a), int(b)) for a, b in out["offset_mapping"])


def _role_spans(text: str, offsets: tuple[Span, ...], messages: list[dict[str, str]], system: str | None) -> dict[str, tuple[Span, ...]]:
    """Token ranges of each message's content, found in order in the rendered text."""
    spans: dict[str, list[Span]] = {}
    cursor = 0
    for message in ([{"role": "system", "content": system}] if system else []) + messages:
        content = message["content"].strip()
        at = text.find(content, cursor)
        if at < 0 or not content:
            continue
        cursor = at + len(content)
        inside = [i for i, (a, b) in enumerate(offsets) if b > at and a < cursor and b > a]
        if inside:
            spans.setdefault(message["role"], []).append((inside[0], inside[-1] + 1))
    return {role: tuple(ranges) for role, ranges in spans.items()}
