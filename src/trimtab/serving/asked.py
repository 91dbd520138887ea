"""What a client may ask for: the fields of OpenAI's API that mean something here, and those of steering."""

from __future__ import annotations

from typing import Any

import msgspec

STOPS = 4
MOST = 16  # vectors in one request


class Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One vector of a request, said in full; what is left out is as its file says."""

    vector: str
    multiplier: float | None = None
    layers: list[int] | None = None
    positions: str | None = None
    operator: str | dict[str, Any] | None = None
    gate: str | dict[str, Any] | None = None


class Steered(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a request wants to be steered.

    Attributes:
        steer: vectors and doses, such as "0.6 pirate + formal @ answer", or each said in full; "" for none.
        force: allow a dose outside the range its vector was measured to be fit for.
        control: "random-K" puts in the place of the vectors the K-th random directions of their norms and the angles
            between them; "shuffled-K" what their learners found when the sides of the pairs were drawn by coin.
    """

    model: str = ""
    steer: str | list[Part] = ""
    force: bool = False
    control: str = ""

    def check(self) -> str:
        """Why it cannot be done; "" if it can."""
        if not isinstance(self.steer, str) and len(self.steer) > MOST:
            return f"steer: up to {MOST} vectors"
        return ""


class Asked(Steered, kw_only=True):
    """What chat and plain completions share. Fields that would change an answer and are not kept are refused."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None

    @property
    def new(self) -> int | None:
        """Longest answer, in tokens."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def check(self) -> str:
        """Why it cannot be done; "" if it can."""
        if self.n not in (None, 1):
            return "n: one answer a request"
        if self.presence_penalty or self.frequency_penalty:
            return "presence_penalty, frequency_penalty: not kept here; leave them out"
        if self.new is not None and self.new < 1:
            return "max_tokens: at least 1"
        if self.temperature is not None and not (self.temperature == 0 or 1e-4 <= self.temperature <= 10):
            return "temperature: 0, or from 0.0001 to 10"
        if self.top_p is not None and not 0 < self.top_p <= 1:
            return "top_p: above 0, up to 1"
        if self.seed is not None and not abs(self.seed) < 1 << 62:
            return "seed: a whole number"
        if len(self.stops) > STOPS or not all(0 < len(s) <= 100 for s in self.stops):
            return f"stop: up to {STOPS} texts of up to 100 characters"
        return super().check()


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """One message of a chat."""

    role: str
    content: str
    name: str | None = None


ASKING = "messages: of system, user and assistant, the last one of the user"


def asks(messages: list[Turn]) -> bool:
    """Whether these are messages a model can answer."""
    roles = [t.role for t in messages]
    return bool(roles) and roles[-1] == "user" and {*roles} <= {"system", "user", "assistant"}


def told(messages: list[Turn]) -> list[dict[str, str]]:
    """Messages as templates take them."""
    return [{"role": t.role, "content": t.content} for t in messages]


class Chat(Asked, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[Turn]
    logprobs: bool = False
    top_logprobs: int | None = None

    @property
    def prompt(self) -> list[dict[str, str]]:
        return told(self.messages)

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> str:
        if not asks(self.messages):
            return ASKING
        if not 0 <= (self.top_logprobs or 0) <= 20:
            return "top_logprobs: from 0 to 20"
        return super().check()


class Plain(Asked, kw_only=True):
    """POST /v1/completions."""

    prompt: str
    logprobs: int | None = None
    echo: bool = False

    @property
    def top(self) -> int | None:
        return self.logprobs

    def check(self) -> str:
        if not self.prompt:
            return "prompt: some text"
        if self.echo or not 0 <= (self.logprobs or 0) <= 20:
            return "echo is not kept here; logprobs: from 0 to 20"
        return super().check()


class Compared(Steered, kw_only=True):
    """POST /v1/steering/compare: a text, token by token, with and without its vectors.

    Attributes:
        answer: what was said, by whomever.
        top_logprobs: so many alternatives at every token.
    """

    messages: list[Turn]
    answer: str
    top_logprobs: int = 5

    def check(self) -> str:
        if not asks(self.messages):
            return ASKING
        if not self.answer:
            return "answer: some text"
        if not 0 <= self.top_logprobs <= 20:
            return "top_logprobs: from 0 to 20"
        return super().check()
