"""A stack in one line, the same for the command line, servers and pages:

    0.6 pirate + formal - 0.3 brevity @ answer

A number is a multiplier, times the stored vector. A name without one is used as strongly as its file recommends, and
`pirate@ship` says so; `pirate@weakest` and `pirate@strongest` are the ends of the range it may be shipped in, and a
number before one of them is a share of it. Behind ` @ ` stand the positions, for all of the line; without them each
vector acts where its file says.

`vector_of` makes one vector of a line whose vectors are all added, for whatever takes a vector: a measurement, a
recipe, an export.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from trimtab.errors import SteerError, TrimtabError, UnknownName, VectorError
from trimtab.model.positions import Positions
from trimtab.steering.gates import Always
from trimtab.steering.interventions import FARTHEST, Intervention
from trimtab.steering.operators import Add
from trimtab.steering.use import Use
from trimtab.steering.vector import SteeringVector, taken

Level = Literal["", "ship", "weakest", "strongest"]
LEVELS = ("ship", "weakest", "strongest")
ANSWER = {"answer": "from_last_prompt_token"}  # a word of the notation for the usual positions
MOST = 16  # vectors in one line
LONGEST = 500  # characters

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)|(?P<name>[A-Za-z_][\w.-]*)(?:@(?P<level>[a-z]+))?"
    r"|(?P<sign>[+\N{MINUS SIGN}-])|(?P<at>@))",
    re.ASCII,
)


@dataclass(frozen=True)
class Term:
    """A vector and its dose.

    Attributes:
        factor: a multiplier; with a level, a share of that dose.
        name: of the vector.
        level: "" for a plain multiplier.
    """

    factor: float
    name: str
    level: Level = ""

    def multiplier(self, vector: SteeringVector) -> float:
        """Times the stored vector.

        Raises:
            SteerError: a dose that the vector's file does not know.
        """
        if not self.level:
            return self.factor
        use = vector.use
        if self.level == "ship":
            return self.factor * (1.0 if use is None else use.multiplier)
        if use is None or use.ship is None:
            raise SteerError(
                f"{self.name} has no range it may be shipped in",
                given=f"{self.name}@{self.level}",
                expected="a multiplier",
                do="trimtab dose measures one",
            )
        return self.factor * use.ship[self.level == "strongest"]

    def __str__(self) -> str:
        """Without its sign."""
        size = "" if abs(self.factor) == 1 and self.level else f"{abs(self.factor):.12g} "
        return f"{size}{self.name}{f'@{self.level}' if self.level else ''}"


@dataclass(frozen=True)
class Notation:
    """A line, parsed; `str()` writes what `parse` reads."""

    terms: tuple[Term, ...]
    positions: str = ""

    @classmethod
    def parse(cls, text: str) -> Notation:
        """From a line.

        Raises:
            SteerError: with a caret under the place that cannot be read.
        """
        return _Reader(text).notation()

    def __str__(self) -> str:
        parts: list[str] = []
        for k, term in enumerate(self.terms):
            minus = math.copysign(1.0, term.factor) < 0
            parts.append(("-" if minus else "") + str(term) if k == 0 else f"{'-' if minus else '+'} {term}")
        return " ".join(parts) + (f" @ {self.positions}" if self.positions else "")

    def stack(self, vectors: Mapping[str, SteeringVector]) -> tuple[Intervention, ...]:
        """The interventions, in the order of the line.

        Raises:
            UnknownName: no vector of that name.
            SteerError: a dose nobody measured, or not a multiplier.
        """
        return tuple(self._intervention(term, vectors) for term in self.terms)

    def _intervention(self, term: Term, vectors: Mapping[str, SteeringVector]) -> Intervention:
        if term.name not in vectors:
            raise UnknownName("vector", term.name, vectors)
        vector = vectors[term.name]
        where = ANSWER.get(self.positions, self.positions) or None
        return Intervention.recommended(vector, multiplier=term.multiplier(vector), positions=where)


def beyond_range(doses: Iterable[tuple[str, float]], vectors: Mapping[str, SteeringVector]) -> list[str]:
    """Doses, as (name, multiplier), outside the range their vector may be shipped in, in words; a vector without a
    range has no outside.
    """
    out: list[str] = []
    for name, m in doses:
        use = vectors[name].use
        if use is not None and use.ship is not None and m and not use.ship[0] - 1e-9 <= m <= use.ship[1] + 1e-9:
            out.append(f"{name} at {m:g}, measured to be fit for use from {use.ship[0]:g} to {use.ship[1]:g}")
    return out


def shelved(folder: str | Path) -> dict[str, Path]:
    """The vectors of a folder: their files, by the names a line calls them by.

    Raises:
        VectorError: none is there.
    """
    files = {file.stem: file for file in sorted(Path(folder).glob("*.safetensors"))}
    if not files:
        raise VectorError(f"no vectors in {folder}", expected="a folder of .safetensors files")
    return files


def stack_of(line: str, folder: str | Path) -> tuple[Intervention, ...]:
    """The interventions of a line over the vectors of a folder; only those it names are read.

    Raises:
        SteerError, UnknownName, VectorError: a line that cannot be read, a vector that is not there or is none.
    """
    files, notation = shelved(folder), Notation.parse(line)
    for term in notation.terms:
        if term.name not in files:
            raise UnknownName("vector", term.name, files)
    return notation.stack({term.name: SteeringVector.load(files[term.name]) for term in notation.terms})


def vector_of(source: str | Path, folder: str | Path | None = None) -> SteeringVector:
    """A vector's file, or, with a folder, a line over its vectors as one vector: their sum, each times its multiplier,
    at every layer, to be used at multiplier 1.

    Raises:
        SteerError: a line whose vectors are not all added, at the same positions; else as `stack_of`.
    """
    if folder is None:
        return SteeringVector.load(source)
    ivs = stack_of(str(source), folder)
    odd = [iv for iv in ivs if iv.operator != Add() or iv.gate != Always()]
    if odd:
        raise SteerError(
            "only vectors that are always added make one vector", given=[iv.describe()["operator"] for iv in odd],
            expected="the operator add and no gate", do="trimtab steer and trimtab chat take any line",
        )  # fmt: skip
    where = sorted({str(iv.positions) for iv in ivs})
    if len(where) > 1:
        raise SteerError("the vectors act at different positions", given=where, do="say one behind @ in the line")
    first = next((iv.vector for iv in ivs if iv.vector.made.fingerprint), ivs[0].vector)
    nulls = set(first.nulls)
    for iv in ivs:
        first.check_model(iv.vector)
        nulls &= set(iv.vector.nulls)
    sums = {k: v for k, v in _summed([(iv.multiplier, iv.vector.vectors) for iv in ivs]).items() if v.any()}
    if not sums:
        raise SteerError("nothing would be steered: the sum is zero", given=str(source))
    of = {term.name: iv.vector.hash for term, iv in zip(Notation.parse(str(source)).terms, ivs, strict=True)}
    seen = dict.fromkeys(hash for iv in ivs for hash in iv.vector.made.trained_on)
    how = {"name": "line", "line": str(source), "vectors": of, "together": True}
    return SteeringVector(
        sums,
        replace(first.made, method=how, trained_on=tuple(seen), among=0, data={}, figures={}),
        nulls={n: taken(_summed([(iv.multiplier, iv.vector.nulls[n]) for iv in ivs]), sums) for n in nulls},
        site=first.site,
        use=Use(tuple(sorted(sums)), 1.0, where[0]),
    )


def _summed(parts: Sequence[tuple[float, Mapping[int, Tensor]]]) -> dict[int, Tensor]:
    """By layer, of what each part has there."""
    sums: dict[int, Tensor] = {}
    for m, vectors in parts:
        for layer, v in vectors.items():
            sums[layer] = sums.get(layer, 0.0) + m * v
    return sums


class _Reader:
    """Reads a line from left to right."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise SteerError("no vector is named", given=text, expected='such as "0.6 pirate + formal @ answer"')
        if len(text) > LONGEST:
            raise SteerError("a line too long", given=f"{len(text)} characters", expected=f"at most {LONGEST}")
        self.text, self.at = text, 0

    def notation(self) -> Notation:
        terms = [self._term(first=True)]
        while self._peek("sign"):
            terms.append(self._term())
        if len(terms) > MOST:
            raise SteerError("too many vectors in one line", given=len(terms), expected=f"at most {MOST}")
        positions = ""
        if self._peek("at"):
            self._next()
            positions = self._positions()
        elif self.text[self.at :].strip():
            raise self._error("not understood here", "+, - or @ with positions")
        return Notation(tuple(terms), positions)

    def _term(self, first: bool = False) -> Term:
        sign = 1.0
        if self._peek("sign"):
            sign = 1.0 if self._next()["sign"] == "+" else -1.0
        elif not first:
            raise self._error("two vectors without a sign between them", "+ or -")
        number = float(self._next()["number"]) if self._peek("number") else None
        if number is not None and not number <= FARTHEST:
            raise self._error("too large a multiplier", f"up to {FARTHEST:g}", back=True)
        if not self._peek("name"):
            raise self._error("a vector is missing", "a name")
        token = self._next()
        level = token["level"] or ("" if number is not None else "ship")
        if level and level not in LEVELS:
            raise self._error(f"no dose {level!r}", ", ".join(f"@{one}" for one in LEVELS), back=True)
        return Term(sign * (1.0 if number is None else number), token["name"], level)

    def _positions(self) -> str:
        rest = self.text[self.at :].strip()
        try:
            return rest if rest in ANSWER else str(Positions.parse(rest))
        except TrimtabError as problem:
            raise self._error(
                "not positions", f"answer, or {problem.expected or 'words such as everywhere'}"
            ) from problem

    def _match(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.at)

    def _peek(self, kind: str) -> bool:
        token = self._match()
        return token is not None and token[kind] is not None

    def _next(self) -> re.Match[str]:
        token = self._match()
        assert token is not None
        self.before, self.at = self.at, token.end()
        return token

    def _error(self, what: str, expected: str, *, back: bool = False) -> SteerError:
        """An error with the line and a caret under the place."""
        at = self.before if back else self.at
        at += len(self.text[at:]) - len(self.text[at:].lstrip())
        return SteerError(f"{what}:\n  {self.text}\n  {' ' * at}^", expected=expected)
