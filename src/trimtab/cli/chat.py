"""A conversation in the terminal, steered or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from trimtab.errors import TrimtabError
from trimtab.steering.interventions import Intervention, check_stack, steer

if TYPE_CHECKING:
    from trimtab.model import LM

HELP = "/m NUMBER multiplier · /clear forget · /quit end"


def converse(
    lm: LM,
    iv: Intervention | None,
    listen: Callable[[], str],
    say: Callable[[str], None],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> None:
    """Take turns from `listen` (a line each, "" at the end) and stream answers to `say`, until the end of the input or
    /quit.
    """
    if iv:
        check_stack(lm, iv)
    state = f"multiplier {iv.multiplier:g}" if iv else "no vector"
    say(f"{lm.id}, {state}. {HELP}\n")
    messages: list[dict[str, str]] = []
    while True:
        say("> ")
        line = listen()
        if not line or line.strip() == "/quit":
            return
        text = line.strip()
        try:
            if text == "/clear":
                messages = []
            elif text.startswith("/m ") and iv:
                iv = iv.times(_number(text[3:]))
                say(f"multiplier {iv.multiplier:g}\n")
            elif text.startswith("/"):
                say(HELP + "\n")
            elif text:
                asked = [*messages, {"role": "user", "content": text}]  # a turn that fails leaves nothing behind
                answer = _answer(lm, iv, asked, say, max_new_tokens, temperature, seed + len(asked))
                messages = [*asked, {"role": "assistant", "content": lm.rendering.answer(answer, lm.row(asked).text)}]
        except TrimtabError as problem:
            say(f"error: {problem}\n")


def _answer(
    lm: LM,
    iv: Intervention | None,
    messages: list[dict[str, str]],
    say: Callable[[str], None],
    limit: int,
    temperature: float,
    seed: int,
) -> str:
    shown = 0

    def stream(_: int, text: str) -> None:
        nonlocal shown
        whole = text.rstrip("\ufffd")  # a character that has not arrived whole yet
        say(whole[shown:])
        shown = max(shown, len(whole))

    with ExitStack() as stack:
        if iv and iv.multiplier != 0:
            stack.enter_context(steer(lm, iv))
        said = lm.generate([messages], max_new_tokens=limit, temperature=temperature, seed=seed, on_text=stream)[0]
    say("\n")
    return said


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as problem:
        raise TrimtabError("not a number", given=text, expected="such as /m 1.5") from problem
