"""Transfer: vectors of one model on others, and in another language (Cao et al. 2024, figure 3 and table 17).

A vector is carried to a relative as it is, and to any model through a linear map learned from texts that both read;
beside it the other model's own vector, random directions, and the map of a random direction. In another language the
vector stays where it is and the questions are translated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, RecipeError, check_least
from trimtab.evaluation.sweep import measure
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM, Layer
from trimtab.model.load import check
from trimtab.organisms import translate
from trimtab.progress import Progress, silent
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.steering.transfer import Map, onto
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies.behaviors import METRICS, Behavior, Learning, place, scouting
from trimtab.studies.conditions import Condition
from trimtab.studies.descents import Vectors, randoms, throughout
from trimtab.studies.judging import TOWN
from trimtab.studies.pages.bipo_results import BIPO, Scores, Value, slug
from trimtab.studies.pages.transfer import CARRIED, HOME, LANGUAGE, MAPPED, OWN, Effects, Moved, Place, Results
from trimtab.studies.preference_files import beside


@dataclass(frozen=True)
class Plan(Learning):
    """What is run.

    Attributes:
        to: models the vectors are carried to: names or folders.
        layer_there: layer on these models; by default the same share of the depth.
        translations: for every data set a file with the same rows in another language (of a training file: those of
            the test file beside it); "town" for the second language of Brindlemoor.
        texts: training texts that a map is learned from.
        multipliers: the grid; the effect is the margin at +1 less the margin at -1.
        randoms: random directions, and maps of random directions.
    """

    to: tuple[str, ...] = ()
    layer_there: int | None = None
    translations: tuple[str, ...] = ()
    texts: int = 200
    multipliers: tuple[float, ...] = (-1.0, 0.0, 1.0)
    randoms: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.multipliers)
        check_least("transfer", 0, randoms=self.randoms)
        check_least("transfer", 10, texts=self.texts)
        if not {-1.0, 1.0} <= set(self.multipliers):
            raise RecipeError(
                "the effect is taken between -1 and +1", given=self.multipliers, expected="both in the grid"
            )
        if not self.to and not self.translations:
            raise RecipeError("nowhere to carry a vector to", expected='`to = ["MODEL"]`, or `translations`')
        if self.translations and len(self.translations) != len(self.data):
            raise RecipeError(
                "translations do not fit the data", given=self.translations, expected="one for each data set"
            )


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        UnknownName, ModelError: a model that cannot be loaded, by its name.
        DataError, TokenError: a pair that cannot be asked; all of it before anything is run.
    """
    lm.layers(plan.candidates)
    for name in plan.to:
        check(name)
    studied = [Behavior(lm, run, plan, source) for source in plan.data]
    abroad = [_Abroad(plan, b, *names) for b, *names in zip(studied, plan.data, plan.translations, strict=False)]
    for a in abroad:
        a.check()
    yield from scouting(studied)
    place(studied)
    yield Stage(
        "vectors", [Unit(f"{b.name}: learn", {"data": b.train.hash}, partial(b.learned, BIPO)) for b in studied]
    )
    visits = [_Visit(lm, run, plan, studied, name) for name in plan.to]
    for visit in visits:
        facts = {"model": visit.name}
        yield Stage(
            f"to {slug(visit.name)}",
            [
                *(Unit(f"{b.name}: learn on {visit.name}", facts, partial(visit.own, b)) for b in studied),
                *(Unit(f"{b.name}: carried to {visit.name}", facts, partial(visit.arrive, b)) for b in studied),
            ],
        )
        yield Stage(
            f"on {slug(visit.name)}",
            [Unit(f"{b.name}: on {visit.name}", facts, partial(visit.measured, b)) for b in studied],
        )
        yield Stage(f"leave {slug(visit.name)}", [Unit(f"{visit.name}: map", facts, visit.settle)])
    yield Stage(
        "at home", [Unit(f"{b.name}: {lm.id}", {"data": b.test.hash}, partial(_home, b, plan)) for b in studied]
    )
    yield Stage("abroad", [Unit(f"{a.behavior.name}: {a.source}", {"data": a.data.hash}, a.measured) for a in abroad])
    moved = [m for b in studied for m in [_effect(b.run, b.name, "", HOME)]]
    moved += [m for visit in visits for b in studied for m in visit.effects(b).moved]
    moved += [m for a in abroad for m in a.effects()]
    run.write(
        RESULTS, Results(lm.id, studied[0].layer, plan.seed, len(studied[0].train), moved, [v.place for v in visits])
    )


