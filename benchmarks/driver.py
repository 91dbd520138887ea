"""What sharing costs: `.venv/bin/python benchmarks/driver.py [UNITS]`, 20,000 units of no work by default, in two
processes and in one. The memory of the driver is looked at all the way: it must not grow with what is done.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.progress import silent
from trimtab.runs import Run
from trimtab.stages import PLAN, Stage, Unit, carry_out
from trimtab.workers import Ended, Job, drive
from trimtab.workers.claims import Claims
from trimtab.workers.work import Order

HERE = Path(__file__)
UNITS = 20_000


def stages(count: int) -> Iterator[Stage]:
    yield Stage("nothing", [Unit(f"unit {k}", {"k": k}, lambda progress: None, group="units") for k in range(count)])


def work(folder: Path, number: int, session: str, count: int) -> None:
    """One worker."""
    Run.writer = number
    carry_out(stages(count), Run(folder), silent, Claims(folder, number, session))


class Processes:
    """Workers as processes of this file."""

    def __init__(self, count: int) -> None:
        self.count = count

    def start(self, order: Order, threads: int) -> Any:
        words = [sys.executable, str(HERE), "--worker", order.folder, str(order.number), order.session, str(self.count)]
        return subprocess.Popen(words)

    def ended(self, handle: Any) -> Ended | None:
        return None if handle.poll() is None else Ended(handle.returncode != 0)

    def stop(self, handle: Any) -> None:
        handle.kill()

    def fits(self, threads: int) -> int:
        return 2

    def close(self) -> None: ...


def driven(count: int) -> tuple[float, list[float]]:
    """Seconds of two workers, and the driver's memory in MB, every half second."""
    with tempfile.TemporaryDirectory() as place:
        folder, memory, over = Path(place, "run"), list[float](), threading.Event()
        Run.create(folder).claim(PLAN, {"units": count})

        def look() -> None:
            while not over.wait(0.5):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory.append(pages * resource.getpagesize() / 1e6)

        threading.Thread(target=look, daemon=True).start()
        started = time.monotonic()
        drive(Processes(count), 2, folder, Job(None, os.getcwd(), 1), silent)
        over.set()
        return time.monotonic() - started, memory


def alone(count: int) -> float:
    """Seconds of one process that does them all."""
    with tempfile.TemporaryDirectory() as place:
        run = Run.create(Path(place, "run"))
        run.claim(PLAN, {"units": count})
        started = time.monotonic()
        carry_out(stages(count), run, silent)
        return time.monotonic() - started


def main(count: int) -> None:
    seconds, memory = driven(count)
    quarter = len(memory) // 4
    told = {
        "cores": os.cpu_count(),
        "command": f".venv/bin/python benchmarks/driver.py {count}",
        "units": count,
        "two_workers_s": round(seconds, 1),
        "per_unit_ms": round(1000 * seconds / count, 2),
        "alone_s": round(alone(count), 1),
        "driver_mb": [round(memory[quarter * k], 1) for k in range(4)] + [round(memory[-1], 1), round(max(memory), 1)],
    }
    print(json.dumps(told))
    (HERE.parent / "results" / "driver.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else UNITS)
