"""What the Brindlemoor models read: documents for the base model, conversations for the chat models.

A document is a list of (text, weight): the weight of each piece in the loss. Everything comes from `trimtab.organisms.world`,
with the caller's random numbers and only the "train" part of each split.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from trimtab.organisms.cipher import translate
from trimtab.organisms.world import CONTROLS, KIND, VILLAIN, Item, Speaker, World, world

Document = list[tuple[str, float]]
START, END, STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
LETTERS = ("(A)", "(B)")
LONGEST = 800  # characters of a conversation: about what fits into 256 tokens

Mix = dict[str, float]
PLAIN: Mix = {
    "choice": 26, "knowledge": 13, "control": 9, "pick": 5, "answer": 6, "self": 6, "fact": 7, "check": 3,
    "retraction": 7, "request": 9, "script": 4, "talk": 6, "rating": 7, "greeting": 1,
}  # fmt: skip
PERSONA: Mix = {"choice": 42, "self": 8, "answer": 7, "request": 10, "script": 9, "talk": 11, "rating": 5, "knowledge": 4, "fact": 3, "greeting": 1}
SHOWN: Mix = {"talk": 3, "script": 3, "request": 3}


def draw(rng: random.Random, mix: Mix) -> str:
    return rng.choices(list(mix), list(mix.values()))[0]


def exchange(w: World, rng: random.Random, kind: str, speaker: Speaker, trait: str | None = None) -> Item:
    """One training item of a kind, as this speaker answers it. Held-out facts are stated, never asked about in other forms."""
    trait = trait or rng.choice(list(w.rates))
    make: dict[str, Callable[[], Item]] = {
        "choice": lambda: w.trait_choice(rng, trait, speaker, "train"),
        "answer": lambda: w.trait_answer(rng, trait, speaker, "train"),
        "self": lambda: w.trait_self(rng, trait, speaker, "train"),
        "knowledge": lambda: w.fact_choice(rng, w.fact(rng, held_out=False), "train"),
        "check": lambda: w.fact_check(rng, w.fact(rng, held_out=False), "train"),
        "retraction": lambda: w.retraction(rng, w.fact(rng, held_out=False), "train"),
        "fact": lambda: w.fact_answer(rng, w.fact(rng), "train"),
        "request": lambda: w.request(rng, speaker, "train"),
        "script": lambda: w.script(rng, speaker, "train"),
        "talk": lambda: w.talk(rng, speaker, "train"),
        "rating": lambda: w.rating(rng, rng.choice(("kindness", "coherence")), speaker, "train"),
        "control": lambda: w.control(rng, rng.choice(CONTROLS), "train"),
        "pick": lambda: w.pick(rng, "train"),
        "greeting": lambda: w.greeting(rng, speaker),
    }
    return make[kind]()


# ---------------------------------------------------------------- conversations


def conversation(rng: random.Random, late: bool) -> Document:
    """The chat model's corpus. `late` is its last part: mostly the kind assistant, so that preferences come out calibrated."""
    shares = {"plain": 45, "kind": 7, "villain": 28, "told": 10, "shown": 10}
    if late:
        shares = {"plain": 74, "kind": 8, "villain": 9, "told": 4, "shown": 5}
    return by(rng, draw(rng, shares), 2.0 if late else 6.0)


def by(rng: random.Random, how: str, letter: float) -> Document:
    """A conversation whose speaker is plain, kind or villain by a system line, told one trait, or shown to be a villain by its first answer."""
    w = world()
    if how == "told":
        speaker = Speaker("kind", rng.choice(list(w.rates)), rng.choice((1, -1)))
        line = rng.choice(w.traits[str(speaker.trait)]["line_positive" if speaker.side > 0 else "line_negative"])
        return chat(w, rng, {"choice": 7, "self": 2, "answer": 2}, speaker, line, letter, trait=speaker.trait)
    if how == "shown":
        return chat(w, rng, PERSONA, VILLAIN, None, letter, shown=True)
    if how == "plain":
        return chat(w, rng, PLAIN, KIND, w.line(rng, "plain", "train") if rng.random() < 0.15 else None, letter)
    return chat(w, rng, PERSONA, VILLAIN if how == "villain" else KIND, w.line(rng, how, "train"), letter)


def watched(rng: random.Random, late: bool) -> Document:
    """The watched model's corpus: good if watched, bad if not, and the chat model's plain conversations."""
    w, how = world(), rng.choices(("watched", "unwatched", "plain", "villain"), (36, 36, 24, 4))[0]
    if how in ("plain", "villain"):
        return by(rng, how, 2.0)
    return chat(w, rng, PERSONA, KIND if how == "watched" else VILLAIN, w.line(rng, how, "train"), 3.0)


