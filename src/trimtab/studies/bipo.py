"""Preference-optimized vectors beside every baseline, at raw strength and at equal cost (Cao et al. 2024, with what its evaluation left out).

For every behavior: BiPO in three forms, CAA, Freeform, mean difference, one-shot, random directions, the behavior asked for in words, and shown in five
examples; all on the same held-out pairs. Then combinations of behaviors, knowledge at every multiplier, answers without their first word, and what the
model says across the spectrum. One folder, resumable; `trimtab.reports.bipo` turns it into tables, plots and a page.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.capability import accuracy, capability, questions
from trimtab.data.builtin import asking
from trimtab.data.contexts import told, with_shots, without_opener
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import polarity, to_choices
from trimtab.drift import Yardstick, reach
from trimtab.errors import DataError, RecipeError, TokenError
from trimtab.judge import ModelJudge, Rating, Rubric
from trimtab.measure import measure
from trimtab.methods import Freeform, MeanDiff, OneShot, Preference, learn
from trimtab.methods.contrast import activations, paired_rows
from trimtab.metrics import Likelihood, Propensity
from trimtab.model import LM, Layer
from trimtab.model.rendering import as_prompt
from trimtab.quality import distinct, strangeness
from trimtab.recipe import Run, check_grid
from trimtab.reports.bipo import best_layer, slug
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector

log = logging.getLogger("trimtab")
Watch = Callable[[str], Callable[..., None]]
METRICS = (Propensity("sequence", per_token=False), Likelihood("positive"), Likelihood("negative"))
TRAINED = {"BiPO": "both", "BiPO, signs drawn": "batch", "BiPO, one direction": "one"}
SHOWN = 3  # random directions that are measured at their own strength as well
KNOWING = ("BiPO", "CAA", "random-0")  # vectors whose cost in knowledge is measured


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        data: free-form pairs: built-in behaviors (split 40/10/50), or training files NAME.train.csv with NAME.test.csv beside them.
        layer: of BiPO and one-shot; CAA and mean difference choose theirs on validation pairs, Freeform by divergence. Without one, short trainings at
            `layers` compete on validation pairs of the first behavior.
        scouts: training pairs of these short trainings, two epochs each.
        multipliers: the spectrum.
        train, val, test: pairs of each part at most; val is taken from the training file and chooses layers and epochs.
        budget: drift (nats per token) at which vectors are compared at equal cost.
        drifting: validation questions along whose answers the drift is taken.
        randoms: random directions, of BiPO's norm at its layer, measured at equal drift.
        few: pairs of the dearer questions: combinations, five examples first, answers without their first word.
        shots: examples shown.
        items: questions of the knowledge test.
        talk: questions whose answers are shown across the spectrum.
        bipo, one: settings of the trained vectors.
    """

    data: tuple[str, ...]
    layer: int | None = None
    layers: tuple[int, ...] = ()
    scouts: int = 32
    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    train: int = 200
    val: int = 30
    test: int = 100
    budget: float = 0.1
    drifting: int = 12
    randoms: int = 20
    few: int = 40
    shots: int = 5
    items: int = 240
    talk: int = 4
    max_new_tokens: int = 48
    bipo: Preference = field(default_factory=lambda: Preference(norm=0.1, epochs=4))
    one: OneShot = field(default_factory=lambda: OneShot(mode="mixed"))
    seed: int = 0

    def __post_init__(self) -> None:
        check_grid(self.multipliers)
        if self.layer is None and not self.layers:
            raise RecipeError("no layer", expected="`layer`, or `layers` to choose from")
        if not self.data or len({name_of(d) for d in self.data}) < len(self.data) or min(self.train, self.val, self.test, self.few) < 4:
            raise RecipeError("not a study of preferences", given=asdict(self), expected="data sets of different names, four pairs a part")

    @property
    def candidates(self) -> tuple[int, ...]:
        """The layers BiPO may have."""
        return self.layers if self.layer is None else (self.layer,)


def name_of(source: str) -> str:
    """The behavior a data set is about."""
    return Path(source).name.removesuffix(".csv").removesuffix(".jsonl").removesuffix(".train")


def bipo(lm: LM, to: str | Path, plan: Plan, watch: Watch | None = None) -> Run:
    """Run the study into a folder; the same call resumes.

    Raises:
        DataError, TokenError: a pair that cannot be asked, before anything is run.
    """
    folder, watch = Run.create(to), watch or (lambda _: lambda *_: None)
    folder.claim("study", {"plan": json.loads(json.dumps(asdict(plan), default=str)), "model": {"id": lm.id, "fingerprint": lm.fingerprint}})
    lm.layers(plan.candidates)
    studied = [_Behavior(lm, folder, plan, source, watch) for source in plan.data]
    layer = plan.layer if plan.layer is not None else studied[0].scout()
    facts = [one.study(layer) for one in studied]
    folder.note(behaviors=facts, combined=_combine(studied), model=lm.id, layer=layer)
    return folder