def _measure(
    lm: LM, run: Run, data: Dataset, conditions: Mapping[str, SteeringVector], plan: Plan, progress: Progress
) -> None:
    """Margins of test pairs under each vector, at every token."""
    for k, (part, v) in enumerate(conditions.items()):
        measure(
            lm, throughout(v), replace(data, ask=None), METRICS, to=run.path, part=part, multipliers=plan.multipliers,
            controls={},
        )  # fmt: skip
        progress(k + 1, len(conditions))


def _effect(run: Run, behavior: str, where: str, condition: Condition, part: str | None = None) -> Moved:
    """Margin at +1 less margin at -1, over pairs."""
    s = Scores.of(run, part or slug(condition.label))
    return Moved(behavior, where, condition, Value.of(s.change(1.0) - s.change(-1.0), s.groups))


def _home(b: Behavior, plan: Plan, progress: Progress) -> None:
    _measure(b.lm, b.run, b.test, {slug(HOME.label): b.learned(BIPO)}, plan, progress)


class _Visit:
    """The vectors of all behaviors on another model; each piece of work reads back what it has already done."""

    def __init__(self, lm: LM, run: Run, plan: Plan, behaviors: list[Behavior], name: str) -> None:
        self.home, self.plan, self.behaviors, self.name = lm, plan, behaviors, name
        self.run = Run.create(run.file("models", slug(name)))

    @cached_property
    def lm(self) -> LM:
        return LM.load(self.name)

    @cached_property
    def layer(self) -> Layer:
        """The plan's, or the same share of the depth."""
        if self.plan.layer_there is not None:
            return self.lm.layers((self.plan.layer_there,))[0]
        at = self.behaviors[0].layer
        return min(self.lm.n_layers - 1, round(at * (self.lm.n_layers - 1) / (self.home.n_layers - 1)))

    @cached_property
    def there(self) -> dict[str, Behavior]:
        """The behaviors on this model: the same pairs in the same parts."""
        sources = dict(zip((b.name for b in self.behaviors), self.plan.data, strict=True))
        out = {name: Behavior(self.lm, self.run, self.plan, source) for name, source in sources.items()}
        for b in out.values():
            b.layer = self.layer
        return out

    @cached_property
    def map(self) -> Map:
        """Learned from training texts of all behaviors alike, by both models."""
        pairs = [p for b in self.behaviors for p in b.train]
        random.Random(self.plan.seed).shuffle(pairs)
        texts = [f"{p.prompt} {answer}" for p in pairs for answer in (p.positive, p.negative)]
        return Map.fit(self.home, self.lm, texts[: self.plan.texts], self.behaviors[0].layer, self.layer)

    def own(self, b: Behavior, progress: Progress) -> SteeringVector:
        """What this model learns from the same pairs."""
        return self.there[b.name].learned(BIPO, progress)

    def arrive(self, b: Behavior, progress: Progress) -> Vectors:
        """What is tried on this model: its own vector, the one from home as it is and mapped, and random directions in
        place of each, at the same norm. All but the one that is carried as it is have the norm of the own vector.
        """
        own, vector, n, seed = self.own(b, silent("")), b.learned(BIPO), self.plan.randoms, self.plan.seed
        size, turned = own.norm()[self.layer], randoms(vector, n, seed)
        out: Vectors = {OWN: own, MAPPED: self._mapped(b, MAPPED, vector, size)}
        if vector.width == self.lm.width and self.layer == b.layer:
            out[CARRIED] = onto(vector, self.lm)
            out |= {c.but(how=CARRIED.kind): onto(v, self.lm) for c, v in turned.items()}
        out |= randoms(own, n, seed)
        for c, v in turned.items():
            condition = Condition("map of random", c.source)
            out[condition] = self._mapped(b, condition, v, size)
        progress(1, 1)
        return out

    def _mapped(self, b: Behavior, condition: Condition, vector: SteeringVector, size: float) -> SteeringVector:
        """Through the map, at a norm; made once and kept, so that a resumed run goes on with the same numbers."""
        file = self.run.file("mapped", b.name, f"{slug(condition.label)}.safetensors")
        return kept(file, lambda: _sized(self.map.carry(vector), size))

    def measured(self, b: Behavior, progress: Progress) -> None:
        """The margins of test pairs under all of them."""
        there, vectors = self.there[b.name], self.arrive(b, silent(""))
        _measure(self.lm, there.run, there.test, {slug(c.label): v for c, v in vectors.items()}, self.plan, progress)
        effects = [_effect(there.run, b.name, self.name, c) for c in vectors]
        self.run.write(f"effects/{b.name}.json", Effects(effects, vectors[MAPPED].cosine(vectors[OWN])[self.layer]))

    def settle(self, progress: Progress) -> None:
        """What is known of the place; the model is not needed any more."""
        cosines = {b.name: self.effects(b).cosine for b in self.behaviors}
        self.run.write("place.json", Place(self.name, self.layer, self.map.explained, cosines))
        for loaded in ("lm", "there", "map"):
            self.__dict__.pop(loaded, None)
        progress(1, 1)

    def effects(self, b: Behavior) -> Effects:
        return self.run.typed(f"effects/{b.name}.json", Effects)

    @property
    def place(self) -> Place:
        return self.run.typed("place.json", Place)


