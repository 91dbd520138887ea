"""Which behaviors can be steered reliably, and does it carry over to other prompts? (Tan et al. 2024, with the
corrections of its successors.)

For every data set: mean-difference vectors of five contexts and their mean; one layer for the model, chosen on
validation questions; every vector in every context on test questions at seven multipliers; controls; the forecast of
all that from one backward pass. One folder, resumable; `trimtab.studies.pages.reliability` turns it into tables,
figures and a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from trimtab.data.choices import is_listed, options
from trimtab.data.contexts import STUDIED, SYSTEM, available, in_context, says_more
from trimtab.data.datasets import Dataset
from trimtab.data.formats import matching
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, RecipeError
from trimtab.evaluation.forecast import Sensitivity, card
from trimtab.evaluation.metrics import KL, OutsideMass, Propensity
from trimtab.evaluation.metrics.base import Metric
from trimtab.evaluation.sweep import measure
from trimtab.journal import plain
from trimtab.methods.contrast import Activations, Read, paired_rows, tied
from trimtab.model import LM, Layer
from trimtab.progress import Progress, silent
from trimtab.recipe import GRID, check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.steering.controls import in_span, shuffled
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import Provenance, SteeringVector, kept_tensors
from trimtab.studies import extractors, foreseen
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.reliability_extractors import BALANCED, BOTH_ORDERS, extracted_by
from trimtab.studies.pages.reliability_facts import (
    BUDGET,
    VECTOR,
    Forecasts,
    Items,
    Neutral,
    Results,
    SetFacts,
    learned_in,
    raw,
)
from trimtab.studies.pages.reliability_results import SHIFTS, choose_layer
from trimtab.studies.parts import cut, effects, folds, fresh_split, kept_activations, legacy_split

OPEN = ("no-system", "reworded", "two-turns", "no-opener")  # contexts that need no listed options


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        data: data sets of A/B questions.
        form: "letters", or "spoken": the options themselves as answers, nothing listed (per-token log-probability),
            for models whose letters mean little.
        words: spoken options are cut to this many words, or as many as it takes to tell the two apart; 0 for whole
            ones.
        contexts: those that vectors are learned in and tested in; a data set takes part in those it has sentences for.
        beyond: further contexts that only the first context's vector and its controls are tested in. With "no-opener",
            questions whose answers say nothing but Yes or No are left out.
        train, val, test: questions of each part.
        multipliers: the grid.
        layers: to choose from; empty for all.
        layer: use this one, and sweep nothing.
        read: where the vectors are learned; see `activations`.
        positions: where they act.
        system: the system message of contexts that set none; "" for no message.
        nulls: random directions in the span of the training differences (orthogonal to the vector), and
            label-shuffled vectors, that are measured.
        draws: how many of each are forecast, with the choice of a layer that the vector had; at least 199 for a
            p-value.
        extractors: vectors of other kinds from the same questions, at the norm of the mean difference: "balanced" (the
            concept part of the factorial fit: letter and polarity evened out), "both-orders" (read with the options in
            either order, so that the letter cancels), or methods by name.
        folds: of the cross-fitted estimate on the training questions; 0 for none.
        seed: of everything that is drawn.
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
    extractors: tuple[str, ...] = (BALANCED, BOTH_ORDERS, "pca", "probe")
    folds: int = 5
    seed: int = 0
    legacy: bool = False

    def __post_init__(self) -> None:
        check_grid(self.multipliers)
        extractors.check(self.extractors)
        object.__setattr__(self, "data", matching(self.data))
        if (
            not self.data
            or len(set(self.data)) < len(self.data)
            or len({Path(d).stem for d in self.data}) < len(self.data)
        ):
            raise RecipeError(
                "not a list of data sets",
                given=self.data,
                expected="at least one, none twice, each with a name of its own",
            )
        if self.form not in ("letters", "spoken") or not self.contexts or min(self.train, self.val, self.test) < 2:
            raise RecipeError(
                "not a study of reliability",
                given=self,
                expected='form "letters" or "spoken", contexts, two questions a part',
            )


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any model.

    Raises:
        DataError: a data set that cannot be studied, before anything is run.
    """
    studied = [_Studied(lm, run, plan, source) for source in plan.data]
    first = plan.contexts[0]
    read = [Unit(f"{s.name}: read", {"data": s.parts.train.hash}, partial(s.learn, first)) for s in studied]
    yield Stage("read", read)
    early = [Unit(f"{s.name}: forecast, val", {"data": s.parts.val.hash}, partial(s.forecast, "val")) for s in studied]
    sweeps = [Unit(f"{s.name}: sweep", {"data": s.parts.val.hash}, s.sweep) for s in studied if plan.layer is None]
    yield Stage("sweep", [*early, *sweeps])
    layer = plan.layer if plan.layer is not None else choose_layer(run, [s.facts() for s in studied], BUDGET)
    others = {s: studied[(k + 1) % len(studied)] if len(studied) > 1 else None for k, s in enumerate(studied)}
    made = [Unit(f"{s.name}: vectors", {"layer": layer}, partial(s.vectors, layer, others[s])) for s in studied]
    yield Stage("vectors", made)
    yield Stage("test", [unit for s in studied for unit in s.tests(layer, others[s])])
    model, facts = lm.facts, [s.facts(layer, others[s]) for s in studied]
    swept, grid = plan.layer is None, list(plan.multipliers)
    run.write(RESULTS, Results(model, plain(plan), plan.form, plan.legacy, swept, grid, plan.seed, layer, facts))


