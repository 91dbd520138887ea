"""Commands that fill a run folder, or write its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from trimtab.cli.flags import Common, DataFlags, ModelFlags, intervention, say_report
from trimtab.recipe import GRID


@dataclass(frozen=True)
class Run:
    """Run a recipe, or the study it names. The path of the run folder is the last line printed; the same command
    resumes an interrupted run.
    """

    recipe: Positional[Path]
    to: Path
    """The run folder."""
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import studies
        from trimtab.cli.bars import bars
        from trimtab.recipe import Recipe

        study = studies.read(self.recipe)
        if study is not None:
            with bars(not self.common.json) as watch:
                studies.run(study, self.to, watch)
            say_report(self.to, self.common.json)
            return
        recipe = Recipe.load(self.recipe)
        from trimtab.flow import run

        with bars(not self.common.json) as watch:
            done = run(recipe, self.to, watch)
        say_report(done.path, self.common.json)


@dataclass(frozen=True)
class Measure:
    """Score a vector, random controls and the prompt baseline on held-out items, and write the report."""

    vector: Positional[Path]
    what: DataFlags
    to: Path
    """The run folder; the same command resumes."""
    metrics: tuple[str, ...] = ("propensity", "likelihood", "kl", "outside-mass")
    multipliers: tuple[float, ...] = GRID
    layer: int | None = None
    """Layer of the vector to use; all of its layers together by default. The verdict counts it as the best of those the
    file holds.
    """
    operator: str = "add"
    positions: str = "from_last_prompt_token"
    draws: int = 499
    """Null vectors of a kind to compare with; the verdict needs 199."""
    samples: int = 8
    """Questions that are answered unsteered and at multipliers -1 and 1, to see whether the text breaks."""
    on: ModelFlags = field(default_factory=ModelFlags)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import registry
        from trimtab.cli.bars import bars
        from trimtab.evaluation.sweep import measure, transcripts
        from trimtab.recipe import check_grid
        from trimtab.reports import report
        from trimtab.runs import Run as Folder
        from trimtab.steering.vector import SteeringVector

        layers = () if self.layer is None else (self.layer,)
        iv = intervention(self.vector, self.operator, 1.0, self.positions, layers)
        metrics = [registry.make("metric", m) for m in self.metrics]
        data = self.what.load("test")
        check_grid(self.multipliers)
        self.on.keywords()
        Folder.create(self.to)
        lm = self.on.load()
        with bars(not self.common.json) as watch:
            among = None if self.layer is None else SteeringVector.load(self.vector)
            done = measure(
                lm,
                iv,
                data,
                metrics,
                to=self.to,
                multipliers=self.multipliers,
                draws=self.draws,
                among=among,
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
                    multipliers=[m for m in (-1.0, 0.0, 1.0) if m in self.multipliers],
                    progress=watch("generate"),
                )
        done.note(layer=self.layer)
        report(done)
        say_report(done.path, self.common.json)


@dataclass(frozen=True)
class Report:
    """Write the report of a run folder again: that of a recipe, a measurement or a study."""

    folder: Positional[Path]
    part: str = "test"
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import studies
        from trimtab.reports import report
        from trimtab.runs import Run as Folder

        if "study" in Folder(self.folder).manifest:
            studies.page(self.folder)
        else:
            report(self.folder, part=self.part)
        say_report(self.folder, self.common.json)
