"""What `auto` is asked for: a sentence, answers that do it, or both; who writes the examples, which methods compete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trimtab.answers.endpoint import reachable
from trimtab.data.builtin import everyday
from trimtab.errors import DataError, RecipeError, UnknownName, check_least
from trimtab.methods import MeanDiff, OneShot, Preference, Probe
from trimtab.methods.base import Method
from trimtab.model.load import check
from trimtab.statistics.shipping import FEWEST

METHODS: dict[str, Method] = {
    "mean-diff": MeanDiff(),
    "probe": Probe("whitened"),
    "one-shot": OneShot(examples=4, mode="promote", norm=0.3, steps=30),
    "preference": Preference(norm=0.3, epochs=4),
}
LIKE, LONGEST = 6, 300  # examples of a file that a system message holds, and their characters


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        sentence: what the model is to do, such as "answers like a cheerful pirate": it goes on from "somebody who ...".
        like: a file of answers that do it, one in a paragraph; instead of a sentence, or beside it.
        against: what it does else; by default it answers as it is.
        data: pairs to learn from instead of written ones: a built-in behavior or a file.
        writer: a model that writes the examples instead; or the address of a server that speaks OpenAI's API, such as
            "http://127.0.0.1:8000/v1", with the name of the model behind a # where it has several.
        questions: how many everyday questions are answered in two ways.
        methods: that compete.
        controls: vectors without the behavior that the effect has to be beyond.
        max_new_tokens: longest answer.
        seed: of everything that is drawn.
    """

    sentence: str = ""
    like: str = ""
    against: str = ""
    data: str = ""
    writer: str = ""
    questions: int = 48
    methods: tuple[str, ...] = tuple(METHODS)
    controls: int = 20
    max_new_tokens: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sentence.strip() and not self.like:
            raise RecipeError("no sentence", given=self.sentence, expected='such as "answers like a cheerful pirate"')
        if self.like:
            examples(self.like)
        if self.against.strip() and self.sentence.strip().casefold() == self.against.strip().casefold():
            raise RecipeError("the behavior and its opposite are the same", given=self.sentence)
        for name in self.methods:
            if name not in METHODS:
                raise UnknownName("method", name, METHODS)
        if "mean-diff" not in self.methods:
            raise RecipeError("mean-diff says where the others look", given=self.methods, expected="it, among others")
        check_least("auto", 1, max_new_tokens=self.max_new_tokens, controls=self.controls)
        check_least("auto", FEWEST, questions=self.questions)
        if self.questions > len(everyday()):
            raise RecipeError("too many questions", given=self.questions, expected=f"at most {len(everyday())}")
        if at_address(self.writer):
            reachable(self.writer.partition("#")[0])
        elif self.writer:
            check(self.writer)

    @property
    def behavior(self) -> str:
        """What the model is asked to do: the sentence, and the examples."""
        if not self.like:
            return self.sentence
        shown = "\n".join(f"- {text}" for text in examples(self.like))
        return f"{self.sentence.strip().rstrip('.') or 'answers'}, in the way of these answers:\n{shown}\n"


def examples(file: str | Path) -> list[str]:
    """The answers of a file, a paragraph each; the first few, as far as they fit into a system message.

    Raises:
        DataError: no such file, or nothing in it.
    """
    path = Path(file)
    if not path.is_file():
        raise DataError(f"no such file: {file}", expected="a text file of answers, a paragraph each")
    found = [" ".join(part.split()) for part in path.read_text("utf-8").split("\n\n")]
    found = [text[:LONGEST] for text in dict.fromkeys(found) if text][:LIKE]
    if not found:
        raise DataError(f"{file} holds no answers", expected="a paragraph each")
    return found


def at_address(writer: str) -> bool:
    """Whether a writer is a server."""
    return urlsplit(writer).scheme in ("http", "https")
