"""What every engine of workers is: it starts one, says how it is, and stops it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from trimtab.workers.work import Order


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        died: it was killed, or its machine was; else it came to an end of its own.
        problem: what it said; "" if all is well.
    """

    died: bool
    problem: str = ""


class Engine(Protocol):
    """Starts workers."""

    def start(self, order: Order, threads: int) -> Any:
        """A worker, by a handle."""
        ...

    def ended(self, handle: Any) -> Ended | None:
        """How it ended; None while it works."""
        ...

    def stop(self, handle: Any) -> None:
        """End it now."""
        ...

    def fits(self, threads: int) -> int:
        """How many workers of so many threads there is room for."""
        ...

    def close(self) -> None:
        """What the engine itself has to put away."""
        ...
