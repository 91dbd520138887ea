"""Judges: a model that rates answers by a rubric. The score is the expectation over the replies it might give, not the
one it happens to give.

judge = Recorded(ModelJudge(lm, Rubric.load("alignment")), "runs/judged.jsonl")
ratings = judge.rate([{"question": "...", "answer": "..."}])
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.answers.agreement import agreement
from trimtab.data.formats import records
from trimtab.errors import DataError, RecipeError, TokenError, UnknownName
from trimtab.journal import Journal
from trimtab.model import LM, Row

Answer = Mapping[str, Any]  # `question`, `answer`, and whatever the rubric names


@dataclass(frozen=True)
class Rubric:
    """A versioned prompt and what its replies are worth.

    Attributes:
        template: may name {question}, {answer} and whatever else is given with an answer.
        words: reply -> value, such as "7" -> 7 or "Yes" -> 1.
        labels: replies that mean "cannot be scored" -> why.
        system: the system message, if any.
        mass: least probability of all `words` together below which an answer is not scored (Dunefsky 2025: 0.25).
    """

    name: str
    version: int
    template: str
    words: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    system: str = ""
    mass: float = 0.25

    @classmethod
    def load(cls, name: str) -> Rubric:
        """One of the rubrics that come with trimtab, or a TOML file like them: `version`, `template`, and `words` or
        `lowest` and `highest`.

        Raises:
            UnknownName: no such rubric.
            RecipeError: a file that is not one.
        """
        folder = files("trimtab") / "answers" / "rubrics"
        known = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
        path = Path(name).expanduser()
        if name not in known and not path.is_file():
            raise UnknownName("rubric", name, known, do="or give a .toml file")
        text = (folder / f"{name}.toml").read_text("utf-8") if name in known else path.read_text("utf-8")
        table = tomllib.loads(text)
        if "lowest" in table:
            table["words"] = {str(n): float(n) for n in range(table.pop("lowest"), table.pop("highest") + 1)}
        try:
            return cls(name=path.stem, **table)
        except TypeError as fault:
            raise RecipeError(
                f"{name} is not a rubric",
                given=sorted(table),
                expected="version, template, and words or lowest and highest",
            ) from fault

    def ask(self, about: Answer) -> list[dict[str, str]]:
        """The messages that ask for a rating.

        Raises:
            RecipeError: something the rubric names is not given.
        """
        try:
            text = self.template.strip().format(**about)
        except KeyError as lacking:
            raise RecipeError(f"the rubric {self.name} asks for {lacking}", given=sorted(about)) from lacking
        return [
            *([{"role": "system", "content": self.system}] if self.system else []),
            {"role": "user", "content": text},
        ]

    def rated(self, p: Mapping[str, float]) -> Rating:
        """The rating from the probability of every reply."""
        mass = sum(p.get(w, 0.0) for w in self.words)
        labels = {w: p.get(w, 0.0) for w in self.labels}
        if mass < self.mass or mass == 0:
            likeliest = max(labels, key=lambda w: labels[w], default=None)
            return Rating(
                math.nan, mass, self.labels[likeliest] if likeliest and labels[likeliest] > mass else "no number"
            )
        return Rating(sum(v * p.get(w, 0.0) for w, v in self.words.items()) / mass, mass)


@dataclass(frozen=True)
class Rating:
    """A score on the rubric's scale, or NaN and why there is none; and the probability of all replies that are worth
    something.
    """

    score: float
    mass: float
    label: str = ""


@runtime_checkable
class Judge(Protocol):
    """Rates answers by a rubric."""

    @property
    def rubric(self) -> Rubric: ...

    def rate(self, answers: Sequence[Answer]) -> list[Rating]:
        """One rating per answer, in order."""
        ...

    def describe(self) -> dict[str, Any]:
        """Who judges, as plain JSON: what a recorded rating belongs to."""
        ...


@dataclass(frozen=True)
class ModelJudge:
    """Any language model as a judge: expected score over the replies of the rubric, renormalized (Betley et al. 2025;
    Dunefsky 2025).

    A reply of several tokens counts with the product of their probabilities, less what belongs to longer replies that
    begin with it ("1" is not "100"): exact for tokenizers that split numbers into digits, and the published rule for
    those that do not.

    Raises:
        TokenError: the model's tokenizer does not know a reply, or reads two of them alike.
    """

    lm: LM
    rubric: Rubric
    batch: int = 32

    def __post_init__(self) -> None:
        ids, unknown = self._replies, self.lm.tokenizer.unk_token_id
        bad = [w for w, tokens in ids.items() if not tokens or (unknown is not None and unknown in tokens)]
        if bad or len(set(ids.values())) < len(ids):
            raise TokenError(
                "this model cannot say the replies of the rubric apart",
                given=bad[:5] or list(ids)[:5],
                do="use another judge",
            )

    @cached_property
    def _replies(self) -> dict[str, tuple[int, ...]]:
        return {
            w: tuple(self.lm.tokenizer(w, add_special_tokens=False).input_ids)
            for w in (*self.rubric.words, *self.rubric.labels)
        }

    @cached_property
    def _children(self) -> dict[tuple[int, ...], set[int]]:
        """Beginnings of replies, and the tokens replies go on with after them."""
        out: dict[tuple[int, ...], set[int]] = {}
        for ids in self._replies.values():
            for k in range(len(ids)):
                out.setdefault(ids[:k], set()).add(ids[k])
        return out

    def describe(self) -> dict[str, Any]:
        return {"model": self.lm.facts, "rubric": asdict(self.rubric)}

    @torch.no_grad()
    def rate(self, answers: Sequence[Answer]) -> list[Rating]:
        """One rating for each answer; an empty answer is not scored."""
        out = [Rating(math.nan, 0.0, "empty")] * len(answers)
        there = [k for k, a in enumerate(answers) if str(a["answer"]).strip()]
        begun = list(self._children)
        rows: list[Row] = [self.lm.row(self.rubric.ask(answers[k])).extended(ids) for k in there for ids in begun]
        next_token: dict[int, Float[Tensor, " v"]] = {}
        for chosen in self.lm.batches(rows, self.batch) if rows else ():
            tokens = self.lm.batch([rows[k] for k in chosen])
            logits = self.lm.prefix(tokens, layers=[0]).logits
            for j, k in enumerate(chosen):
                next_token[k] = logits[j, len(rows[k].ids) - rows[k].prompt].softmax(-1).cpu()
        for n, k in enumerate(there):
            p = {ids: next_token[n * len(begun) + j] for j, ids in enumerate(begun)}
            out[k] = self.rubric.rated({w: self._probability(ids, p) for w, ids in self._replies.items()})
        return out

    def _probability(self, ids: tuple[int, ...], p: Mapping[tuple[int, ...], Tensor]) -> float:
        value = math.prod(float(p[ids[:k]][ids[k]]) for k in range(len(ids)))
        return value * (1 - sum(float(p[ids][c]) for c in self._children[ids])) if ids in self._children else value


def read_answers(path: str | Path, also: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Answers to rate, from JSON lines.

    Raises:
        DataError: no such file, or a row without `answer` (or one of `also`), with its line.
    """
    file, needed = Path(path).expanduser(), ("answer", *also)

    def complete(row: Mapping[str, Any]) -> dict[str, Any]:
        lacking = [k for k in needed if k not in row]
        if lacking:
            raise KeyError(f"the row lacks {lacking[0]!r}")
        return dict(row)

    out = records(file, complete, f"JSON lines of question and {', '.join(needed)}")
    if not out:
        raise DataError(f"{file} holds no answers")
    return out


