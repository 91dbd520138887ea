"""Workers as actors of Ray: one for each card, or for each few cores, on all machines of a cluster that see the run's
folder.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from trimtab.errors import RecipeError
from trimtab.workers.base import Ended
from trimtab.workers.work import MEMORY, Order, work

GPUS = "TRIMTAB_GPUS"  # of a worker: 1, or a share


class _Actor:
    """A worker; the model it loads is its own for as long as it lives."""

    def work(self, order: Order, threads: int, memory: str | None) -> str:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if memory is not None:
            os.environ[MEMORY] = memory
        return work(order)


class Ray:
    """Actors, on the cluster at an address, or one of this machine alone. Nothing is sent but where the folder is."""

    def __init__(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.mine = not ray.is_initialized()
        if self.mine:
            here: dict[str, Any] = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **here)
        self.gpus = float(os.environ.get(GPUS, "1")) if ray.cluster_resources().get("GPU") else 0.0

    def fits(self, threads: int) -> int:
        """How many workers the cluster holds at once."""
        there = ray.cluster_resources()
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if not self.gpus and threads > largest:
            raise RecipeError(
                "no machine of the cluster has so many cores", given=threads, expected=f"--threads {largest:g}"
            )
        return int(there.get("GPU", 0) / self.gpus if self.gpus else there.get("CPU", 1) / threads) or 1

    def start(self, order: Order, threads: int) -> Any:
        cls: Any = ray.remote(_Actor)
        actor = cls.options(num_cpus=1 if self.gpus else threads, num_gpus=self.gpus, max_restarts=0).remote()
        memory = str(self.gpus) if 0 < self.gpus < 1 else None
        return actor, actor.work.remote(order, threads, memory)

    def ended(self, handle: Any) -> Ended | None:
        _, future = handle
        ready, _ = ray.wait([future], timeout=0)
        if not ready:
            return None
        try:
            return Ended(False, str(ray.get(future)))
        except RayTaskError as problem:
            return Ended(False, str(problem))
        except RayError:  # its process, its node or its memory is gone
            return Ended(True)

    def stop(self, handle: Any) -> None:
        ray.kill(handle[0], no_restart=True)

    def close(self) -> None:
        if self.mine:
            ray.shutdown()
