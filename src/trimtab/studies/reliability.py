"""Which behaviors can be steered reliably, and does it carry over to other prompts? (Tan et al. 2024, with the corrections of its successors.)

For every data set: mean-difference vectors of five contexts and their mean; one layer for the model, chosen on validation questions; every vector
in every context on test questions at seven multipliers; controls; the forecast of all that from one backward pass. One folder, resumable;
`trimtab.reports.reliability` turns it into tables, figures and a page.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.data.choices import is_listed, options
from trimtab.data.contexts import STUDIED, SYSTEM, available, in_context
from trimtab.data.datasets import Dataset, Splits
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, RecipeError
from trimtab.forecast import Sensitivity, card, sensitivity
from trimtab.measure import measure
from trimtab.methods.contrast import Activations, Read, activations, paired_rows, tied
from trimtab.metrics import KL, OutsideMass, Propensity
from trimtab.metrics.base import Metric
from trimtab.model import LM, Layer
from trimtab.nulls import null_slopes
from trimtab.recipe import GRID, Run, check_grid
from trimtab.reports.reliability import choose_layer
from trimtab.statistics.nulls import Compared, Null
from trimtab.steering.controls import in_span, shuffled, turned
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import Provenance, SteeringVector

Watch = Callable[[str], Callable[..., None]]
BUDGET = 0.5  # nats of KL from the unsteered model that a layer may cost at multiplier 1


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        data: data sets of A/B questions.
        form: "letters", or "spoken": the options themselves as answers, nothing listed (per-token log-probability), for models whose letters mean
            little.
        words: spoken options are cut to this many words, or as many as it takes to tell the two apart; 0 for whole ones.
        contexts: those that vectors are learned in and tested in; a data set takes part in those it has sentences for.
        beyond: further contexts that only the first context's vector and its controls are tested in.
        train, val, test: questions of each part.
        layers: to choose from; empty for all.
        layer: use this one, and sweep nothing.
        read: where the vectors are learned; see `activations`.
        positions: where they act.
        system: the system message of contexts that set none; "" for no message.
        nulls: random directions in the span of the training differences (orthogonal to the vector), and label-shuffled vectors, that are measured; and
        draws: how many of each are forecast, with the choice of a layer that the vector had; at least 199 for a p-value.
        folds: of the cross-fitted estimate on the training questions; 0 for none.
        legacy: the published split, with its overlap of training and test questions. To reproduce, not to believe.
    """

    data: tuple[str, ...]
    form: Literal["letters", "spoken"] = "letters"
    words: int = 0
    contexts: tuple[str, ...] = STUDIED
    beyond: tuple[str, ...] = ("no-system", "reworded", "two-turns", "swapped", "digits", "xy")
    train: int = 80
    val: int = 40
    test: int = 100
    multipliers: tuple[float, ...] = GRID
    layers: tuple[int, ...] = ()
    layer: int | None = None
    read: Read = "auto"
    positions: str = "from_last_prompt_token"
    system: str | None = SYSTEM
    nulls: int = 3
    draws: int = 499
    folds: int = 5
    seed: int = 0
    legacy: bool = False

    def __post_init__(self) -> None:
        check_grid(self.multipliers)
        if not self.data or len(set(self.data)) < len(self.data) or len({Path(d).stem for d in self.data}) < len(self.data):
            raise RecipeError("not a list of data sets", given=self.data, expected="at least one, none twice, each with a name of its own")
        if self.form not in ("letters", "spoken") or not self.contexts or min(self.train, self.val, self.test) < 2:
            raise RecipeError("not a study of reliability", given=asdict(self), expected='form "letters" or "spoken", contexts, two questions a part')


