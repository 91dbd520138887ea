"""One worker: a process with a model that takes units of a run until all are done."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from trimtab import journal
from trimtab.errors import TrimtabError
from trimtab.runs import Run
from trimtab.storage import PARTS
from trimtab.workers.claims import Claims
from trimtab.workers.job import Job

MEMORY = "TRIMTAB_GPU_MEMORY"  # share of the card's memory that a worker may take, where several share one


@dataclass(frozen=True)
class Order:
    """What a worker is told. It travels as it is: no activations, no tensors.

    Attributes:
        folder: of the run.
        session: whose claims count.
        number: of the worker, from 1.
    """

    folder: str
    session: str
    number: int


def work(order: Order) -> str:
    """Take units until all are done; "" then, and else what is wrong with the run itself."""
    base = int(os.environ.get(PARTS, "0"))  # of a folder that is a copy: no other machine has these numbers
    Run.writer = base + order.number
    journal.first = Run.writer if base else 1
    folder = Path(order.folder)
    _fence()
    try:
        Job.of(folder).work(folder, share=Claims(folder, order.number, order.session))
    except TrimtabError as problem:
        return str(problem)
    return ""


def _fence() -> None:
    """Keep within the share of the card's memory, where there is one: no engine sees to that."""
    share = os.environ.get(MEMORY)
    if share is None:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(float(share))


def _orphaned(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_orphaned, args=(int(sys.argv[5]),), daemon=True).start()
    told = work(Order(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    print(told, file=sys.stderr, flush=True)
    Path(sys.argv[4]).write_text(told, "utf-8")
