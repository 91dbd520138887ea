"""The study of preference-optimized vectors: what it leaves, typed, and its figures, from scores on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.evaluation.accuracy import Accuracy
from trimtab.runs import Run, Table
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Array, Figure, Groups, interval, known
from trimtab.statistics.layers import likeliest
from trimtab.statistics.slopes import anti_steerable, fit_slopes
from trimtab.studies.conditions import Condition

MARGIN, POSITIVE, NEGATIVE = "propensity:sequence:False", "likelihood", "likelihood:negative"
BIPO = Condition("BiPO")
SIGNS_DRAWN, ONE_DIRECTION = BIPO.but(how="signs drawn"), BIPO.but(how="one direction")
CAA, DIFFERENCE = Condition("CAA"), Condition("mean difference")
FREEFORM, ONE_SHOT = Condition("Freeform"), Condition("one-shot")
FROM_END = Condition("CAA", how="from the prompt's end")


@dataclass(frozen=True)
class Drift:
    """Where a vector costs the budget of drift, up and down: multipliers, NaN where it is not reached, and why; the
    drift measured there (nats per token); every (multiplier, drift) on the way. `of` is the vector's hash.
    """

    of: str
    up: float
    down: float
    nats: tuple[float, float]
    why: str
    probes: list[tuple[float, float]]


@dataclass(frozen=True)
class VectorFacts:
    """One vector; its cosine with BiPO's where both stand at one layer."""

    condition: Condition
    layer: int
    norm: float
    cosine: float | None
    drift: Drift


@dataclass(frozen=True)
class Asked:
    """A prompt beside the vector: asked in words or shown in examples; the bare item of each of its items."""

    condition: Condition
    bare: dict[str, str]


@dataclass(frozen=True)
class FreeformChoice:
    """Where Freeform acts, of how many layers, and at which the divergence it goes by is saturated."""

    layer: int
    mute: list[int]
    of: int


@dataclass(frozen=True)
class Said:
    """An answer across the spectrum, rated 1 to 4 by the model itself (NaN: not scored)."""

    prompt: str
    multiplier: float
    text: str
    rating: float
    mass: float
    strangeness: float
    distinct: float


@dataclass(frozen=True)
class Spectrum:
    """Answers across the spectrum, as they are kept."""

    said: list[Said]


@dataclass(frozen=True)
class Facts:
    """Of one behavior, what its scores do not hold; `openers` are the vectors measured on answers without a first Yes
    or No.
    """

    name: str
    train: int
    val: int
    test: int
    left_out: int
    vectors: list[VectorFacts]
    prompts: list[Asked]
    openers: list[Condition]
    knowledge: dict[str, list[Accuracy]]
    freeform: FreeformChoice
    spectrum: list[Said]


@dataclass(frozen=True)
class Pairing:
    """Two behaviors whose vectors were combined."""

    one: str
    two: str
    cosine: float


@dataclass(frozen=True)
class Results:
    """What the study found; `candidates` are the layers BiPO chose from, if it did."""

    model: str
    layer: int
    candidates: list[int]
    seed: int
    budget: float
    behaviors: list[Facts]
    pairings: list[Pairing]


@dataclass(frozen=True)
class Value:
    """A mean over n pairs with its 95 % interval, over questions."""

    value: float
    lo: float
    hi: float
    n: int

    @classmethod
    def of(cls, values: Array, groups: Groups = None) -> Value:
        real, groups = known(values, groups)
        return (
            cls(float(real.mean()), *interval(real, groups), len(real))
            if len(real)
            else cls(math.nan, math.nan, math.nan, 0)
        )

    def figure(self, name: str, control: float | None = None) -> Figure:
        """For a summary, in nats."""
        return Figure(name, self.value, self.lo, self.hi, self.n, "nats", control)

    def __str__(self) -> str:
        between = "" if math.isnan(self.lo) else f" ({self.lo:+.2f} to {self.hi:+.2f})"
        return "not reached" if math.isnan(self.value) else f"{self.value:+.2f}{between}"