def reliability(lm: LM, to: str | Path, plan: Plan, watch: Watch | None = None) -> Run:
    """Run the study into a folder; the same call resumes.

    Raises:
        DataError: a data set that cannot be studied, before anything is run.
    """
    folder, watch = Run.create(to), watch or (lambda _: lambda *_: None)
    folder.claim("study", {"plan": asdict(plan), "model": lm.facts})
    studied = [_Studied(lm, folder, plan, source, watch) for source in plan.data]
    for one in studied:
        one.learn(plan.contexts[0])
        one.forecast("val")
        if plan.layer is None:
            one.sweep()
    layer = plan.layer if plan.layer is not None else choose_layer(folder, {one.name: one.facts() for one in studied}, BUDGET)
    folder.note(layer=layer, sets=[one.facts() for one in studied])
    for k, one in enumerate(studied):
        one.grid(layer, unrelated=studied[(k + 1) % len(studied)] if len(studied) > 1 else None)
        one.nulls(layer)
        one.cross_fit(layer)
    return folder


class _Studied:
    """One data set of the study."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str, watch: Watch) -> None:
        self.lm, self.plan, self.watch = lm, plan, watch
        data = Dataset.load(source, form="choices")
        self.name = Path(source).stem
        self.run = Run.create(folder.file("sets", self.name))
        listed = tuple(p for p in data if is_listed(p) and (plan.form == "letters" or options(p)[1] != options(p)[2]))
        if len(listed) < 3:
            raise DataError(
                f"{self.name}: not A/B questions", given=f"{len(listed)} of {len(data)} with two listed options", expected="A/B questions"
            )
        self.left_out = len(data) - len(listed)
        data = replace(data, pairs=listed)
        letters = [p.meta["matching_letter"] for p in data]
        if plan.form == "letters" and len(set(letters)) < 2:
            raise DataError(f"{self.name} has its answer always at the same letter", given=letters[0], expected="both letters, in about equal shares")
        self.contexts = [c for c in plan.contexts if c in available(data)]
        self.beyond = [c for c in plan.beyond if c in available(data)] if plan.form == "letters" else [c for c in plan.beyond if c in _OPEN]
        if plan.contexts[0] not in self.contexts:
            raise DataError(f"{self.name} cannot be put into the first context", given=plan.contexts[0], expected=available(data))
        self.parts = _legacy_split(data, plan) if plan.legacy else _split(data, plan)
        self._data: dict[tuple[str, str], Dataset] = {}
        self._check()

    def _check(self) -> None:
        """Render the longest questions of every context, so that what cannot be asked is refused now and not after an hour."""
        for context in (*self.contexts, *self.beyond):
            data = self.data("test", context)
            for pair in sorted(data, key=lambda p: -len(p.prompt) - len(p.positive) - len(p.negative))[:3]:
                paired_rows(self.lm, pair)

    def data(self, part: str, context: str) -> Dataset:
        if (part, context) not in self._data:
            whole = getattr(self.parts, part)
            shown = in_context(whole, "spoken", system=None) if self.plan.form == "spoken" else whole
            cut = replace(shown, pairs=tuple(_cut(p, self.plan.words) for p in shown)) if self.plan.words and self.plan.form == "spoken" else shown
            self._data[part, context] = in_context(replace(cut, ask=whole.ask), context, system=self.plan.system)
        return self._data[part, context]

    def facts(self) -> dict[str, Any]:
        """What the analysis needs to know of the items."""
        return {
            "name": self.name,
            "contexts": self.contexts,
            "beyond": self.beyond,
            "left_out": self.left_out,
            "sizes": {part: len(getattr(self.parts, part)) for part in ("train", "val", "test")},
            "items": {
                part: {c: [p.id for p in self.data(part, c)] for c in (*self.contexts, *self.beyond, *(["swapped"] if self._debiased else []))}
                for part in ("val", "test")
            },
            "letter": {part: [p.meta["matching_letter"] for p in getattr(self.parts, part)] for part in ("train", "val", "test")},
            "polarity": {part: [p.meta["polarity"] for p in getattr(self.parts, part)] for part in ("train", "val", "test")},
            "group": [p.group for p in self.parts.test],
            "groups": {"val": [p.group for p in self.parts.val]},
        }

    @property
    def _debiased(self) -> bool:
        """Whether items are also read with their options in the other order."""
        return self.plan.form == "letters" and not self.plan.legacy

    # ------------------------------------------------------------ learning

    def learn(self, context: str, layers: Sequence[Layer] | None = None) -> Activations:
        """Activations of the training questions in a context, kept in the folder."""
        path = self.run.file("activations", f"{context}.safetensors")
        if not path.is_file():
            read = activations(
                self.lm, self.data("train", context), layers, read=self.plan.read, progress=self.watch(f"{self.name}: read, {context}")
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            save_file({"positive": read.positive.contiguous(), "negative": read.negative.contiguous(), "layers": torch.tensor(read.layers)}, aside)
            aside.replace(path)
        with safe_open(path, "pt") as file:
            layers = tuple(file.get_tensor("layers").tolist())
            return Activations(file.get_tensor("positive"), file.get_tensor("negative"), layers, tied(self.parts.train))

    def directions(self, layer: Layer) -> dict[str, Tensor]:
        """The vector of every context and their mean, all with the norm of the first context's: comparisons are about directions."""
        raw = {c: self.learn(c, None if c == self.contexts[0] else [layer]).at([layer]).mean_difference()[0] for c in self.contexts}
        if len(raw) > 1:
            raw["mean"] = torch.stack(list(raw.values())).mean(0)
        self.run.note(norms={c: float(v.norm()) for c, v in raw.items()})
        length = raw[self.contexts[0]].norm()
        return {c: v / v.norm() * length for c, v in raw.items()}

    def kept(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Directions, computed once and kept in the folder: another machine, or number of threads, may round them differently."""
        path = self.run.file("vectors", f"{name}.safetensors")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            save_file({k: v.contiguous() for k, v in make().items()}, aside)
            aside.replace(path)
        with safe_open(path, "pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118

    def made(self, layer: Layer, v: Tensor, pairs: Sequence[Pair] | None = None) -> SteeringVector:
        """A vector of the training questions, or of some of them; the legacy split would be refused if it told what it has seen."""
        seen = () if self.plan.legacy else tuple(sorted({p.group for p in pairs or self.parts.train}))
        about = {"name": self.name, "part": "train", "pairs": len(self.parts.train)}
        return SteeringVector({layer: v}, Provenance(self.lm.id, self.lm.revision, self.lm.fingerprint, {"name": "mean-diff"}, about, seen))

    # ------------------------------------------------------------ measuring

    def sweep(self) -> None:
        """Every layer on validation questions, in both orders of the options."""
        read = self.learn(self.contexts[0])
        layers = [k for k in read.layers if not self.plan.layers or k in self.plan.layers]
        mean = self.kept("sweep", lambda: {str(k): v for k, v in zip(read.layers, read.mean_difference(), strict=True)})
        vector = replace(self.made(layers[0], mean[str(layers[0])]), vectors={k: mean[str(k)] for k in layers})
        for context in (self.contexts[0], *(["swapped"] if self._debiased else [])):
            self._measure(vector, "val", context, {}, layers=layers)

    def grid(self, layer: Layer, unrelated: _Studied | None) -> None:
        """Every vector in every context on test questions; the first context's with its controls, and beyond."""
        first = self.contexts[0]
        every = {name: self.made(layer, v) for name, v in self.kept("contexts", lambda: self.directions(layer)).items()}
        controls = self.kept("controls", lambda: self._controls(layer, every[first][layer], unrelated))
        for context in self.contexts:
            others = {f"from {c}": v for c, v in every.items() if c != first}
            if context == first:
                others |= {name: self.made(layer, v) for name, v in controls.items()}
            self._measure(every[first], "test", context, others)
        for context in self.beyond:
            self._measure(every[first], "test", context, {})

    def _controls(self, layer: Layer, vector: Tensor, unrelated: _Studied | None) -> dict[str, Tensor]:
        deltas = self.learn(self.contexts[0]).at([layer]).deltas[:, 0]
        drawn = {f"span-{k}": v[0] for k, v in enumerate(in_span(deltas[:, None], self.plan.nulls, self.plan.seed))}
        drawn |= {f"shuffled-{k}": v[0] for k, v in enumerate(shuffled(deltas[:, None], self.plan.nulls, self.plan.seed, tied(self.parts.train)))}
        if unrelated is not None:
            drawn["unrelated"] = unrelated.learn(unrelated.contexts[0]).at([layer]).mean_difference()[0]
        out = {name: v if name.startswith("shuffled") else v / v.norm() * vector.norm() for name, v in drawn.items()}
        for part in ("letter", "polarity") if self.plan.form == "letters" else ():
            codes = torch.tensor(self._codes(part))
            if codes.abs().sum() == len(codes) and codes.unique().numel() == 2:
                out[f"{part} alone"] = effects(deltas, codes)[1]
        return out

    def _codes(self, part: str) -> list[float]:
        values = [p.meta["matching_letter" if part == "letter" else "polarity"] for p in self.parts.train]
        return [{"A": 1.0, "B": -1.0, "yes": 1.0, "no": -1.0}.get(v, 0.0) for v in values]

    def _measure(
        self, vector: SteeringVector, part: str, context: str, others: Mapping[str, SteeringVector], layers: Sequence[Layer] | None = None
    ) -> None:
        metrics: tuple[Metric, ...] = (Propensity(), KL())
        if self.plan.form == "letters" and context == self.contexts[0]:
            metrics = (*metrics, OutsideMass())
        name = f"{part}-{context}"
        measure(
            self.lm, Intervention(vector, positions=self.plan.positions), self.data(part, context), metrics, to=self.run.path, part=name,
            multipliers=self.plan.multipliers, layers=layers, controls=others, progress=self.watch(f"{self.name}: {name}"),
        )  # fmt: skip

    # ------------------------------------------------------------ forecasts

    def forecast(self, part: str) -> Sensitivity:
        """Gradients of the questions of a part in the first context, kept in the folder."""
        path = self.run.file("forecast", f"{part}.safetensors")
        if not path.is_file():
            found = sensitivity(
                self.lm, self.data(part, self.contexts[0]), positions=self.plan.positions, progress=self.watch(f"{self.name}: forecast, {part}")
            )
            found.save(path)
        return Sensitivity.load(path)

    def nulls(self, layer: Layer) -> None:
        """The forecast on test questions: of the vector at every layer, of each training pair, of many null vectors; and the card."""
        if "compared" in self.run.read("forecast.json", {}):
            return
        expected, read = self.forecast("test"), self.learn(self.contexts[0])
        deltas, mean = read.at([layer]).deltas[:, 0], read.mean_difference()
        sweep = SteeringVector(dict(zip(read.layers, mean, strict=True)))
        early = self.forecast("val").slopes(sweep)
        found = card(self.forecast("val"), sweep, layer, read, self.parts.train, [p.group for p in self.parts.val])
        self.run.write(
            "forecast.json",
            {
                "layers": {str(k): s.tolist() for k, s in expected.slopes(sweep).items()},
                "val": {str(k): s.tolist() for k, s in early.items()},
                "compared": self._compared(expected, read, layer).to_json(),
                "per_pair": expected.along(deltas, layer).round(5).tolist(),
                "card": {
                    "slope": asdict(found.slope), "anti": asdict(found.anti), "coherence": asdict(found.coherence), "confounds": asdict(found.confounds),
                    "warnings": list(found.warnings),
                },
            },
        )  # fmt: skip

    def _compared(self, expected: Sensitivity, read: Activations, layer: Layer) -> Compared:
        """The vector's forecast beside that of null vectors, which may choose among the layers that were swept: label-shuffled ones, for the verdict; and, to be told, random
        directions, and directions in the span of the training differences.

        (Those are orthogonal to the vector, not to the behavior: where it shows differently from pair to pair they hold some of it, and are as long as the vector.)
        """
        layers = [layer] if self.plan.layer is not None else [k for k in read.layers if not self.plan.layers or k in self.plan.layers]
        some, gradient = read.at(layers), expected.gradients.mean(0)[layers]
        mean = some.mean_difference()
        drawn = {"random": partial(turned, mean), "shuffled": partial(shuffled, some.deltas, tied=some.tied), "span": partial(in_span, some.deltas)}
        slopes = {kind: null_slopes(draw, gradient, self.plan.draws, self.plan.seed + 1) for kind, draw in drawn.items()}
        nulls = tuple(Null.of(kind, layers, s.numpy().astype(float)) for kind, s in slopes.items())
        return Compared(str(layer), float(mean[layers.index(layer)] @ gradient[layers.index(layer)]), len(expected.items), "forecast", nulls)

    def cross_fit(self, layer: Layer) -> None:
        """Training questions, each steered by the vector of the folds it is not in."""
        if not self.plan.folds:
            return
        deltas = self.learn(self.contexts[0]).at([layer]).deltas[:, 0]
        data = self.data("train", self.contexts[0])
        parts = folds([p.group for p in data], self.plan.folds, self.plan.seed)
        rests = [[i for i in range(len(data)) if i not in mine] for mine in parts]
        means = self.kept("folds", lambda: {str(k): deltas[rest].mean(0) for k, rest in enumerate(rests)})
        for k, (mine, rest) in enumerate(zip(parts, rests, strict=True)):
            vector = self.made(layer, means[str(k)], [data[i] for i in rest])
            some = replace(data, pairs=tuple(data[i] for i in sorted(mine)))
            measure(
                self.lm, Intervention(vector, positions=self.plan.positions), some, [Propensity()], to=self.run.path, part=f"fold-{k}",
                multipliers=self.plan.multipliers, controls={}, progress=self.watch(f"{self.name}: fold {k}"),
            )  # fmt: skip


_OPEN = ("no-system", "reworded", "two-turns")  # contexts that need no listed options


def _split(data: Dataset, plan: Plan) -> Splits:
    parts = data.split(seed=plan.seed)
    return Splits(parts.train.take(plan.train), parts.val.take(plan.val), parts.test.take(plan.test))


def _legacy_split(data: Dataset, plan: Plan) -> Splits:
    """The published one: training questions 0 to 50 %, test questions from number 50 on, so that most training questions are tested."""
    pairs = list(data.pairs)
    random.Random(0).shuffle(pairs)
    train, test = pairs[: len(pairs) // 2][: plan.train], pairs[min(50, len(pairs) // 2) :][: plan.test]
    named = {"train": train, "val": train[: plan.val], "test": test}
    return Splits(**{name: replace(data, pairs=tuple(p), part=name) for name, p in named.items()})


def _cut(pair: Pair, words: int) -> Pair:
    """The first words of both completions: as many as asked for, and more until they differ."""
    one, two = pair.positive.split(), pair.negative.split()
    for n in range(words, max(len(one), len(two))):
        if one[:n] != two[:n]:
            return replace(pair, positive=" ".join(one[:n]), negative=" ".join(two[:n]))
    return pair


# ---------------------------------------------------------------- directions out of differences


def effects(deltas: Float[Tensor, "n d"], *codes: Float[Tensor, " n"]) -> Float[Tensor, "k d"]:
    """Factorial extraction: least-squares coefficients of the differences on (1, *codes). The first is the vector with all codes balanced out.

    Args:
        codes: -1 or +1 for every pair, such as letter, polarity, and their product.
    """
    design = torch.stack([torch.ones(len(deltas)), *codes], 1)
    return torch.linalg.lstsq(design, deltas).solution


def leave_one_out(deltas: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """For every pair the mean difference of all others, in closed form."""
    n = len(deltas)
    return (n * deltas.mean(0) - deltas) / (n - 1)


def folds(groups: Sequence[str], count: int, seed: int = 0) -> list[set[int]]:
    """Indices of items in `count` folds; items of a group stay together."""
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    place = {g: k % count for k, g in enumerate(names)}
    found = [{i for i, g in enumerate(groups) if place[g] == k} for k in range(count)]
    return [f for f in found if f]
