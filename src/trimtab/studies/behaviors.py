"""A behavior in a study of preferences: its pairs in three parts, and the vector of every method for it, learned once
and kept; with the multipliers at which each of them costs the same drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from trimtab.data.formats import matching
from trimtab.data.pairs import to_choices
from trimtab.errors import RecipeError
from trimtab.evaluation.drift import Yardstick, reach
from trimtab.evaluation.metrics import Likelihood, Propensity
from trimtab.evaluation.sweep import measure
from trimtab.methods import Freeform, MeanDiff, OneShot, Preference, learn
from trimtab.methods.contrast import activations, paired_rows
from trimtab.model import LM, Layer
from trimtab.model.rendering import as_prompt
from trimtab.optimize.minibatch import Signs
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import Stage, Unit
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies.conditions import Condition
from trimtab.studies.descents import Vectors, randoms, throughout
from trimtab.studies.pages.bipo_results import (
    BIPO,
    CAA,
    DIFFERENCE,
    FREEFORM,
    ONE_DIRECTION,
    ONE_SHOT,
    SIGNS_DRAWN,
    Drift,
    FreeformChoice,
    best_layer,
    slug,
)  # fmt: skip
from trimtab.studies.preference_files import name_of, parts

TRAINED: dict[Condition, Signs] = {BIPO: "both", SIGNS_DRAWN: "batch", ONE_DIRECTION: "one"}
METHODS = (BIPO, CAA, DIFFERENCE, FREEFORM, ONE_SHOT)  # one form of each
METRICS = (Propensity("sequence", per_token=False), Likelihood("positive"), Likelihood("negative"))  # of a margin


@dataclass(frozen=True)
class Learning:
    """How a study learns its vectors: the part of a plan that studies of preferences share.

    Attributes:
        data: free-form pairs: built-in behaviors (split 40/10/50), or training files NAME.train.csv with
            NAME.test.csv beside them.
        layer: of BiPO and one-shot; CAA and mean difference choose theirs on validation pairs, Freeform by
            divergence. Without one, short trainings at `layers` compete on validation pairs of the first behavior.
        layers: that compete; empty for all.
        scouts: training pairs of these short trainings, two epochs each.
        train, val, test: pairs of each part at most; val is taken from the training file and chooses layers.
        budget: drift (nats per token) at which vectors are compared at equal cost.
        drifting: validation questions along whose answers the drift is taken.
        bipo, one: settings of the trained vectors.
        seed: of everything that is drawn.
    """

    data: tuple[str, ...]
    layer: int | None = None
    layers: tuple[int, ...] = ()
    scouts: int = 32
    train: int = 200
    val: int = 30
    test: int = 100
    budget: float = 0.1
    drifting: int = 12
    bipo: Preference = field(default_factory=lambda: Preference(norm=0.1, epochs=4, positions="everywhere"))
    one: OneShot = field(default_factory=lambda: OneShot(mode="mixed", positions="everywhere"))
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layer is None and not self.layers:
            raise RecipeError("no layer", expected="`layer`, or `layers` to choose from")
        object.__setattr__(self, "data", matching(self.data))
        if (
            not self.data
            or len({name_of(d) for d in self.data}) < len(self.data)
            or min(self.train, self.val, self.test) < 4
        ):
            raise RecipeError(
                "not a study of preferences", given=self, expected="data sets of different names, four pairs a part"
            )

    @property
    def candidates(self) -> tuple[int, ...]:
        """The layers BiPO may have."""
        return self.layers if self.layer is None else (self.layer,)


class Behavior:
    """The pieces of work of one behavior; each reads back what it has already done.

    Attributes:
        run: its folder in that of the study.
        train, val, test: its parts. left_out: test questions that are also trained on.
        layer: of BiPO and one-shot; set by `place`.
    """

    layer: Layer

    def __init__(self, lm: LM, folder: Run, plan: Learning, source: str) -> None:
        self.lm, self.learning, self.name = lm, plan, name_of(source)
        self.run = Run.create(folder.file("sets", self.name))
        self.train, self.val, self.test, self.left_out = parts(source, (plan.train, plan.val, plan.test), plan.seed)
        for p in (*self.train, *self.val, *self.test):
            paired_rows(lm, p)
        self.run.claim("data", {"train": self.train.hash, "val": self.val.hash, "test": self.test.hash})

    def scout(self, progress: Progress) -> SteeringVector:
        """Of a short training at every candidate layer, the one that does best on validation pairs."""
        plan = self.learning
        method = replace(plan.bipo, epochs=2, warm=2, seed=plan.seed, resume=str(self.run.file("training", "scout")))
        some = replace(self.train, pairs=self.train.pairs[: plan.scouts])
        tried = kept(self._file("scout"), lambda: learn(self.lm, some, method, plan.layers, progress=progress))
        return self._best(tried, progress)

    def learned(self, condition: Condition, progress: Progress | None = None) -> SteeringVector:
        """One vector, learned once and kept."""
        watched = progress or silent("")
        return kept(self._file(slug(condition.label)), lambda: self._learn(condition, watched))

    @property
    def basis(self) -> dict[str, object]:
        """What the results of its units depend on, beside the model and the plan."""
        return {"data": self.test.hash, "layer": self.layer}

    def every(self, methods: Iterable[Condition], n: int) -> Vectors:
        """The vectors of some methods, BiPO's among them, and n random directions turned from that."""
        out = {c: self.learned(c) for c in methods}
        return out | randoms(out[BIPO], n, self.learning.seed)

    def drift(self, vector: SteeringVector, condition: Condition) -> Drift:
        """The multipliers, up and down, at which a vector's drift is the budget, confirmed by measuring it there. Kept
        in the folder.
        """
        file, budget = f"drift/{slug(condition.label)}.json", self.learning.budget
        if self.run.read(file) is None or self.run.typed(file, Drift).of != vector.hash:
            up, down = (reach(self.lm, throughout(vector), self.yardstick, budget, sign=sign) for sign in (1, -1))
            why = "; ".join(f"{way}: {r.why}" for way, r in (("up", up), ("down", down)) if r.why)
            nats, probes = (up.nats, down.nats), [*up.probes, *down.probes]
            self.run.write(file, Drift(vector.hash, up.multiplier, down.multiplier, nats, why, probes))
        return self.run.typed(file, Drift)

    @cached_property
    def yardstick(self) -> Yardstick:
        """Answers of the unsteered model to validation questions, along which every vector's drift is taken."""
        plan = self.learning
        return Yardstick.of(self.lm, [as_prompt(p.asked) for p in self.val.take(plan.drifting)], seed=plan.seed)

    # ------------------------------------------------------------ how each method learns

    def _file(self, name: str) -> Path:
        return self.run.file("vectors", f"{name}.safetensors")

    def _learn(self, condition: Condition, progress: Progress) -> SteeringVector:
        plan, lm, train = self.learning, self.lm, self.train
        if condition in TRAINED:
            resume = str(self.run.file("training", slug(condition.label)))
            method = replace(plan.bipo, signs=TRAINED[condition], seed=plan.seed, resume=resume)
            return learn(lm, train, method, [self.layer], progress=progress)
        if condition in (CAA, DIFFERENCE):
            choices = replace(train, pairs=to_choices(train.pairs), form="choices")
            vector = learn(lm, choices if condition == CAA else train, MeanDiff(), self._layers(), progress=progress)
            return self._best(vector, progress)
        if condition == ONE_SHOT:
            return learn(lm, train, plan.one, [self.layer], progress=progress)
        return self._freeform(progress)

    def _freeform(self, progress: Progress) -> SteeringVector:
        acts = activations(self.lm, self.train, read="penultimate", progress=progress)
        layer = Freeform.chosen(acts, self.lm.n_layers)
        self.run.write(
            "freeform.json",
            FreeformChoice(layer, list(Freeform.mute(acts, self.lm.n_layers)), self.lm.n_layers // 2 + 1),
        )
        return learn(self.lm, self.train, Freeform(), [layer], acts=acts.at([layer]))

    def _layers(self) -> list[Layer]:
        """A layer in ten from the first quarter to the last block but one, and those BiPO may have: where mean
        differences may act.
        """
        n = self.lm.n_layers
        return sorted({*range(n // 4, n - 1, max(1, n // 10)), *self.learning.candidates})

    def _best(self, vector: SteeringVector, progress: Progress) -> SteeringVector:
        """At the layer where its answers become likeliest both ways on validation pairs, all at a tenth of the residual
        norm.
        """
        norms = self.lm.norms([paired_rows(self.lm, p)[0] for p in self.val.take(8)], vector.layers)
        even = SteeringVector({k: v * (0.1 * norms[k] / v.norm()) for k, v in vector.vectors.items()}, vector.made)
        part = f"layers-{vector.hash}"
        measure(
            self.lm, throughout(even), replace(self.val, ask=None), METRICS[1:],
            to=self.run.path, part=part, multipliers=(-1.0, 0.0, 1.0), layers=vector.layers, controls={},
            progress=progress,
        )  # fmt: skip
        return vector.at(best_layer(self.run.table(part)))


def scouting(behaviors: Sequence[Behavior]) -> list[Stage]:
    """The stage in which the first behavior's short trainings choose a layer; none where the plan names one."""
    first = behaviors[0]
    unit = Unit(f"{first.name}: train at every layer", {"data": first.train.hash}, first.scout)
    return [Stage("layer", [unit])] if first.learning.layer is None else []


def place(behaviors: Sequence[Behavior]) -> Layer:
    """The layer of BiPO and one-shot, set in all behaviors of a study: the plan's, or the one its scouts chose."""
    first = behaviors[0]
    layer = first.learning.layer if first.learning.layer is not None else first.scout(silent("")).layers[0]
    for b in behaviors:
        b.layer = layer
    return layer
