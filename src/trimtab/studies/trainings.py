"""How a preference vector is trained: what each setting is worth, how many epochs, and at which layer (Cao et al. 2024,
the choice of the layer and the ablation over epochs; the relatives of the loss; direction and strength as two
parameters, steering the prompt alone, and few coordinates, of later work).

A setting is BiPO's training with some of its fields changed; vectors are compared at one norm, that of the plain one,
and at their own. Every training is looked at after each epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from trimtab import registry
from trimtab.errors import RecipeError, check_least
from trimtab.evaluation.sweep import measure
from trimtab.methods import Preference
from trimtab.methods.contrast import paired_rows
from trimtab.model import LM, Layer
from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.intervals import Array
from trimtab.steering.vector import SteeringVector, kept
from trimtab.studies.behaviors import METRICS
from trimtab.studies.descents import randoms, throughout
from trimtab.studies.pages.bipo_results import Scores, Value
from trimtab.studies.pages.trainings import PLAIN, PUBLISHED, RANDOM, AtLayer, Epochs, Facts, Looked, Results, Setting
from trimtab.studies.parts import check_names, file_name
from trimtab.studies.preference_files import name_of, parts

ALL: dict[str, dict[str, Any]] = {
    "one direction": {"signs": "one"},
    "a sign a batch": {"signs": "batch"},
    "a sign an example": {"signs": "example"},
    PUBLISHED: {"published": True},
    "hinge": {"loss": "hinge"},
    "ipo": {"loss": "ipo"},
    "reference-free, per token": {"loss": "free", "beta": 1.0},
    "unpaired": {"loss": "unpaired"},
    "direction and strength": {"strength": True},
    "prompt alone": {"positions": "prompt"},
    "end token scored": {"end": True},
    "weight decay": {"decay": 0.05},
    "no cap": {"norm": 0.0},
}


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        data: free-form pairs: data sets, or training files NAME.train.csv with NAME.test.csv beside them.
        layer: of the settings.
        layers: at which the plain training is done as well; empty for all but the last.
        plain: the plain training.
        settings: name -> the fields of the plain training that differ; by default all there are.
        kept: shares of the coordinates, the largest ones, that are kept of the plain vector.
        published_epochs: of the training as published.
        train, val, test: pairs of each part at most; margins are looked at on val.
        randoms: random directions of the plain vector's norm.
        seed: of everything that is drawn.
    """

    data: tuple[str, ...]
    layer: int
    layers: tuple[int, ...] = ()
    plain: Preference = field(
        default_factory=lambda: Preference(norm=0.1, epochs=6, positions="everywhere", patience=10**6)
    )
    settings: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(ALL))
    kept: tuple[float, ...] = (0.1, 0.3)
    published_epochs: int = 20
    train: int = 60
    val: int = 16
    test: int = 60
    randoms: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("trainings", 4, train=self.train, val=self.val, test=self.test)
        check_least("trainings", 1, randoms=self.randoms, published_epochs=self.published_epochs)
        check_names(self.data, [name_of(d) for d in self.data])
        if not all(0 < x < 1 for x in self.kept):
            raise RecipeError("not shares of coordinates", given=self.kept, expected="numbers between 0 and 1")
        controls = {f"{RANDOM} {k + 1}" for k in range(self.randoms)} | {"vector"}
        taken = {PLAIN, RANDOM, *controls, *(kept_name(x) for x in self.kept)} & {*self.settings}
        if taken or len({file_name(n) for n in self.methods}) < len(self.methods):
            raise RecipeError("names that are taken", given=sorted(taken) or list(self.settings),
                              expected="names of different letters")  # fmt: skip

    @property
    def methods(self) -> dict[str, Preference]:
        """The plain training first, and every setting."""
        plain = {k: v for k, v in registry.describe(self.plain).items() if k != "name"}
        plain |= {"seed": self.seed, "every": 1, "validation": 0.0, "sample": 10**6}
        made: dict[str, Preference] = {}
        for name, some in {PLAIN: {}, **self.settings}.items():
            fields = {**plain, **some}
            if fields.get("published"):
                fields["epochs"] = some.get("epochs", self.published_epochs)
            made[name] = registry.make("method", {"name": "preference", **fields})
        return made


