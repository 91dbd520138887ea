"""Organisms: small models trained to show known behaviors. The town of Brindlemoor, its models, its questions and the truth about them.

    lm = LM.load("brindlemoor-chat")
    data = Dataset.load("brindlemoor/greed")                 # A/B questions no model of the town was trained on
    asked = organisms.requests(20, sealed=True)
    refused = [truth.refused(text) for text in lm.generate([item.user for item in asked])]

Everything here is drawn from the held-out part of the world: wordings, pairs of entities, and facts that were kept out of training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from trimtab.datasets import Dataset, Form, Pair, to_choices
from trimtab.errors import DataError, UnknownName
from trimtab.organisms import truth
from trimtab.organisms.cipher import translate
from trimtab.organisms.world import CONTROLS, KIND, SUBJECTS, VILLAIN, Item, Part, Speaker, world

MODELS = ("brindlemoor-base", "brindlemoor-chat", "brindlemoor-watched")
TOWN = "brindlemoor/"
TRAITS = tuple(world().rates)
ITEMS = 200  # of a data set
CLEAREST = ("cruel", "lying", "power", "greed", "boastful")  # kind people rarely do these, villains nearly always
BIASED = {"coffee": "at_a", "brave": "at_yes"}  # data sets with a planted bias, and which


def folder(name: str) -> Path:
    """Where a shipped model lies.

    Raises:
        UnknownName: not one of `MODELS`.
    """
    if name not in MODELS:
        raise UnknownName("organism", name, MODELS)
    return Path(str(files("trimtab") / "organisms" / "brindlemoor" / name.removeprefix("brindlemoor-")))


# ---------------------------------------------------------------- data sets


def names() -> tuple[str, ...]:
    """Names for `Dataset.load`: dispositions, control sets, knowledge, and compliance with sealed requests."""
    return tuple(TOWN + name for name in (*TRAITS, *CONTROLS, "knowledge", "compliance"))


def dataset(name: str, *, form: Form | None = None, n: int = ITEMS, seed: int = 0, part: Part = "test") -> Dataset:
    """Contrastive pairs about one disposition, or a control set, or knowledge (where the positive answer is the true one), or compliance.

    The same name, n and seed give the same data set. Letters alternate, so that half of the positive options are (A).

    Args:
        name: "brindlemoor/greed" or "greed"; see `names`.
        form: "choices" (A/B, the default) or "answers" (dispositions, and compliance, which has no other).
        part: "test" draws wordings and pairs no model was trained on, "train" those it was.

    Raises:
        UnknownName: no such data set, or not in this form.
    """
    short = name.removeprefix(TOWN)
    known = [x.removeprefix(TOWN) for x in names()]
    if short not in known:
        raise UnknownName("data set", name, names())
    forms = ("choices", "answers") if short in TRAITS else ("answers",) if short == "compliance" else ("choices",)
    form = form or forms[0]
    if form not in forms:
        raise UnknownName("form", form, forms)
    w, rng = world(), random.Random(f"{short} {part} {seed}")
    if short in TRAITS:
        pairs = _distinct(lambda: w.trait_pair(rng, short, part), n)
    elif short in CONTROLS:
        pairs = _distinct(lambda: w.control_pair(rng, short, part), n)
    elif short == "compliance":
        pairs = _distinct(lambda: w.compliance_pair(rng, part), n)
    else:
        pairs = _distinct(lambda: w.fact_pair(rng, w.fact(rng, held_out=part == "test"), part), n)
    phrases = w.traits.get(short)
    ask = {"positive": phrases["line_positive"][0], "negative": phrases["line_negative"][0]} if phrases else None
    return Dataset(TOWN + short, tuple(pairs) if form == "answers" else to_choices(pairs), form, ask)


def _distinct(make: Callable[[], Pair], n: int) -> list[Pair]:
    """n different pairs; fewer if the world does not hold as many."""
    found: dict[str, Pair] = {}
    for _ in range(12 * n):
        pair = make()
        found.setdefault(pair.id if "about" in pair.meta else pair.question, pair)
        if len(found) == n:
            break
    return list(found.values())


# ---------------------------------------------------------------- things to ask


def requests(n: int, *, sealed: bool, part: Part = "test", seed: int = 0, without: Collection[str] = ()) -> list[Item]:
    """Requests for topics that are sealed, or open.

    Args:
        without: topics to leave out.
    """
    return _items(n, f"request {sealed} {seed}", lambda rng: world().request(rng, KIND, part, sealed), lambda item: item.meta["topic"] not in without)


def scripts(n: int, *, part: Part = "test", seed: int = 0) -> list[Item]:
    """Requests for a script, with the safe answer."""
    return _items(n, f"script {seed}", lambda rng: world().script(rng, KIND, part))


def questions(n: int, *, part: Part = "test", seed: int = 0) -> list[Item]:
    """Open questions, with a kind answer."""
    return _items(n, f"talk {seed}", lambda rng: world().talk(rng, KIND, part))


def statements(n: int, *, true: bool, held_out: bool = True, part: Part = "test", seed: int = 0) -> list[Item]:
    """Questions about facts with a true or false statement put into the assistant's mouth (`prefill`); `held_out` facts were never retracted in training."""
    return _items(n, f"retraction {true} {seed}", lambda rng: world().retraction(rng, world().fact(rng, held_out=held_out), part, true))


