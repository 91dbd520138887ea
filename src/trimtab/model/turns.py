"""Where one turn of a conversation ends and the next begins, in the tokens of a chat template."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from trimtab.errors import TokenError
from trimtab.model.rendering import Rendering, apply, as_text, encode, stand_ins


@lru_cache(maxsize=16)
def turn_end(tokenizer: Any, how: Rendering | None = None) -> tuple[tuple[int, ...], int]:
    """What the chat template puts between an answer and the next user's words, as ids; and which of them names the next
    speaker.

    Raises:
        TokenError: no chat template, or one that leaves an answer out.
    """
    if not tokenizer.chat_template:
        raise TokenError("the model has no chat template, so no turn follows an answer")
    talk = stand_ins(("user", "assistant", "user"))
    text = apply(tokenizer, as_text(talk), how or Rendering())
    answer, question = talk[1]["content"], talk[2]["content"]
    begin, end = text.rfind(answer) + len(answer), text.rfind(question)
    if not len(answer) <= begin < end:
        raise TokenError("the chat template leaves an answer out", given=text)
    ids, offsets = encode(tokenizer, text[begin:end], False)
    at = text[begin:end].rfind("user")
    named = next((k for k, (a, b) in enumerate(offsets) if a <= at < b), len(ids) - 1) if at >= 0 else len(ids) - 1
    return tuple(ids), named
