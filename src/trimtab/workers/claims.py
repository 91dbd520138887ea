"""Who does which unit, when several processes work in one folder: whoever is first to put a file of its name there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from trimtab.errors import first_line
from trimtab.journal import whole
from trimtab.runs import Run
from trimtab.stages import Share, Unit

log = logging.getLogger("trimtab")
TRIES = 3  # of a unit that fails; then it is given up
DEATHS = 5  # of workers over one unit: they may be shot for no fault of it
POLL = 0.5  # seconds between two looks at what others have done
CLAIMS = "work/claims"


class Claims(Share):
    """A process that takes any unit that nobody has taken, and goes on to the next stage when all are done.

    A unit is taken by linking a file to its name, which can be done once, on network disks too. The files belong to a
    session: a new one starts afresh, and what is done is known by the units' journals and not by claims.
    """

    patient = True

    def __init__(self, folder: Path, worker: int, session: str) -> None:
        self.folder, self.worker = folder / CLAIMS / session, worker
        self.failures = self.folder / "failures"  # apart: looked through for every unit
        self.failures.mkdir(parents=True, exist_ok=True)

    def takes(self, number: int, key: str) -> bool:
        if self._given_up(key):
            return False
        aside = self.folder / f"{self.worker}.claim"
        aside.write_text(str(self.worker), "utf-8")
        try:
            os.link(aside, self.folder / key)  # signed when it is there
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True

    def failed(self, stage: str, unit: Unit, key: str, problem: Exception) -> None:
        """It may be tried again, by another process, too."""
        log.warning("%s, %s failed", stage, unit.name, exc_info=problem)
        told = f"{type(problem).__name__}: {first_line(problem)}"
        self._enter(key, {"stage": stage, "unit": unit.name, "problem": told, "died": False})

    def lost(self, stage: str) -> dict[str, str]:
        out: dict[str, str] = {}
        for path in self.failures.glob("*.json"):
            entry = json.loads(path.read_text("utf-8"))
            if entry["stage"] == stage and self._given_up(path.name.partition(".")[0]):
                out[entry["unit"]] = entry["problem"]
        return out

    def wait(self) -> None:
        time.sleep(POLL)

    # ------------------------------------------------------------ for who watches over the workers

    def bury(self, run: Run, worker: int) -> None:
        """Free what a worker that is dead had taken and not finished."""
        stages = {path.stem: run.read(f"units/{path.name}", {}) for path in run.file("units").glob("*.json")}
        keys = {key: (stage, name) for stage, units in stages.items() for name, key in units.items() if key}
        for path in self.folder.iterdir():
            try:
                if path.name not in keys or path.read_text("utf-8") != str(worker):
                    continue
            except FileNotFoundError:  # given back meanwhile
                continue
            stage, name = keys[path.name]
            if path.name not in run.journal(f"../units/{stage}").done:
                told = {"stage": stage, "unit": name, "problem": "its process died", "died": True}
                self._enter(path.name, told)

    def buried(self) -> list[str]:
        """Names of the units over which workers died."""
        entries = (json.loads(path.read_text("utf-8")) for path in sorted(self.failures.glob("*.json")))
        return list(dict.fromkeys(e["unit"] for e in entries if e["died"]))

    def clear(self) -> None:
        """Remove the claims of this session: the work is over."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # others are at work
            self.folder.parent.rmdir()

    def _enter(self, key: str, entry: dict[str, Any]) -> None:
        """A failure, and the unit is free again."""
        number = sum(1 for _ in self.failures.glob(f"{key}.*.json"))
        with whole(self.failures / f"{key}.{number}.json") as aside:
            aside.write_text(json.dumps(entry), "utf-8")
        (self.folder / key).unlink(missing_ok=True)

    def _given_up(self, key: str) -> bool:
        entries = [json.loads(p.read_text("utf-8")) for p in self.failures.glob(f"{key}.*.json")]
        counted = Counter(bool(e["died"]) for e in entries)
        return counted[False] >= TRIES or counted[True] >= DEATHS
