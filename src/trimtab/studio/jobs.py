"""What is being learned: jobs in a queue, one at a time, each in a process of its own, so that talk goes on. They stand
in the folder of runs, under `.studio`; after a crash the queue is read from there, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec

from trimtab.errors import RecipeError
from trimtab.journal import whole
from trimtab.studio.shelved import RUN, free_name
from trimtab.workers.engines import bound

log = logging.getLogger("trimtab")
HIDDEN, DROPPED = ".studio", "dropped"  # in the folder of runs: the queue; vectors that were dropped on the page
Kind = Literal["sentence", "pairs", "example", "measure"]
State = Literal["waiting", "running", "done", "failed", "stopped"]
OVER: tuple[State, ...] = ("done", "failed", "stopped")


@dataclass
class Job:
    """Something that is learned.

    Attributes:
        name: of its run folder, and of the vector it gives.
        asked: the fields of its form.
        loading: the model, and how it is loaded.
        state: where it stands.
        told: what came of it, in sentences; or why it failed.
        made: when, in seconds of the clock.
    """

    name: str
    kind: Kind
    asked: dict[str, Any]
    loading: dict[str, Any]
    state: State = "waiting"
    told: list[str] = field(default_factory=list[str])
    made: float = 0.0


@dataclass(frozen=True)
class Files:
    """What belongs to a job.

    Attributes:
        runs: the folder of run folders.
        name: of the job.
    """

    runs: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where its result is."""
        return self.runs / self.name

    @property
    def asked(self) -> Path:
        return self.runs / HIDDEN / f"{self.name}.json"

    @property
    def progress(self) -> Path:
        return self.runs / HIDDEN / f"{self.name}.progress"

    @property
    def log(self) -> Path:
        return self.runs / HIDDEN / f"{self.name}.log"


class Queue:
    """Jobs in a folder of run folders.

    Args:
        done: called with a job that has made a vector.
    """

    def __init__(self, runs: Path, loading: Mapping[str, Any], done: Callable[[Job], object]) -> None:
        self.runs, self.loading, self._done = runs, dict(loading), done
        self._lock = _locked(runs)
        self.jobs = {job.name: job for job in found(runs, alone=self._lock is not None)}
        self._wake = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._now: Job | None = None

    def files(self, job: Job) -> Files:
        return Files(self.runs, job.name)

    def add(self, kind: Kind, label: str, asked: Mapping[str, Any], taken: Mapping[str, Any]) -> Job:
        """Put a job at the end.

        Args:
            taken: names that are not free.

        Raises:
            RecipeError: another studio learns in this folder.
        """
        if self._lock is None:
            raise RecipeError(
                f"another studio learns in {self.runs}", do="learn there, or start this one with --runs DIR"
            )
        there = {p.name: None for p in self.runs.iterdir()} if self.runs.is_dir() else {}
        name = free_name(label[:40], {**there, **taken, **self.jobs, DROPPED: None})
        job = Job(name, kind, dict(asked), self.loading, made=time.time())
        self.files(job).folder.mkdir(parents=True, exist_ok=True)
        self._set(job, "waiting", [])
        self.jobs[job.name] = job
        self._wake.set()
        return job

    def stop(self, job: Job) -> None:
        """End a job that waits or runs; what it has done is kept."""
        if job.state not in OVER:
            self._set(job, "stopped", ["Stopped."])
        if job is self._now:
            self._kill()

    def go_on(self, job: Job) -> None:
        """Put a job that was stopped, or failed, at the end again."""
        self._check_ended(job)
        job.made = time.time()
        self._set(job, "waiting", [])
        self._wake.set()

    def forget(self, job: Job) -> None:
        """Take a job that is over from the list; its folder stays."""
        self._check_ended(job)
        del self.jobs[job.name]
        self.files(job).asked.unlink(missing_ok=True)

    def _check_ended(self, job: Job) -> None:
        if job.state not in OVER or job is self._now:
            raise RecipeError("this is not over", given=job.name, do="stop it first, and wait a moment")

    async def work(self) -> None:
        """Carry out what waits, oldest first, until canceled."""
        try:
            while self._lock is not None:
                self._wake.clear()
                waiting = sorted((j for j in self.jobs.values() if j.state == "waiting"), key=lambda j: j.made)
                if not waiting:
                    await self._wake.wait()
                    continue
                self._now = waiting[0]
                try:
                    await self._carry_out(waiting[0])
                except Exception as problem:  # of the disk, of a vector that finds no place: the next one goes on
                    log.exception("%s could not be learned", waiting[0].name)
                    waiting[0].state, waiting[0].told = "failed", [f"{type(problem).__name__}: {problem}"]
                self._now = None
        finally:
            self._kill()
            if self._lock is not None:  # another studio may go on
                self._lock.close()

    async def _carry_out(self, job: Job) -> None:
        files = self.files(job)
        files.progress.unlink(missing_ok=True)
        self._set(job, "running", [])
        words = [*bound("trimtab.studio.learning"), str(self.runs), job.name]
        with files.log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # ctrl-C is the studio's: the job then waits for the next one
            )
        if job.state != "running":  # stopped meanwhile
            self._kill()
        code = await self._process.wait()
        self._process = None
        if job.state != "running":
            return
        if code == 0 and (files.folder / RUN).is_file():
            self._done(job)
        told = read_json(files.progress).get("told") or [f"Its process ended ({code}); see {files.log}."]
        self._set(job, "done" if code == 0 else "failed", told)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _set(self, job: Job, state: State, told: list[str]) -> None:
        job.state, job.told = state, told
        write_json(self.files(job).asked, asdict(job))

    def listed(self) -> list[dict[str, Any]]:
        """Every job, newest first, with how far it is."""
        out: list[dict[str, Any]] = []
        for job in sorted(self.jobs.values(), key=lambda j: -j.made):
            files = self.files(job)
            progress = read_json(files.progress) if job.state == "running" else {}
            about: dict[str, Any] = {k: getattr(job, k) for k in ("name", "kind", "state", "told")}
            about["asked"] = {k: len(v) if k == "pairs" else v for k, v in job.asked.items()}
            vector, report = (files.folder / RUN).is_file(), (files.folder / "report.html").is_file()
            out.append({**about, "progress": progress, "vector": vector, "report": report})
        return out


def _locked(runs: Path) -> Any:
    """The folder's queue for this process alone, as long as it holds what is returned; None if another has it."""
    (runs / HIDDEN).mkdir(parents=True, exist_ok=True)
    file = (runs / HIDDEN / "lock").open("w")
    if find_spec("fcntl") is None:  # a system without such locks
        return file
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def found(runs: Path, *, alone: bool = True) -> list[Job]:
    """The jobs of a folder of run folders.

    Args:
        alone: nobody else carries them out: what was under way when a studio ended waits again.
    """
    out: list[Job] = []
    for file in sorted((runs / HIDDEN).glob("*.json")):
        with contextlib.suppress(msgspec.ValidationError):  # of another version
            job = msgspec.convert(read_json(file), Job)
            job.name = file.stem
            job.state = "waiting" if job.state == "running" and alone else job.state
            out.append(job)
    return out


def write_json(path: Path, value: Any) -> None:
    """A JSON file, replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as aside:
        aside.write_text(json.dumps(value), "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; empty where there is nothing."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
