"""Progress bars with time left, on standard error. Used by the command line; the library itself prints nothing."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from trimtab.progress import Progress, Watch


@contextmanager
def bars(enabled: bool = True) -> Generator[Watch]:
    """Gives a function that opens a bar for a stage and returns its update (done, total), or (done, total, a few
    words).
    """
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Bars(*columns, console=console, disable=not enabled, refresh_per_second=4) as shown:

        def stage(name: str) -> Progress:
            task = shown.add_task(name, total=None)

            def update(done: int, total: int, words: str = "") -> None:
                shown.update(task, completed=done, total=total, description=f"{name}, {words}" if words else name)
                if enabled and not console.is_terminal and (done == total or done % max(1, total // 4) == 0):
                    print(f"{name}: {done}/{total}", file=sys.stderr, flush=True)

            return update

        yield stage
