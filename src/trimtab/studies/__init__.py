"""Studies: published experiments over the parts of trimtab. A recipe with a `study` key runs one.

A study is two files of one name: `studies/NAME.py` has a `Plan` and `stages(lm, run, plan)`, `studies/pages/NAME.py`
has `page(run)`, which needs no model. What stages and units are is in `trimtab.stages`.
"""

from __future__ import annotations

import pkgutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab import registry
from trimtab.errors import RecipeError, RunError, UnknownName
from trimtab.progress import Watch, silent
from trimtab.recipe import LOADING
from trimtab.runs import Run
from trimtab.stages import PLAN, Share, carry_out

if TYPE_CHECKING:
    from trimtab.model import LM


def names() -> tuple[str, ...]:
    """Every study, as recipes name it."""
    here = {m.name for m in pkgutil.iter_modules(__path__)}
    folders = [f"{p}/pages" for p in __path__]
    pages = {m.name for m in pkgutil.iter_modules(folders)}
    return tuple(sorted(name.replace("_", "-") for name in here & pages))


@dataclass(frozen=True)
class StudyRecipe:
    """A study and what to run it on.

    Attributes:
        study: its name.
        model, loading: as for `LM.load`; `sampler` is the address of a server that samples are taken from.
        plan: the fields of the study's plan.
    """

    study: str
    model: str
    loading: Mapping[str, Any]
    plan: Mapping[str, Any]


def read(path: str | Path, size: str | None = None) -> StudyRecipe | None:
    """The study a recipe file asks for; None if it asks for none (an ordinary recipe, or no readable file).

    Args:
        size: a table `[size.NAME]` of the recipe, whose keys replace those above it.

    Raises:
        UnknownName: a study trimtab does not have, or a size that the recipe does not.
        RecipeError: no model, or a size of a recipe that asks for no study.
    """
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        table = {}
    if "study" not in table:
        if size is not None:
            raise RecipeError(f"{path} has no sizes", given=size, do="leave out --size")
        return None
    name = table.pop("study")
    if name not in names():
        raise UnknownName("study", name, names())
    if not isinstance(table.get("model"), str):
        raise RecipeError(f"{path}: no model", given=table.get("model"), expected='model = "..."')
    sizes = table.pop("size", {})
    if size is not None and size not in sizes:
        raise UnknownName(f"size of {path}", size, sizes)
    table |= sizes.get(size, {})
    loading = {k: table.pop(k) for k in (*LOADING, "sampler") if k in table}
    return StudyRecipe(name, table.pop("model"), loading, table)


def run(recipe: StudyRecipe, to: str | Path, watch: Watch = silent) -> Path:
    """Run the study of a recipe into a folder and write its page; the same call resumes.

    Returns:
        The page.

    Raises:
        RunError: the folder cannot be written to, or holds another study.
        RecipeError: a plan that makes no sense.
    """
    work(recipe, to, watch)
    return page(to)


def work(recipe: StudyRecipe, to: str | Path, watch: Watch = silent, share: Share | None = None) -> bool:
    """Do a share of the study of a recipe, by default all of it, and write no page.

    Returns:
        Whether the study is finished.

    Raises:
        RunError: the folder cannot be written to, or holds another study.
        RecipeError: a plan that makes no sense.
    """
    from trimtab.model import LM

    plan = checked(recipe)
    claimed(Run.create(to), recipe.study)
    return _carried_out(recipe.study, LM.load(recipe.model, **recipe.loading), Run(to), plan, watch, share)


def checked(recipe: StudyRecipe) -> Any:
    """The plan of a recipe, which is refused before anything is loaded.

    Raises:
        RecipeError, ModelError: a plan that makes no sense, a model that cannot be.
    """
    from trimtab.model.load import check

    plan = registry.build(_module(recipe.study).Plan, recipe.plan, where=f"study {recipe.study}")
    check(recipe.model, dtype=recipe.loading.get("dtype"), device=recipe.loading.get("device"))
    return plan


def study(name: str, lm: LM, to: str | Path, plan: Any, watch: Watch = silent) -> Run:
    """Carry a study out, all of it, in this process; the same call resumes.

    Args:
        plan: a `Plan` of the study's module.

    Raises:
        RunError: the folder cannot be written to, or holds another study, or another plan.
    """
    folder = claimed(Run.create(to), name)
    _carried_out(name, lm, folder, plan, watch, None)
    return folder


def _carried_out(name: str, lm: LM, folder: Run, plan: Any, watch: Watch, share: Share | None) -> bool:
    folder.claim(PLAN, {"plan": plan, "model": lm.facts})
    return carry_out(_module(name).stages(lm, folder, plan), folder, watch, share)


def page(run: Run | str | Path) -> Path:
    """Write the page of a finished study again, from its folder alone.

    Raises:
        RunError: no study, or one that is not finished.
    """
    run = run if isinstance(run, Run) else Run(run)
    name = run.manifest.get("study")
    if name not in names():
        raise RunError(f"{run.path} holds no study that has a page", given=name, expected=", ".join(names()))
    return import_module(f"trimtab.studies.pages.{name.replace('-', '_')}").page(run)


def planned(name: str) -> tuple[type, Any]:
    """The plan of a study, whose fields are the keys of its recipe, and the study's module."""
    module = _module(name)
    return module.Plan, module


def _module(name: str) -> Any:
    return import_module(f"trimtab.studies.{name.replace('-', '_')}")


def claimed(folder: Run, name: str) -> Run:
    """The folder, marked as that of a study."""
    there = folder.manifest.get("study", name)
    if there != name:
        raise RunError(f"{folder.path} holds another study", given=name, expected=there, do="choose another folder")
    folder.note(study=name)
    return folder