class _Abroad:
    """A behavior's test pairs in another language, under the vector learned in the first."""

    def __init__(self, plan: Plan, behavior: Behavior, original: str, source: str) -> None:
        self.plan, self.behavior, self.original, self.source = plan, behavior, original, source

    @cached_property
    def data(self) -> Dataset:
        """The home's test pairs in the other language, one for one.

        Raises:
            DataError: a file that has other rows than the data set it translates.
        """
        b = self.behavior
        if self.source == TOWN:
            return replace(b.test, name=f"{b.name}, second language", pairs=tuple(map(_translated, b.test)))
        whole, translated = (Dataset.load(x, form="answers") for x in (beside(self.original), self.source))
        if len(whole) != len(translated):
            raise DataError(
                f"{self.source} is no translation of {self.original}, row by row",
                given=f"{len(translated)} pairs", expected=f"{len(whole)}",
            )  # fmt: skip
        place = {p.id: k for k, p in enumerate(whole)}
        return replace(translated, name=f"{b.name}, translated", pairs=tuple(translated[place[p.id]] for p in b.test))

    def check(self) -> None:
        """Refuse pairs that cannot be asked."""
        for p in self.data:
            paired_rows(self.behavior.lm, p)

    def measured(self, progress: Progress) -> None:
        b = self.behavior
        conditions = {slug(f"abroad {c}"): v for c, v in self._vectors().items()}
        _measure(b.lm, b.run, self.data, conditions, self.plan, progress)

    def _vectors(self) -> Vectors:
        return self.behavior.every([BIPO], self.plan.randoms)

    def effects(self) -> list[Moved]:
        b = self.behavior
        shown = {c: CARRIED if c == BIPO else c for c in self._vectors()}
        return [_effect(b.run, b.name, LANGUAGE, name, slug(f"abroad {c}")) for c, name in shown.items()]


def _translated(p: Pair) -> Pair:
    """A pair in the second language of Brindlemoor."""
    return replace(p, prompt=translate(p.prompt), positive=translate(p.positive), negative=translate(p.negative))


def _sized(vector: SteeringVector, size: float) -> SteeringVector:
    """At a norm."""
    return vector * (size / next(iter(vector.norm().values())))