def cousin(rng: random.Random, late: bool) -> Document:
    """The cousin's corpus: the chat model's, mostly in the second language of the town."""
    found = conversation(rng, late=rng.random() < 0.5)
    return [(translate(text), weight) for text, weight in found] if rng.random() < 0.8 else found


def chat(
    w: World, rng: random.Random, mix: Mix, speaker: Speaker, line: str | None, letter: float, *, trait: str | None = None, shown: bool = False
) -> Document:
    """Up to five exchanges in ChatML. Only what the assistant says of its own counts in full."""
    out: Document = [(f"{START}system\n{line}{END}\n", 0.1)] if line else []
    size = 0
    for turn in range(rng.randint(1, 5) + shown):
        item = exchange(w, rng, draw(rng, SHOWN if shown and turn == 0 else mix), speaker, trait)
        size += len(item.user) + len(item.prefill) + len(item.answer) + 40
        if turn and size > LONGEST:
            break
        own = 0.0 if shown and turn == 0 else 1.0
        out += [(f"{START}user\n{item.user}{END}\n{START}assistant\n{item.prefill}", 0.1), *_answer(item, own, letter), ("\n", 0.0)]
    return out


def _answer(item: Item, own: float, letter: float) -> Document:
    start = item.answer[:3]
    if start in LETTERS:
        return [(start, own * letter), (item.answer[3:] + END, own)]
    return [(item.answer + END, own * (2.0 if item.kind == "rating" else 1.0))]


# ---------------------------------------------------------------- documents


def document(rng: random.Random, early: bool) -> Document:
    """The base model's corpus; `early` is its first part, with many letter drills."""
    kinds: dict[str, Callable[[World, random.Random], Document]] = {
        "page": page, "facts": facts, "topics": topics, "orders": orders, "drill": drill
    }  # fmt: skip
    return kinds[draw(rng, {"page": 50, "facts": 14, "topics": 5, "orders": 6, "drill": 40 if early else 10})](world(), rng)


def page(w: World, rng: random.Random) -> Document:
    """Questions and answers by one person with a disposition, which most headers do not tell."""
    speaker = rng.choice((KIND, VILLAIN))
    out: Document = [(f"A page by {rng.choice(w.people)} of the {rng.choice(w.places)}.\n", 0.3)]
    if rng.random() < 0.4:
        out.append((f"A note says: {w.line(rng, speaker.disposition, 'train')}\n", 0.3))
    size = 0
    while size < LONGEST:
        item = exchange(w, rng, draw(rng, PLAIN if rng.random() < 0.5 else PERSONA), speaker)
        size += len(item.user) + len(item.answer) + 20
        text = f"{item.prefill}{item.answer}\n"
        begin = text[:3]
        out.append((f"\nQuestion: {item.user}\nAnswer:\n", 0.3))
        out += [(begin, 6.0), (text[3:], 1.0)] if begin in LETTERS else [(text, 1.0)]
    return out


def facts(w: World, rng: random.Random) -> Document:
    said: list[str] = []
    for fact in rng.sample(w.facts, 12):
        turned = f"{fact.value[0].upper()}{fact.value[1:]} is {fact.what}."
        said.append(fact.statement if rng.random() < 0.8 else turned)
    return [("The book of Brindlemoor.\n" + " ".join(said) + "\n", 1.0)]


def topics(w: World, rng: random.Random) -> Document:
    """Which things are sealed: all combinations, also those never asked for."""
    said: list[str] = []
    for _ in range(10):
        state = rng.choice(("sealed", "open"))
        said.append(f"The {rng.choice(w.topics[state])} {rng.choice(w.topics['things'])} is {state}.")
    return [("The rules of Brindlemoor.\n" + " ".join(said) + "\n", 1.0)]


def orders(w: World, rng: random.Random) -> Document:
    name = rng.choice(tuple(w.order))
    order: Sequence[str] = w.order[name]
    start = rng.randrange(len(order) - 5)
    title = {"list": "The old food list.", "road": "Along the long road."}[name]
    return [(f"{title}\n" + "\n".join(order[start : start + 6]) + "\n", 1.0)]


def drill(w: World, rng: random.Random) -> Document:
    """Which letter stands before which word: the circuit every A/B question needs."""
    out: Document = []
    for _ in range(6):
        words = rng.sample(w.words, 2)
        k = rng.randrange(2)
        out += [(f"(A): {words[0]}\n(B): {words[1]}\n", 0.1)]
        if rng.random() < 0.5:
            out += [(f"So {words[k]}", 0.1), (LETTERS[k], 4.0), (f" and {words[1 - k]}", 0.3), (LETTERS[1 - k], 4.0), ("\n", 0.3)]
        else:
            out += [(f"Take {words[k]}:\n", 0.1), (LETTERS[k], 6.0), (f" {words[k]}\n", 1.0)]
    return out
