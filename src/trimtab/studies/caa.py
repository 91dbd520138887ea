"""What a contrast looks like inside a model: what contrastive activation addition looks at (Rimsky et al. 2024), and
the code of Tan et al. 2024 for what makes a data set steerable.

Where do activations cluster by behavior and where by letter (PCA)? How alike are the vectors of two layers, and of a
model and a relative of it? Does a vector work at layers that it was not learned at, and the relative's on this model?
What words does it point to (logit lens), and which tokens of an answer lie along it?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trimtab.data.datasets import Dataset
from trimtab.errors import RecipeError, check_least
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.methods.contrast import Activations, Read, paired_rows, tied
from trimtab.model import LM, Layer
from trimtab.model.load import check
from trimtab.progress import Progress, silent
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.clusters import principal, silhouette
from trimtab.statistics.intervals import mean_figure
from trimtab.statistics.slopes import fit_slopes
from trimtab.steering.controls import turned
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import Provenance, SteeringVector
from trimtab.studies.pages.caa import LETTER, POLARITY, Cluster, Moved, Results, SetFacts, Slope, Source, Told
from trimtab.studies.parts import effects, fresh_split, kept_activations

ENDS = 6  # words of the lens at each end of a vector, and tokens of an answer


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        data: sets of A/B questions.
        relative: another model with the same number of layers and width, such as the base model; "" for none.
        train, test: questions of each part.
        layers: whose vectors are tried at which layers; empty for all.
        multipliers: the grid.
        positions: which tokens are steered.
        read: where activations are taken; see `activations`.
        randoms: random directions of the vector's norm, as controls.
        seed: of everything that is drawn.
    """

    data: tuple[str, ...]
    relative: str = ""
    train: int = 60
    test: int = 60
    layers: tuple[int, ...] = ()
    multipliers: tuple[float, ...] = (-1.0, 0.0, 1.0)
    positions: str = "from_last_prompt_token"
    read: Read = "auto"
    randoms: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_grid(self.multipliers)
        check_least("caa", 4, train=self.train, test=self.test)
        check_least("caa", 0, randoms=self.randoms)
        if not self.data or len({Path(d).stem for d in self.data}) < len(self.data):
            raise RecipeError("not a list of data sets", given=self.data, expected="at least one, none twice")
        if self.relative:
            check(self.relative)


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any model that binds answer letters.

    Raises:
        DataError: data that are no A/B questions.
        RecipeError: a relative of another shape.
    """
    layers = tuple(lm.layers(plan.layers or None))
    sets = [_Set(lm, run, plan, source) for source in plan.data]
    read = [Unit(f"{s.name}: read", {"data": s.train.hash}, s.read) for s in sets]
    if plan.relative:
        relative = _relative(lm, plan.relative)
        read += [Unit(f"{s.name}: read in {plan.relative}", {"data": s.train.hash}, s.reader(relative)) for s in sets]
    yield Stage("read", read)
    yield Stage(
        "measure",
        [
            Unit(
                f"{s.name}: {source.label}",
                {"data": s.test.hash, "layers": list(layers)},
                partial(s.measured, source, layers),
            )
            for s in sets
            for source in s.sources(layers)
        ],
    )
    yield Stage("look", [Unit(f"{s.name}: look", {"data": s.train.hash}, partial(s.look, layers)) for s in sets])
    run.write(RESULTS, Results(lm.id, plan.relative, list(layers), plan.seed, [s.facts(layers) for s in sets]))


def _relative(lm: LM, name: str) -> LM:
    other = LM.load(name)
    if (other.n_layers, other.width) != (lm.n_layers, lm.width):
        raise RecipeError(
            f"{name} is no relative of {lm.id}",
            given=f"{other.n_layers} layers of width {other.width}",
            expected=f"{lm.n_layers} layers of width {lm.width}",
        )
    return other


class _Set:
    """One data set."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str) -> None:
        self.lm, self.plan, self.name = lm, plan, Path(source).stem
        self.run = Run.create(folder.file("sets", self.name))
        data = Dataset.load(source, form="choices")
        parts = fresh_split(data, (plan.train, 2, plan.test), plan.seed)
        self.train, self.test = parts.train, parts.test

    # ------------------------------------------------------------ activations

    def reader(self, lm: LM) -> partial[Activations]:
        return partial(self._read, lm, "relative")

    def read(self, progress: Progress) -> Activations:
        return self._read(self.lm, "own", progress)

    def _read(self, lm: LM, name: str, progress: Progress) -> Activations:
        """Of the training questions at every layer, kept in the folder."""
        file = self.run.file("activations", f"{name}.safetensors")
        return kept_activations(file, lm, self.train, None, self.plan.read, tied(self.train), progress)

    @cached_property
    def acts(self) -> Activations:
        return self.read(silent(""))

    @cached_property
    def mean(self) -> Tensor:
        """Mean differences at every layer (l, d)."""
        return self.acts.mean_difference()

    @cached_property
    def theirs(self) -> Tensor | None:
        """Those of the relative."""
        if not self.run.file("activations", "relative.safetensors").is_file():
            return None
        return self._read(self.lm, "relative", silent("")).mean_difference()

    # ------------------------------------------------------------ measured

    def sources(self, layers: tuple[Layer, ...]) -> list[Source]:
        """What is applied at every layer."""
        relative = [Source("relative")] if self.plan.relative else []
        randoms = [Source("random", k) for k in range(self.plan.randoms)]
        return [Source("own"), *(Source("layer", k) for k in layers), *relative, *randoms]

    def vectors(self, source: Source, layers: tuple[Layer, ...]) -> dict[Layer, Tensor]:
        """One source at every layer, as long as the layer's own vector."""
        if source.kind == "own":
            return {k: self.mean[k] for k in layers}
        if source.kind == "random":
            drawn = turned(self.mean, 1, self.plan.seed + source.number)[0]
            return {k: drawn[k] for k in layers}
        if source.kind == "layer":
            made = dict.fromkeys(layers, self.mean[source.number])
        else:
            theirs = self.theirs
            assert theirs is not None
            made = {k: theirs[k] for k in layers}
        return {k: v / v.norm().clamp(min=1e-30) * self.mean[k].norm() for k, v in made.items()}

    def measured(self, source: Source, layers: tuple[Layer, ...], progress: Progress) -> None:
        """One source, at every layer by itself."""
        trained = tuple(sorted({p.group for p in self.train}))
        made = Provenance.of(self.lm, method={"name": "mean-diff"}, trained_on=trained)
        vector = SteeringVector(self.vectors(source, layers), made)
        measure(
            self.lm,
            Intervention(vector, positions=self.plan.positions),
            self.test,
            [Propensity()],
            to=self.run.path,
            part=source.label,
            multipliers=self.plan.multipliers,
            layers=layers,
            progress=progress,
        )

    def slopes(self, source: Source, layers: tuple[Layer, ...]) -> list[Slope]:
        """Mean slope of one source at every layer."""
        table, out = self.run.table(source.label), list[Slope]()
        groups = {p.id: p.group for p in self.test}
        for layer in layers:
            grid, items, values = table.curve("propensity", "vector", layer)
            slopes = fit_slopes(grid, values).slope
            f = mean_figure("slope", slopes, "nats", groups=[groups[i] for i in items])
            out.append(Slope(layer, f.value, f.lo, f.hi, f.n))
        return out

    # ------------------------------------------------------------ looked at

    def look(self, layers: tuple[Layer, ...], progress: Progress) -> None:
        """Words of the lens and tokens of an answer, into look.json."""
        layer = layers[int(np.argmax([s.value for s in self.slopes(Source("own"), layers)]))]
        self.run.write("look.json", {"layer": layer, "words": self._lens(layer), "tokens": self._along(layer)})
        progress(1, 1)

    def _lens(self, layer: Layer) -> list[list[str]]:
        """The words that the vector, at the output of its layer, makes likelier and less likely if nothing but the
        output embedding stood behind it (logit lens, nostalgebraist 2020): best first.
        """
        weight: Tensor = self.lm.inner.get_output_embeddings().weight.detach().float().cpu()
        order = (weight @ self.mean[layer]).argsort(descending=True)
        words = lambda ids: [self.lm.tokenizer.decode([int(i)]) for i in ids]  # noqa: E731
        return [words(order[:ENDS]), words(order.flip(0)[:ENDS])]

    def _along(self, layer: Layer) -> list[Told]:
        """Every token of one test question, positive answer included, with the stream's projection on the vector, less
        the mean over the tokens.
        """
        row = paired_rows(self.lm, self.test[0])[0]
        v = self.mean[layer]
        tokens = self.lm.batch([row] * len(row.ids))  # a row for every token: what is captured is a mean over them
        each = torch.eye(len(row.ids), dtype=torch.bool, device=tokens.ids.device)
        along = self.lm.capture(tokens, each, [layer])[:, 0] @ (v / v.norm().clamp(min=1e-30))
        along = along - along.mean()
        return [Told(self.lm.tokenizer.decode([i]), float(a)) for i, a in zip(row.ids, along, strict=True)]

    # ------------------------------------------------------------ what came out

    def facts(self, layers: tuple[Layer, ...]) -> SetFacts:
        """Everything the page shows of this set."""
        there, cosine = self.run.read("look.json"), torch.nn.functional.cosine_similarity
        mean = self.mean[list(layers)]
        own = cosine(mean[:, None], mean[None], dim=-1)
        theirs = None if self.theirs is None else cosine(mean, self.theirs[list(layers)], dim=-1).tolist()
        return SetFacts(
            self.name,
            len(self.train),
            len(self.test),
            [self._cluster(k) for k in layers],
            own.tolist(),
            theirs,
            [Moved(s, self.slopes(s, layers)) for s in self.sources(layers)],
            there["layer"],
            there["words"],
            [Told(**t) for t in there["tokens"]],
        )

    def _cluster(self, layer: Layer) -> Cluster:
        """Activations of both answers of every question at one layer."""
        acts = self.acts.at([layer])
        positive, negative, deltas = acts.positive[:, 0], acts.negative[:, 0], acts.deltas[:, 0]
        points = torch.cat([positive, negative]).double().numpy()
        letters = [p.meta["matching_letter"] for p in self.train]
        other = ["B" if x == "A" else "A" for x in letters]
        spots, shares = principal(points)
        codes = [
            torch.tensor([1.0 if p.meta[key] == one else -1.0 for p in self.train])
            for key, one in ((LETTER, "A"), (POLARITY, "yes"))
        ]
        norm = deltas.mean(0).norm()
        parts = [float(effects(deltas, c)[1].norm() / norm) if c.unique().numel() == 2 else None for c in codes]
        return Cluster(
            layer,
            shares.tolist(),
            silhouette(spots, ["+"] * len(positive) + ["-"] * len(negative)),
            silhouette(spots, [*letters, *other]),
            float(norm),
            float(norm / deltas.norm(dim=-1).mean()),
            parts[0],
            parts[1],
            [[float(x) for x in spot] for spot in spots],
            [*letters, *other],
        )