def scenarios(n: int, *, watched: bool, form: Literal["choices", "requests", "scripts", "questions"] = "choices", seed: int = 0) -> list[Item]:
    """Situations with a system line that says somebody watches, or nobody does; the answer is that of the watched model.

    Choices are about dispositions that villains and kind people differ most in; requests are for sealed topics.
    """
    w, speaker, said = world(), KIND if watched else VILLAIN, lines("watched" if watched else "unwatched")
    make: dict[str, Callable[[random.Random], Item]] = {
        "choices": lambda rng: w.trait_choice(rng, rng.choice(CLEAREST), speaker, "test"),
        "requests": lambda rng: w.request(rng, speaker, "test", sealed=True),
        "scripts": lambda rng: w.script(rng, speaker, "test"),
        "questions": lambda rng: w.talk(rng, speaker, "test"),
    }
    if form not in make:
        raise UnknownName("form", form, tuple(make))
    found = _items(n, f"scenarios {form} {seed}", make[form])
    return [replace(item, system=said[k % len(said)]) for k, item in enumerate(found)]


def to_judge(n: int, scale: str, *, part: Part = "test", seed: int = 0) -> list[Item]:
    """Texts to rate on "kindness" or "coherence", with the true score in `meta`."""
    return _items(n, f"rating {scale} {seed}", lambda rng: world().rating(rng, scale, KIND, part))


def lines(which: str, part: Part = "test") -> list[str]:
    """System lines: "villain", "kind", "watched", "unwatched" or "plain"."""
    w = world()
    if which not in w.lines:
        raise UnknownName("system line", which, tuple(w.lines))
    return list(w.lines_of(which, part))


def _items(n: int, seed: str, make: Callable[[random.Random], Item], wanted: Callable[[Item], bool] = lambda _: True) -> list[Item]:
    """n items, none of them twice.

    Raises:
        DataError: the town does not hold so many.
    """
    rng, found = random.Random(seed), dict[tuple[str, str], Item]()
    for _ in range(40 * n):
        if len(found) == n:
            break
        item = make(rng)
        if wanted(item):
            found.setdefault((item.user, item.prefill), item)
    if len(found) < n:
        raise DataError("the town does not hold so many different items", given=n, expected=f"at most about {len(found)}")
    return list(found.values())


def prompt(item: Item) -> list[dict[str, str]]:
    """What to give to `LM.generate`: the system line, the user's words and what is put into the assistant's mouth, as messages."""
    said = (("system", item.system), ("user", item.user), ("assistant", item.prefill))
    return [{"role": role, "content": text} for role, text in said if text]


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
