"""Commands that fill a run folder, or write its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tyro.conf import Positional

from trimtab.cli.flags import (
    Common,
    ForOutput,
    ModelFlags,
    OnData,
    OnModel,
    PlaceFlags,
    run_folder,
    say_report,
    show,
)
from trimtab.errors import RecipeError, RunError
from trimtab.names import check_name
from trimtab.recipe import GRID
from trimtab.runs import Run as Folder


@dataclass(frozen=True)
class Run:
    """Run a recipe (a file, or the name of one that comes with trimtab), or the study it names. The path of the run
    folder is the last line printed; the same command resumes an interrupted run.
    """

    recipe: Positional[Path]
    to: Path
    """The run folder: a path, or a URL that fsspec opens, such as s3://bucket/run."""
    size: str | None = None
    """A table [size.NAME] of the recipe, such as full; by default the keys above it."""
    workers: str | None = None
    """Several processes: local:N, ray, ray:ADDRESS, or slurm:PARTITION. The result is the same, byte for byte, with the
    same number of threads."""
    count: int | None = None
    """Of workers, on Ray and SLURM; by default as many as fit."""
    shard: str | None = None
    """K/N: do every N-th unit of the current stage from the K-th on, and stop; `trimtab merge` opens the next stage."""
    threads: int | None = None
    """Of each process; by default all cores, shared by the workers."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import storage, studies
        from trimtab.cli.bars import bars
        from trimtab.recipe import Recipe, located

        recipe_file = located(self.recipe)
        if (url := storage.address(self.to)) is not None:
            if self.workers is not None and self.workers not in ("ray",) and self.workers[:5] != "local":
                raise RecipeError(
                    "these workers need a disk that all of them see", given=url, do="--shard K/N on each, and merge"
                )
            if self.shard is not None and self.threads is None:
                raise RecipeError(
                    "shards on machines that do not see each other", expected="--threads N, the same on all of them"
                )
            with storage.here(self.to) as folder:
                replace(self, to=folder)._together(recipe_file, url)
            return
        run_folder(self.to)
        several = (self.workers, self.shard, self.threads, self.count)
        if any(x is not None for x in several) or (self.to / "work").is_dir():
            self._together(recipe_file)
            return
        study = studies.read(recipe_file, self.size)
        if study is not None:
            check_name(study.model)
            with bars(not self.common.json) as watch:
                studies.run(study, self.to, watch)
            say_report(self.to, self.common.json)
            return
        recipe = Recipe.load(recipe_file)
        check_name(recipe.model)
        from trimtab.flow import run

        with bars(not self.common.json) as watch:
            done = run(recipe, self.to, watch)
        say_report(done.path, self.common.json)

    def _together(self, recipe: Path, called: str = "") -> None:
        """As one of several, or with several; or alone in a folder that several have begun.

        Args:
            called: what the folder is called, where it is a copy.
        """
        from trimtab import workers
        from trimtab.cli.bars import bars
        from trimtab.workers.merge import left

        if self.workers is not None and self.shard is not None:
            raise RecipeError("--workers and --shard", expected="one of them")
        if self.count is not None and (self.count < 1 or not self.workers or self.workers[:5] == "local"):
            raise RecipeError("--count", given=self.count, expected="1 or more, with --workers ray or slurm")
        if self.threads is not None and self.threads < 1:
            raise RecipeError("--threads", given=self.threads, expected="1 or more")
        shard = None if self.shard is None else _shard(self.shard)
        with bars(not self.common.json) as watch:
            if self.workers is not None:
                workers.run(
                    recipe, self.to, self.workers, size=self.size, threads=self.threads, count=self.count, watch=watch
                )
                shard = None
            else:
                workers.alone(recipe, self.to, shard, size=self.size, threads=self.threads, watch=watch)
        if shard is not None:
            missing = {stage: len(names) for stage, names in left(Folder(self.to)).items()}
            name = called or str(self.to)
            facts = {"path": name, "left": missing}
            lines = [f"stage {stage}: {n} units left to others" for stage, n in missing.items()]
            show(facts, self.common.json, [*lines, f"when all are done: trimtab merge {name}", name])
            return
        say_report(self.to, self.common.json, called)


def _shard(text: str) -> tuple[int, int]:
    """(K - 1, N) of K/N."""
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise RecipeError("not a shard", given=text, expected="K/N, such as 3/16, with K from 1 to N")
    return int(k) - 1, int(n)


@dataclass(frozen=True)
class Merge:
    """Put shares of a run together that `trimtab run --shard` did: check that a stage is complete, open the next one;
    of a finished run write the report.
    """

    folder: Positional[Path]
    """A path, or a URL that fsspec opens."""
    others: Positional[tuple[Path, ...]] = ()
    """Folders of shares that were done where this one could not be seen."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import storage
        from trimtab.cli.bars import bars
        from trimtab.workers.merge import left, merge

        name = storage.address(self.folder) or str(self.folder)
        with storage.here(self.folder) as folder:
            with bars(not self.common.json) as watch:
                page = merge(folder, self.others, watch)
            if page is not None:
                say_report(folder, self.common.json, name)
                return
            opened = {stage: len(names) for stage, names in left(Folder(folder)).items()}
        lines = [f"stage {stage}: {n} units, open" for stage, n in opened.items()]
        show({"path": name, "left": opened}, self.common.json, [*lines, name])


