"""A conversation in the terminal, steered or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trimtab.errors import SteerError, TrimtabError
from trimtab.steering.interventions import Intervention, check_stack, steer

if TYPE_CHECKING:
    from trimtab.model import LM

HELP = """/m NUMBER      the multiplier; 0 is off
/layer NUMBER  the layer of the vector
/steer LINE    such as 0.6 pirate + formal @ answer, where a folder of vectors was named; without a line, nothing
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
        ivs: how the next answer is steered.
        vector: of which layers can be chosen; that of the one intervention, before it was cut down to them.
        line: reads a line of the notation.
        listen: the next line, "" at the end.
        say: text as it comes.
    """

    lm: LM
    ivs: tuple[Intervention, ...]
    listen: Callable[[], str]
    say: Callable[[str], None]
    max_new_tokens: int
    temperature: float
    seed: int
    vector: Callable[[int], Intervention] | None = None
    line: Callable[[str], tuple[Intervention, ...]] | None = None
    both: bool = False
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    tries: int = 0

    def run(self) -> None:
        """Take turns until the end of the input or /quit."""
        check_stack(self.lm, self.ivs)
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
        def told(iv: Intervention) -> str:
            return f"multiplier {iv.multiplier:g} at layer {', '.join(map(str, iv.vector.layers))}"

        return " and ".join(map(told, self.ivs)) or "no vector"

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
        elif word in ("/m", "/layer", "/steer"):
            self.ivs = check_stack(self.lm, self.changed(word, rest))
            self.say(self.state + "\n")
        else:
            self.say(HELP if word == "/help" else f"{text}: not a command, or nothing to do\n{HELP}")

    def changed(self, word: str, rest: str) -> tuple[Intervention, ...]:
        """How it is steered from now on.

        Raises:
            SteerError: there is nothing to change in this way; else as reading a number or a line.
        """
        if word == "/steer":
            if self.line is None:
                raise SteerError("no folder of vectors was named", do="start with trimtab chat --vectors DIR")
            return self.line(rest) if rest else ()
        if len(self.ivs) != 1:
            do = "/steer LINE says how strong each is" if self.line else "start with trimtab chat VECTOR"
            raise SteerError(f"{word} is for one vector", given=f"{len(self.ivs)} vectors", do=do)
        (iv,) = self.ivs
        if word == "/m":
            return (iv.times(_number(rest, "/m 1.5")),)
        if self.vector is None:
            raise SteerError("a line's vectors act at the layers their files say")
        if not rest.isdecimal():
            raise SteerError("not a layer", given=rest, expected="such as /layer 12")
        return (replace(self.vector(int(rest)), multiplier=iv.multiplier),)

    def answer(self, asked: Sequence[dict[str, str]]) -> None:
        """Answer, and remember what was said; a turn that fails leaves nothing behind."""
        ivs = self.ivs if any(iv.multiplier for iv in self.ivs) else ()
        if self.both and ivs:
            self.say("unsteered: ")
            self.spoken(asked, ())
            self.say("steered: ")
        reply = self.spoken(asked, ivs)
        rendered = self.lm.row(self.opened(asked)).text
        self.messages = [*asked, {"role": "assistant", "content": self.lm.rendering.answer(reply, rendered)}]

    def opened(self, asked: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """The messages with the system message before them."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *asked]

    def spoken(self, asked: Sequence[dict[str, str]], ivs: tuple[Intervention, ...]) -> str:
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
                if ivs:
                    stack.enter_context(steer(self.lm, *ivs))
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
