"""Studies: published experiments as functions over the parts of trimtab, one file each. A recipe with a `study` key runs one."""

from __future__ import annotations

import glob
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from trimtab import registry
from trimtab.errors import DataError, RecipeError, RunError, UnknownName
from trimtab.recipe import LOADING, Run

Watch = Callable[[str], Callable[..., None]]
NAMES = ("alignment-faking", "bipo", "emergent", "one-shot", "quirk", "refusal", "reliability", "retraction")


@dataclass(frozen=True)
class StudyRecipe:
    """A study and what to run it on.

    Attributes:
        study: its name.
        model, loading: as for `LM.load`.
        plan: the fields of the study's plan.
    """

    study: str
    model: str
    loading: Mapping[str, Any]
    plan: Mapping[str, Any]


def read(path: str | Path) -> StudyRecipe | None:
    """The study a recipe file asks for; None if it asks for none (an ordinary recipe, or no readable file).

    Raises:
        UnknownName: a study trimtab does not have.
        RecipeError: no model.
    """
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    if "study" not in table:
        return None
    name = table.pop("study")
    if name not in NAMES:
        raise UnknownName("study", name, NAMES)
    if not isinstance(table.get("model"), str):
        raise RecipeError(f"{path}: no model", given=table.get("model"), expected='model = "..."')
    loading = {k: table.pop(k) for k in LOADING if k in table}
    return StudyRecipe(name, table.pop("model"), loading, table)


def run(recipe: StudyRecipe, to: str | Path, watch: Watch) -> Path:
    """Run a study into a folder; the same call resumes.

    Returns:
        The page it wrote.

    Raises:
        RunError: the folder cannot be written to, or holds another study.
    """
    folder = Run.create(to)
    if folder.manifest.get("study", recipe.study) != recipe.study:
        raise RunError(f"{folder.path} holds another study", given=recipe.study, expected=folder.manifest["study"], do="choose another folder")
    folder.note(study=recipe.study)
    plans = {"bipo": _bipo, "one-shot": _one_shot, "reliability": _reliability}
    return plans.get(recipe.study, _plain)(recipe, Path(to), watch)


def _plain(recipe: StudyRecipe, to: Path, watch: Watch) -> Path:
    """A study that is a function of its module, named as the study is, with a plan of plain fields."""
    from trimtab.model import LM

    module = import_module(f"trimtab.studies.{recipe.study.replace('-', '_')}")
    plan = registry.build(module.Plan, recipe.plan, where=f"study {recipe.study}")
    return getattr(module, recipe.study.replace("-", "_"))(LM.load(recipe.model, **recipe.loading), to, plan, watch)


def _one_shot(recipe: StudyRecipe, to: Path, watch: Watch) -> Path:
    from trimtab.methods import OneShot
    from trimtab.model import LM
    from trimtab.studies import one_shot

    table = dict(recipe.plan)
    one = registry.build(OneShot, table.pop("one", {}), where="study one-shot, one")
    plan = replace(registry.build(one_shot.Plan, table, where="study one-shot"), **({"one": one} if "one" in recipe.plan else {}))
    one_shot.one_shot(LM.load(recipe.model, **recipe.loading), to, plan, watch)
    return to / "study.md"


def _reliability(recipe: StudyRecipe, to: Path, watch: Watch) -> Path:
    from trimtab.model import LM
    from trimtab.reports.reliability_page import write
    from trimtab.studies import reliability

    table = {**recipe.plan, "data": found(recipe.plan.get("data", ()))}
    plan = registry.build(reliability.Plan, table, where="study reliability")
    return write(reliability.reliability(LM.load(recipe.model, **recipe.loading), to, plan, watch))


def _bipo(recipe: StudyRecipe, to: Path, watch: Watch) -> Path:
    from trimtab.methods import OneShot, Preference
    from trimtab.model import LM
    from trimtab.reports.bipo import write
    from trimtab.studies import bipo

    table: dict[str, Any] = {**recipe.plan, "data": found(recipe.plan.get("data", ()))}
    methods = {"bipo": Preference, "one": OneShot}
    made = {k: registry.build(cls, table.pop(k), where=f"study bipo, {k}") for k, cls in methods.items() if k in table}
    plan = replace(registry.build(bipo.Plan, table, where="study bipo"), **made)
    return write(bipo.bipo(LM.load(recipe.model, **recipe.loading), to, plan, watch))


def found(data: Any) -> list[str]:
    """Data sets of a recipe, with patterns such as "evals/*.jsonl" replaced by the files they stand for.

    Raises:
        DataError: a pattern no file matches.
    """
    out: list[str] = []
    for source in data:
        files = sorted(glob.glob(str(Path(source).expanduser()))) if "*" in source else [source]
        if not files:
            raise DataError(f"no file matches {source}", expected="files of A/B questions", do="correct the path in the recipe")
        out += files
    return out
