"""What a client may ask for: the fields of OpenAI's API that mean something here, and those of steering."""

from __future__ import annotations

from typing import Any

import msgspec

STOPS = 4


class Asked(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What chat and plain completions share. Fields that would change an answer and are not kept are refused.

    Attributes:
        steer: vectors and doses, such as "0.6 pirate + formal @ answer"; "" for none.
        force: allow a dose outside the range its vector was measured to be fit for.
    """

    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    stop: str | list[str] | None = None
    steer: str = ""
    force: bool = False
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
        return ""


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """One message of a chat."""

    role: str
    content: str
    name: str | None = None


class Chat(Asked, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[Turn]
    logprobs: bool = False
    top_logprobs: int | None = None

    @property
    def prompt(self) -> list[dict[str, str]]:
        return [{"role": t.role, "content": t.content} for t in self.messages]

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> str:
        roles = [t.role for t in self.messages]
        if not roles or roles[-1] != "user" or not {*roles} <= {"system", "user", "assistant"}:
            return "messages: of system, user and assistant, the last one of the user"
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
