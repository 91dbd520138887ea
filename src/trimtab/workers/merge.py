"""`trimtab merge`: shares that were done apart become one run, and its next stage is opened."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from trimtab.errors import RunError
from trimtab.progress import Watch, silent
from trimtab.runs import Run
from trimtab.stages import Share, done_units
from trimtab.workers.job import HOW, TEXT, Job


class _Nothing(Share):
    """Looks at stages, and does no unit of them."""

    def takes(self, number: int, key: str) -> bool:
        return False


def merge(folder: Path, others: Sequence[Path] = (), watch: Watch = silent, seconds: float = 0.0) -> Path | None:
    """Put shares together, check that the stage is complete, make its choice and open the next one.

    Args:
        others: folders of shares that were done where this one could not be seen; they stay as they are.

    Returns:
        The page of a run that is finished; None if there is a next stage to do.

    Raises:
        RunError: folders of different runs, or units that nobody has done, by name.
    """
    job = Job.of(folder)
    for other in others:
        _same(folder, other)
    run = Run(folder)
    missing = {f"{stage}: {name}" for stage, names in left(run, *map(Run, others)).items() for name in names}
    if missing:  # nothing is touched: others may be at work
        raise RunError(
            f"{folder} lacks {len(missing)} units",
            given=sorted(missing)[:8],
            expected="all units of a stage",
            do="run their shards, or name the folders they are in: trimtab merge DIR OTHER ...",
        )
    for other in others:
        _taken(folder, other)
    run.tidy()
    return job.finish(folder, seconds) if job.work(folder, watch, _Nothing()) else None


def left(*runs: Run) -> dict[str, list[str]]:
    """Units that are not done in any of these folders, by stage, of the stages that were opened."""
    out: dict[str, list[str]] = {}
    for stage in sorted({path.stem for run in runs for path in run.file("units").glob("*.json")}):
        keys = {name: key for run in runs for name, key in run.read(f"units/{stage}.json", {}).items()}
        names = sorted(keys.keys() - {name for run in runs for name in done_units(run, stage, keys)})
        if names:
            out[stage] = names
    return out


def _same(folder: Path, other: Path) -> None:
    """Refuse the share of another run.

    Raises:
        RunError: it is one.
    """
    for name in (TEXT, HOW):
        mine, theirs = Run(folder).file(name), Run(other).file(name)
        if not theirs.is_file():
            raise RunError(f"{other} holds no share of a run", expected=f"a folder with {name}")
        if name == TEXT and mine.read_bytes() != theirs.read_bytes():
            raise RunError(f"{other} is a share of another run", given=str(theirs), expected=f"the recipe of {folder}")
    mine, theirs = Job.of(folder), Job.of(other)
    if (mine.threads, mine.size) != (theirs.threads, theirs.size):
        raise RunError(
            f"{other} was done with another number of threads, or in another size",
            given=(theirs.threads, theirs.size),
            expected=(mine.threads, mine.size),
        )
    here, there = (Run(f).manifest.get("parts", {}) for f in (folder, other))
    differing = sorted(part for part in here.keys() & there.keys() if here[part] != there[part])
    if differing:
        raise RunError(
            f"{other} is a share of another run", given=differing, expected=f"the same model and data as in {folder}"
        )


def _taken(folder: Path, other: Path) -> None:
    """Everything of another share: journals as further parts, manifests beside this one's, other files where there is
    none.
    """
    for path in sorted(p for p in other.rglob("*") if p.is_file() and "work" not in p.relative_to(other).parts[:1]):
        to = folder / path.relative_to(other)
        to.parent.mkdir(parents=True, exist_ok=True)
        first = to.with_name(path.stem.partition("~")[0] + path.suffix)  # of a journal, or of manifests
        if path.suffix == ".jsonl" or first.name == "run.json":
            to = _free(first)
        elif to.is_file():
            continue
        shutil.copyfile(path, to)


def _free(path: Path) -> Path:
    """A name beside a path that nothing has: NAME~2.SUFFIX, ..."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}~{number}{path.suffix}")
    return free