def kept_name(share: float) -> str:
    """Of a vector of which only the largest coordinates are kept."""
    return f"largest {share:.0%} of coordinates"


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any model.

    Raises:
        DataError, TokenError: a pair that cannot be asked; before anything is run.
    """
    lm.layers([plan.layer, *plan.layers])
    bench = [_Bench(lm, run, plan, source) for source in plan.data]
    yield Stage("training", [
        *(Unit(f"{b.name}: {name}", b.basis, partial(b.looked, name)) for b in bench for name in plan.methods),
        *(Unit(f"{b.name}: every layer", b.basis, b.at_layers) for b in bench),
    ])  # fmt: skip
    yield Stage("test", [
        *(Unit(f"{b.name}: measure", b.basis, b.measure) for b in bench),
        *(Unit(f"{b.name}: measure, layers", b.basis, b.measure_layers) for b in bench),
    ])  # fmt: skip
    changed = {name: dict(some) for name, some in plan.settings.items()}
    run.write(RESULTS, Results(lm.id, plan.layer, plan.plain.norm, plan.seed, changed, [b.results() for b in bench]))


class _Bench:
    """The pieces of work for one behavior; each reads back what it has already done."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str) -> None:
        self.lm, self.plan, self.name = lm, plan, name_of(source)
        self.run = Run.create(folder.file("sets", self.name))
        self.train, self.val, self.test, _ = parts(source, (plan.train, plan.val, plan.test), plan.seed)
        for p in (*self.train, *self.val, *self.test):
            paired_rows(lm, p)
        self.run.claim("data", self.basis)

    @property
    def basis(self) -> Mapping[str, Any]:
        return {"train": self.train.hash, "val": self.val.hash, "test": self.test.hash}

    # ------------------------------------------------------------ training

    def looked(self, name: str, progress: Progress) -> Looked:
        """One training at the layer of the settings, its vector kept; what was seen after every epoch, on the pairs
        that were not trained on. Both are kept in the folder.
        """
        told = f"epochs/{file_name(name)}.json"

        def made() -> SteeringVector:
            method = replace(self.plan.methods[name], resume=str(self.run.file("state", file_name(name))))
            ((_, trained),) = method.trained(self.lm, self.train, [self.plan.layer], progress, self.val)
            seen = [Epochs(k + 1, e.loss, e.up, e.down, e.norm) for k, e in enumerate(trained.epochs)]
            self.run.write(told, Looked(name, trained.best + 1, seen))
            return trained.vector

        kept(self._file(name), made)
        return self.run.typed(told, Looked)

    def at_layers(self, progress: Progress) -> SteeringVector:
        """The plain training at every layer, one vector each; kept in the folder."""

        def made() -> SteeringVector:
            method = replace(self.plan.methods[PLAIN], resume=str(self.run.file("state", "layers")))
            done = method.trained(self.lm, self.train, self._layers, progress, self.val)
            return SteeringVector({k: v for _, t in done for k, v in t.vector.vectors.items()})

        return kept(self._file("every layer"), made)

    @property
    def _layers(self) -> list[Layer]:
        return list(self.plan.layers) or list(range(self.lm.n_layers - 1))

    def _file(self, name: str) -> Path:
        return self.run.file("vectors", f"{file_name(name)}.safetensors")

    @cached_property
    def own(self) -> dict[str, SteeringVector]:
        """Of every setting, as long as it came out; the plain one with few coordinates; random directions."""
        quiet = silent("")
        for name in self.plan.methods:
            self.looked(name, quiet)
        out = {name: SteeringVector.load(self._file(name)) for name in self.plan.methods}
        plain = out[PLAIN]
        out |= {kept_name(x): _largest(plain, x) for x in self.plan.kept}
        drawn = randoms(plain, self.plan.randoms, self.plan.seed).values()
        return out | {f"{RANDOM} {k + 1}": v for k, v in enumerate(drawn)}

    @cached_property
    def even(self) -> dict[str, SteeringVector]:
        """The same at the norm of the plain vector; few coordinates keep the length they have."""
        length = self.own[PLAIN].norm()[self.plan.layer]
        few = {kept_name(x) for x in self.plan.kept}
        return {n: v if n in few or not v.norm()[self.plan.layer] else v.unit() * length for n, v in self.own.items()}

    # ------------------------------------------------------------ the test

    def measure(self, progress: Progress) -> None:
        """Margins of test pairs at -1, 0 and 1: every vector as long as it came out, and as long as the plain one."""
        for part, vectors in (("own", self.own), ("even", self.even)):
            first, *rest = vectors
            measure(
                self.lm, throughout(vectors[first]), replace(self.test, ask=None), METRICS, to=self.run.path, part=part,
                multipliers=(-1.0, 0.0, 1.0), controls={name: vectors[name] for name in rest}, progress=progress,
            )  # fmt: skip

    def measure_layers(self, progress: Progress) -> None:
        """The same of the plain training at every layer."""
        measure(
            self.lm, throughout(self.at_layers(silent(""))), replace(self.test, ask=None), METRICS, to=self.run.path,
            part="layers", multipliers=(-1.0, 0.0, 1.0), layers=self._layers, controls={}, progress=progress,
        )  # fmt: skip

    # ------------------------------------------------------------ what came out

    def results(self) -> Facts:
        quiet = silent("")
        own, even = (
            {name: self._values(part, "vector" if k == 0 else name) for k, name in enumerate(self.own)}
            for part in ("own", "even")
        )
        settings: list[Setting] = []
        few = {kept_name(x): x for x in self.plan.kept}
        for name, v in self.own.items():
            best = self.looked(name, quiet).best if name in self.plan.methods else None
            cosine = float(v.cosine(self.own[PLAIN])[self.plan.layer])
            values = (*own[name], *even[name])
            settings.append(Setting(name, v.norm()[self.plan.layer], cosine, best, *values, few.get(name)))
        looked = [self.looked(name, quiet) for name in self.plan.methods]
        layers = [AtLayer(k, *self._values("layers", "vector", k)) for k in self._layers]
        return Facts(self.name, len(self.train), len(self.val), len(self.test), settings, looked, layers)

    def _values(self, part: str, condition: str, layer: Layer | None = None) -> tuple[Value, Value]:
        """Change of the margin at 1 and at -1, over questions."""
        s = Scores.of(self.run, part, condition, layer)
        groups = {p.id: p.group for p in self.test}
        of = [groups[item] for item in s.items]
        plain: Array = s.margin[:, s.at(0.0)]
        up, down = (s.margin[:, s.at(m)] - plain for m in (1.0, -1.0))
        return Value.of(up, of), Value.of(down, of)


def _largest(vector: SteeringVector, share: float) -> SteeringVector:
    """With the largest coordinates alone, the others 0."""
    few: dict[Layer, torch.Tensor] = {}
    for layer, v in vector.vectors.items():
        n = max(1, round(share * v.numel()))
        floor = v.abs().flatten().topk(n).values[-1]
        few[layer] = torch.where(v.abs() >= floor, v, torch.zeros_like(v))
    return SteeringVector(few, vector.made)
