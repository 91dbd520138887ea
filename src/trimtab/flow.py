"""run(recipe): data -> model -> method -> vector -> intervention -> metrics -> report, in one resumable folder."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from trimtab import registry
from trimtab.data.datasets import Dataset, Splits
from trimtab.errors import RecipeError, RunError, TrimtabError
from trimtab.evaluation.dose import recommend
from trimtab.evaluation.metrics.base import Metric
from trimtab.evaluation.sweep import measure, transcripts
from trimtab.methods import learn
from trimtab.methods.base import Method
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM, Positions
from trimtab.model.load import check
from trimtab.progress import Watch, silent
from trimtab.recipe import Recipe
from trimtab.reports import report
from trimtab.reports.analysis import choose_layer
from trimtab.runs import Run
from trimtab.steering.controls import null_controls, random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.use import Use
from trimtab.steering.vector import kept


def run(recipe: Recipe, to: str | Path, watch: Watch = silent) -> Run:
    """Run a recipe into a folder. The same call again resumes, and repeats nothing that is finished.

    Args:
        watch: gives a progress function (done, total) for a stage's name.
    """
    started = time.monotonic()
    with named("method"):
        method: Method = registry.make("method", recipe.method)
    with named("operator"):
        operator = registry.make("operator", recipe.operator)
    with named("metrics"):
        metrics = [registry.make("metric", m) for m in recipe.metrics]
    with named("positions"):
        positions = Positions.parse(recipe.positions)
    check(recipe.model, dtype=recipe.dtype, device=recipe.device)
    parts = split(recipe)
    folder = claim(recipe, to)
    loading = watch("load model")
    loading(0, 1)
    lm = LM.load(recipe.model, **recipe.loading)
    loading(1, 1)
    layers = lm.layers(recipe.layers or None) if recipe.layer is None else lm.layers([recipe.layer])

    vector = kept(
        folder.file("vectors.safetensors"), lambda: learn(lm, parts.train, method, layers, progress=watch("learn"))
    )
    sweep = Intervention(vector, operator, positions=positions)
    layer = _layer(lm, sweep, parts.val, metrics, recipe, folder, watch) if recipe.layer is None else recipe.layer
    some = [paired_rows(lm, p)[0] for p in parts.val.take(8)]
    folder.note(layer=layer, blocks=lm.blocks_path, residual={str(k): n for k, n in lm.norms(some, [layer]).items()})

    iv = replace(sweep, vector=vector.at(layer))
    controls = random_controls(iv.vector, recipe.controls, recipe.seed) | null_controls(iv.vector, recipe.controls)
    measure(
        lm,
        iv,
        parts.test,
        metrics,
        to=folder.path,
        part="test",
        multipliers=recipe.multipliers,
        controls=controls,
        draws=recipe.draws,
        among=vector if recipe.layer is None else None,
        progress=watch("measure"),
    )
    _generate(lm, iv, parts.test, recipe, folder, watch)
    use = _dosed(lm, iv, parts.val, folder, watch) if recipe.dose else vector.use
    if not folder.manifest.get("seconds"):
        folder.note(seconds=time.monotonic() - started)
    report(folder)
    shipped = replace(vector.at(layer), evidence=folder.read("summary.json"), use=use)
    shipped.save(folder.file("vector.safetensors"))
    return folder


@contextmanager
def named(key: str) -> Generator[None]:
    """Errors inside say which key of the recipe they are about."""
    try:
        yield
    except TrimtabError as problem:
        raise RecipeError(
            f"recipe, {key!r}: {problem.failed}", given=problem.given, expected=problem.expected, do=problem.do
        ) from problem


def split(recipe: Recipe) -> Splits:
    """The recipe's data as disjoint parts."""
    data = Dataset.load(recipe.data, form=recipe.form)
    data = replace(data, ask=dict(recipe.ask)) if recipe.ask else data
    return (data.take(recipe.limit) if recipe.limit else data).split(seed=recipe.seed)


def claim(recipe: Recipe, to: str | Path) -> Run:
    """The run folder, with the recipe in it.

    Raises:
        RunError: it holds another recipe's run.
    """
    folder = Run.create(to)
    there = folder.file("recipe.toml")
    if there.is_file() and Recipe.load(there) != recipe:
        raise RunError(f"{folder.path} holds the run of another recipe", given=str(there), do="choose another folder")
    folder.write("recipe.toml", recipe.to_toml())
    return folder


def _layer(
    lm: LM, sweep: Intervention, val: Dataset, metrics: Sequence[Metric], recipe: Recipe, folder: Run, watch: Watch
) -> int:
    """The layer whose slope on validation items is steepest for sure; three multipliers are enough to tell."""
    small = tuple(m for m in (-1.0, 0.0, 1.0) if m in recipe.multipliers)
    grid = small if len(small) == 3 else recipe.multipliers
    measure(
        lm, sweep, val, metrics[:1], to=folder.path, part="val", multipliers=grid, layers=sweep.vector.layers,
        progress=watch("choose layer"),
    )  # fmt: skip
    return choose_layer(folder)


def _dosed(lm: LM, iv: Intervention, val: Dataset, folder: Run, watch: Watch) -> Use:
    """How the vector is to be used, measured once on validation items, into use.json of the run."""
    there = folder.read("use.json")
    if there is not None:
        return Use.from_json(there, str(folder.file("use.json")))
    settled = Use(iv.vector.layers, positions=str(iv.positions), operator=registry.describe(iv.operator))
    use = recommend(lm, iv.vector, val, use=settled, progress=watch("dose")).use
    assert use is not None
    folder.write("use.json", use.to_json())
    return use


def _generate(lm: LM, iv: Intervention, test: Dataset, recipe: Recipe, folder: Run, watch: Watch) -> None:
    """What is said to the recipe's own prompts, filled up with test questions, unsteered and at several multipliers."""
    candidates = (*recipe.generate, *(p.prompt for p in test)) if recipe.samples else recipe.generate
    prompts = candidates[: max(recipe.samples, len(recipe.generate))]
    if prompts:
        ends = sorted({min(recipe.multipliers), -1.0, 0.0, 1.0, max(recipe.multipliers)})
        transcripts(
            lm, iv, prompts, folder, multipliers=ends, max_new_tokens=recipe.max_new_tokens, progress=watch("generate")
        )
