"""Many processes, machines or cards for one run: `trimtab run RECIPE --workers ray`.

Workers take units of the current stage from the run's folder until none is left, wait for each other at the end of a
stage, and make its choice each for itself, from the same files. A worker that dies is replaced; what it had not
finished is done by another. When all is done one process puts what they wrote together, and what is there then is,
byte for byte, what a single process leaves.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from trimtab.errors import RunError
from trimtab.progress import Progress, Watch, silent
from trimtab.runs import Run
from trimtab.stages import Every, done_units
from trimtab.workers.base import Ended, Engine
from trimtab.workers.claims import DEATHS, POLL, Claims
from trimtab.workers.engines import KINDS, engine
from trimtab.workers.job import Job
from trimtab.workers.work import Order

__all__ = ["KINDS", "Ended", "Engine", "Job", "alone", "drive", "engine", "run"]

GRACE = 10.0  # seconds that the others have, once one worker has seen that all is done


def run(
    recipe: Path,
    to: Path,
    workers: str,
    *,
    size: str | None = None,
    threads: int | None = None,
    count: int | None = None,
    watch: Watch = silent,
) -> Path:
    """Run a recipe with several workers, and write its page. The same call resumes.

    Args:
        workers: "local:2", "ray", "ray:ADDRESS" or "slurm:PARTITION".
        threads: of each worker; by default as the run was begun with, or the cores of this machine shared by all.
        count: of workers, on engines that do not say it themselves.

    Returns:
        The page.

    Raises:
        RecipeError: a recipe that makes no sense, or no such workers.
        RunError: units that fail again and again, by name; workers that die as soon as they are started.
    """
    started, (some, n) = time.monotonic(), engine(workers)
    try:
        shared = max(1, (os.cpu_count() or 1) // max(1, n))
        job = Job.begun(recipe, to, size, threads, default=shared)
        drive(some, n or count or some.fits(job.threads), to, job, watch)
    finally:
        some.close()
    return job.finish(to, time.monotonic() - started)


def alone(
    recipe: Path,
    to: Path,
    shard: tuple[int, int] | None = None,
    *,
    size: str | None = None,
    threads: int | None = None,
    watch: Watch = silent,
) -> bool:
    """Do a share of a recipe in this process, in a folder that others may write to as well.

    Args:
        shard: (k, n): every n-th unit of the current stage, from the k-th on; by default all that is left.

    Returns:
        Whether all units are done. The page is written by a process that does all of them; of shards, whose last ones
        may end at once, `merge` writes it.

    Raises:
        RecipeError, RunError: see `run`.
    """
    started, first, step = time.monotonic(), *(shard or (0, 1))
    before = Run.writer
    Run.writer = before or (first + 1 if step > 1 else 0)
    try:
        job = Job.begun(recipe, to, size, threads)
        finished = job.work(to, watch, Every(first, step))
    finally:
        Run.writer = before
    if finished and step == 1:
        job.finish(to, time.monotonic() - started)
    return finished


def drive(some: Engine, n: int, to: Path, job: Job, watch: Watch) -> None:
    """Start workers, replace those that die, and return when all units are done.

    Raises:
        RunError: see `run`.
    """
    run, session, shown = Run(to), uuid4().hex[:12], _Bars(Run(to), watch)
    claims = Claims(to, 0, session)
    orders = [Order(str(to.absolute()), session, k + 1) for k in range(n)]
    handles: dict[Order, Any] = {}
    try:
        for order in orders:
            handles[order] = some.start(order, job.threads)
        deaths, before, until = 0, shown.update(), math.inf
        while handles and time.monotonic() < until:
            time.sleep(POLL)
            done = shown.update()
            deaths, before = (deaths if done == before else 0), done
            for order, handle in list(handles.items()):
                ended = some.ended(handle)
                if ended is None:
                    continue
                del handles[order]
                if ended.problem:
                    raise RunError(ended.problem)
                if not ended.died:  # all is done: the others will see it, unless they wait for a machine
                    until = min(until, time.monotonic() + GRACE)
                elif until == math.inf:
                    claims.bury(run, order.number)
                    deaths += 1
                    if deaths > max(DEATHS, 2 * n):
                        raise RunError(
                            "workers die, and nothing is finished between",
                            given=f"{deaths} in a row; over {', '.join(claims.buried()) or 'no unit'}",
                            do=f"look into {run.file('work', 'logs')}",
                        )
                    handles[order] = some.start(order, job.threads)
    finally:
        for handle in handles.values():
            some.stop(handle)
    for handle in handles.values():  # nobody writes any more
        patience = time.monotonic() + GRACE
        while some.ended(handle) is None and time.monotonic() < patience:
            time.sleep(POLL)
    claims.clear()


class _Bars:
    """What all workers have finished, a bar for each stage."""

    def __init__(self, run: Run, watch: Watch) -> None:
        self.run, self.watch, self.bars = run, watch, dict[str, Progress]()
        self.told: dict[str, int] = {}

    def update(self) -> int:
        """Units finished so far, in all stages."""
        total = 0
        for path in sorted(self.run.file("units").glob("*.json"), key=lambda p: p.stat().st_mtime):
            keys = self.run.read(f"units/{path.name}", {})
            done = len(done_units(self.run, path.stem, keys))
            bar = self.bars[path.stem] = self.bars.get(path.stem) or self.watch(path.stem)
            if self.told.get(path.stem) != done:
                bar(done, len(keys))
                self.told[path.stem] = done
            total += done
        return total
