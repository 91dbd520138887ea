"""Pairs: one prompt, and an answer with the behavior beside one without it. What a source of data holds is a tuple of
them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from trimtab.errors import DataError

Form = Literal["answers", "choices"]
CHOICES = "\n\nChoices:\n"
_YES = {"yes", "yeah", "yep", "oui"}
_NO = {"no", "nope", "nah", "non"}


@dataclass(frozen=True)
class Pair:
    """One prompt with a completion that shows the behavior and one that does not.

    `before` are messages that come before the question, as (role, content): a system message, or earlier turns.
    `meta` may hold `matching_letter` (A or B), `polarity` (yes, no or none: the first word of the positive answer),
    `pair_id`, `order`, `source` (file:line) and `about` (what the question asks about, where its words alone do not
    tell).
    """

    prompt: str
    positive: str
    negative: str
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)
    before: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        where = self.meta.get("source", "pair")
        for name in ("prompt", "positive", "negative"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{where}: the {name} is empty", given=text, expected="some text")
        if self.positive == self.negative:
            raise DataError(
                f"{where}: positive and negative are the same",
                given=self.positive,
                expected="two different completions",
            )

    @cached_property
    def id(self) -> str:
        """Hash of the texts, 16 hex digits."""
        return digest(self.prompt, self.positive, self.negative, *(text for message in self.before for text in message))

    @property
    def asked(self) -> str | tuple[tuple[str, str], ...]:
        """The prompt, as messages if others come before it."""
        return (*self.before, ("user", self.prompt)) if self.before else self.prompt

    @cached_property
    def question(self) -> str:
        """The prompt without its listed choices."""
        return re.split(r"\s*\n\s*(?:Choices:|\(A\))", self.prompt, maxsplit=1)[0]

    @cached_property
    def group(self) -> str:
        """Hash of what the question is about; pairs that share it never fall into different splits."""
        return group_of(str(self.meta.get("about", self.question)))


@dataclass(frozen=True)
class Content:
    """What a source of data holds, before it is a data set: `ask` holds two sentences that ask a model in words for the
    behavior and for its opposite.
    """

    name: str
    pairs: tuple[Pair, ...]
    form: Form = "answers"
    ask: Mapping[str, str] | None = None


def group_of(question: str) -> str:
    """Hash of a question, whatever its case and spaces: what is kept of the questions a vector was learned on."""
    return digest(" ".join(question.casefold().split()))


def dedup(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Pairs without exact repeats, first occurrence kept."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.id, pair)
    return tuple(first.values())


def polarity(answer: str) -> str:
    """yes, no or none, by the first word of an answer."""
    words = re.findall(r"[^\W\d_]+", answer.casefold())
    first = words[0] if words else ""
    return "yes" if first in _YES else "no" if first in _NO else "none"


def to_choices(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """A/B questions from free-form pairs; the letter of the positive option alternates within each polarity."""
    seen: dict[str, int] = {}
    out: list[Pair] = []
    for pair in pairs:
        kind = polarity(pair.positive)
        seen[kind] = seen.get(kind, -1) + 1
        out.append(as_choice(pair, "AB"[(seen[kind] + (kind == "no")) % 2]))
    return tuple(out)


def as_choice(pair: Pair, letter: str) -> Pair:
    """One A/B question whose behavior-matching option is `letter`."""
    options = (pair.positive, pair.negative) if letter == "A" else (pair.negative, pair.positive)
    other = "B" if letter == "A" else "A"
    meta = {**pair.meta, "matching_letter": letter, "polarity": polarity(pair.positive), "pair_id": pair.id}
    prompt = f"{pair.prompt}{CHOICES}(A): {options[0]}\n(B): {options[1]}"
    return Pair(prompt, f"({letter})", f"({other})", meta, pair.before)


def digest(*texts: str) -> str:
    """16 hex digits of SHA-256 over length-prefixed texts."""
    h = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        h.update(len(raw).to_bytes(8, "big") + raw)
    return h.hexdigest()[:16]
