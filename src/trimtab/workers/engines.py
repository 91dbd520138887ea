"""Where workers run: processes here, actors of Ray, jobs of SLURM. Each engine starts one, says how it is, and stops
it; who does what is settled in the run folder, and is the same for all.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trimtab.errors import RecipeError
from trimtab.workers.base import Ended, Engine
from trimtab.workers.work import Order

# A worker ends with its driver from its first moment on, while torch is imported, too: PR_SET_PDEATHSIG, SIGKILL.
BOUND = """
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
del sys.argv[:2]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
KINDS = "local:N, ray, ray:ADDRESS, or slurm:PARTITION"


def bound(module: str) -> list[str]:
    """The command that runs a module in a process that ends with this one, however that ends; arguments follow."""
    if sys.platform != "linux":
        return [sys.executable, "-P", "-m", module]  # -P: nothing is imported from where it was started
    return [sys.executable, "-P", "-c", BOUND, str(os.getpid()), module]


def engine(workers: str) -> tuple[Engine, int]:
    """The engine of `--workers`, and how many workers it starts; 0 for as many as fit.

    Raises:
        RecipeError: not one, or one that is not installed.
    """
    kind, _, rest = workers.partition(":")
    if kind == "local" and rest.isdecimal() and 0 < int(rest) <= 1024:
        return Local(), int(rest)
    if kind == "ray":
        _installed("ray", "ray")
        from trimtab.workers.on_ray import Ray

        return Ray(rest or None), 0
    if kind == "slurm" and rest:
        _installed("submitit", "slurm")
        from trimtab.workers.on_slurm import Slurm

        return Slurm(rest), 0
    raise RecipeError("not workers", given=workers, expected=KINDS)


def _installed(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise RecipeError(f"these workers need the package {package}", do=f"pip install 'trimtab[{extra}]'")


class Local:
    """Processes of this machine."""

    def start(self, order: Order, threads: int) -> Any:
        logs = Path(order.folder, "work", "logs")
        logs.mkdir(parents=True, exist_ok=True)
        name = f"{order.session}-{order.number}"
        said = logs / f"{name}.said"
        said.unlink(missing_ok=True)
        command = bound("trimtab.workers.work")
        command += [order.folder, order.session, str(order.number), str(said), str(os.getpid())]
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # ctrl-C is the driver's
            )
        return process, said

    def ended(self, handle: Any) -> Ended | None:
        process, said = handle
        if process.poll() is None:
            return None
        return Ended(False, said.read_text("utf-8")) if said.is_file() else Ended(True)

    def stop(self, handle: Any) -> None:
        process, _ = handle
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()

    def fits(self, threads: int) -> int:
        return max(1, (os.cpu_count() or 1) // threads)

    def close(self) -> None:
        pass
