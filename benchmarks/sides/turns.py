"""How a side takes its turns: load, say "ready", then one repeat per line of standard input."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Numbers = Any
DEVICE = os.environ.get("TRIMTAB_DEVICE", "cpu")


def inputs() -> tuple[dict[str, Any], str]:
    return json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]


def resident_mb() -> float:
    """Memory now: of this process, or of its tensors on a GPU."""
    if DEVICE != "cpu":
        import torch

        return torch.cuda.memory_allocated() / 2**20
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mb() -> float:
    """Most memory so far: of this process, or of its tensors on a GPU."""
    if DEVICE != "cpu":
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(repeat: Callable[[], Numbers]) -> None:
    """Answer each line with seconds, the peak of memory over what was loaded, and the numbers found."""
    loaded = resident_mb()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        values = repeat()
        peak = peak_mb()  # waits for a GPU to finish
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_mb": max(peak - loaded, 0.0), "values": values}), flush=True)