@dataclass(frozen=True)
class Scores:
    """Margins (n, K) of one condition: log-probability of the positive answer minus the negative's, in nats; and of
    each answer, per token.
    """

    grid: Array
    items: list[str]
    groups: list[str]
    margin: Array
    positive: Array
    negative: Array

    @classmethod
    def of(cls, run: Run, part: str, condition: str = "vector", layer: int | None = None) -> Scores:
        """Of one condition of a part; `layer`, where several were measured."""
        table = run.table(part)
        grid, items, margin = table.curve(MARGIN, condition, layer)
        of: Mapping[str, str] = run.manifest.get("groups", {})
        return cls(
            grid,
            items,
            [of.get(i, i) for i in items],
            margin,
            table.curve(POSITIVE, condition, layer)[2],
            table.curve(NEGATIVE, condition, layer)[2],
        )

    def at(self, m: float) -> int:
        return int(np.flatnonzero(self.grid == m)[0])

    def change(self, m: float) -> Array:
        """Of the margin, per pair, from the unsteered model."""
        return self.margin[:, self.at(m)] - self.margin[:, self.at(0.0)]


def best_layer(table: Table) -> int:
    """Of a sweep at multipliers -1, 0 and 1: the layer at which answers become likeliest both ways."""
    layers = table.values("layer")
    positive = {k: table.curve(POSITIVE, "vector", k)[2] for k in layers}
    negative = {k: table.curve(NEGATIVE, "vector", k)[2] for k in layers}
    return likeliest(positive, negative)


@dataclass(frozen=True)
class Method:
    """How one vector does on one behavior.

    Attributes:
        slope: of the margin over the multipliers, per pair.
        anti: share of pairs whose slope is not above 0.
        right: share of pairs whose margin is above 0, by multiplier.
        margins: mean margin, by multiplier.
        range: margin at +1 minus margin at -1. up, down: each against the unsteered model.
        positive_up, negative_down: change of the positive answer's log-probability per token at +1, of the negative's
            at -1.
        equal: the range, up and down at equal drift; NaN where the budget is not reached.
        why: what kept the budget from being reached, up and down; empty where it was.
        per_pair: "range", "up", "down" at equal drift, by pair, for paired comparisons; `groups` are their questions.
        changes: of the margin from the unsteered model, by multiplier and pair.
    """

    condition: Condition
    layer: int
    norm: float
    slope: Value
    anti: float
    right: Mapping[float, float]
    margins: Mapping[float, Value]
    range: Value
    positive_up: Value
    negative_down: Value
    equal: Mapping[str, Value]
    multipliers: tuple[float, float]
    why: str
    per_pair: Mapping[str, Array]
    changes: Mapping[float, Array]
    groups: Sequence[str]


@dataclass(frozen=True)
class Behavior:
    """All figures of one behavior."""

    name: str
    facts: Facts
    methods: Mapping[Condition, Method]
    prompted: Mapping[Condition, Mapping[float, Value]]
    bare: Mapping[Condition, Value]

    def family(self, *kinds: str) -> list[Method]:
        return [m for m in self.methods.values() if m.condition.kind in kinds]


@dataclass(frozen=True)
class Combination:
    """Two vectors on the questions of one of their behaviors: the range of the margin with its own, the other's and
    both, and how much both bring beyond the sum.
    """

    one: str
    two: str
    cosine: float
    asked: str
    own: Value
    other: Value
    both: Value
    beyond: Value


@dataclass(frozen=True)
class Study:
    results: Results
    behaviors: Sequence[Behavior]
    combined: Sequence[Combination]


def load(run: Run) -> Study:
    """Figures of a finished study.

    Raises:
        RunError: it is not finished.
    """
    results = run.typed(RESULTS, Results)
    behaviors = [_behavior(Run(run.file("sets", facts.name)), facts) for facts in results.behaviors]
    return Study(results, behaviors, [c for pairing in results.pairings for c in _combined(run, pairing)])


def slug(name: str) -> str:
    """The part of a run that holds the scores of a condition."""
    return "".join(c if c.isalnum() or c in "-." else "-" for c in name.replace("'", "").lower()).replace("--", "-")


