"""A conversation in the terminal, steered or not."""

from __future__ import annotations

from contextlib import ExitStack
from io import TextIOBase
from typing import TYPE_CHECKING

from trimtab.errors import TrimtabError
from trimtab.interventions import Intervention, check_stack, steer

if TYPE_CHECKING:
    from trimtab.model import LM

HELP = "/m NUMBER multiplier · /clear forget · /quit end"


def converse(lm: LM, iv: Intervention | None, source: TextIOBase, out: TextIOBase, *, max_new_tokens: int, temperature: float, seed: int) -> None:
    """Read turns from `source` and stream answers to `out` until the end of the input or /quit."""
    if iv:
        check_stack(lm, iv)
    state = f"multiplier {iv.multiplier:g}" if iv else "no vector"
    print(f"{lm.id}, {state}. {HELP}", file=out)
    messages: list[dict[str, str]] = []
    while True:
        print("> ", end="", file=out, flush=True)
        line = source.readline()
        if not line or line.strip() == "/quit":
            return
        text = line.strip()
        try:
            if text == "/clear":
                messages = []
            elif text.startswith("/m ") and iv:
                iv = iv.times(_number(text[3:]))
                print(f"multiplier {iv.multiplier:g}", file=out)
            elif text.startswith("/"):
                print(HELP, file=out)
            elif text:
                messages.append({"role": "user", "content": text})
                answer = _answer(lm, iv, messages, out, max_new_tokens, temperature, seed + len(messages))
                messages.append({"role": "assistant", "content": answer})
        except TrimtabError as problem:
            print(f"error: {problem}", file=out)


def _answer(lm: LM, iv: Intervention | None, messages: list[dict[str, str]], out: TextIOBase, limit: int, temperature: float, seed: int) -> str:
    shown = 0

    def stream(_: int, text: str) -> None:
        nonlocal shown
        whole = text.rstrip("\ufffd")  # a character that has not arrived whole yet
        print(whole[shown:], end="", file=out, flush=True)
        shown = max(shown, len(whole))

    with ExitStack() as stack:
        if iv and iv.multiplier != 0:
            stack.enter_context(steer(lm, iv))
        said = lm.generate([messages], max_new_tokens=limit, temperature=temperature, seed=seed, on_text=stream)[0]
    print(file=out)
    return said


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as problem:
        raise TrimtabError("not a number", given=text, expected="such as /m 1.5") from problem
