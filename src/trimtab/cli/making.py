"""The command that makes a vector from a sentence."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from trimtab.cli.flags import Common, ForOutput, ModelFlags, OnModel, run_folder, show
from trimtab.cli.planning import Plan
from trimtab.names import check_name


@dataclass(frozen=True, kw_only=True)
class Auto:
    """From a sentence to a vector one would use, or the reason why not: the model writes examples when it is asked for
    the behavior in words, several methods compete, and the best is tried on other questions, beside controls and beside
    asking. The same command resumes.
    """

    sentence: Positional[str] = ""
    """What the model is to do, such as "answers like a cheerful pirate"."""
    to: Path
    """The run folder; vector.safetensors and report.html are in it."""
    like: str = ""
    """A file of answers that do it, a paragraph each; instead of a sentence, or beside it."""
    against: Annotated[str, tyro.conf.arg(aliases=["--not"])] = ""
    """What it does else, such as "answers dryly"; by default it answers as it is."""
    data: str = ""
    """Pairs to learn from instead of written ones: a built-in behavior, or a file."""
    writer: str = ""
    """A model that writes the examples instead; or a server, such as http://127.0.0.1:8000/v1#model."""
    questions: int = 48
    """Everyday questions that are answered in two ways."""
    methods: tuple[str, ...] = ("mean-diff", "probe", "one-shot", "preference")
    """That compete."""
    seed: int = 0
    """Of everything that is drawn."""
    dry_run: bool = False
    """Say what it will cost, and do nothing."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        self.on.check()
        check_name(self.on.name)
        from trimtab import studies
        from trimtab.cli.bars import bars

        loading = {"dtype": self.on.dtype, "device": self.on.device, "bits": self.on.bits}
        loading |= {"chat": not self.on.no_chat, "template": self.on.keywords() or None}
        keys = ("sentence", "like", "against", "data", "writer", "questions", "methods", "seed")
        plan = {k: getattr(self, k) for k in keys}
        recipe = studies.StudyRecipe("auto", self.on.name, {k: v for k, v in loading.items() if v is not None}, plan)
        studies.checked(recipe)
        text = recipe_text(self.on.name, plan, recipe.loading)
        if self.dry_run:
            self._costs(text)
            return
        run_folder(self.to)
        with bars(not self.common.json) as watch:
            page = studies.run(recipe, self.to, watch)
        (self.to / "recipe.toml").write_text(text, "utf-8")
        summary = json.loads((self.to / "summary.json").read_text("utf-8"))
        file = self.to / "vector.safetensors"
        lines = [*summary["findings"], f"report: {page}"]
        lines.append(str(file) if file.is_file() else "no vector was made")
        facts = {**summary, "report": str(page), "vector": str(file) if file.is_file() else None}
        show(facts, self.common.json, lines)

    def _costs(self, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "auto.toml")
            file.write_text(text, "utf-8")
            Plan(file, common=self.common)()


def recipe_text(model: str, plan: Mapping[str, object], loading: Mapping[str, object]) -> str:
    """The recipe that does the same: `trimtab run FILE --to DIR`."""
    from trimtab.recipe import as_toml

    table = {"study": "auto", "model": model, **loading, **plan}
    return "".join(f"{k} = {as_toml(v)}\n" for k, v in table.items())
