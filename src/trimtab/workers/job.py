"""What several processes do together: a recipe, or a study's, whose text stands in the run folder, and how they split
it. Whoever can open the folder can take a share.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab import flow, studies
from trimtab.errors import RunError
from trimtab.progress import Watch, silent
from trimtab.recipe import Recipe
from trimtab.runs import Run
from trimtab.stages import Share
from trimtab.studies import StudyRecipe

TEXT, HOW = "work/recipe.toml", "work/job.json"  # in the run folder


@dataclass(frozen=True)
class Job:
    """A recipe in a folder.

    Attributes:
        size: table of sizes of the recipe, if any.
        cwd: the folder from which paths of data are meant.
        threads: of every process. Sums are rounded as threads split them: the same number gives the same bytes.
    """

    size: str | None
    cwd: str
    threads: int

    @classmethod
    def begun(cls, recipe: Path, to: Path, size: str | None, threads: int | None, *, default: int | None = None) -> Job:
        """Check a recipe and enter it in its folder; or go on with what is entered there.

        Args:
            threads: by default as entered.
            default: where nothing is entered; all cores if not given.

        Raises:
            RecipeError: a recipe that makes no sense.
            RunError: a folder that holds something else, or was begun with another number of threads.
        """
        asked, folder = _opened(recipe, size), Run(to)
        if isinstance(asked, StudyRecipe):
            studies.checked(asked)
            studies.claimed(Run.create(to), asked.study)
        else:
            flow.checked(asked)
            flow.claim(asked, to)
        text, there = recipe.read_text("utf-8"), folder.read(HOW)
        if there is None:
            job = cls(size, str(Path.cwd()), threads or default or os.cpu_count() or 1)
            folder.write(TEXT, text)
            folder.write(HOW, asdict(job))
            return job
        job = cls(**there)
        if folder.file(TEXT).read_text("utf-8") != text or job.size != size:
            raise RunError(f"{to} was begun with another recipe", given=str(recipe), do="choose another folder")
        if threads not in (None, job.threads):
            raise RunError(
                f"{to} was begun with another number of threads", given=threads, expected=job.threads,
                do="leave out --threads, or choose another folder",
            )  # fmt: skip
        return job

    @classmethod
    def of(cls, folder: Path) -> Job:
        """What is entered in a folder.

        Raises:
            RunError: nothing is.
        """
        there = Run(folder).read(HOW)
        if there is None:
            raise RunError(f"{folder} holds no work to share", do="trimtab run RECIPE --to DIR --shard 1/2 begins it")
        return cls(**there)

    def work(self, folder: Path, watch: Watch = silent, share: Share | None = None) -> bool:
        """Do a share of it. Whether all is done."""
        import torch

        torch.set_num_threads(self.threads)
        folder = folder.absolute()
        recipe = _opened(folder / TEXT, self.size)
        with _within(self.cwd):
            if isinstance(recipe, StudyRecipe):
                return studies.work(recipe, folder, watch, share)
            return flow.work(recipe, folder, watch, share)

    def finish(self, folder: Path, seconds: float) -> Path:
        """The page, when all is done and nobody writes any more."""
        run, before = Run(folder), Run.writer
        run.tidy()
        recipe = _opened(folder / TEXT, self.size)
        Run.writer = 0  # what is written now is all of theirs
        try:
            if isinstance(recipe, StudyRecipe):
                return studies.page(folder)
            flow.finish(recipe, folder, seconds)
        finally:
            Run.writer = before
        return run.file("report.html")


def _opened(file: Path, size: str | None) -> StudyRecipe | Recipe:
    study = studies.read(file, size)
    return Recipe.load(file) if study is None else study


@contextmanager
def _within(folder: str) -> Generator[None]:
    """Within it, relative paths are meant from a folder, where that is there."""
    before = Path.cwd()
    try:
        if Path(folder).is_dir():
            os.chdir(folder)
        yield
    finally:
        os.chdir(before)
