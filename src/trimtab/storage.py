"""Run folders that are not on a disk of this machine: s3://, gs://, hf://, memory://, whatever fsspec opens.

    with here("s3://bucket/runs/r") as folder:     # what is there, in a folder of this machine
        run(recipe, folder)                        # and what is written goes there, a few seconds later

Files only grow or are replaced whole, and two processes never write the same one: journals and manifests have a part
for each writer, whose number is drawn at random here. So nothing is locked, and a process that is killed loses the
seconds since it last wrote.
"""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from trimtab import journal
from trimtab.errors import RunError, first_line
from trimtab.runs import Run, check_held

log = logging.getLogger("trimtab")
PERIOD = 5.0  # seconds between two looks at what was written
URL = re.compile(r"([a-z][a-z0-9+]+):/+(.*)", re.DOTALL)  # a path keeps one slash of two; a drive has one letter
OURS = ("work/claims/", "work/logs/")  # of processes of this machine alone
PARTS = "TRIMTAB_PARTS"  # in the environment of workers on this machine: where numbers of their parts begin
RUN = {"run.json", "recipe.toml", "work", "units", "scores"}  # what is in the folder of a run


def address(path: str | Path) -> str | None:
    """The URL that a path stands for; None for a path of this machine."""
    match = URL.fullmatch(str(path))
    return None if match is None else f"{match[1]}://{'/' if match[1] == 'file' else ''}{match[2]}"


@contextmanager
def here(path: str | Path) -> Generator[Path]:
    """A folder of this machine with what is at a URL, which gets what is written into it; a path of this machine is
    itself.

    Raises:
        RunError: it cannot be opened or written to. What was written then stays here, and is named.
    """
    url = address(path)
    if url is None:
        yield Path(path)
        return
    folder = Path(tempfile.mkdtemp(prefix="trimtab-"))
    mirror, stop = _Mirror(url, folder), threading.Event()
    try:
        mirror.fetch()
        mirror.probe()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    thread = threading.Thread(target=mirror.keep, args=(stop,), daemon=True)
    before = journal.first, Run.writer
    # it grows with time, so that parts are read in the order they were begun; no other process has it
    journal.first = Run.writer = (int(time.time()) * 1000 + random.SystemRandom().randrange(1000)) * 1000
    os.environ[PARTS] = str(Run.writer)
    thread.start()
    try:
        yield folder
    finally:
        journal.first, Run.writer = before
        del os.environ[PARTS]
        stop.set()
        thread.join()
        try:
            mirror.push(last=True)
        except Exception as problem:
            raise RunError(
                f"cannot write to {url}", given=first_line(problem), expected="a place that can be written to",
                do=f"what was done is in {folder}: copy it there, and run the same command again",
            ) from problem  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)


class _Mirror:
    """A URL and a folder of this machine."""

    def __init__(self, url: str, folder: Path) -> None:
        """Open the address; nothing is read yet.

        Raises:
            RunError: nothing here knows how.
        """
        self.url, self.folder = url, folder
        try:
            self.files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as problem:
            raise RunError(
                f"cannot open {url}", given=first_line(problem),
                do="install the package of fsspec that knows such addresses: s3fs, gcsfs, adlfs, ...",
            ) from problem  # fmt: skip
        self.root = root.rstrip("/")
        self.known: dict[str, tuple[int, int]] = {}  # by name: size and time as they were when both sides agreed

    def fetch(self) -> None:
        """Everything that is there.

        Raises:
            RunError: it cannot be read.
        """
        try:
            self.files.invalidate_cache()
            found: list[str] = list(self.files.find(self.root)) if self.files.exists(self.root) else []
            names = [str(PurePosixPath(remote).relative_to(self.root)) for remote in found]
        except Exception as problem:  # of a foreign file system, in one of many ways
            raise RunError(f"cannot read {self.url}", given=first_line(problem), do="try another address") from problem
        check_held(self.url, {name.partition("/")[0] for name in names if _ours(name)}, RUN)
        for name in filter(_ours, names):
            local = self.folder / name
            local.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.files.get_file(f"{self.root}/{name}", str(local))
            except FileNotFoundError:  # put together with others meanwhile
                continue
            except Exception as problem:
                raise RunError(f"cannot read {self.url}/{name}", given=first_line(problem), do="try again") from problem
            self.known[name] = _state(local)

    def probe(self) -> None:
        """Refuse, before any work, a place that cannot be written to.

        Raises:
            RunError: it cannot.
        """
        mark = f"{self.root}/.writable-{random.SystemRandom().randrange(10**9)}"
        try:
            self.files.makedirs(self.root, exist_ok=True)
            self.files.pipe_file(mark, b"")
            self.files.rm_file(mark)
        except Exception as problem:
            raise RunError(f"cannot write to {self.url}", given=first_line(problem), do="try another one") from problem

    def keep(self, stop: threading.Event) -> None:
        """Write what is new there, every few seconds."""
        while not stop.wait(PERIOD):
            try:
                self.push()
            except Exception as problem:  # it is tried again, and at the end it counts
                log.warning("cannot write to %s now: %s", self.url, first_line(problem))

    def push(self, *, last: bool = False) -> None:
        """Write what is new there; at the end also take away what is not here any more.

        What says that units are done is read first and written last: whoever finds it there finds what they left.
        """
        here = {p.relative_to(self.folder).as_posix(): p for p in self.folder.rglob("*") if p.is_file()}
        names = {name for name in here if _ours(name)}
        marks = sorted(name for name in names if name.startswith("units/") and name.endswith(".jsonl"))
        with tempfile.TemporaryDirectory(prefix="trimtab-") as aside:
            copies: list[tuple[str, Path, tuple[int, int]]] = []
            for name in marks:
                state = _state(here[name])
                if self.known.get(name) != state:
                    copy = Path(aside, f"{len(copies)}")
                    shutil.copyfile(here[name], copy)
                    copies.append((name, copy, state))
            for name in sorted(names - {*marks}):
                with suppress(FileNotFoundError):  # replaced meanwhile
                    state = _state(here[name])
                    if self.known.get(name) != state:
                        self._put(here[name], name)
                        self.known[name] = state
            for name, copy, state in copies:
                self._put(copy, name)
                self.known[name] = state
        for name in set(self.known) - names if last else ():
            with suppress(FileNotFoundError):
                self.files.rm_file(f"{self.root}/{name}")
            del self.known[name]

    def _put(self, local: Path, name: str) -> None:
        remote = f"{self.root}/{name}"
        files: Any = self.files
        files.makedirs(remote.rpartition("/")[0], exist_ok=True)
        files.put_file(str(local), remote)


def _ours(name: str) -> bool:
    """Whether a file belongs to the run: not half of one, nor of processes of one machine."""
    last = PurePosixPath(name).name
    return last[0] != "." and not last.endswith(".part") and not name.startswith(OURS)


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
