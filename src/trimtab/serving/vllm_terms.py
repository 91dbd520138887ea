"""Terms: what a request asks of vLLM's tables, and how it travels there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ServeError
from trimtab.model.positions import Positions
from trimtab.model.tokens import Row

DEPTH = 4  # terms that act on one token
OPERATORS = ("add", "ablate", "clamp")


@dataclass(frozen=True)
class Term:
    """One vector on one request.

    Attributes:
        hash: of the vector.
        operator: "add", "ablate" or "clamp".
        m: its multiplier.
        positions: in words; those that only need to know how long the prompt is.
    """

    hash: str
    operator: str
    m: float
    positions: str

    @property
    def factors(self) -> tuple[float, float]:
        """What v is added by, and how much of the component along it is taken away."""
        return {"add": (self.m, 0.0), "ablate": (0.0, self.m), "clamp": (self.m, 1.0 if self.m else 0.0)}[self.operator]

    def acts(self, start: int, n: int, prompt: int) -> Tensor:
        """Of the tokens start, start + 1, ... of a row with such a prompt: on which it acts (n,)."""
        index = torch.arange(start, start + n)[None]
        return Positions.parse(self.positions).select(index, [Row((), prompt)])[0]

    def check(self) -> None:
        """Refuse what the tables cannot express.

        Raises:
            ServeError: another operator, or positions that depend on the text.
        """
        if self.operator not in OPERATORS:
            raise ServeError("vLLM cannot be steered by this operator", given=self.operator, expected=OPERATORS)
        if {"'", '"'} & {*self.positions}:  # a text stands in them
            raise ServeError(
                "vLLM sees tokens and not texts",
                given=f"positions {self.positions}",
                expected="positions such as everywhere, answer, generated, prompt, last_k(20)",
            )
        self.acts(0, 2, 2)


def terms_of(stack: Sequence[Mapping[str, Any]]) -> list[Term]:
    """The terms of interventions, as `Intervention.describe` has them.

    Raises:
        ServeError: a gate.
    """
    if any(s["gate"]["name"] != "always" for s in stack):
        raise ServeError("vLLM cannot be steered through a gate")
    return [Term(s["vector"], s["operator"]["name"], s["multiplier"], s["positions"]) for s in stack]


def check(terms: Sequence[Term]) -> None:
    """Refuse what the tables cannot express.

    Raises:
        ServeError: too many terms, or one that cannot be.
    """
    if not 0 < len(terms) <= DEPTH:
        raise ServeError("too many vectors in one request", given=len(terms), expected=f"1 to {DEPTH}")
    for term in terms:
        term.check()


def told(terms: Sequence[Term]) -> str:
    """Terms as they travel in a request."""
    return json.dumps([[t.hash, t.operator, t.m, t.positions] for t in terms], allow_nan=False)


def heard(text: str) -> list[Term]:
    """Terms as they arrive."""
    return [Term(str(h), str(o), float(m), str(p)) for h, o, m, p in json.loads(text)]
