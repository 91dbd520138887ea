"""Contrastive data: pairs, data sets, splits that never overlap. Reading files is `formats.py`; nothing here needs torch."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from trimtab.errors import DataError, OverlapError

Form = Literal["answers", "choices"]
CHOICES = "\n\nChoices:\n"
_YES = {"yes", "yeah", "yep", "oui"}
_NO = {"no", "nope", "nah", "non"}


@dataclass(frozen=True)
class Pair:
    """One prompt with a completion that shows the behavior and one that does not.

    `before` are messages that come before the question, as (role, content): a system message, or earlier turns.
    `meta` may hold `matching_letter` (A or B), `polarity` (yes, no or none: the first word of the positive answer),
    `pair_id`, `order`, `source` (file:line) and `about` (what the question asks about, where its words alone do not tell).
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
            raise DataError(f"{where}: positive and negative are the same", given=self.positive, expected="two different completions")

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
        """Hash of what the question is about: pairs that share it never fall into different splits."""
        return digest(" ".join(str(self.meta.get("about", self.question)).casefold().split()))


@dataclass(frozen=True)
class Dataset:
    """Pairs of one behavior, hashed.

    `ask` holds two sentences that ask a model in words for the behavior and for its opposite (the prompt baseline).
    `part` is "all", "train", "val" or "test".
    """

    name: str
    pairs: tuple[Pair, ...]
    form: Form = "answers"
    ask: Mapping[str, str] | None = field(default=None, compare=False)
    part: str = "all"

    def __post_init__(self) -> None:
        if len(self.pairs) < 1:
            raise DataError(f"data set {self.name!r} ({self.part}) is empty")

    @classmethod
    def load(cls, source: str | Path, *, form: str | None = None) -> Dataset:
        """Read a built-in behavior, a file, or `hf:owner/name/path/in/repository`.

        Args:
            source: the name of a built-in behavior, or a `.jsonl`, `.json` or `.csv` file in any known layout.
            form: "answers" (free-form completions) or "choices" (A/B questions answered by a letter). By default
                what the file holds; built-in behaviors default to answers.

        Raises:
            UnknownName: neither a file nor a built-in behavior.
            DataError: malformed content, with the file and line.
        """
        from trimtab import formats

        return formats.load(source, form)

    @cached_property
    def hash(self) -> str:
        return digest(*(p.id for p in self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    def take(self, n: int) -> Dataset:
        """The first n pairs."""
        return replace(self, pairs=self.pairs[:n])

    def split(self, seed: int = 0, *, train: float = 0.4, val: float = 0.1, test: float = 0.5) -> Splits:
        """Disjoint parts by fraction, shuffled by question so that no question stands in two parts.

        Raises:
            DataError: fractions outside [0, 1] or summing to more than 1, or a part that came out empty.
        """
        return Splits.of(self, seed, train, val, test)


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of one data set (Tan et al. 2024 use 40/10/50)."""

    train: Dataset
    val: Dataset
    test: Dataset

    @classmethod
    def of(cls, data: Dataset, seed: int, train: float, val: float, test: float) -> Splits:
        shares = (train, val, test)
        if any(not 0 < s <= 1 for s in shares) or sum(shares) > 1 + 1e-9:
            raise DataError("split fractions do not make sense", given=shares, expected="three numbers in (0, 1] with a sum of at most 1")
        groups = sorted({p.group for p in data.pairs})
        random.Random(seed).shuffle(groups)
        ends = [int(sum(shares[: k + 1]) * len(groups) + 1e-9) for k in range(3)]
        chosen = [set(groups[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        parts = [tuple(p for p in data.pairs if p.group in c) for c in chosen]
        if not all(parts):
            raise DataError(
                f"data set {data.name!r} is too small to split",
                given=f"{len(groups)} questions into {shares}",
                expected="at least one question in each part",
                do="add pairs, or change the fractions",
            )
        named = [replace(data, pairs=p, part=n) for n, p in zip(("train", "val", "test"), parts, strict=True)]
        check_disjoint(*named)
        return cls(*named)


def check_disjoint(*parts: Dataset) -> None:
    """Refuse data sets that share a question.

    Raises:
        OverlapError: names the parts and the first shared questions.
    """
    for k, one in enumerate(parts):
        for two in parts[k + 1 :]:
            check_unseen({p.group for p in one.pairs}, two, f"{one.name} ({one.part})")


def check_unseen(seen: Iterable[str], data: Dataset, by: str) -> None:
    """Refuse `data` if one of its questions (by group hash) is in `seen`."""
    shared = sorted({p.group for p in data.pairs} & set(seen))
    if shared:
        example = next(p.question for p in data.pairs if p.group == shared[0])
        raise OverlapError(
            f"{len(shared)} questions of {data.name} ({data.part}) also stand in {by}",
            given=example[:120],
            expected="data no vector was trained on",
            do="split one data set with .split(), or remove the shared questions",
        )


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
