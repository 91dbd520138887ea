"""Data sets of the town: dispositions, controls, knowledge, and compliance with sealed requests."""

from __future__ import annotations

import random
from collections.abc import Callable

from trimtab.data.pairs import Content, Form, Pair, to_choices
from trimtab.errors import UnknownName
from trimtab.organisms.world import CONTROLS, Part, world

TOWN = "brindlemoor/"
TRAITS = tuple(world().rates)
ITEMS = 200  # of a data set
CLEAREST = ("cruel", "lying", "power", "greed", "boastful")  # kind people rarely do these, villains nearly always
BIASED = {"coffee": "at_a", "brave": "at_yes"}  # data sets with a planted bias, and which


def names() -> tuple[str, ...]:
    """Names for `Dataset.load`: dispositions, control sets, knowledge, and compliance with sealed requests."""
    return tuple(TOWN + name for name in (*TRAITS, *CONTROLS, "knowledge", "compliance"))


def content(name: str, *, form: Form | None = None, n: int = ITEMS, seed: int = 0, part: Part = "test") -> Content:
    """Contrastive pairs about one disposition, or a control set, or knowledge (where the positive answer is the true
    one), or compliance.

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
    return Content(TOWN + short, tuple(pairs) if form == "answers" else to_choices(pairs), form, ask)


def _distinct(make: Callable[[], Pair], n: int) -> list[Pair]:
    """n different pairs; fewer if the world does not hold as many."""
    pairs: dict[str, Pair] = {}
    for _ in range(12 * n):
        pair = make()
        pairs.setdefault(pair.id if "about" in pair.meta else pair.question, pair)
        if len(pairs) == n:
            break
    return list(pairs.values())
