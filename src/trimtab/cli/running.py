"""Commands that fill a run folder, or write its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
)
from trimtab.errors import RecipeError, RunError
from trimtab.names import check_name
from trimtab.recipe import GRID


@dataclass(frozen=True)
class Run:
    """Run a recipe (a file, or the name of one that comes with trimtab), or the study it names. The path of the run
    folder is the last line printed; the same command resumes an interrupted run.
    """

    recipe: Positional[Path]
    to: Path
    """The run folder."""
    size: str | None = None
    """A table [size.NAME] of the recipe, such as full; by default the keys above it."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import studies
        from trimtab.cli.bars import bars
        from trimtab.recipe import Recipe, located

        run_folder(self.to)
        recipe_file = located(self.recipe)
        study = studies.read(recipe_file, self.size)
        if study is not None:
            check_name(study.model)
            with bars(not self.common.json) as watch:
                studies.run(study, self.to, watch)
            say_report(self.to, self.common.json)
            return
        if self.size is not None:
            raise RecipeError(f"{self.recipe} has no sizes", given=self.size, do="leave out --size")
        recipe = Recipe.load(recipe_file)
        check_name(recipe.model)
        from trimtab.flow import run

        with bars(not self.common.json) as watch:
            done = run(recipe, self.to, watch)
        say_report(done.path, self.common.json)


@dataclass(frozen=True)
class Measure:
    """Score a vector, random controls and the prompt baseline on held-out items, and write the report."""

    vector: Positional[Path]
    what: OnData
    to: Path
    """The run folder; the same command resumes."""
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
        from trimtab.evaluation.sweep import measure, transcripts
        from trimtab.recipe import check_grid
        from trimtab.reports import report
        from trimtab.runs import Run as Folder
        from trimtab.steering.vector import SteeringVector

        vector = SteeringVector.load(self.vector)
        iv = self.place.of(vector)
        multipliers = self.multipliers or (GRID if vector.use is None else vector.use.grid or GRID)
        metrics = [registry.make("metric", m) for m in self.metrics]
        data = self.what.load("test")
        check_grid(multipliers)
        Folder.create(run_folder(self.to))
        lm = self.on.of(vector).load(self.common.json)
        with bars(not self.common.json) as watch:
            done = measure(
                lm,
                iv,
                data,
                metrics,
                to=self.to,
                multipliers=multipliers,
                draws=self.draws,
                among=vector if len(iv.vector.layers) == 1 else None,
                part="test",
                progress=watch("measure"),
            )
            prompts = [p.prompt for p in data][: self.samples]
            if prompts:
                transcripts(
                    lm,
                    iv,
                    prompts,
                    done,
                    multipliers=spoken_at(multipliers, iv.multiplier),
                    progress=watch("generate"),
                )
        layer = iv.vector.layers[0] if len(iv.vector.layers) == 1 else None
        done.note(file=str(self.vector), layer=layer, blocks=lm.blocks_path)
        if vector.use is not None:
            done.write("use.json", vector.use.to_json())
        report(done)
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
        from trimtab.runs import Run as Folder
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
    part: str = "test"
    """The part that holds the evaluation."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import studies
        from trimtab.reports import report
        from trimtab.runs import Run as Folder

        folder = Folder(self.folder)
        if "across" in folder.manifest:
            from trimtab.studies.pages import across

            across.page([Folder(f) for f in folder.manifest["of"]], folder)
        elif "study" in folder.manifest:
            studies.page(self.folder)
        else:
            report(self.folder, part=self.part)
        say_report(self.folder, self.common.json)