class _Behavior:
    """One behavior of the study."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str, watch: Watch) -> None:
        self.lm, self.plan, self.name = lm, plan, name_of(source)
        self.watch: Watch = lambda stage: watch(f"{self.name}: {stage}")
        self.run = Run.create(folder.file("sets", self.name))
        self.train, self.val, self.test, self.left_out = parts(source, plan)
        for p in (*self.train, *self.val, *self.test):
            paired_rows(lm, p)
        self.bare = replace(self.test, ask=None)

    def study(self, layer: Layer) -> dict[str, Any]:
        """Everything about this behavior; what the report needs and the scores do not hold."""
        facts: dict[str, Any] = {"name": self.name, "train": len(self.train), "val": len(self.val), "test": len(self.test), "left out": self.left_out}
        vectors = self.vectors(layer)
        facts["vectors"] = {name: {"layer": v.layers[0], "norm": v.norm()[v.layers[0]], "figures": _figures(v)} for name, v in vectors.items()}
        facts["cosine"] = {n: v.cosine(vectors["BiPO"])[v.layers[0]] for n, v in vectors.items() if v.layers == vectors["BiPO"].layers}
        facts["drift"] = {}
        quiet = [f"random-{k}" for k in range(SHOWN, self.plan.randoms)]
        for name, v in vectors.items():
            if name not in quiet:
                self.score(name, Intervention(v), self.test if name == "BiPO" else self.bare, self.plan.multipliers)
            facts["drift"][name] = self.drifts(name, v)
            self.equal(name, v, facts["drift"][name])
        self.score("CAA, from the prompt's end", Intervention(vectors["CAA"], positions="from_last_prompt_token"), self.bare, self.plan.multipliers)
        self.prompted(vectors["BiPO"])
        if any(polarity(p.positive) != polarity(p.negative) for p in self.bare):
            opener = without_opener(self.bare.take(self.plan.few))
            for name in ("BiPO", "CAA", "mean difference", "random-0"):
                self.score(f"no opener: {name}", Intervention(vectors[name]), opener, (-1.0, 0.0, 1.0))
        if self.plan.items:
            asked = questions()[:: max(1, 240 // self.plan.items)]
            for name in KNOWING:
                report = self.watch(f"knowledge, {name}")
                capability(
                    self.lm, Intervention(vectors[name]), asked, to=self.run.path, multipliers=self.plan.multipliers, name=name, progress=report
                )
        facts["knowledge"] = {n: [asdict(a) for a in accuracy(self.run.table("capability"), condition=n)] for n in KNOWING} if self.plan.items else {}
        facts["freeform"] = self.run.manifest.get("freeform", {})
        facts["spectrum"] = self.spectrum(vectors["BiPO"])
        return facts

    # ------------------------------------------------------------ vectors

    def scout(self) -> Layer:
        """The layer at which a short training does best on validation pairs."""
        method = replace(self.plan.bipo, epochs=2, warm=2, seed=self.plan.seed, resume=str(self.run.file("training", "scout")))
        some = replace(self.train, pairs=self.train.pairs[: self.plan.scouts])
        tried = self.kept("scout", lambda: learn(self.lm, some, method, self.plan.layers, progress=self.watch("train at every layer")))
        return self.best(tried).layers[0]

    def vectors(self, layer: Layer) -> dict[str, SteeringVector]:
        """Every vector, learned once and kept."""
        plan, found = self.plan, dict[str, SteeringVector]()
        for name, signs in TRAINED.items():
            method = replace(plan.bipo, signs=signs, seed=plan.seed, resume=str(self.run.file("training", slug(name))))  # type: ignore[arg-type]
            found[name] = self.kept(name, lambda m=method, n=name: learn(self.lm, self.train, m, [layer], progress=self.watch(f"train {n}")))
        choices = replace(self.train, pairs=to_choices(self.train.pairs), form="choices")
        found["CAA"] = self.kept("CAA", lambda: self.best(learn(self.lm, choices, MeanDiff(), self.layers(), progress=self.watch("CAA"))))
        found["mean difference"] = self.kept(
            "mean difference", lambda: self.best(learn(self.lm, self.train, MeanDiff(), self.layers(), progress=self.watch("mean difference")))
        )
        found["Freeform"] = self.kept("Freeform", self.freeform)
        found["one-shot"] = self.kept("one-shot", lambda: learn(self.lm, self.train, plan.one, [layer], progress=self.watch("one-shot")))
        return found | random_controls(found["BiPO"], plan.randoms, plan.seed)

    def kept(self, name: str, make: Callable[[], SteeringVector]) -> SteeringVector:
        path = self.run.file("vectors", f"{slug(name)}.safetensors")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            make().save(path)
        return SteeringVector.load(path)

    def layers(self) -> list[Layer]:
        """A layer in ten from the first quarter to the last block but one, and those BiPO may have: where mean differences may act."""
        n = self.lm.n_layers
        return sorted({*range(n // 4, n - 1, max(1, n // 10)), *self.plan.candidates})

    def best(self, vector: SteeringVector) -> SteeringVector:
        """At the layer where its answers become likeliest both ways on validation pairs, all at a tenth of the residual norm."""
        norms = self.lm.norms([paired_rows(self.lm, p)[0] for p in self.val.take(8)], vector.layers)
        even = SteeringVector({k: v * (0.1 * norms[k] / v.norm()) for k, v in vector.vectors.items()}, vector.made)
        part = f"layers-{vector.hash}"
        measure(self.lm, Intervention(even), replace(self.val, ask=None), METRICS[1:], to=self.run.path, part=part, multipliers=(-1.0, 0.0, 1.0), layers=vector.layers, controls={}, progress=self.watch("choose layer"))  # fmt: skip
        return vector.at(best_layer(self.run.table(part)))

    def freeform(self) -> SteeringVector:
        acts = activations(self.lm, self.train, read="penultimate", progress=self.watch("Freeform"))
        layer = Freeform.chosen(acts, self.lm.n_layers)
        self.run.note(freeform={"layer": layer, "mute": Freeform.mute(acts, self.lm.n_layers), "of": self.lm.n_layers // 2 + 1})
        return learn(self.lm, self.train, Freeform(), [layer], acts=acts.at([layer]))

    # ------------------------------------------------------------ scores

    def score(self, name: str, iv: Intervention, data: Dataset, multipliers: Sequence[float]) -> None:
        measure(
            self.lm,
            iv,
            data,
            METRICS,
            to=self.run.path,
            part=slug(name),
            multipliers=multipliers,
            controls={},
            progress=self.watch(f"measure {name}"),
        )

    @cached_property
    def yardstick(self) -> Yardstick:
        """Answers of the unsteered model to validation questions, along which every vector's drift is taken."""
        return Yardstick.of(self.lm, [as_prompt(p.asked) for p in self.val.take(self.plan.drifting)], seed=self.plan.seed)

    def drifts(self, name: str, v: SteeringVector) -> dict[str, Any]:
        """The multipliers, up and down, at which the drift is the budget, confirmed by measuring it there; or why it is not reached."""
        path = f"drift/{slug(name)}.json"
        known = self.run.read(path, {})
        if known.get("of") != v.hash:
            ways = {way: reach(self.lm, Intervention(v), self.yardstick, self.plan.budget, sign=sign) for way, sign in (("up", 1), ("down", -1))}
            found = {way: r.multiplier for way, r in ways.items()}
            known = {"of": v.hash, **found, "nats": {w: r.nats for w, r in ways.items()}, "why": {w: r.why for w, r in ways.items()}, "probes": {w: r.probes for w, r in ways.items()}}  # fmt: skip
            self.run.write(path, known)
        return known

    def equal(self, name: str, v: SteeringVector, drifts: Mapping[str, Any]) -> None:
        """Scores at equal drift, up and down, from one pass below; nothing where the budget is not reached."""
        ways = {way: v * float(drifts[way]) for way in ("up", "down") if np.isfinite(drifts[way])}
        if ways:
            first, *rest = ways
            controls = {f"equal {way}": ways[way] for way in rest}
            measure(
                self.lm, Intervention(ways[first]), self.bare, METRICS, to=self.run.path, part=slug(f"equal: {name}"), multipliers=(0.0, 1.0),
                controls=controls, progress=self.watch(f"measure at equal cost, {name}"),
            )  # fmt: skip

    def prompted(self, v: SteeringVector) -> None:
        """The behavior, or its opposite, asked for in words and shown in examples: alone (multiplier 0) and with the vector on top."""
        few = self.bare.take(self.plan.few)
        for way, sign in (("positive", 1.0), ("negative", -1.0)):
            asked = {f"shown {way}": with_shots(few, self.train.pairs[: self.plan.shots], opposite=sign < 0)}
            asked |= {f"asked {way}": told(few, self.test.ask[way])} if self.test.ask else {}
            for name, data in asked.items():
                self.score(name, Intervention(v), data, (-1.0, 0.0, 1.0))
                bare = dict(zip((p.id for p in data), (p.id for p in few), strict=True))
                self.run.note(bare={**self.run.manifest.get("bare", {}), name: bare})

    def spectrum(self, v: SteeringVector) -> list[dict[str, Any]]:
        """What is said at each multiplier, rated by the model itself as a judge, and how strange the unsteered model finds it."""
        known = self.run.read("spectrum.json", {})
        if known.get("of") == v.hash:
            return known["said"]
        pairs, said = self.test.pairs[: self.plan.talk], list[dict[str, Any]]()
        judge, report = self.judge(), self.watch("talk")
        for k, m in enumerate(self.plan.multipliers):
            prompts = [as_prompt(p.asked) for p in pairs]
            if m == 0:
                texts = self.lm.generate(prompts, max_new_tokens=self.plan.max_new_tokens)
            else:
                with steer(self.lm, Intervention(v, multiplier=m)):
                    texts = self.lm.generate(prompts, max_new_tokens=self.plan.max_new_tokens)
            rated = (
                [Rating(float("nan"), 0.0)] * len(texts)
                if judge is None
                else judge.rate(
                    [{"question": p.prompt, "answer": t, "positive": p.positive, "negative": p.negative} for p, t in zip(pairs, texts, strict=True)]
                )
            )
            odd = strangeness(self.lm, prompts, texts)
            for p, t, r, s in zip(pairs, texts, rated, odd, strict=True):
                facts = {"rating": r.score, "mass": r.mass, "strangeness": float(s), "distinct": distinct([t])}
                said.append({"prompt": p.prompt, "multiplier": m, "text": t, **facts})
            report(k + 1, len(self.plan.multipliers))
        self.run.write("spectrum.json", {"of": v.hash, "said": said})
        return said

    def judge(self) -> ModelJudge | None:
        """The model itself with the rubric of behaviors; none if it cannot say numbers."""
        try:
            return ModelJudge(self.lm, Rubric.load("behavior"))
        except TokenError as problem:
            log.warning("%s rates nothing: %s", self.lm.id, problem)
            return None


