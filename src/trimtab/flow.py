"""run(recipe): data -> model -> method -> vector -> intervention -> metrics -> report, in one resumable folder."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from trimtab import registry
from trimtab.data.datasets import Dataset, Splits
from trimtab.errors import RecipeError, RunError, TrimtabError
from trimtab.evaluation.dose import recommend
from trimtab.evaluation.metrics.base import Metric
from trimtab.evaluation.sweep import Measurement, measure, transcripts
from trimtab.methods import learn
from trimtab.methods.base import Method
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM, Positions
from trimtab.model.load import check
from trimtab.progress import Progress, Watch, silent
from trimtab.recipe import Recipe
from trimtab.reports import report
from trimtab.reports.analysis import choose_layer
from trimtab.runs import Run
from trimtab.stages import Share, Stage, Unit, carry_out
from trimtab.steering.controls import null_controls, random_controls
from trimtab.steering.interventions import Intervention, check_stack
from trimtab.steering.notation import vector_of
from trimtab.steering.use import Use
from trimtab.steering.vector import SteeringVector, kept


def run(recipe: Recipe, to: str | Path, watch: Watch = silent) -> Run:
    """Run a recipe into a folder. The same call again resumes, and repeats nothing that is finished.

    Args:
        watch: gives a progress function (done, total) for a stage's name.
    """
    started = time.monotonic()
    work(recipe, to, watch)
    return finish(recipe, to, time.monotonic() - started)


def work(recipe: Recipe, to: str | Path, watch: Watch = silent, share: Share | None = None) -> bool:
    """Do a share of a recipe, by default all of it, and write no report.

    Returns:
        Whether all of it is done.
    """
    parts = checked(recipe)
    folder = claim(recipe, to)
    loading = watch("load model")
    loading(0, 1)
    lm = LM.load(recipe.model, **recipe.loading)
    loading(1, 1)
    plan = {"recipe": recipe.to_toml(), "model": lm.facts}
    return carry_out(stages(lm, folder, recipe, parts), folder, watch, share, plan=plan)


def finish(recipe: Recipe, to: str | Path, seconds: float) -> Run:
    """The report of a run whose work is done, and the vector with its evidence."""
    folder = Run(to)
    if not folder.manifest.get("seconds"):
        folder.note(seconds=seconds)
    report(folder)
    layer = folder.manifest["layer"]
    vector = SteeringVector.load(folder.file("vectors.safetensors"))
    vector = vector if layer is None else vector.at(layer)
    there = folder.read("use.json")
    use = vector.use if there is None else Use.from_json(there, str(folder.file("use.json")))
    shipped = replace(vector, evidence=folder.read("summary.json"), use=use)
    shipped.save(folder.file("vector.safetensors"))
    return folder


def measured(
    lm: LM,
    vector: SteeringVector,
    iv: Intervention,
    data: Dataset,
    metrics: Sequence[Metric],
    to: str | Path,
    *,
    multipliers: Sequence[float],
    spoken: Sequence[float],
    samples: int = 8,
    draws: int | None = None,
    file: str = "",
    watch: Watch = silent,
) -> Run:
    """A vector on held-out items beside its controls, with its report; the same call resumes.

    Args:
        vector: at all layers that those of the intervention were chosen from.
        spoken: multipliers at which the first items are answered.
        samples: how many of them.
        file: of the vector, for the lines to copy.
    """
    one = len(iv.vector.layers) == 1
    run = measure(
        lm, iv, data, metrics, to=to, multipliers=multipliers, draws=draws, among=vector if one else None, part="test",
        progress=watch("measure"),
    )  # fmt: skip
    prompts = [p.prompt for p in data][:samples]
    if prompts:
        transcripts(lm, iv, prompts, run, multipliers=spoken, progress=watch("generate"))
    run.note(file=file, layer=iv.vector.layers[0] if one else None, blocks=lm.blocks_path)
    if vector.use is not None:
        run.write("use.json", vector.use.to_json())
    report(run)
    return run


def checked(recipe: Recipe) -> Splits:
    """The recipe's data; what the recipe cannot mean is refused before a model is loaded."""
    with named("method"):
        registry.make("method", recipe.method)
    with named("operator"):
        registry.make("operator", recipe.operator)
    with named("metrics"):
        for m in recipe.metrics:
            registry.make("metric", m)
    with named("positions"):
        Positions.parse(recipe.positions)
    check(recipe.model, dtype=recipe.dtype, device=recipe.device)
    if recipe.vector:
        with named("vector"):
            given(recipe)
    return split(recipe)


def given(recipe: Recipe) -> Intervention:
    """The vector a recipe names, as it is to be used, times one."""
    vector = vector_of(recipe.vector, recipe.vectors or None)
    return Intervention.recommended(vector, layers=() if recipe.layer is None else (recipe.layer,)).times(1.0)