def summed_up(
    rated: Sequence[Rating], truth: Sequence[float] | None, threshold: float
) -> tuple[dict[str, Any], list[str]]:
    """Ratings as figures and as lines of text: how many were scored, why others were not, and how well they agree with
    the truth, if it is given.
    """
    scores = [r.score for r in rated if not math.isnan(r.score)]
    labels = Counter(r.label for r in rated if math.isnan(r.score))
    facts: dict[str, Any] = {
        "n": len(rated),
        "scored": len(scores),
        "mean": float(np.mean(scores)) if scores else None,
        "not scored": dict(labels),
    }
    lines = [
        f"{len(scores)} of {len(rated)} scored" + (f", mean {facts['mean']:.2f}" if scores else ": nothing to average")
    ]
    lines += [f"{n} not scored: {label}" for label, n in labels.items()]
    if truth is not None:
        agreed = agreement([r.score for r in rated], truth, threshold)
        facts["agreement"] = asdict(agreed)
        for name, value in (("Spearman", agreed.spearman), ("Pearson", agreed.pearson), ("kappa", agreed.kappa)):
            lines.append(f"{name} {value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})")
        lines.append(
            f"{agreed.agree:.0%} on the same side of {threshold:g}; the judge is {agreed.apart:+.2f} higher on average"
        )
    return facts, lines


class Recorded:
    """A judge that never rates the same twice: ratings are kept in a file by the hash of who judges what, and read
    back.
    """

    def __init__(self, judge: Judge, path: str | Path, batch: int = 16) -> None:
        """Ratings are written `batch` at a time."""
        self.judge, self.rubric, self.batch = judge, judge.rubric, batch
        self.journal = Journal(Path(path))
        self.known = {
            r["key"]: Rating(math.nan if r["score"] is None else r["score"], r["mass"], r["label"])
            for r in self.journal.rows()
        }

    def describe(self) -> dict[str, Any]:
        return self.judge.describe()

    def rate(self, answers: Sequence[Answer]) -> list[Rating]:
        """Ratings, of which only the new ones are asked for; a failed one (see `Endpoint`) is asked for again."""
        keys = [self._key(a) for a in answers]
        missing = list(dict.fromkeys(k for k in keys if k not in self.known or self.known[k].label == "failed"))
        by_key = dict(zip(keys, answers, strict=True))
        for start in range(0, len(missing), self.batch):
            some = missing[start : start + self.batch]
            for key, rating in zip(some, self.judge.rate([by_key[k] for k in some]), strict=True):
                self.known[key] = rating
            rows = [
                {
                    "key": k,
                    **asdict(self.known[k]),
                    "score": None if math.isnan(self.known[k].score) else self.known[k].score,
                }
                for k in some
            ]
            self.journal.append(hashlib.sha256("".join(some).encode()).hexdigest()[:16], rows)
        return [self.known[k] for k in keys]

    def _key(self, answer: Answer) -> str:
        text = json.dumps(
            [self.describe(), self.rubric.ask(answer) if str(answer["answer"]).strip() else ""], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]
