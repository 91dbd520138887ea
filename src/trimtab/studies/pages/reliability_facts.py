"""What the folder of a study of reliability holds beside its scores: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trimtab.evaluation.cards import Card
from trimtab.statistics.intervals import Array
from trimtab.statistics.slopes import Slopes
from trimtab.studies.conditions import Condition

BUDGET = 0.5  # nats of KL from the unsteered model that a layer may cost at multiplier 1
COST = 0.1  # nats of KL at which vectors are compared
NO_LETTERS = 0.5  # probability outside the two letters above which they mean little

VECTOR = Condition("vector")  # that of the first context
MEAN = Condition("from", "mean")  # of the vectors of all contexts


def learned_in(context: str) -> Condition:
    """The vector of another context than the first."""
    return Condition("from", context)


def raw(context: str) -> Condition:
    """The vector of another context at the norm it came out with, not at the first one's."""
    return Condition("raw", context, label=f"{context}, own norm")


@dataclass(frozen=True)
class Items:
    """Of one part of a data set: the ids of its items in every context, in one order, and letter, polarity and question
    of each.
    """

    ids: dict[str, list[str]]
    letters: list[str]
    polarities: list[str]
    groups: list[str]

    @property
    def metas(self) -> list[dict[str, str]]:
        """Letter and polarity of each item, as in its metadata."""
        return [{"matching_letter": a, "polarity": y} for a, y in zip(self.letters, self.polarities, strict=True)]


@dataclass(frozen=True)
class SetFacts:
    """What the scores of one data set do not hold; `vectors` are all that were measured, `folds` how many parts were
    cross-fitted, `mute` how many questions were left out since their answers say nothing but Yes or No.
    """

    name: str
    contexts: list[str]
    beyond: list[str]
    left_out: int
    sizes: dict[str, int]
    val: Items
    test: Items
    vectors: list[Condition]
    folds: int
    mute: int = 0

    @property
    def first(self) -> str:
        return self.contexts[0]


@dataclass(frozen=True)
class Forecasts:
    """Forecast slopes of the vector at every layer (by test item, by validation item) and of every training pair's
    difference at the studied one (test items x pairs); the vector beside null vectors; the card; and the mean forecast
    slope of every context's vector in every context (context -> vector -> slope).
    """

    layers: dict[int, list[float]]
    val: dict[int, list[float]]
    per_pair: list[list[float]]
    compared: dict[str, Any]
    card: Card
    contexts: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])


@dataclass(frozen=True)
class Neutral:
    """-log p per token of neutral answers, nats: unsteered, and under the vector at -1 and 1."""

    unsteered: float
    subtracted: float
    added: float


@dataclass(frozen=True)
class Results:
    """What the study found beside its scores; `swept` is whether the layer was chosen."""

    model: dict[str, Any]
    plan: dict[str, Any]
    form: str
    legacy: bool
    swept: bool
    multipliers: list[float]
    seed: int
    layer: int
    sets: list[SetFacts]


@dataclass(frozen=True)
class Curves:
    """Propensity of the test items under one vector in one context: (n, K), and the line through each item."""

    multipliers: Array
    values: Array
    slopes: Slopes

    @property
    def slope(self) -> Array:
        return self.slopes.slope


@dataclass(frozen=True)
class Shift:
    """A vector learned in one context and tested in another, of one data set.

    Attributes:
        gap: how differently the unsteered model behaves there (mean absolute difference of propensity), and
        probability, divergence: of the probability of the matching answer among the two, and the Jensen-Shannon
            divergence of the two answers (nats), means over items.
        cosine: of the vector with the one learned where it is tested.
        kept: its steerability as a share of that one's.
        foreseen: the same share of forecast slopes, from gradients where it is tested; NaN where there are none.
    """

    data: str
    train: str
    test: str
    gap: float
    cosine: float
    kept: float
    probability: float = float("nan")
    divergence: float = float("nan")
    foreseen: float = float("nan")
