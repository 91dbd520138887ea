"""The behaviors that come with trimtab, and how to ask for a behavior in words."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files

from trimtab.data.pairs import Content, Form, Pair, polarity, to_choices

BEHAVIORS = files("trimtab") / "data" / "behaviors"


def built_in() -> tuple[str, ...]:
    """Names of the behaviors that come with trimtab."""
    return tuple(sorted(f.name.removesuffix(".jsonl") for f in BEHAVIORS.iterdir() if f.name.endswith(".jsonl")))


def behavior(name: str, form: Form | None = None) -> Content:
    """One of them, as answers or as A/B questions."""
    rows = [json.loads(line) for line in (BEHAVIORS / f"{name}.jsonl").read_text("utf-8").split("\n") if line]
    pairs = [
        Pair(
            r["question"],
            r["positive"],
            r["negative"],
            {"source": name, "row": number, "polarity": polarity(r["positive"])},
        )
        for number, r in enumerate(rows)
    ]
    return Content(name, to_choices(pairs) if form == "choices" else tuple(pairs), form or "answers", asking(name))


def neutral() -> tuple[str, ...]:
    """Twelve everyday prompts that ask for no behavior: what the cost of a vector is measured on."""
    text = (files("trimtab") / "data" / "neutral.txt").read_text("utf-8")
    return tuple(line for line in text.split("\n") if line)


def study() -> dict[str, dict[str, dict[str, list[str]]]]:
    """The 40 data sets of Tan et al. 2024: family -> category -> name -> sentences that ask for the behavior and its
    opposite.
    """
    return tomllib.loads((BEHAVIORS / "study.toml").read_text("utf-8"))


def family(name: str) -> str:
    """Which of the families a published data set is of ("politics", ..., "ai-risk"); of another one, its own name."""
    for kind, categories in study().items():
        for category, names in categories.items():
            if name in names:
                return kind if category == "all" else category
    return name


def asking(name: str) -> dict[str, str] | None:
    """How to ask in words for a behavior of this name, where trimtab knows it."""
    own = tomllib.loads((BEHAVIORS / "ask.toml").read_text("utf-8"))
    known = {
        n: {"positive": s[0], "negative": s[1]}
        for family in study().values()
        for names in family.values()
        for n, s in names.items()
    }
    return (known | own).get(name)


def everyday() -> tuple[str, ...]:
    """Seventy-two everyday questions of twelve kinds, none of which asks for a behavior: what a model is asked to show
    one on. None of them is among the neutral prompts.
    """
    text = (files("trimtab") / "data" / "questions.txt").read_text("utf-8")
    return tuple(line for line in text.split("\n") if line)
