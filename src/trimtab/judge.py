"""Judges: a model that rates answers by a rubric. The score is the expectation over the numbers it might reply with, not the one it happens to say."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol

import torch

from trimtab.errors import TokenError, UnknownName
from trimtab.model import LM, Row

MASS = 0.25  # least probability of a number, below which an answer is not scored


@dataclass(frozen=True)
class Rubric:
    """A versioned prompt with a scale of whole numbers. `template` may name {question}, {answer}, and whatever else is given with an answer."""

    name: str
    version: int
    lowest: int
    highest: int
    template: str

    @classmethod
    def load(cls, name: str) -> Rubric:
        """One of the rubrics that come with trimtab.

        Raises:
            UnknownName: no such rubric.
        """
        folder = files("trimtab") / "judges"
        known = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
        if name not in known:
            raise UnknownName("rubric", name, known)
        return cls(name, **tomllib.loads((folder / f"{name}.toml").read_text("utf-8")))

    def ask(self, about: Mapping[str, Any]) -> str:
        return self.template.strip().format(**about)

    @property
    def numbers(self) -> range:
        return range(self.lowest, self.highest + 1)


@dataclass(frozen=True)
class Rating:
    """A score on the rubric's scale (NaN: not scored), and the probability the judge gave to any number at all."""

    score: float
    mass: float


class Judge(Protocol):
    """Rates answers; each is a table with `question`, `answer` and whatever the rubric names."""

    def rate(self, answers: Sequence[Mapping[str, Any]]) -> list[Rating]: ...


@dataclass(frozen=True)
class ModelJudge:
    """Any language model as a judge: expected score over number tokens, renormalised (Betley et al. 2025; Dunefsky 2025).

    Raises:
        TokenError: a number of the scale is not one token of this model.
    """

    lm: LM
    rubric: Rubric
    batch: int = 16

    def __post_init__(self) -> None:
        self._numbers()

    def _numbers(self) -> list[int]:
        ids = [self.lm.tokenizer(str(n), add_special_tokens=False).input_ids for n in self.rubric.numbers]
        unknown = self.lm.tokenizer.unk_token_id
        bad = [n for n, found in zip(self.rubric.numbers, ids, strict=True) if len(found) != 1 or found[0] == unknown]
        if bad:
            raise TokenError(
                "numbers of the scale are not one token", given=bad[:5], expected="a model that reads each as one token", do="use another judge"
            )
        return [found[0] for found in ids]

    @torch.no_grad()
    def rate(self, answers: Sequence[Mapping[str, Any]]) -> list[Rating]:
        """One rating for each answer; an empty answer is not scored."""
        numbers = self._numbers()
        values = torch.tensor([float(n) for n in self.rubric.numbers])
        out = [Rating(math.nan, 0.0)] * len(answers)
        there = [k for k, a in enumerate(answers) if str(a["answer"]).strip()]
        rows: list[Row] = [self.lm.row(self.rubric.ask(answers[k])) for k in there]
        for chosen in self.lm.batches(rows, self.batch) if rows else ():
            tokens = self.lm.batch([rows[k] for k in chosen])
            p = self.lm.logits(tokens, keep=[tokens.pivot - 1])[:, 0].softmax(-1)[:, numbers].cpu()
            for j, k in enumerate(chosen):
                mass = float(p[j].sum())
                score = float((p[j] * values).sum()) / mass if mass >= MASS else math.nan
                out[there[k]] = Rating(score, mass)
        return out