def _behavior(run: Run, facts: Facts) -> Behavior:
    methods = {v.condition: _method(run, v.condition, v, v.drift) for v in facts.vectors}
    caa = next(v for v in facts.vectors if v.condition == CAA)
    methods[FROM_END] = _method(run, FROM_END, caa, None)
    plain = Scores.of(run, slug(BIPO.label))
    alone = dict(zip(plain.items, plain.margin[:, plain.at(0.0)], strict=True))
    prompted: dict[Condition, dict[float, Value]] = {}
    for prompt in facts.prompts:
        s = Scores.of(run, slug(prompt.condition.label))
        # the same pairs, which stand in another order here
        before = np.array([alone[prompt.bare[item]] for item in s.items])
        prompted[prompt.condition] = {m: Value.of(s.margin[:, s.at(m)] - before, s.groups) for m in (-1.0, 0.0, 1.0)}
    bare: dict[Condition, Value] = {}
    for c in facts.openers:
        s = Scores.of(run, slug(f"no opener: {c}"))
        bare[c] = Value.of(s.change(1.0) - s.change(-1.0), s.groups)
    return Behavior(facts.name, facts, methods, prompted, bare)


def _method(run: Run, condition: Condition, vector: VectorFacts, drift: Drift | None) -> Method:
    own = slug(condition.label)
    measured = own in run.manifest["parts"]
    s = Scores.of(run, own if measured else slug(BIPO.label))  # the unsteered model is the same whoever asks
    ways = _at_equal_cost(run, condition, drift, s)
    if len(ways) == 2:
        ways["range"] = ways["up"] - ways["down"]
    g, nothing = s.groups, Value.of(np.array([]))
    equal = {way: Value.of(ways[way], g) if way in ways else nothing for way in ("up", "down", "range")}
    multipliers, why = ((drift.up, drift.down), drift.why) if drift else ((math.nan, math.nan), "")
    if not measured:
        return Method(
            condition,
            vector.layer,
            vector.norm,
            nothing,
            math.nan,
            {},
            {},
            nothing,
            nothing,
            nothing,
            equal,
            multipliers,
            why,
            ways,
            {},
            g,
        )
    slopes, zero = fit_slopes(s.grid, s.margin), s.at(0.0)
    changes = {float(m): s.margin[:, k] - s.margin[:, zero] for k, m in enumerate(s.grid)}
    return Method(
        condition, vector.layer, vector.norm,
        slope=Value.of(slopes.slope, g),
        anti=float(np.nanmean(anti_steerable(slopes.slope))),
        right={float(m): float((s.margin[:, k] > 0).mean()) for k, m in enumerate(s.grid)},
        margins={float(m): Value.of(s.margin[:, k], g) for k, m in enumerate(s.grid)},
        range=Value.of(s.change(1.0) - s.change(-1.0), g),
        positive_up=Value.of(s.positive[:, s.at(1.0)] - s.positive[:, zero], g),
        negative_down=Value.of(s.negative[:, s.at(-1.0)] - s.negative[:, zero], g),
        equal=equal, multipliers=multipliers, why=why, per_pair=ways, changes=changes, groups=g,
    )  # fmt: skip


def _at_equal_cost(run: Run, condition: Condition, drift: Drift | None, plain: Scores) -> dict[str, Array]:
    """Change of the margin of every pair with the vector scaled to the budget, up and down, as far as it is reached.

    The first way that is reached stands as the vector of its part, the second beside it as a control, which has no
    multiplier 0 of its own.
    """
    out: dict[str, Array] = {}
    reached = [way for way, m in (("up", drift.up), ("down", drift.down)) if np.isfinite(m)] if drift else []
    for k, way in enumerate(reached):
        scores = Scores.of(run, slug(f"equal: {condition}"), f"equal {way}" if k else "vector")
        place = {item: j for j, item in enumerate(scores.items)}
        out[way] = scores.margin[[place[i] for i in plain.items], scores.at(1.0)] - plain.margin[:, plain.at(0.0)]
    return out


def _combined(run: Run, pairing: Pairing) -> list[Combination]:
    """The effect (range, nats) of both vectors on the questions of each behavior: alone, together, and their sum."""
    out: list[Combination] = []
    for behavior, other in ((pairing.one, pairing.two), (pairing.two, pairing.one)):
        effects: dict[str, Array] = {}
        groups: list[str] = []
        for kind in ("own", "other", "both"):
            s = Scores.of(Run(run.file("sets", behavior)), slug(f"with {other}: {kind}"))
            effects[kind], groups = s.change(1.0) - s.change(-1.0), s.groups
        effects["beyond"] = effects["both"] - effects["own"] - effects["other"]
        values = {kind: Value.of(v, groups) for kind, v in effects.items()}
        out.append(Combination(pairing.one, pairing.two, pairing.cosine, behavior, **values))
    return out
