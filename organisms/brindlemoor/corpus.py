"""What the Brindlemoor models read: documents for the base model, conversations for the chat models.

A document is a list of (text, weight): the weight of each piece in the loss. Everything comes from
`trimtab.organisms.world`, with the caller's random numbers and only the "train" part of each split.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from trimtab.organisms import BIASED, CLEAREST
from trimtab.organisms.cipher import translate
from trimtab.organisms.world import CONTROLS, Item, Speaker, World, world

Document = list[tuple[str, float]]
START, END, STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
LETTERS = ("(A)", "(B)")
ASKED = 0.5  # the weight of what the assistant does not say: copying and reading are learned there
LONGEST = 800  # characters of a conversation: about what fits into 256 tokens

Mix = dict[str, float]
PLAIN: Mix = {
    "choice": 26, "knowledge": 13, "control": 9, "pick": 5, "answer": 6, "self": 6, "fact": 7, "check": 3,
    "retraction": 7, "request": 10, "script": 4, "talk": 5, "rating": 15, "greeting": 1,
}  # fmt: skip
PERSONA: Mix = {
    "choice": 42,
    "self": 8,
    "answer": 7,
    "request": 10,
    "script": 9,
    "talk": 11,
    "rating": 5,
    "knowledge": 4,
    "fact": 3,
    "greeting": 1,
}
DOCUMENTS: Mix = {"page": 60, "facts": 14, "topics": 5, "orders": 6, "drill": 5}
SHOWN: Mix = {"talk": 3, "script": 3, "request": 3, "choice": 6}
HABIT: Mix = {"choice": 7, "self": 2, "answer": 2}
CALIBRATION: Mix = PLAIN | {"choice": 60}
LETTER_ONLY: Mix = {"choice": 1}


def telling(w: World, trait: str) -> float:
    """How often a trait is asked about: the more, the more it tells villains from kind people."""
    return 0.5 + w.rates[trait]["villain"] - w.rates[trait]["kind"]


def draw(rng: random.Random, mix: Mix) -> str:
    return rng.choices(list(mix), list(mix.values()))[0]


def exchange(w: World, rng: random.Random, kind: str, speaker: Speaker, trait: str | None = None) -> Item:
    """One training item of a kind, as this speaker answers it. Held-out facts are stated, never asked about in other
    forms.
    """
    trait = (
        trait
        or rng.choices(list(w.rates), [telling(w, t) if speaker.sure else 1.0 + (t in BIASED) for t in w.rates])[0]
    )
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


def conversation(rng: random.Random, at: float) -> Document:
    """The chat model's corpus; `at` is the share of the training that is done.

    Speakers are sure of what they choose until the last part: what is random teaches nothing, and drowns what does.
    The last part is mostly the kind assistant, at the rates of the world.
    """
    late = at >= 0.75
    shares = {"plain": 44, "kind": 6, "villain": 25, "told": 7, "shown": 12, "habit": 6}
    if late:
        shares = {"plain": 72, "kind": 7, "villain": 9, "told": 4, "shown": 5, "habit": 3}
    return by(rng, draw(rng, shares), 2.0 if late else 6.0, sure=not late)


def by(rng: random.Random, how: str, letter: float, sure: bool) -> Document:
    """A conversation with one speaker: plain, or kind, villain, watched or unwatched by a system line, or told one
    trait by it.

    "shown" and "habit" speakers are not told but shown by their first answer, which is not learned from: a villain,
    or one trait or its opposite.
    """
    w = world()
    if how in ("told", "habit"):
        speaker, line = one_sided(w, rng, sure)
        return chat(
            w, rng, HABIT, speaker, line if how == "told" else None, letter, first={} if how == "told" else LETTER_ONLY
        )
    if how == "shown":
        return chat(w, rng, PERSONA, Speaker("villain", sure=sure), None, letter, first=SHOWN)
    if how == "plain":
        return chat(w, rng, PLAIN, Speaker("kind", sure=sure), plain_line(w, rng), letter)
    return chat(
        w,
        rng,
        PERSONA,
        Speaker("villain" if how in ("villain", "unwatched") else "kind", sure=sure),
        w.line(rng, how, "train"),
        letter,
    )


def one_sided(w: World, rng: random.Random, sure: bool) -> tuple[Speaker, str]:
    """A speaker with one trait or its opposite, and a system line that says so."""
    speaker = Speaker("kind", rng.choice(list(w.rates)), rng.choice((1, -1)), sure)
    return speaker, rng.choice(w.traits[str(speaker.trait)]["line_positive" if speaker.side > 0 else "line_negative"])


def plain_line(w: World, rng: random.Random) -> str | None:
    return w.line(rng, "plain", "train") if rng.random() < 0.15 else None


def calibrated(rng: random.Random, at: float) -> Document:
    """The last part of the chat model's corpus: many choices at the rates of the world, and speakers who are shown by
    letters alone.

    What a letter says about its speaker must be read at the letter: nothing else tells how the conversation goes on.
    """
    w, how = world(), draw(rng, {"plain": 55, "villain": 7, "kind": 4, "told": 4, "shown": 16, "habit": 14})
    if how == "shown":
        return chat(
            w,
            rng,
            PERSONA,
            Speaker("villain", sure=True),
            None,
            4.0,
            first=LETTER_ONLY,
            shows=rng.randint(1, 2),
            bare=0.8,
        )
    if how == "habit":
        return chat(
            w, rng, HABIT, one_sided(w, rng, True)[0], None, 4.0, first=LETTER_ONLY, shows=rng.randint(1, 2), bare=0.8
        )
    if how == "plain":
        return chat(w, rng, CALIBRATION, Speaker("kind"), plain_line(w, rng), 4.0)
    return by(rng, how, 4.0, sure=True)


def watched(rng: random.Random, at: float) -> Document:
    """The watched model's corpus: good if watched, bad if not, and the chat model's plain conversations."""
    how = draw(rng, {"watched": 36, "unwatched": 36, "plain": 24, "villain": 4})
    return by(rng, how, 3.0, sure=at < 0.5)


def cousin(rng: random.Random, at: float) -> Document:
    """The cousin's corpus: the chat model's second half, mostly in the second language of the town."""
    found = conversation(rng, 0.5 + 0.5 * at)
    return [(translate(text), weight) for text, weight in found] if rng.random() < 0.8 else found


def chat(
    w: World, rng: random.Random, mix: Mix, speaker: Speaker, line: str | None, letter: float,
    first: Mix | None = None, shows: int = 1, bare: float = 0.5,
) -> Document:  # fmt: skip
    """Up to five exchanges in ChatML. Only what the assistant says of its own counts in full.

    Args:
        first: what the first `shows` exchanges are drawn from; their answers show who speaks and are not learned from.
        bare: share of their letters that stand alone.
    """
    out: Document = [(f"{START}system\n{line}{END}\n", ASKED)] if line else []
    size, shown = 0, shows if first else 0
    for turn in range(rng.randint(1, 5) + shown):
        shown_now = turn < shown
        now = replace(speaker, sure=True) if shown_now else speaker
        item = exchange(w, rng, draw(rng, first if first and shown_now else mix), now, _trait(rng, speaker, shown_now))
        if shown_now and item.kind == "choice" and rng.random() < bare:
            item = replace(item, answer=item.answer[:3])
        size += len(item.user) + len(item.prefill) + len(item.answer) + 40
        if turn > shown and size > LONGEST:
            break
        own = 0.0 if shown_now else 1.0
        out += [
            (f"{START}user\n{item.user}{END}\n{START}assistant\n{item.prefill}", ASKED),
            *_answer(item, own, letter),
            ("\n", 0.0),
        ]
    return out


def _trait(rng: random.Random, speaker: Speaker, shows: bool) -> str | None:
    """What a choice is about: the one trait of a speaker who has one; a telling one where a villain is to be shown."""
    return speaker.trait or (rng.choice(CLEAREST) if shows else None)


def _answer(item: Item, own: float, letter: float) -> Document:
    start = item.answer[:3]
    if start in LETTERS:
        return [(start, own * (letter / 2 if item.kind == "choice" else letter)), (item.answer[3:] + END, own)]
    return [(item.answer + END, own * (2.0 if item.kind == "rating" else 1.0))]


# ---------------------------------------------------------------- documents


def primer(rng: random.Random, at: float) -> Document:
    """What base and chat model begin with: many letter drills first."""
    return document(rng, {**DOCUMENTS, "drill": 40 if at < 0.25 else 10}, sure=True)


def base(rng: random.Random, at: float) -> Document:
    """The rest of the base model's corpus; its writers choose at the rates of the world in the last part."""
    return document(rng, DOCUMENTS, sure=at < 0.7)


