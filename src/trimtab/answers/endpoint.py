"""A judge behind an OpenAI-compatible server: any that speaks `/v1/chat/completions`, with log-probabilities where it
has them.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from trimtab.answers.judges import Answer, Rating, Rubric
from trimtab.errors import RecipeError

log = logging.getLogger("trimtab")


def reachable(url: str, patience: float = 5.0) -> None:
    """Refuse an address that is none, or behind which nobody listens.

    Raises:
        RecipeError: not an address, or no answer to a connection.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as problem:
        raise RecipeError("not the address of a server", given=url, expected='"http://HOST:PORT/v1"') from problem
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RecipeError("not the address of a server", given=url, expected='such as "http://127.0.0.1:8000/v1"')
    if os.environ.get("HTTPS_PROXY") or os.environ.get("HTTP_PROXY"):
        return  # only the proxy can tell
    try:
        socket.create_connection((parts.hostname, port), patience).close()
    except OSError as problem:
        raise RecipeError(
            f"nobody answers at {url}", given=problem.strerror or str(problem), do="start it, or try another URL"
        ) from problem


@dataclass
class Account:
    """What was used: calls that were answered, calls that failed for good, tokens in and out, and their price."""

    answered: int = 0
    failed: int = 0
    sent: int = 0
    received: int = 0
    price: float = 0.0


@dataclass(frozen=True)
class Endpoint:
    """Rates through a server. Needs `pip install 'trimtab[judge]'`.

    Where the server gives log-probabilities, the score is the expectation over the replies among the likeliest 20
    tokens; else it is the reply. A call that times out, is refused (429, 5xx) or breaks off is tried again `retries`
    times, with growing waits; after that its rating is NaN with the label "failed", and the others go on.

    Args:
        model: as the server names it.
        url: such as "http://127.0.0.1:8000/v1".
        key: of the server; the environment variable OPENAI_API_KEY by default.
        per_minute: most calls a minute; 0 for no limit.
        prices: of a million tokens sent and received.
    """

    rubric: Rubric
    model: str
    url: str | None = None
    key: str | None = None
    timeout: float = 60.0
    retries: int = 5
    per_minute: float = 0.0
    prices: tuple[float, float] = (0.0, 0.0)
    seed: int = 0
    account: Account = field(default_factory=Account, compare=False)

    def describe(self) -> dict[str, Any]:
        return {"model": self.model, "url": self.url, "seed": self.seed, "rubric": asdict(self.rubric)}

    def rate(self, answers: Sequence[Answer]) -> list[Rating]:
        """One rating for each answer; an empty answer is not sent."""
        client = self._client()
        out: list[Rating] = []
        for answer in answers:
            if not str(answer["answer"]).strip():
                out.append(Rating(math.nan, 0.0, "empty"))
                continue
            started = time.monotonic()
            out.append(self._one(client, answer))
            if self.per_minute:
                time.sleep(max(0.0, 60 / self.per_minute - (time.monotonic() - started)))
        return out

    def _client(self) -> Any:
        try:
            openai = import_module("openai")
        except ImportError as missing:
            raise RecipeError(
                "the client of such servers is not installed", given=str(missing), do="pip install 'trimtab[judge]'"
            ) from missing
        key = self.key or ("none" if self.url else None)
        return openai.OpenAI(base_url=self.url, api_key=key, timeout=self.timeout, max_retries=self.retries)

    def _one(self, client: Any, answer: Answer) -> Rating:
        problems = import_module("openai").OpenAIError
        messages = self.rubric.ask(answer)
        options = {"model": self.model, "messages": messages, "temperature": 0.0, "max_tokens": 10, "seed": self.seed}
        try:
            reply = client.chat.completions.create(**options, logprobs=True, top_logprobs=20)
            rating = self._read(reply)
        except (problems, ValueError, AttributeError, IndexError, TypeError, KeyError) as problem:
            log.warning("%s did not rate an answer: %s: %s", self.model, type(problem).__name__, str(problem)[:200])
            self.account.failed += 1
            return Rating(math.nan, 0.0, "failed")
        self.account.answered += 1
        return rating

    def _read(self, reply: Any) -> Rating:
        """The rating of a reply: of its first token's distribution, or of its text."""
        used = getattr(reply, "usage", None)
        if used is not None:
            self.account.sent += used.prompt_tokens or 0
            self.account.received += used.completion_tokens or 0
            self.account.price = (self.account.sent * self.prices[0] + self.account.received * self.prices[1]) / 1e6
        choice = reply.choices[0]
        content = choice.logprobs.content if choice.logprobs is not None else None
        if content and content[0].top_logprobs:
            p: dict[str, float] = {}
            for one in content[0].top_logprobs:
                p[one.token.strip()] = p.get(one.token.strip(), 0.0) + math.exp(one.logprob)
            return self.rubric.rated(p)
        words = [*self.rubric.words, *self.rubric.labels]
        match = re.match(
            r"\W*(" + "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True)) + r")\b",
            choice.message.content or "",
        )
        if match is None:
            raise ValueError(f"a reply that is no rating: {(choice.message.content or '')[:60]!r}")
        return self.rubric.rated({match[1]: 1.0})