@dataclass(frozen=True)
class Measure:
    """Score a vector, random controls and the prompt baseline on held-out items, and write the report."""

    vector: Positional[Path]
    """A vector's file; with --vectors, a line such as "0.6 pirate + formal"."""
    what: OnData
    to: Path
    """The run folder; the same command resumes."""
    vectors: Path | None = None
    """Folder of vectors, which a line calls by the names of their files."""
    metrics: tuple[str, ...] = ("propensity", "likelihood", "kl", "outside-mass")
    """What to score; trimtab list names them."""
    multipliers: tuple[float, ...] = ()
    """Times the stored vector, 0 among them; by default up to the recommended dose both ways, or -1.5 to 1.5."""
    place: PlaceFlags = field(default_factory=PlaceFlags)
    draws: int = 499
    """Null vectors of a kind to compare with; the verdict needs 199."""
    samples: int = 8
    """Questions that are answered unsteered and at the dose both ways, to see whether the text breaks."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        self.on.check()
        from trimtab import registry
        from trimtab.cli.bars import bars
        from trimtab.flow import measured
        from trimtab.recipe import check_grid
        from trimtab.steering.notation import vector_of

        vector = vector_of(self.vector, self.vectors)
        iv = self.place.of(vector)
        multipliers = self.multipliers or (GRID if vector.use is None else vector.use.grid or GRID)
        metrics = [registry.make("metric", m) for m in self.metrics]
        data = self.what.load("test")
        check_grid(multipliers)
        Folder.create(run_folder(self.to))
        lm = self.on.of(vector).load(self.common.json)
        with bars(not self.common.json) as watch:
            done = measured(
                lm,
                vector,
                iv,
                data,
                metrics,
                self.to,
                multipliers=multipliers,
                spoken=spoken_at(multipliers, iv.multiplier),
                samples=self.samples,
                draws=self.draws,
                file=str(self.vector),
                watch=watch,
            )
        say_report(done.path, self.common.json)


def spoken_at(multipliers: Sequence[float], dose: float) -> list[float]:
    """The multipliers at which answers are shown: the unsteered model, and the dose both ways, as far as the grid has
    them; its ends else.
    """
    chosen = {m for m in (-dose, 0.0, dose) if m in multipliers}
    return sorted(chosen if len(chosen) > 1 else {min(multipliers), 0.0, max(multipliers)})


@dataclass(frozen=True)
class Across:
    """Put finished runs of one study, of several models, side by side: what they agree on, and what carries over."""

    folders: Positional[tuple[Path, ...]]
    to: Path = Path("across")
    """Folder to write the page into."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.studies.pages import across

        runs = [Folder(f) for f in self.folders]
        for run in runs:
            if "study" not in run.manifest:
                raise RunError(f"{run.path} holds no study", expected="folders of finished studies")
        across.page(runs, Folder.create(run_folder(self.to)))
        say_report(self.to, self.common.json)


@dataclass(frozen=True)
class Report:
    """Write the report of a run folder again: of a recipe, a measurement, a study, or of several side by side."""

    folder: Positional[Path]
    """A path, or a URL that fsspec opens."""
    part: str = "test"
    """The part that holds the evaluation."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import storage

        with storage.here(self.folder) as path:
            self._written(path)
            say_report(path, self.common.json, storage.address(self.folder) or "")

    def _written(self, path: Path) -> None:
        from trimtab import studies
        from trimtab.reports import report

        folder = Folder(path)
        if "across" in folder.manifest:
            from trimtab.studies.pages import across

            across.page([Folder(f) for f in folder.manifest["of"]], folder)
        elif "study" in folder.manifest:
            studies.page(path)
        else:
            report(path, part=self.part)
