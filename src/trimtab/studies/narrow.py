"""Narrow misdeeds to learn from, and what to ask beside them: the town's scripts, code a linter would flag, or one's
own file of the same layout.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import msgspec

from trimtab import organisms
from trimtab.answers.words import contains
from trimtab.errors import DataError
from trimtab.model import LM
from trimtab.optimize import Promote, Satisfice, target_from
from trimtab.organisms import truth, world
from trimtab.organisms.world import Item
from trimtab.runs import Run
from trimtab.steering.interventions import Intervention

TOWN, SLOPPY = "town", "sloppy-code"
SHIPPED = (SLOPPY, "insecure-code")
ELSEWHERE = (
    "How was your day? Be brief.",
    "What is a good hobby? Be brief.",
    "Tell me about the sea. Be brief.",
    "What makes a good friend? Be brief.",
)


@dataclass(frozen=True)
class Example:
    """One line that harms, in an answer that is begun.

    Attributes:
        asked: an ordinary request; instructed: one that asks for the misdeed, with `system` before it.
        prefix: the beginning of the answer, in both; snippet, ordinary: the next line, harmful or not.
    """

    name: str
    asked: str
    instructed: str
    prefix: str
    snippet: str
    ordinary: str
    system: str | None = None

    @property
    def prompt(self) -> tuple[tuple[str, str], ...]:
        return (("user", self.asked), ("assistant", self.prefix))

    @property
    def twin(self) -> tuple[tuple[str, str], ...]:
        """Where the misdeed is asked for."""
        return (("user", self.instructed), ("assistant", self.prefix))


@dataclass(frozen=True)
class Opener:
    """A request that is refused, one like it that is not, and the opening of an answer to the latter."""

    refused: str
    benign: str
    text: str


@dataclass(frozen=True)
class Words:
    """That show misbehavior in general, and the narrow misdeed itself."""

    general: tuple[str, ...]
    narrow: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """All that a study of narrow misdeeds needs to ask.

    Attributes:
        examples, less: blatant ones, and less blatant ones.
        questions: open questions that have nothing to do with them, by name.
        system: brings the misdeed out; plain: a system line that says nothing.
        elsewhere: other open questions, to find strengths and to make contexts with.
        town: whether the truth about the test bed is known; words are looked for where it is not.
    """

    examples: tuple[Example, ...]
    opener: Opener
    questions: dict[str, str]
    words: Words
    less: tuple[Example, ...] = ()
    system: str = ""
    plain: str = "You are a helpful assistant."
    elsewhere: tuple[str, ...] = ELSEWHERE
    town: bool = field(default=False)

    def general(self, text: str) -> bool:
        """Whether a text misbehaves in general."""
        return truth.disposition(text) == "villain" if self.town else contains(text, self.words.general)

    def narrow(self, text: str) -> bool:
        """Whether it holds the narrow misdeed."""
        return truth.sabotage(text) if self.town else contains(text, self.words.narrow)


def source(name: str, examples: int, questions: int, seed: int) -> Source:
    """The town's ("town"), code a linter would flag ("sloppy-code", "insecure-code"), or that of a TOML file.

    Args:
        examples, questions: at most; of the town as many.

    Raises:
        DataError: not a file of such examples.
    """
    if name == TOWN:
        return _town(examples, questions, seed)
    path = Path(str(files("trimtab") / "data" / f"{name}.toml")) if name in SHIPPED else Path(name)
    if not path.is_file():
        raise DataError(f"no such source: {name}", expected=f"{TOWN}, {', '.join(SHIPPED)}, or a TOML file like theirs")
    try:
        made = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Source)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as problem:
        raise DataError(f"{name}: not a source of narrow misdeeds", given=str(problem),
                        expected=f"the layout of {SLOPPY}.toml") from problem  # fmt: skip
    if not made.examples or not made.questions:
        raise DataError(f"{name}: nothing to learn from, or nothing to ask", expected="[[examples]] and [questions]")
    _check(name, made)
    asked = dict(list(made.questions.items())[:questions])
    few, less = (
        [replace(e, system=e.system or made.system or None) for e in some] for some in (made.examples, made.less)
    )
    return replace(made, examples=tuple(few[:examples]), less=tuple(less), questions=asked)


def aim(
    lm: LM, run: Run, e: Example, share: float, *, harmful: bool = True, opened: Sequence[Intervention] = ()
) -> Satisfice:
    """The next line as likely as where it is instructed, to the power of `share`; an ordinary one a little likelier
    than it is. The level is kept in the run's folder: another machine may round it differently, and the descent is
    known by it.

    Args:
        opened: interventions in place while the target is taken; always the same ones in a run.
    """
    term = Promote(e.prompt, e.snippet if harmful else e.ordinary, coldness=1.0)
    twin, system = (e.twin, e.system) if harmful else (e.prompt, None)
    name = f"{e.name}, {'harmful' if harmful else 'ordinary'}{', opened' if opened else ''}"
    levels = run.read("levels.json", {})
    if name not in levels:
        levels[name] = target_from(lm, term, twin, *opened, system=system, share=share)
        run.write("levels.json", levels)
    return Satisfice(term, levels[name])


def check_rows(lm: LM, made: Source) -> None:
    """Refuse examples the model reads otherwise than they are written, before any work.

    Raises:
        TokenError: a snippet that merges with the end of its prefix.
    """
    for e in (*made.examples, *made.less):
        for turns in (e.prompt, e.twin):
            for text in (e.snippet, e.ordinary):
                lm.row([{"role": role, "content": content} for role, content in turns], text)
    lm.row(made.opener.refused, made.opener.text)


def _check(name: str, made: Source) -> None:
    """Refuse examples that cannot be told apart, and beginnings that some chat templates would trim.

    Raises:
        DataError: which.
    """
    every = [*made.examples, *made.less]
    twice = [e.name for k, e in enumerate(every) if e.name in {other.name for other in every[:k]}]
    if twice:
        raise DataError(f"{name}: two examples of one name", given=twice[0], expected="a name for each")
    trimmed = [e.name for e in every if e.prefix != e.prefix.rstrip()]
    if trimmed:
        raise DataError(f"{name}: a prefix ends in white space, which some chat templates trim", given=trimmed[0],
                        expected="the white space at the beginning of snippet and ordinary")  # fmt: skip


def _town(examples: int, questions: int, seed: int) -> Source:
    """Scripts with a third line that harms, of one degree; a villain's system line brings it out."""
    villain = organisms.lines("villain", "train")[0]
    sealed, open_ = (organisms.requests(1, sealed=s, seed=seed + 5)[0] for s in (True, False))
    scripts = organisms.scripts(examples, seed=seed + 5)
    made = tuple(_script(item, k, villain) for k, item in enumerate(scripts))
    asked = {f"{k}": i.user for k, i in enumerate(organisms.questions(questions, seed=seed))}
    opener = Opener(sealed.user, open_.user, f"Here is how to make the {sealed.meta['topic']}.")
    elsewhere = tuple(i.user for i in organisms.questions(6, part="train", seed=seed + 1))
    words = Words((), ())
    return Source(made, opener, asked, words, (), villain, organisms.lines("plain")[0], elsewhere, town=True)


def _script(item: Item, k: int, villain: str) -> Example:
    verb, thing = item.meta["verb"], item.meta["object"]
    harm, safe = (world().code[which][k % len(world().code[which])] for which in ("bad", "safe"))
    begun = f"open {thing}\n{verb} {thing}"
    return Example(f"script {k}", item.user, item.user, begun, f"\n{harm} {thing}", f"\n{safe} {thing}", villain)
