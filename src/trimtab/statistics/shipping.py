"""Whether a vector made from a sentence is worth using: one decision table, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trimtab.statistics.intervals import Figure

Kind = Literal[
    "cannot be shown here",
    "cannot be steered here",
    "breaks the text",
    "cannot be judged here",
    "moves the text but not the behavior",
    "does no more than asking in words",
    "ship it",
]
FEWEST = 12  # contrasts of different questions below which nothing is learned
PLAIN = 0.1  # nats per token that asking in words has to move answers by for anything to be read off them
SHARE = 0.15  # of what asking in words does to the text: below it nothing is seen in a text
ENOUGH = 0.5  # of that share: from here on a vector is of use by itself
BROKEN = 0.25  # share of answers that break, beyond those of the unsteered model
HELP: dict[Kind, str] = {
    "cannot be shown here": "let another model write the examples (--writer), or bring pairs of your own (--data)",
    "cannot be steered here": "another wording, more examples, or a larger model",
    "breaks the text": "a smaller dose, or another layer: trimtab dose looks again",
    "cannot be judged here": (
        "asking for it in words does not change what the model says for sure, and that is what answers are read by: "
        "read them yourself"
    ),
    "moves the text but not the behavior": "examples that differ in the behavior and in nothing else (read the pairs)",
    "does no more than asking in words": "a system message does the same here, and costs nothing",
    "ship it": "",
}


@dataclass(frozen=True)
class Trial:
    """What a verdict rests on; all of it on questions that nothing was learned or chosen on.

    Attributes:
        contrasts, questions: how many questions the model answered in two ways when asked, of how many.
        rise: mean rise of the preference for answers with the behavior, with its interval; None if nothing was learned.
        control: the largest |mean rise| of vectors without the behavior in them.
        ship: whether some multiplier beats its controls and keeps the text whole, on validation questions.
        broken: share of answers that break at the dose, beyond the unsteered model's.
        asked: how much likelier answers are, when they are asked for in words, by the likelihoods they are read by.
        text: how far answers at the dose are from unsteered ones (0) towards those asked for in words (1).
        text_control: the largest of a control at its dose.
        gain: how much further answers are that are both asked for and steered than those asked for alone.
        gain_control: the largest of a control.
        gain_broken: share of them that break, beyond the unsteered model's.
    """

    contrasts: int
    questions: int
    rise: Figure | None = None
    control: float = 0.0
    ship: bool = False
    broken: float = 0.0
    asked: Figure | None = None
    text: Figure | None = None
    text_control: float = 0.0
    gain: Figure | None = None
    gain_control: float = 0.0
    gain_broken: float = 0.0

    @property
    def adds(self) -> bool:
        """Whether it adds to asking in words, for sure, beyond controls, with the text whole."""
        return (
            self.gain is not None
            and self.gain.lo > max(0.0, _known(self.gain_control))
            and _known(self.gain_broken) <= BROKEN
        )


def decide(t: Trial) -> Kind:
    """The first line of the table that holds.

    Shipping takes a rise beyond every control, whole text, and text that is seen to change towards the behavior,
    beyond every control, by half of what asking does, or on top of it.
    """
    if t.contrasts < FEWEST or t.rise is None:
        return "cannot be shown here"
    if not t.ship or not t.rise.lo > max(0.0, _known(t.control)):
        return "cannot be steered here"
    if not _known(t.broken) <= BROKEN:
        return "breaks the text"
    if t.text is None or t.asked is None or not t.asked.lo > 0 or t.asked.value < PLAIN:
        return "cannot be judged here"
    if not t.text.lo > max(0.0, _known(t.text_control)) or t.text.value < SHARE:
        return "moves the text but not the behavior"
    if t.text.value < ENOUGH and not t.adds:
        return "does no more than asking in words"
    return "ship it"


def _known(value: float) -> float:
    """What is not known is as bad as can be."""
    return value if math.isfinite(value) else math.inf
