"""Errors that say what failed, what was given, what was expected, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrimtabError(Exception):
    """Base of every error trimtab raises on purpose.

    The message is one screen at most: the failure, then `given`, `expected` and `do` where they help.
    """

    def __init__(self, failed: str, *, given: object = None, expected: object = None, do: str | None = None) -> None:
        self.failed, self.given, self.expected, self.do = failed, given, expected, do
        lines = [failed]
        for label, value in (("given", given), ("expected", expected), ("do", do)):
            if value is not None:
                lines.append(f"  {label}: {_short(value)}")
        super().__init__("\n".join(lines))


class DataError(TrimtabError):
    """A file or a pair that cannot be used."""


class OverlapError(DataError):
    """Items that stand both in the training and in the test data."""


class ModelError(TrimtabError):
    """A model that cannot be loaded, or whose blocks cannot be steered."""


class TokenError(TrimtabError):
    """Text that does not fall on token boundaries, or does not fit the context."""


class ExportError(TrimtabError):
    """What another engine cannot express, or does not compute alike."""


class ServeError(TrimtabError):
    """A server that cannot be started as it was asked for."""


class VectorError(TrimtabError):
    """A steering vector that is malformed or belongs to another model."""


class SteerError(TrimtabError):
    """An intervention that cannot be applied, or edited nothing."""


class LossError(TrimtabError):
    """An objective that cannot be optimized, or a loss that is not a number."""


class RecipeError(TrimtabError):
    """A recipe that cannot be run."""


class RunError(TrimtabError):
    """A run folder that cannot be written, or holds something else."""


def check_least(what: str, least: float, *, above: bool = False, **values: float) -> None:
    """Refuse the first of some numbers that is too small, by its name.

    Args:
        what: whose fields they are.
        least: the smallest that will do; with `above`, the largest that will not.

    Raises:
        RecipeError: which field, what was given, what is allowed.
    """
    for name, value in values.items():
        if not (value > least if above else value >= least):
            few = f"{'more than' if above else 'at least'} {least:g}"
            raise RecipeError(f"{what}: {name} is too small", given=value, expected=few)


class UnknownName(TrimtabError):
    """A name that is not registered; the message proposes the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, do: str | None = None) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else do
        super().__init__(f"unknown {kind} {name!r}", expected=", ".join(known) or "none is registered", do=hint)


def first_line(problem: BaseException) -> str:
    """What an error of other code says, in one line; "" if it says nothing."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), "")


def _short(value: object, limit: int = 600) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
