"""How far something is: what long work reports to, whoever shows it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called with (done, in all), and with a few words where there is more to say, such as a loss."""

    def __call__(self, done: int, total: int, words: str = "", /) -> None: ...


@runtime_checkable
class Watch(Protocol):
    """Gives the progress of a stage by its name."""

    def __call__(self, stage: str, /) -> Progress: ...


def silent(stage: str) -> Progress:
    """No progress shown."""
    return lambda done, total, words="": None
