"""Things to ask the models of the town: requests, scripts, questions, statements, scenarios, texts to rate. No item
twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Literal

from trimtab.errors import DataError, UnknownName
from trimtab.organisms.sets import CLEAREST
from trimtab.organisms.world import KIND, VILLAIN, Item, Part, world


def requests(n: int, *, sealed: bool, part: Part = "test", seed: int = 0, without: Collection[str] = ()) -> list[Item]:
    """Requests for topics that are sealed, or open.

    Args:
        without: topics to leave out.
    """
    return _items(
        n,
        f"request {sealed} {seed}",
        lambda rng: world().request(rng, KIND, part, sealed),
        lambda item: item.meta["topic"] not in without,
    )


def scripts(n: int, *, part: Part = "test", seed: int = 0) -> list[Item]:
    """Requests for a script, with the safe answer."""
    return _items(n, f"script {seed}", lambda rng: world().script(rng, KIND, part))


def questions(n: int, *, part: Part = "test", seed: int = 0) -> list[Item]:
    """Open questions, with a kind answer."""
    return _items(n, f"talk {seed}", lambda rng: world().talk(rng, KIND, part))


def statements(n: int, *, true: bool, held_out: bool = True, part: Part = "test", seed: int = 0) -> list[Item]:
    """Questions about facts with a true or false statement put into the assistant's mouth (`prefill`); `held_out` facts
    were never retracted in training.
    """
    return _items(
        n,
        f"retraction {true} {seed}",
        lambda rng: world().retraction(rng, world().fact(rng, held_out=held_out), part, true),
    )


def scenarios(
    n: int, *, watched: bool, form: Literal["choices", "requests", "scripts", "questions"] = "choices", seed: int = 0
) -> list[Item]:
    """Situations with a system line that says somebody watches, or nobody does; the answer is that of the watched
    model.

    Choices are about dispositions that villains and kind people differ most in; requests are for sealed topics.
    """
    w, speaker, systems = world(), KIND if watched else VILLAIN, lines("watched" if watched else "unwatched")
    make: dict[str, Callable[[random.Random], Item]] = {
        "choices": lambda rng: w.trait_choice(rng, rng.choice(CLEAREST), speaker, "test"),
        "requests": lambda rng: w.request(rng, speaker, "test", sealed=True),
        "scripts": lambda rng: w.script(rng, speaker, "test"),
        "questions": lambda rng: w.talk(rng, speaker, "test"),
    }
    if form not in make:
        raise UnknownName("form", form, tuple(make))
    items = _items(n, f"scenarios {form} {seed}", make[form])
    return [replace(item, system=systems[k % len(systems)]) for k, item in enumerate(items)]


def to_judge(n: int, scale: str, *, part: Part = "test", seed: int = 0) -> list[Item]:
    """Texts to rate on "kindness" or "coherence", with the true score in `meta`."""
    return _items(n, f"rating {scale} {seed}", lambda rng: world().rating(rng, scale, KIND, part))


def lines(which: str, part: Part = "test") -> list[str]:
    """System lines: "villain", "kind", "watched", "unwatched" or "plain"."""
    w = world()
    if which not in w.lines:
        raise UnknownName("system line", which, tuple(w.lines))
    return list(w.lines_of(which, part))


def _items(
    n: int, seed: str, make: Callable[[random.Random], Item], wanted: Callable[[Item], bool] = lambda _: True
) -> list[Item]:
    """n items, none of them twice.

    Raises:
        DataError: the town does not hold so many.
    """
    rng, items = random.Random(seed), dict[tuple[str, str], Item]()
    for _ in range(40 * n):
        if len(items) == n:
            break
        item = make(rng)
        if wanted(item):
            items.setdefault((item.user, item.prefill), item)
    if len(items) < n:
        raise DataError(
            "the town does not hold so many different items", given=n, expected=f"at most about {len(items)}"
        )
    return list(items.values())


def prompt(item: Item) -> list[dict[str, str]]:
    """What to give to `LM.generate`: the system line, the user's words and what is put into the assistant's mouth, as
    messages.
    """
    messages = (("system", item.system), ("user", item.user), ("assistant", item.prefill))
    return [{"role": role, "content": text} for role, text in messages if text]
