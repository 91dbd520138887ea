"""Workers as jobs of SLURM, by submitit. The folder of the run has to be on a disk that all nodes see."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from trimtab.workers.base import Ended
from trimtab.workers.work import Order, work

HOURS = "TRIMTAB_SLURM_HOURS"  # of a job
JOBS = 8  # where nobody says how many
GPUS = "TRIMTAB_SLURM_GPUS"  # of a job


class Slurm:
    """Jobs on a partition; "local" for processes of this machine under the same code."""

    def __init__(self, partition: str) -> None:
        self.partition = partition

    def start(self, order: Order, threads: int) -> Any:
        logs = Path(order.folder, "work", "logs")
        executor = submitit.AutoExecutor(folder=logs, cluster="local" if self.partition == "local" else "slurm")
        minutes, gpus = int(60 * float(os.environ.get(HOURS, "24"))), int(os.environ.get(GPUS, "0"))
        executor.update_parameters(timeout_min=minutes, cpus_per_task=threads, gpus_per_node=gpus, name="trimtab")
        if self.partition != "local":
            executor.update_parameters(slurm_partition=self.partition)
        return executor.submit(work, order)

    def ended(self, handle: Any) -> Ended | None:
        if not handle.done():
            return None
        try:
            return Ended(False, str(handle.result()))
        except FailedJobError as problem:
            return Ended(False, str(problem))
        except UncompletedJobError:
            return Ended(True)

    def stop(self, handle: Any) -> None:
        handle.cancel(check=False)

    def fits(self, threads: int) -> int:
        return JOBS

    def close(self) -> None:
        pass