def stages(lm: LM, folder: Run, recipe: Recipe, parts: Splits) -> Iterator[Stage]:
    """A recipe as stages of units: learn, choose a layer, measure."""
    metrics: list[Metric] = [registry.make("metric", m) for m in recipe.metrics]
    vector = yield from _learned(lm, folder, recipe, parts)
    if recipe.vector:
        iv = given(recipe)
    else:
        sweep = Intervention(vector, registry.make("operator", recipe.operator), positions=recipe.positions)
        layer = recipe.layer
        if layer is None:
            layer = yield from _chosen(lm, folder, recipe, parts, sweep, metrics[0])
        iv = replace(sweep, vector=vector.at(layer))
    at = iv.vector.layers
    some = [paired_rows(lm, p)[0] for p in parts.val.take(8)]
    norms = {str(k): n for k, n in lm.norms(some, at).items()}
    folder.note(layer=at[0] if len(at) == 1 else None, blocks=lm.blocks_path, residual=norms)

    controls = random_controls(iv.vector, recipe.controls, recipe.seed) | null_controls(iv.vector, recipe.controls)
    test = Measurement(
        lm,
        iv,
        parts.test,
        metrics,
        to=folder.path,
        part="test",
        multipliers=recipe.multipliers,
        controls=controls,
        draws=recipe.draws,
        among=None if recipe.vector or recipe.layer is not None else vector,
    )
    where = {"layer": at[0] if len(at) == 1 else list(at)}
    yield Stage(
        "measure",
        [
            *batches(test, "measure"),
            Unit("nulls", where, test.compare),
            Unit("generate", where, partial(_generate, lm, iv, parts.test, recipe, folder)),
            *([Unit("dose", where, partial(_dosed, lm, iv, parts.val, folder))] if recipe.dose else []),
        ],
    )


def _learned(lm: LM, folder: Run, recipe: Recipe, parts: Splits) -> Generator[Stage, None, SteeringVector]:
    """The stage that learns the vector, or takes the one that is given.

    Raises:
        RunError: the folder holds one of other data, or another one.
    """
    method: Method = registry.make("method", recipe.method)
    layers = lm.layers(recipe.layers or None) if recipe.layer is None else lm.layers([recipe.layer])
    file = folder.file("vectors.safetensors")
    folder.check_trained(parts.train.hash)

    def learned(progress: Progress) -> SteeringVector:
        folder.note(trained=parts.train.hash)
        if recipe.vector:
            return kept(file, lambda: check_stack(lm, given(recipe))[0].vector)
        return kept(file, lambda: learn(lm, parts.train, method, layers, progress=progress))

    yield Stage("learn", [Unit("learn", {"data": parts.train.hash}, learned)])
    vector = SteeringVector.load(file)
    if recipe.vector and vector.hash != given(recipe).vector.hash:
        do = "choose another folder, or restore it"
        raise RunError(f"{folder.path} holds the run of another vector", given=recipe.vector, do=do)
    return vector


def _chosen(
    lm: LM, folder: Run, recipe: Recipe, parts: Splits, sweep: Intervention, metric: Metric
) -> Generator[Stage, None, int]:
    """The stage that chooses a layer, on validation items."""
    small = tuple(m for m in (-1.0, 0.0, 1.0) if m in recipe.multipliers)  # enough to tell the steepest for sure
    grid = small if len(small) == 3 else recipe.multipliers
    layers = sweep.vector.layers
    val = Measurement(lm, sweep, parts.val, [metric], to=folder.path, part="val", multipliers=grid, layers=layers)
    yield Stage("choose layer", batches(val, "choose layer"))
    return choose_layer(folder)


def batches(sweep: Measurement, name: str) -> list[Unit]:
    """A unit for every batch of a measurement, all under one progress bar."""
    data = {"data": sweep.data.hash, "batches": len(sweep)}
    return [
        Unit(f"{name} {k}", data, lambda progress, k=k: sweep.score([k], progress), group=name)
        for k in range(len(sweep))
    ]


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


def _dosed(lm: LM, iv: Intervention, val: Dataset, folder: Run, progress: Progress) -> None:
    """How the vector is to be used, measured once on validation items, into use.json of the run."""
    if folder.read("use.json") is not None:
        return
    settled = Use(
        iv.vector.layers,
        positions=str(iv.positions),
        operator=registry.describe(iv.operator),
        gate=registry.describe(iv.gate),
    )
    use = recommend(lm, iv.vector, val, use=settled, progress=progress).use
    assert use is not None
    folder.write("use.json", use.to_json())


def _generate(lm: LM, iv: Intervention, test: Dataset, recipe: Recipe, folder: Run, progress: Progress) -> None:
    """What is said to the recipe's own prompts, filled up with test questions, unsteered and at several multipliers."""
    candidates = (*recipe.generate, *(p.prompt for p in test)) if recipe.samples else recipe.generate
    prompts = candidates[: max(recipe.samples, len(recipe.generate))]
    if prompts:
        ends = sorted({min(recipe.multipliers), -1.0, 0.0, 1.0, max(recipe.multipliers)})
        transcripts(lm, iv, prompts, folder, multipliers=ends, max_new_tokens=recipe.max_new_tokens, progress=progress)
