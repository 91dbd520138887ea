"""What `trimtab plan` foretells against what a run takes: `.venv/bin/python benchmarks/plan.py`, a quarter of an hour,
or of some recipes alone: `benchmarks/plan.py caa`.

Each recipe is planned, then run in a new folder, each in a process of its own, one after the other; memory is the
most that the process had at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECIPES = ("first-light", "one-shot", "alignment-faking", "caa", str(HERE / "preference.toml"))


def run(*words: str) -> tuple[float, float, str]:
    """Seconds and bytes of a command, and what it printed."""
    started = time.monotonic()
    process = subprocess.Popen([*words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - started, used.ru_maxrss * 1024.0, said


def main(recipes: Sequence[str]) -> None:
    trimtab, file = str(Path(sys.executable).with_name("trimtab")), HERE / "results" / "plan.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.is_file() else []
    for recipe in recipes:
        with tempfile.TemporaryDirectory() as folder:
            planning, _, said = run(trimtab, "plan", recipe, "--json")
            plan = json.loads(said)
            seconds, memory, _ = run(trimtab, "run", recipe, "--to", folder, "--json")
        row = {
            "recipe": Path(recipe).stem,
            "planning_s": round(planning, 1),
            "plan_s": round(plan["seconds"], 1),
            "run_s": round(seconds, 1),
            "time_ratio": round(plan["seconds"] / seconds, 2),
            "plan_gb": round(plan["memory"] / 1e9, 2),
            "run_gb": round(memory / 1e9, 2),
            "memory_ratio": round(plan["memory"] / memory, 2),
        }
        rows = [*(r for r in rows if r["recipe"] != row["recipe"]), row]
        print(json.dumps(row), flush=True)
        told = {"cores": os.cpu_count(), "command": ".venv/bin/python benchmarks/plan.py", "rows": rows}
        file.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or RECIPES)