class _Studied:
    """One data set of the study: its pieces of work; each reads back what it has already done."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str) -> None:
        self.lm, self.plan = lm, plan
        self.name = Path(source).stem
        self.run = Run.create(folder.file("sets", self.name))
        data = Dataset.load(source, form="choices")
        listed = tuple(p for p in data if is_listed(p) and (plan.form == "letters" or options(p)[1] != options(p)[2]))
        self.left_out = len(data) - len(listed)
        data = self._usable(data, listed)
        bare = [p for p in data if "no-opener" in (*plan.contexts, *plan.beyond) and not says_more(p)]
        self.mute = len(bare)
        data = self._usable(data, tuple(p for p in data if p not in bare), "that say more than Yes or No")
        self.contexts = [c for c in plan.contexts if c in available(data)]
        beyond = [c for c in available(data) if plan.form == "letters" or c in OPEN]
        self.beyond = [c for c in plan.beyond if c in beyond]
        if plan.contexts[0] not in self.contexts:
            raise DataError(
                f"{self.name} cannot be put into the first context", given=plan.contexts[0], expected=available(data)
            )
        sizes = (plan.train, plan.val, plan.test)
        self.parts = legacy_split(data, sizes) if plan.legacy else fresh_split(data, sizes, plan.seed)
        self._data: dict[tuple[str, str], Dataset] = {}
        self._check()
        self.run.claim("data", {part: getattr(self.parts, part).hash for part in ("train", "val", "test")})

    def _usable(self, data: Dataset, listed: tuple[Pair, ...], which: str = "with two listed options") -> Dataset:
        """Some of the questions.

        Raises:
            DataError: too few, or all answers at one letter.
        """
        if len(listed) < 3:
            given = f"{len(listed)} of {len(data)} {which}"
            raise DataError(f"{self.name}: too few A/B questions", given=given, expected="three or more")
        letters = [p.meta["matching_letter"] for p in listed]
        if self.plan.form == "letters" and len(set(letters)) < 2:
            expected = "both letters, in about equal shares"
            raise DataError(
                f"{self.name} has its answer always at the same letter", given=letters[0], expected=expected
            )
        return replace(data, pairs=listed)

    def _check(self) -> None:
        """Render the longest questions of every context, so that what cannot be asked is refused now and not after an
        hour.
        """
        for context in (*self.contexts, *self.beyond):
            data = self.data("test", context)
            self.data("val", context)
            for pair in sorted(data, key=lambda p: -len(p.prompt) - len(p.positive) - len(p.negative))[:3]:
                paired_rows(self.lm, pair)

    def data(self, part: str, context: str) -> Dataset:
        """A part, asked in a context."""
        if (part, context) not in self._data:
            whole: Dataset = getattr(self.parts, part)
            shown = whole
            if self.plan.form == "spoken":
                shown = in_context(whole, "spoken", system=None)
                # before it is cut, or an opener would be most of what is left
                shown = in_context(shown, context, system=None) if context == "no-opener" else shown
                shown = (
                    replace(shown, pairs=tuple(cut(p, self.plan.words) for p in shown)) if self.plan.words else shown
                )
            self._data[part, context] = in_context(replace(shown, ask=whole.ask), context, system=self.plan.system)
        return self._data[part, context]

    def facts(self, layer: Layer | None = None, unrelated: _Studied | None = None) -> SetFacts:
        """What the analysis needs to know of the items; and of the vectors, once a layer is chosen."""
        sizes = {part: len(getattr(self.parts, part)) for part in ("train", "val", "test")}
        vectors = [VECTOR] if layer is None else list(self._vectors(layer, unrelated))
        n = len(self._folds()) if self.plan.folds else 0
        return SetFacts(
            self.name,
            self.contexts,
            self.beyond,
            self.left_out,
            sizes,
            self._items("val"),
            self._items("test"),
            vectors,
            n,
            self.mute,
        )

    def _items(self, part: str) -> Items:
        whole: Dataset = getattr(self.parts, part)
        contexts = (*self.contexts, *self.beyond, *(["swapped"] if self._debiased else []))
        ids: dict[str, list[str]] = {}
        for context in contexts:
            ids[context] = [p.id for p in self.data(part, context)]
        letters = [p.meta["matching_letter"] for p in whole]
        polarities = [p.meta["polarity"] for p in whole]
        return Items(ids, letters, polarities, [p.group for p in whole])

    @property
    def _debiased(self) -> bool:
        """Whether items are also read with their options in the other order."""
        return self.plan.form == "letters" and not self.plan.legacy

    # ------------------------------------------------------------ learning

    def learn(self, context: str, progress: Progress, layers: Sequence[Layer] | None = None) -> Activations:
        """Activations of the training questions in a context, kept in the folder."""
        file, data = self.run.file("activations", f"{context}.safetensors"), self.data("train", context)
        return kept_activations(file, self.lm, data, layers, self.plan.read, tied(self.parts.train), progress)

    @cached_property
    def read(self) -> Activations:
        """Those in the first context, at all layers."""
        return self.learn(self.contexts[0], silent(""))

    def directions(self, layer: Layer) -> dict[str, Tensor]:
        """The vector of every context and their mean, all with the norm of the first context's: comparisons are about
        directions.
        """
        own = {c: self._own(layer, c) for c in self.contexts}
        if len(own) > 1:
            own["mean"] = torch.stack(list(own.values())).mean(0)
        length = own[self.contexts[0]].norm()
        return {c: v / v.norm() * length for c, v in own.items()}

    def _own(self, layer: Layer, context: str) -> Tensor:
        """The vector of a context as it comes out."""
        read = self.read if context == self.contexts[0] else self.learn(context, silent(""), [layer])
        return read.at([layer]).mean_difference()[0]

    def kept(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Directions, computed once and kept in the folder: another machine, or number of threads, may round them
        differently.
        """
        return kept_tensors(self.run.file("vectors", f"{name}.safetensors"), make)

    def made(self, layer: Layer, v: Tensor, pairs: Sequence[Pair] | None = None) -> SteeringVector:
        """A vector of the training questions, or of some of them; the legacy split would be refused if it told what it
        has seen.
        """
        seen = () if self.plan.legacy else tuple(sorted({p.group for p in pairs or self.parts.train}))
        about = {"name": self.name, "part": "train", "pairs": len(self.parts.train)}
        return SteeringVector(
            {layer: v},
            Provenance.of(self.lm, method={"name": "mean-diff"}, data=about, trained_on=seen),
        )

    # ------------------------------------------------------------ measuring

    def tests(self, layer: Layer, unrelated: _Studied | None) -> list[Unit]:
        """All that is measured on test questions, and the folds of the training questions."""
        test, train = {"layer": layer, "data": self.parts.test.hash}, {"layer": layer, "data": self.parts.train.hash}
        contexts = (*self.contexts, *self.beyond)
        grid = [Unit(f"{self.name}: {c}", test, partial(self.grid, layer, unrelated, c)) for c in contexts]
        folded = [Unit(f"{self.name}: folds", train, partial(self.cross_fit, layer))] if self.plan.folds else []
        return [
            *grid,
            Unit(f"{self.name}: nulls", test, partial(self.nulls, layer, unrelated)),
            Unit(f"{self.name}: neutral text", {"layer": layer}, partial(self.neutral, layer, unrelated)),
            *folded,
        ]

    def sweep(self, progress: Progress) -> None:
        """Every layer on validation questions, in both orders of the options."""
        read, layers = self.read, self._swept
        mean = self.kept("sweep", lambda: {str(k): v for k, v in zip(read.layers, read.mean_difference(), strict=True)})
        vector = replace(self.made(layers[0], mean[str(layers[0])]), vectors={k: mean[str(k)] for k in layers})
        for context in (self.contexts[0], *(["swapped"] if self._debiased else [])):
            self._measure(vector, "val", context, {}, progress, layers=layers)

    @property
    def _swept(self) -> list[Layer]:
        """Layers to choose from."""
        return [k for k in self.read.layers if not self.plan.layers or k in self.plan.layers]

    def vectors(self, layer: Layer, unrelated: _Studied | None, _: Progress) -> None:
        """All of them, made and kept."""
        self._vectors(layer, unrelated)

    def _vectors(self, layer: Layer, unrelated: _Studied | None) -> dict[Condition, SteeringVector]:
        """That of the first context, those of the others and their mean, and controls."""
        learned = self.kept("contexts", lambda: self.directions(layer))
        first = learned.pop(self.contexts[0])
        controls = self.kept(
            "controls", lambda: {str(c): v for c, v in self._controls(layer, first, unrelated).items()}
        )
        out = {VECTOR: first, **{learned_in(c): v for c, v in learned.items()}}
        out |= {c: controls[str(c)] for c in self._control_names(unrelated is not None) if str(c) in controls}
        shifted = dict.fromkeys(c for c, _ in SHIFTS if c in learned)
        if shifted:
            owns = self.kept("own-norm", lambda: {c: self._own(layer, c) for c in shifted})
            out |= {raw(c): v for c, v in owns.items()}
        for name in () if self.plan.legacy else self.plan.extractors:
            found = self.kept(f"by-{name}", partial(self._extracted, layer, name))
            out |= {extracted_by(name): extractors.as_long(v, first) for v in found.values()}
        return {c: self.made(layer, v) for c, v in out.items()}

    def _extracted(self, layer: Layer, name: str) -> dict[str, Tensor]:
        """Of one extractor; empty where the training questions do not determine it."""
        data = self.data("train", self.contexts[0])
        letters, quiet = self.plan.form == "letters", silent("")
        if name == BOTH_ORDERS:
            if not self._debiased:
                return {}
            acts = [x.at([layer]).mean_difference()[0] for x in (self.read, self.learn("swapped", quiet, [layer]))]
            return {name: torch.stack(acts).mean(0)}
        v = extractors.extract(name, self.lm, data, self.read, layer, self.plan.positions, letters, quiet)
        return {} if v is None else {name: v}

    def grid(self, layer: Layer, unrelated: _Studied | None, context: str, progress: Progress) -> None:
        """One context on test questions: every context's vector, in the first one with its controls and those of other
        extractors; beyond, the first's vector alone.
        """
        vectors = self._vectors(layer, unrelated)
        first = self.contexts[0]
        kinds = ["from"] if context in self.contexts else []
        kinds += ["span", "shuffled", "unrelated", "alone"] if context == first else []
        kinds += ["by"] if context in (first, "swapped") else []  # whose slopes are taken over both orders
        owns = [raw(trained) for trained, tested in SHIFTS if tested == context]
        others = {str(c): v for c, v in vectors.items() if c.kind in kinds or c in owns}
        self._measure(vectors[VECTOR], "test", context, others, progress)

    def _control_names(self, unrelated: bool) -> list[Condition]:
        numbers = range(self.plan.nulls)
        alone = ("letter", "polarity") if self.plan.form == "letters" else ()
        return [
            *(Condition(kind, f"{k}", label=f"{kind}-{k}") for kind in ("span", "shuffled") for k in numbers),
            *([Condition("unrelated")] if unrelated else []),
            *(Condition("alone", part, label=f"{part} alone") for part in alone),
        ]

    def _controls(self, layer: Layer, vector: Tensor, unrelated: _Studied | None) -> dict[Condition, Tensor]:
        """Null vectors of two kinds, another data set's vector, and what letter or polarity alone would give."""
        deltas, plan = self.read.at([layer]).deltas[:, 0], self.plan
        spanned = in_span(deltas[:, None], plan.nulls, plan.seed)[:, 0]
        coined = shuffled(deltas[:, None], plan.nulls, plan.seed, tied(self.parts.train))[:, 0]
        out: dict[Condition, Tensor] = {}
        for c in self._control_names(unrelated is not None):
            if c.kind == "span":
                out[c] = extractors.as_long(spanned[int(c.source)], vector)
            elif c.kind == "shuffled":
                out[c] = coined[int(c.source)]  # at the norm it came out with
            elif c.kind == "unrelated" and unrelated is not None:
                out[c] = extractors.as_long(unrelated.read.at([layer]).mean_difference()[0], vector)
            elif c.kind == "alone":
                codes = torch.tensor(extractors.code(self.parts.train.pairs, c.source))
                if codes.abs().sum() == len(codes) and codes.unique().numel() == 2:
                    out[c] = effects(deltas, codes)[1]
        return out

    def _measure(
        self,
        vector: SteeringVector,
        part: str,
        context: str,
        others: Mapping[str, SteeringVector],
        progress: Progress,
        layers: Sequence[Layer] | None = None,
    ) -> None:
        metrics: tuple[Metric, ...] = (Propensity(), KL())
        if self.plan.form == "letters" and context == self.contexts[0]:
            metrics = (*metrics, OutsideMass())
        measure(
            self.lm,
            Intervention(vector, positions=self.plan.positions),
            self.data(part, context),
            metrics,
            to=self.run.path,
            part=f"{part}-{context}",
            multipliers=self.plan.multipliers,
            layers=layers,
            controls=others,
            progress=progress,
        )

    # ------------------------------------------------------------ forecasts

    def forecast(self, part: str, progress: Progress, context: str | None = None) -> Sensitivity:
        """Gradients of the questions of a part in a context, by default the first; kept in the folder."""
        where = context or self.contexts[0]
        name = part if where == self.contexts[0] else f"{part}-{where}"
        file = self.run.file("forecast", f"{name}.safetensors")
        return foreseen.kept_sensitivity(file, self.lm, self.data(part, where), self.plan.positions, progress)

    def nulls(self, layer: Layer, unrelated: _Studied | None, progress: Progress) -> None:
        """The forecast on test questions: of the vector at every layer, of each training pair, of many null vectors, of
        every context's vector in every context; and the card.
        """
        if self.run.read("forecast.json") is not None:
            return
        expected, early, read = self.forecast("test", progress), self.forecast("val", progress), self.read
        everywhere = {c: self.forecast("test", progress, c) for c in self.contexts}
        learned = {c: v for c, v in self._vectors(layer, unrelated).items() if c.kind in (VECTOR.kind, "from")}
        layers = [layer] if self.plan.layer is not None else self._swept
        null = foreseen.compared(expected, read, layers, layer, self.plan.draws, self.plan.seed + 1)
        deltas, mean = read.at([layer]).deltas[:, 0], read.mean_difference()
        sweep = SteeringVector(dict(zip(read.layers, mean, strict=True)))
        self.run.write(
            "forecast.json",
            Forecasts(
                {k: s.tolist() for k, s in expected.slopes(sweep).items()},
                {k: s.tolist() for k, s in early.slopes(sweep).items()},
                expected.along(deltas, layer).round(5).tolist(),
                null.to_json(),
                card(early, sweep, layer, read, self.parts.train, [p.group for p in self.parts.val]),
                foreseen.in_contexts(everywhere, learned),
            ),
        )

    def neutral(self, layer: Layer, unrelated: _Studied | None, progress: Progress) -> Neutral:
        """What the vector costs on text that has nothing to do with the behavior. Kept in the folder."""
        if self.run.read("neutral.json") is None:
            acting = Intervention(self._vectors(layer, unrelated)[VECTOR], positions=self.plan.positions)
            self.run.write("neutral.json", foreseen.on_neutral_text(self.lm, acting))
        progress(1, 1)
        return self.run.typed("neutral.json", Neutral)

    def _folds(self) -> list[set[int]]:
        return folds([p.group for p in self.data("train", self.contexts[0])], self.plan.folds, self.plan.seed)

    def cross_fit(self, layer: Layer, progress: Progress) -> None:
        """Training questions, each steered by the vector of the folds it is not in."""
        deltas, data = self.read.at([layer]).deltas[:, 0], self.data("train", self.contexts[0])
        parts = self._folds()
        rests = [[i for i in range(len(data)) if i not in mine] for mine in parts]
        means = self.kept("folds", lambda: {str(k): deltas[rest].mean(0) for k, rest in enumerate(rests)})
        for k, (mine, rest) in enumerate(zip(parts, rests, strict=True)):
            vector = self.made(layer, means[str(k)], [data[i] for i in rest])
            some = replace(data, pairs=tuple(data[i] for i in sorted(mine)))
            measure(
                self.lm,
                Intervention(vector, positions=self.plan.positions),
                some,
                [Propensity()],
                to=self.run.path,
                part=f"fold-{k}",
                multipliers=self.plan.multipliers,
                controls={},
                progress=progress,
            )
