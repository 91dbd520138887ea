"""Data sets: pairs of one behavior, hashed, and splits that never overlap."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from trimtab.data.pairs import Content, Form, Pair, digest
from trimtab.errors import DataError, OverlapError


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

    def __repr__(self) -> str:
        return f"<Dataset {self.name} ({self.part}), {len(self)} pairs as {self.form}, {self.hash}>"

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
        from trimtab.data.sources import content

        return cls.of(content(str(source), form))

    @classmethod
    def of(cls, content: Content) -> Dataset:
        """The data set of what a source holds."""
        return cls(content.name, content.pairs, content.form, content.ask)

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
            raise DataError(
                "split fractions do not make sense",
                given=shares,
                expected="three numbers in (0, 1] with a sum of at most 1",
            )
        groups = sorted({p.group for p in data.pairs})
        random.Random(seed).shuffle(groups)
        ends = [int(sum(shares[: k + 1]) * len(groups) + 1e-9) for k in range(3)]
        parts: list[tuple[Pair, ...]] = []
        for a, b in zip([0, *ends], ends, strict=False):
            chosen = set(groups[a:b])
            parts.append(tuple(p for p in data.pairs if p.group in chosen))
        if not all(parts):
            raise DataError(
                f"data set {data.name!r} is too small to split",
                given=f"{len(groups)} questions into {shares}",
                expected="at least one question in each part",
                do="add pairs with other questions, or use all of them (--part all) and measure on another file",
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