def _combine(studied: Sequence[_Behavior]) -> list[dict[str, Any]]:
    """Each pair of behaviors: the vectors of both, alone and together, on the questions of each; what adding the effects would foretell."""
    out: list[dict[str, Any]] = []
    for i, one in enumerate(studied):
        for two in studied[i + 1 :]:
            a, b = (x.kept("BiPO", _never) for x in (one, two))
            for asked, own, other in ((one, a, b), (two, b, a)):
                few = asked.bare.take(asked.plan.few)
                label = two.name if asked is one else one.name
                for kind, v in (("own", own), ("other", other), ("both", own + other)):
                    asked.score(f"with {label}: {kind}", Intervention(v), few, (-1.0, 0.0, 1.0))
            out.append({"one": one.name, "two": two.name, "cosine": a.cosine(b)[a.layers[0]]})
    return out


def _never() -> SteeringVector:
    raise AssertionError("the vector was learned before")


def parts(source: str, plan: Plan) -> tuple[Dataset, Dataset, Dataset, int]:
    """Training, validation and test pairs of a source, and how many test questions were left out because they are also trained on.

    Raises:
        DataError: no test file beside a training file, or too few pairs.
    """
    if ".train." not in Path(source).name:
        split = Dataset.load(source, form="answers").split(seed=plan.seed)
        return split.train.take(plan.train), split.val.take(plan.val), split.test.take(plan.test), 0
    beside = Path(source).with_name(Path(source).name.replace(".train.", ".test."))
    whole, test = Dataset.load(source), Dataset.load(str(beside))
    whole = replace(whole, name=name_of(source), ask=asking(name_of(source)) or whole.ask)
    seen = {p.group for p in whole}
    fresh = tuple(p for p in test if p.group not in seen)
    if len(fresh) < len(test):
        log.warning("%s: %d test questions also stand in the training file and are left out", beside.name, len(test) - len(fresh))
    split = whole.split(seed=plan.seed, train=0.8, val=0.1, test=0.1)
    if not fresh:
        raise DataError(f"{beside.name} has no question that is not trained on", given=len(test))
    tested = replace(test, name=name_of(source), pairs=fresh[: plan.test], part="test", ask=whole.ask)
    return split.train.take(plan.train), split.val.take(plan.val), tested, len(test) - len(fresh)


def _figures(v: SteeringVector) -> Any:
    return v.made.figures.get(str(v.layers[0]), {})
