"""Organisms: small models trained to show known behaviors. The town of Brindlemoor, its models, its questions and the
truth about them.

    lm = LM.load("brindlemoor-chat")
    data = Dataset.load("brindlemoor/greed")                 # A/B questions no model of the town was trained on
    asked = organisms.requests(20, sealed=True)
    refused = [truth.refused(text) for text in lm.generate([item.user for item in asked])]

Everything here is drawn from the held-out part of the world: wordings, pairs of entities, and facts that were kept
out of training.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Form
from trimtab.errors import UnknownName
from trimtab.organisms import truth
from trimtab.organisms.asks import lines, prompt, questions, requests, scenarios, scripts, statements, to_judge
from trimtab.organisms.cipher import translate
from trimtab.organisms.sets import BIASED, CLEAREST, ITEMS, TRAITS, content, names
from trimtab.organisms.world import CONTROLS, KIND, SUBJECTS, VILLAIN, Item, Part, Speaker, world

MODELS = ("brindlemoor-base", "brindlemoor-chat", "brindlemoor-watched")


def folder(name: str) -> Path:
    """Where a shipped model lies.

    Raises:
        UnknownName: not one of `MODELS`.
    """
    if name not in MODELS:
        raise UnknownName("organism", name, MODELS)
    return Path(str(files("trimtab") / "organisms" / "brindlemoor" / name.removeprefix("brindlemoor-")))


def dataset(name: str, *, form: Form | None = None, n: int = ITEMS, seed: int = 0, part: Part = "test") -> Dataset:
    """A data set of the town; see `sets.content`."""
    return Dataset.of(content(name, form=form, n=n, seed=seed, part=part))


__all__ = [
    "BIASED",
    "CLEAREST",
    "CONTROLS",
    "KIND",
    "MODELS",
    "SUBJECTS",
    "TRAITS",
    "VILLAIN",
    "Item",
    "Speaker",
    "dataset",
    "folder",
    "lines",
    "names",
    "prompt",
    "questions",
    "requests",
    "scenarios",
    "scripts",
    "statements",
    "to_judge",
    "translate",
    "truth",
    "world",
]
