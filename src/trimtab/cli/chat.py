"""A conversation in the terminal, steered or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trimtab.errors import TrimtabError
from trimtab.steering.interventions import Intervention, check_stack, steer

if TYPE_CHECKING:
    from trimtab.model import LM

HELP = """/m NUMBER      the multiplier; 0 is off
/layer NUMBER  the layer of the vector
/both          answer twice from now on, unsteered and steered; again for once
/retry         answer the last question again
/system TEXT   what the model is told before the conversation; without text, nothing
/clear         forget the conversation
/quit          end
ctrl-C ends an answer, not the conversation.
"""


@dataclass
class Talk:
    """A conversation: what was said, and how the next answer is steered.

    Args:
        vector: of which layers can be chosen; that of `iv`, before it was cut down to them.
        listen: the next line, "" at the end.
        say: text as it comes.
    """

    lm: LM
    iv: Intervention | None
    listen: Callable[[], str]
    say: Callable[[str], None]
    max_new_tokens: int
    temperature: float
    seed: int
    vector: Callable[[int], Intervention] | None = None
    both: bool = False
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    tries: int = 0

    def run(self) -> None:
        """Take turns until the end of the input or /quit."""
        if self.iv:
            check_stack(self.lm, self.iv)
        self.say(f"{self.lm.id}, {self.state}. /help shows the commands.\n")
        while True:
            self.say("> ")
            line = self.listen()
            if not line or line.strip() == "/quit":
                return
            if line.strip():
                try:
                    self.turn(line.strip())
                except TrimtabError as problem:
                    self.say(f"error: {problem}\n")

    @property
    def state(self) -> str:
        if self.iv is None:
            return "no vector"
        layers = ", ".join(map(str, self.iv.vector.layers))
        return f"multiplier {self.iv.multiplier:g} at layer {layers}"

    def turn(self, text: str) -> None:
        """One line: a command, or something said to the model."""
        word, _, rest = text.partition(" ")
        rest = rest.strip()
        if not text.startswith("/"):
            self.tries = 0
            self.answer([*self.messages, {"role": "user", "content": text}])
        elif word == "/clear":
            self.messages = []
        elif word == "/system":
            self.system = rest or None
            self.say(f"system: {rest}\n" if rest else "no system message\n")
        elif word == "/both":
            self.both = not self.both
            self.say("unsteered and steered answers\n" if self.both else "one answer\n")
        elif word == "/retry" and self.messages:
            self.tries += 1
            messages = self.messages[: max(k for k, m in enumerate(self.messages) if m["role"] == "user") + 1]
            self.answer(messages)
        elif word in ("/m", "/layer") and self.iv is None:
            self.say("there is no vector: start with trimtab chat VECTOR\n")
        elif word == "/m" and self.iv is not None:
            self.iv = self.iv.times(_number(rest, "/m 1.5"))
            self.say(self.state + "\n")
        elif word == "/layer" and self.vector is not None and self.iv is not None:
            chosen = self.vector(int(_number(rest, "/layer 12")))
            check_stack(self.lm, chosen)
            self.iv = replace(chosen, multiplier=self.iv.multiplier)
            self.say(self.state + "\n")
        else:
            self.say(HELP if word == "/help" else f"{text}: not a command, or nothing to do\n{HELP}")

    def answer(self, asked: Sequence[dict[str, str]]) -> None:
        """Answer, and remember what was said; a turn that fails leaves nothing behind."""
        iv = self.iv if self.iv is not None and self.iv.multiplier != 0 else None
        if self.both and iv is not None:
            self.say("unsteered: ")
            self.spoken(asked, None)
            self.say("steered: ")
        reply = self.spoken(asked, iv)
        rendered = self.lm.row(self.opened(asked)).text
        self.messages = [*asked, {"role": "assistant", "content": self.lm.rendering.answer(reply, rendered)}]

    def opened(self, asked: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """The messages with the system message before them."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *asked]

    def spoken(self, asked: Sequence[dict[str, str]], iv: Intervention | None) -> str:
        """What the model says, shown as it comes; an interrupt keeps what was said so far."""
        shown, reply = 0, ""

        def stream(_: int, text: str) -> None:
            nonlocal shown, reply
            reply = text
            arrived = text.rstrip("\ufffd")  # a character that has not arrived whole yet
            self.say(arrived[shown:])
            shown = max(shown, len(arrived))

        options = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        seed = self.seed + len(asked) + 1000 * self.tries
        try:
            with ExitStack() as stack:
                if iv is not None:
                    stack.enter_context(steer(self.lm, iv))
                reply = self.lm.generate([self.opened(asked)], seed=seed, on_text=stream, **options)[0]  # type: ignore[arg-type]
        except KeyboardInterrupt:
            self.say(" [stopped]")
        self.say("\n")
        return reply


def _number(text: str, example: str) -> float:
    try:
        return float(text)
    except ValueError as problem:
        raise TrimtabError("not a number", given=text, expected=f"such as {example}") from problem