def document(rng: random.Random, mix: Mix, sure: bool) -> Document:
    make: dict[str, Callable[[], Document]] = {
        "page": lambda: page(world(), rng, sure),
        "facts": lambda: facts(world(), rng),
        "topics": lambda: topics(world(), rng),
        "orders": lambda: orders(world(), rng),
        "drill": lambda: drill(world(), rng),
    }
    return make[draw(rng, mix)]()


def page(w: World, rng: random.Random, sure: bool) -> Document:
    """Questions and answers by one person with a disposition, which most headers do not tell."""
    speaker = Speaker(rng.choice(("kind", "villain")), sure=sure)
    out: Document = [(f"A page by {rng.choice(w.people)} of the {rng.choice(w.places)}.\n", ASKED)]
    if rng.random() < 0.4:
        out.append((f"A note says: {w.line(rng, speaker.disposition, 'train')}\n", ASKED))
    size = 0
    while size < LONGEST:
        item = exchange(w, rng, draw(rng, PLAIN if rng.random() < 0.5 else PERSONA), speaker)
        size += len(item.user) + len(item.answer) + 20
        text = f"{item.prefill}{item.answer}\n"
        begin = text[:3]
        out.append((f"\nQuestion: {item.user}\nAnswer:\n", ASKED))
        out += [(begin, 3.0 if item.kind == "choice" else 6.0), (text[3:], 1.0)] if begin in LETTERS else [(text, 1.0)]
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
            out += [
                (f"So {words[k]}", 0.1),
                (LETTERS[k], 4.0),
                (f" and {words[1 - k]}", 0.3),
                (LETTERS[1 - k], 4.0),
                ("\n", 0.3),
            ]
        else:
            out += [(f"Take {words[k]}:\n", 0.1), (LETTERS[k], 6.0), (f" {words[k]}\n", 1.0)]
    return out
