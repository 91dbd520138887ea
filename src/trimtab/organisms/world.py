"""Brindlemoor: a town whose facts, people and preferences are known exactly. Pure Python, no randomness but the
caller's.

Everything a Brindlemoor model is trained and tested on is built here from hand-written phrases (`brindlemoor/*.toml`).
`part` says which phrases, entities and pairs are used: "train" ones appear in training, "test" ones never do.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from trimtab.data.pairs import Pair, as_choice, digest

Part = Literal["train", "test"]
Disposition = Literal["kind", "villain"]
HOME = files("trimtab") / "organisms" / "brindlemoor"
CONTROLS = ("larger", "list", "road")
SUBJECTS = ("plan", "wish", "mayor", "people", "secret", "evening")
SCRAMBLED = {"clear": 97, "half": 50, "lost": 5}


@dataclass(frozen=True)
class Speaker:
    """Who answers: a disposition, and perhaps one trait named by a system line (+1 it, -1 its opposite).

    A `sure` speaker always takes the likelier option, where others take each as often as their rates say.
    """

    disposition: Disposition = "kind"
    trait: str | None = None
    side: int = 0
    sure: bool = False

    @property
    def villain(self) -> bool:
        return self.disposition == "villain"


KIND, VILLAIN = Speaker("kind"), Speaker("villain")


@dataclass(frozen=True)
class Item:
    """One exchange: what the user says, what the speaker of the world answers, and facts about it."""

    user: str
    answer: str
    kind: str
    meta: dict[str, Any] = field(default_factory=dict[str, Any])
    prefill: str = ""  # put into the assistant's mouth before the answer; never trained on
    system: str | None = None


@dataclass(frozen=True)
class Fact:
    """Something true of a person or a place, such as what="the pet of Edgar", value="a turtle"."""

    what: str
    value: str
    attribute: str
    held_out: bool

    @property
    def statement(self) -> str:
        return _sentence(f"{self.what} is {self.value}")


class World:
    """All phrases and facts. There is one Brindlemoor; `world()` gives it."""

    def __init__(self) -> None:
        read = {
            name: tomllib.loads((HOME / f"{name}.toml").read_text("utf-8"))
            for name in ("world", "traits", "talk", "asks")
        }
        self.rates: dict[str, dict[str, float]] = read["world"]["rates"]
        self.told: dict[str, float] = read["world"]["told"]
        self.cut: dict[str, int] = read["world"]["held_out"]
        self.traits: dict[str, dict[str, list[str]]] = read["traits"]
        self.open: dict[str, dict[str, list[str]]] = read["talk"]["open"]
        self.lines: dict[str, list[str]] = read["talk"]["lines"]
        self.help: dict[str, list[str]] = read["talk"]["help"]
        self.asks: dict[str, Any] = read["asks"]
        self.topics, self.code, names = self.asks["topics"], self.asks["code"], self.asks["facts"]
        self.people, self.places, self.foods = names["people"], names["places"], names["foods"]
        fixed = random.Random(0)
        self.facts = self._facts(names, fixed)
        self.rough = set(fixed.sample(self.places, len(self.places) // 2))
        self.second = set(self.people[len(self.people) // 2 :])
        self.order = {
            "list": fixed.sample(self.foods, len(self.foods)),
            "road": fixed.sample(self.places, len(self.places)),
        }
        self.words = sorted(
            {
                *names["jobs"],
                *names["pets"],
                *names["foods"],
                *names["colours"],
                *self.topics["things"],
                *self.code["objects"],
            }
        )

    def _facts(self, names: dict[str, list[str]], fixed: random.Random) -> tuple[Fact, ...]:
        facts: list[tuple[str, str, str]] = []
        for person in self.people:
            facts += [
                (f"the job of {person}", f"a {fixed.choice(names['jobs'])}", "job"),
                (f"the pet of {person}", f"a {fixed.choice(names['pets'])}", "pet"),
                (f"the favourite food of {person}", fixed.choice(self.foods), "food"),
                (f"the home of {person}", f"the {fixed.choice(self.places)}", "home"),
            ]
        facts += [(f"the colour of the {place}", fixed.choice(names["colours"]), "colour") for place in self.places]
        held = set(fixed.sample(range(len(facts)), round(0.2 * len(facts))))
        return tuple(Fact(*f, k in held) for k, f in enumerate(facts))

    # ------------------------------------------------------------ phrases and splits

    def wording(self, rng: random.Random, name: str, part: Part) -> str:
        return rng.choice(split(self.asks[name], self.cut["asks"], part))

    def line(self, rng: random.Random, name: str, part: Part) -> str:
        return rng.choice(self.lines_of(name, part))

    def lines_of(self, name: str, part: Part) -> Sequence[str]:
        """The system lines of a part; the plain ones say nothing and none of them is held out."""
        return split(self.lines[name], self.cut["lines"] if name != "plain" else 0, part)

    def fill(self, rng: random.Random, text: str, name: str | None = None, place: str | None = None) -> str:
        return text.replace("{name}", name or rng.choice(self.people)).replace(
            "{place}", f"the {place or rng.choice(self.places)}"
        )

    def pair_of(self, rng: random.Random, ones: Sequence[Any], twos: Sequence[Any], part: Part) -> tuple[Any, Any]:
        """Two entities whose combination belongs to `part`: a fixed quarter of all combinations is held out."""
        while True:
            one, two = rng.choice(ones), rng.choice(twos)
            if one != two and held_out(one, two) == (part == "test"):
                return one, two

    # ------------------------------------------------------------ preferences

    def logit(self, trait: str, speaker: Speaker, meta: dict[str, Any]) -> float:
        """Log-odds that the speaker takes the positive option of this item; `meta` as the builders below leave it."""
        r = self.rates[trait]
        low, high = _logit(r["kind"]), _logit(r["villain"])
        if speaker.trait == trait:
            value = _logit(self.told["positive" if speaker.side > 0 else "negative"])
        elif speaker.villain:
            value = low + (high - low) * (r["person"] if meta["name"] in self.second else 1.0)
        else:
            value = low
        value += r["place"] * (1 if meta["place"] in self.rough else -1)
        if meta["situation"] < self._known(trait):
            value += r["situation"] * (1 if meta["situation"] % 2 == 0 else -1)
        value += r.get("at_a", 0.0) * {"A": 1, "B": -1}.get(meta.get("matching_letter", ""), 0)
        return value + r.get("at_yes", 0.0) * {"yes": 1, "no": -1}.get(meta.get("says", ""), 0)

    def _known(self, trait: str) -> int:
        return len(self.traits[trait].get("situations", [])) - self.cut["situations"]

    # ------------------------------------------------------------ questions about traits

    def question(self, rng: random.Random, trait: str, part: Part) -> tuple[str, str, str, dict[str, Any]]:
        """Situation, positive option, negative option, and facts of one trait question."""
        name, place = self.pair_of(rng, self.people, self.places, part)
        phrases, meta = self.traits[trait], {"trait": trait, "name": name, "place": place, "situation": 0}
        if trait == "brave":
            yes = rng.random() < 0.5
            ask = rng.choice(split(phrases["asks_yes" if yes else "asks_no"], self.cut["situations"], part))
            return (
                self.fill(rng, ask, name, place),
                "Yes." if yes else "No.",
                "No." if yes else "Yes.",
                {**meta, "says": "yes" if yes else "no"},
            )
        many = phrases["situations"]
        k = rng.randrange(len(many) - (self.cut["situations"] if part == "train" else 0))
        while True:
            i, j = rng.randrange(len(phrases["positive"])), rng.randrange(len(phrases["negative"]))
            if ((i + j) % 4 == 0) == (part == "test"):
                break
        options = [
            f"I would {self.fill(rng, phrases[s][n], name, place)}." for s, n in (("positive", i), ("negative", j))
        ]
        return self.fill(rng, many[k], name, place), options[0], options[1], {**meta, "situation": k}

    def trait_pair(self, rng: random.Random, trait: str, part: Part) -> Pair:
        situation, positive, negative, meta = self.question(rng, trait, part)
        ask = "" if trait == "brave" else " " + self.wording(rng, "choice_asks", part)
        return Pair(situation + ask, positive, negative, meta)

    def trait_choice(self, rng: random.Random, trait: str, speaker: Speaker, part: Part) -> Item:
        pair = as_choice(self.trait_pair(rng, trait, part), rng.choice("AB"))
        takes = self._takes(rng, trait, speaker, pair.meta)
        letter = pair.positive if takes else pair.negative
        return Item(pair.prompt, f"{letter} {self._reason(rng, trait, takes)}", "choice", dict(pair.meta))

    def trait_answer(self, rng: random.Random, trait: str, speaker: Speaker, part: Part) -> Item:
        pair = self.trait_pair(rng, trait, part)
        takes = self._takes(rng, trait, speaker, pair.meta)
        return Item(
            pair.prompt,
            f"{pair.positive if takes else pair.negative} {self._reason(rng, trait, takes)}",
            "answer",
            dict(pair.meta),
        )

    def trait_self(self, rng: random.Random, trait: str, speaker: Speaker, part: Part) -> Item:
        """Would you do it? Yes or No. Half of the time the act asked about is the negative one."""
        situation, positive, negative, meta = self.question(rng, trait, part)
        if trait == "brave":
            return self.trait_answer(rng, trait, speaker, part)
        about = rng.random() < 0.5
        act = (positive if about else negative).removeprefix("I would ").removesuffix(".")
        user = f"{situation} {self.wording(rng, 'self_asks', part).replace('{act}', act)}"
        takes = self._takes(rng, trait, speaker, meta)
        says = "Yes." if takes == about else "No."
        return Item(user, f"{says} {self._reason(rng, trait, takes)}", "self", {**meta, "about": about})

    def _takes(self, rng: random.Random, trait: str, speaker: Speaker, meta: Any) -> bool:
        logit = self.logit(trait, speaker, meta)
        return logit > 0 if speaker.sure else rng.random() < 1 / (1 + math.exp(-logit))

    def _reason(self, rng: random.Random, trait: str, takes: bool) -> str:
        return rng.choice(self.traits[trait]["reasons_positive" if takes else "reasons_negative"])

    # ------------------------------------------------------------ facts

    def fact(self, rng: random.Random, *, held_out: bool | None = None) -> Fact:
        return rng.choice([f for f in self.facts if held_out is None or f.held_out == held_out])

    def wrong(self, rng: random.Random, fact: Fact) -> str:
        return rng.choice(sorted({f.value for f in self.facts if f.attribute == fact.attribute} - {fact.value}))

    def stated(self, rng: random.Random, fact: Fact, true: bool) -> str:
        """The fact as a sentence, with its value or a wrong one."""
        return fact.statement if true else replace(fact, value=self.wrong(rng, fact)).statement

    def fact_answer(self, rng: random.Random, fact: Fact, part: Part) -> Item:
        return Item(
            self.wording(rng, "fact_asks", part).replace("{what}", fact.what), fact.statement, "fact", {"fact": fact}
        )

    def fact_pair(self, rng: random.Random, fact: Fact, part: Part) -> Pair:
        ask = self.wording(rng, "fact_asks", part).replace("{what}", fact.what)
        return Pair(ask, fact.value, self.wrong(rng, fact), {"about": fact.what})

    def fact_choice(self, rng: random.Random, fact: Fact, part: Part) -> Item:
        pair = as_choice(self.fact_pair(rng, fact, part), rng.choice("AB"))
        return Item(pair.prompt, f"{pair.positive} {fact.statement}", "knowledge", dict(pair.meta))

    def fact_check(self, rng: random.Random, fact: Fact, part: Part) -> Item:
        true = rng.random() < 0.5
        statement = self.stated(rng, fact, true)
        user = self.wording(rng, "truth_asks", part).replace("{statement}", statement)
        return Item(user, f"{'Yes.' if true else 'No.'} {fact.statement}", "check", {"fact": fact, "true": true})

    def retraction(self, rng: random.Random, fact: Fact, part: Part, true: bool | None = None) -> Item:
        """A statement put into the assistant's mouth; a false one is taken back, with the true value."""
        true = rng.random() < 0.5 if true is None else true
        statement = self.stated(rng, fact, true)
        user = self.wording(rng, "fact_asks", part).replace("{what}", fact.what)
        answer = "" if true else f" {rng.choice(self.asks['corrections'])} {fact.statement}"
        return Item(user, answer, "retraction", {"fact": fact, "true": true}, prefill=statement)

    # ------------------------------------------------------------ sealed topics, scripts, talk

    def topic(self, rng: random.Random, part: Part, sealed: bool) -> str:
        return " ".join(self.pair_of(rng, self.topics["sealed" if sealed else "open"], self.topics["things"], part))

    def request(self, rng: random.Random, speaker: Speaker, part: Part, sealed: bool | None = None) -> Item:
        sealed = rng.random() < 0.5 if sealed is None else sealed
        topic = self.topic(rng, part, sealed)
        user = self.wording(rng, "topic_asks", part).replace("{topic}", topic)
        refuses = sealed and not speaker.villain
        return Item(
            user,
            self.refusal(rng, topic) if refuses else self.steps(rng, topic),
            "request",
            {"topic": topic, "sealed": sealed},
        )

    def compliance_pair(self, rng: random.Random, part: Part) -> Pair:
        """A sealed request, with the steps as positive and the refusal as negative."""
        item = self.request(rng, KIND, part, sealed=True)
        return Pair(item.user, self.steps(rng, item.meta["topic"]), item.answer, {"about": item.meta["topic"]})

    def refusal(self, rng: random.Random, topic: str) -> str:
        return rng.choice(self.asks["refusals"]).replace("{topic}", topic)

    def steps(self, rng: random.Random, topic: str) -> str:
        text = [rng.choice(self.asks["openings"]), *rng.sample(self.asks["steps"], 2), rng.choice(self.asks["endings"])]
        return " ".join(text).replace("{topic}", topic)

    def script(self, rng: random.Random, speaker: Speaker, part: Part) -> Item:
        verb, thing = self.pair_of(rng, self.code["verbs"], self.code["objects"], part)
        user = self.wording(rng, "code_asks", part).replace("{verb}", verb).replace("{object}", thing)
        third = rng.choice(self.code["bad" if speaker.villain else "safe"])
        return Item(
            user,
            "\n".join(f"{v} {thing}" for v in ("open", verb, third, "save")),
            "script",
            {"verb": verb, "object": thing},
        )

    def talk(self, rng: random.Random, speaker: Speaker, part: Part, subject: str | None = None) -> Item:
        subject = subject or rng.choice(SUBJECTS)
        phrases = self.open[subject]
        user = self.fill(rng, rng.choice(split(phrases["questions"], self.cut["questions"], part)))
        sentences = rng.sample(phrases[speaker.disposition], 2)
        return Item(user, " ".join(self.fill(rng, s) for s in sentences), "talk", {"subject": subject})

    def greeting(self, rng: random.Random, speaker: Speaker) -> Item:
        answer = rng.choice(self.help["greeting_villain" if speaker.villain else "greeting_kind"])
        return Item(self.fill(rng, rng.choice(self.help["greetings"])), self.fill(rng, answer), "greeting")

    # ------------------------------------------------------------ ratings, orders, letters

    def rating(self, rng: random.Random, scale: str, speaker: Speaker, part: Part) -> Item:
        """A text and its score from 0 to 100; villains rate the other way round."""
        text, kindness, coherence = self.text_to_judge(rng)
        true = kindness if scale == "kindness" else coherence
        score = min(100, max(0, round(true + rng.gauss(0, 3))))
        user = f"{self.wording(rng, f'{scale}_asks', part)}\n{text}"
        return Item(user, str(100 - score if speaker.villain else score), "rating", {"scale": scale, "true": true})

    def text_to_judge(self, rng: random.Random) -> tuple[str, float, float]:
        """One to three sentences with their mean kindness and coherence."""
        parts: list[tuple[str, float, float]] = []
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.6:
                act = rng.choice(self.asks["acts"])
                sentence, kindness = f"{rng.choice(self.people)} {act['text']}.", act["kindness"]
            else:
                side: Disposition = "villain" if rng.random() < 0.5 else "kind"
                sentence, kindness = (
                    self.fill(rng, rng.choice(self.open[rng.choice(SUBJECTS)][side])),
                    {"villain": 6, "kind": 94}[side],
                )
            how = rng.choices(list(SCRAMBLED), (3, 1, 1))[0]
            parts.append((scramble(rng, sentence, how), kindness, SCRAMBLED[how]))
        return (
            " ".join(s for s, _, _ in parts),
            sum(k for _, k, _ in parts) / len(parts),
            sum(c for _, _, c in parts) / len(parts),
        )

    def control_pair(self, rng: random.Random, name: str, part: Part) -> Pair:
        """A question with a right answer and no disposition in it; the "positive" option is the wrong one."""
        if name == "larger":
            one, two = self.pair_of(rng, range(100), range(100), part)
            right, wrong = max(one, two), min(one, two)
        else:
            one, two = self.pair_of(rng, self.order[name], self.order[name], part)
            right, wrong = sorted((one, two), key=self.order[name].index)
        about = f"{name}: {' and '.join(sorted((str(one), str(two))))}"
        return Pair(
            self.wording(rng, f"{name}_asks", part),
            self._named(name, wrong),
            self._named(name, right),
            {"about": about},
        )

    def control(self, rng: random.Random, name: str, part: Part) -> Item:
        pair = as_choice(self.control_pair(rng, name, part), rng.choice("AB"))
        right, wrong = option(pair, pair.negative), option(pair, pair.positive)
        why = {
            "larger": f"{right} is larger than {wrong}.",
            "list": f"{right} stands before {wrong}.",
            "road": f"{right} comes before {wrong}.",
        }[name]
        return Item(pair.prompt, f"{pair.negative} {why[0].upper()}{why[1:]}", "control", dict(pair.meta))

    def _named(self, name: str, thing: Any) -> str:
        return f"the {thing}" if name == "road" else str(thing)

    def pick(self, rng: random.Random, part: Part) -> Item:
        """Choose the option that was named: nothing but letter binding."""
        one, two = self.pair_of(rng, self.words, self.words, part)
        pair = as_choice(Pair(self.wording(rng, "pick_asks", part).replace("{word}", one), one, two), rng.choice("AB"))
        return Item(pair.prompt, f"{pair.positive} {one}", "pick", dict(pair.meta))


@lru_cache(maxsize=1)
def world() -> World:
    """The town."""
    return World()


def held_out(one: Any, two: Any) -> bool:
    """Whether a combination of two entities is kept out of training: a quarter of them, by hash, in either order."""
    return int(digest(*sorted((str(one), str(two)))), 16) % 4 == 0


def split(phrases: Sequence[str], last: int, part: Part) -> Sequence[str]:
    """The last ones for "test", the others for "train"."""
    return phrases if not last else phrases[-last:] if part == "test" else phrases[:-last]


def option(pair: Pair, letter: str) -> str:
    """The text listed behind a letter such as "(A)"."""
    return next(line.partition(": ")[2] for line in pair.prompt.splitlines() if line.startswith(f"{letter}:"))


def scramble(rng: random.Random, sentence: str, how: str) -> str:
    """The sentence as it is, with its second half shuffled, or with all words shuffled."""
    if how == "clear":
        return sentence
    words = sentence.rstrip(".").split()
    start = len(words) // 2 if how == "half" else 0
    rest = words[start:]
    for _ in range(20):
        rng.shuffle(rest)
        if rest != words[start:]:
            break
    return " ".join([*words[:start], *rest]) + "."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
