"""How far does a vector from a single example carry, and can that be foreseen? (Dunefsky & Cohan 2025.)

For each behavior: one vector per example, mode and norm, solved as one batch; the norm is that at which the positive answers of validation
questions become likeliest (a vector so long that it breaks the model still tells positive from negative answers); vectors of more examples; mean differences of 1, 10 and all examples, at their own norm and at that of the one-shot vectors; random directions of that norm;
the model asked in words. All are measured on the same held-out questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from scipy import stats

from trimtab.data.datasets import Dataset, Splits
from trimtab.journal import plain
from trimtab.measure import measure
from trimtab.methods import MeanDiff, OneShot
from trimtab.methods.contrast import Activations, activations
from trimtab.methods.one_shot import Mode
from trimtab.metrics import Likelihood, Propensity
from trimtab.model import LM
from trimtab.optimize import Result, cosines, optimize, signals
from trimtab.recipe import Run, write_whole
from trimtab.statistics.intervals import Array, ends, interval
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from trimtab.studies.findings import off_diagonal

Watch = Callable[[str], Callable[..., None]]
MODES: tuple[Mode, ...] = get_args(Mode)
DIFFERENCES = (1, 10)  # pairs of a mean difference, and all


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        behaviors: data sets.
        layer: where the vectors act.
        examples: single examples per behavior; each gives a vector for every mode.
        norms: largest norms to choose from, in medians of the residual norm.
        sizes: numbers of examples for the vectors of several.
        draws: vectors of each such number, each from other examples.
        one: the other settings of the vectors.
        train, val, test: shares of the split.
    """

    behaviors: tuple[str, ...] = ("french-answers", "formality", "agreeing-with-user")
    layer: int = 10
    examples: int = 4
    norms: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    sizes: tuple[int, ...] = (2, 4)
    draws: int = 2
    one: OneShot = field(default_factory=lambda: OneShot(steps=40))
    train: float = 0.2
    val: float = 0.2
    test: float = 0.6
    seed: int = 0


@dataclass(frozen=True)
class Carried:
    """How far one vector carries: the rise of propensity per item at multiplier 1, in nats per token.

    Attributes:
        kind: what sort of vector; those of one kind differ by the examples or the seed.
        effects: (n,) one per held-out question.
        said: (n,) rise of the log-probability of the positive answer alone, in nats per token.
        norm: of the vector.
        signals: what was known before.
    """

    behavior: str
    kind: str
    name: str
    effects: Array
    said: Array
    norm: float
    signals: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One vector to learn: its kind, its number among those of the kind, with what and from what."""

    kind: str
    number: int
    method: OneShot
    data: Dataset

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"


def one_shot(lm: LM, to: str | Path, plan: Plan | None = None, watch: Watch | None = None) -> dict[str, Any]:
    """Run the study into a folder; the same call resumes. Writes study.json and study.md.

    Returns:
        What study.json holds: for each behavior the effect and loss at each norm, for each vector the distribution of effects, cosines
        between vectors of a kind, and the rank correlation of each signal with the effect.
    """
    plan, folder = plan or Plan(), Run.create(to)
    bench = _Bench(lm, folder, plan, watch or (lambda _: lambda *_: None))
    found: list[Carried] = []
    norms: dict[str, Any] = {}
    gram: dict[str, Any] = {}
    for behavior in plan.behaviors:
        parts = Dataset.load(behavior).split(seed=plan.seed, train=plan.train, val=plan.val, test=plan.test)
        norms[behavior], chosen = bench.choose_norms(behavior, parts)
        norm = norms[behavior]["promote"]["chosen"]
        several = bench.descend(behavior, f"several at {norm:g}", _several(plan, parts.train, norm))
        learned = {**chosen, **several}
        found += bench.carried(behavior, parts, learned)
        gram[behavior] = {kind: _off_diagonal([r.vector for t, r in learned.values() if t.kind == kind]) for kind in _kinds(learned)}
    told = {
        "plan": {**asdict(plan), "one": asdict(plan.one)},
        "model": lm.id,
        "norms": norms,
        "vectors": [
            {
                "behavior": c.behavior,
                "kind": c.kind,
                "name": c.name,
                "norm": c.norm,
                **_spread(c.effects),
                "said": _spread(c.said),
                "signals": dict(c.signals),
            }
            for c in found
        ],
        "cosines": gram,
        "foreseen": foreseen(found),
    }
    write_whole(folder.file("study.json"), json.dumps(plain(told), indent=1) + "\n")
    write_whole(folder.file("study.md"), page(told))
    return told


Learned = Mapping[str, tuple[Trial, Result]]


@dataclass(frozen=True)
class _Bench:
    """The model, the folder and the plan, and what is done with them for one behavior after the other."""

    lm: LM
    folder: Run
    plan: Plan
    watch: Watch

    def choose_norms(self, behavior: str, parts: Splits) -> tuple[dict[str, Any], Learned]:
        """For each mode: effects (median over examples of the mean over validation questions) and loss at each norm; vectors at the best."""
        plan = self.plan
        every = {n: self.descend(behavior, f"norm {n:g}", _single(plan, parts.train, n)) for n in plan.norms}
        vectors = {f"{name} at {n:g}": r.vector for n, some in every.items() for name, (_, r) in some.items()}
        effects = self.effects(behavior, vectors, parts.val, "val")
        told: dict[str, Any] = {}
        chosen: dict[str, tuple[Trial, Result]] = {}
        for mode in MODES:
            names = [f"{mode}-{k}" for k in range(plan.examples)]
            by_norm = {
                n: {
                    "effect": float(np.median([effects[f"{name} at {n:g}"][0].mean() for name in names])),
                    "said": float(np.median([effects[f"{name} at {n:g}"][1].mean() for name in names])),
                    "loss": float(np.median([some[name][1].loss for name in names])),
                }
                for n, some in every.items()
            }
            best = max(by_norm, key=lambda n: by_norm[n]["said"])
            told[mode] = {"chosen": best, "norms": {f"{n:g}": x for n, x in by_norm.items()}, "n": len(parts.val)}
            chosen |= {name: every[best][name] for name in names}
        return told, chosen

    def descend(self, behavior: str, label: str, trials: Sequence[Trial]) -> dict[str, tuple[Trial, Result]]:
        """The vectors of some trials, as one batch."""
        if not trials:
            return {}
        problems = [t.method.problems(self.lm, t.data, [self.plan.layer])[0] for t in trials]
        state = self.folder.file(f"{Path(behavior).stem}.{label.replace(' ', '-')}.safetensors")
        found = optimize(self.lm, problems, to=state, progress=self.watch(f"{behavior}: descend, {label}"))
        return {t.name: (t, r) for t, r in zip(trials, found, strict=True)}

    def effects(self, behavior: str, vectors: Mapping[str, SteeringVector], data: Dataset, part: str) -> dict[str, tuple[Array, Array]]:
        """Rise, per question, of propensity and of the positive answer's log-probability, under each vector at multiplier 1 and asked for in words."""
        first, *rest = vectors
        run = measure(
            self.lm, Intervention(vectors[first], positions=self.plan.one.positions), data, [Propensity(), Likelihood()], to=self.folder.file(Path(behavior).stem, part),
            multipliers=(0.0, 1.0), controls={name: vectors[name] for name in rest}, part=part, progress=self.watch(f"{behavior}: measure, {part}"),
        )  # fmt: skip
        table = run.table(part)

        def rise(metric: str, name: str) -> Array:
            plain = table.curve(metric, "vector", None)[2][:, 0]
            return table.curve(metric, "vector" if name == first else name, None)[2][:, -1] - plain

        asked = [c for c in table.values("condition") if c.startswith("prompt-")]
        return {name: (rise("propensity", name), rise("likelihood", name)) for name in (*vectors, *asked)}

    def carried(self, behavior: str, parts: Splits, learned: Learned) -> list[Carried]:
        """How far the vectors and all they are compared with carry on the test questions."""
        layer = self.plan.layer
        length = float(np.median([r.vector.norm()[layer] for t, r in learned.values() if t.kind == "promote"]))
        others = _differences(activations(self.lm, parts.train, [layer], progress=self.watch(f"{behavior}: read")), layer, length)
        noise = random_controls(SteeringVector({layer: torch.full((self.lm.width,), length / self.lm.width**0.5)}), 3, self.plan.seed)
        every = {**{name: r.vector for name, (_, r) in learned.items()}, **others, **noise}
        effects = self.effects(behavior, every, parts.test, "test")
        signs = self.signs(behavior, learned, {"mean difference": others["mean-diff of all"]})
        kinds = {name: t.kind for name, (t, _) in learned.items()} | dict.fromkeys(noise, "random direction")
        norms = {name: v.norm()[layer] for name, v in every.items()}
        return [Carried(behavior, kinds.get(name, name), name, *e, norms.get(name, float("nan")), signs.get(name, {})) for name, e in effects.items()]

    def signs(self, behavior: str, learned: Learned, known: Mapping[str, SteeringVector]) -> dict[str, dict[str, float]]:
        report, out = self.watch(f"{behavior}: foresee"), dict[str, dict[str, float]]()
        for name, (t, r) in learned.items():
            problem = t.method.problems(self.lm, t.data, [self.plan.layer])[0]
            out[name] = signals(self.lm, problem, r, held_out=t.method.held_out(t.data), known=known)
            report(len(out), len(learned))
        return out


def _single(plan: Plan, train: Dataset, norm: float) -> list[Trial]:
    """One vector per mode and example; the other pairs stand behind the example."""
    return [
        Trial(mode, k, replace(plan.one, mode=mode, norm=norm), replace(train, pairs=train.pairs[k:] + train.pairs[:k]))
        for mode in MODES
        for k in range(plan.examples)
    ]


def _several(plan: Plan, train: Dataset, norm: float) -> list[Trial]:
    """Promotion of several examples at once. Each draw has its own examples; the smaller numbers are the first of the larger."""
    out: list[Trial] = []
    for n in plan.sizes:
        for k in range(plan.draws):
            at = k * max(plan.sizes) % len(train)
            method = replace(plan.one, mode="promote", norm=norm, examples=n)
            out.append(Trial(f"promote of {n}", k, method, replace(train, pairs=train.pairs[at:] + train.pairs[:at])))
    return out


def _kinds(learned: Learned) -> list[str]:
    return list(dict.fromkeys(t.kind for t, _ in learned.values()))


def _differences(acts: Activations, layer: int, length: float) -> dict[str, SteeringVector]:
    """Mean differences of a few and of all pairs, as they are and at a given norm."""
    out: dict[str, SteeringVector] = {}
    for n in (*DIFFERENCES, len(acts.positive)):
        some = Activations(acts.positive[:n], acts.negative[:n], acts.layers)
        name = f"mean-diff of {'all' if n == len(acts.positive) else n}"
        out[name] = SteeringVector(MeanDiff().fit_activations(some)).at(layer)
        out[f"{name}, equal norm"] = out[name].unit() * length
    return out


def _spread(effects: Array) -> dict[str, float]:
    lo, hi = interval(effects)
    return {"mean": float(effects.mean()), "lo": lo, "hi": hi, "n": len(effects), "raised": float((effects > 0).mean())}


def _off_diagonal(vectors: Sequence[SteeringVector]) -> dict[str, float]:
    values = off_diagonal(cosines(vectors).tolist())
    return {"median": float(np.median(values)), "largest": float(values.max()), "smallest": float(values.min())} if len(values) else {}


def foreseen(found: Sequence[Carried]) -> dict[str, dict[str, float]]:
    """Rank correlation of each signal with the mean effect, within each behavior, averaged over behaviors; 95 % bootstrap interval over vectors.

    "within kinds" is that of what is left of the ranks when the mean rank of each kind is taken away.
    """
    known = [c for c in found if c.signals]
    out: dict[str, dict[str, float]] = {}
    for name in sorted({name for c in known for name in c.signals}):
        some = [c for c in known if not np.isnan(c.signals.get(name, np.nan))]
        kinds = list(dict.fromkeys(c.kind for c in some))
        groups = [
            np.array([(c.signals[name], c.effects.mean(), kinds.index(c.kind)) for c in some if c.behavior == b])
            for b in dict.fromkeys(c.behavior for c in some)
        ]
        groups = [g for g in groups if len(g) > 2 and np.ptp(g[:, 0]) > 0]
        if not groups:
            continue
        out[name] = {"n": sum(len(g) for g in groups)}
        for label, within in (("", False), (" within kinds", True)):
            rng = np.random.default_rng(0)
            drawn = [_rank([g[rng.integers(0, len(g), len(g))] for g in groups], within) for _ in range(1000)]
            lo, hi = ends(drawn)
            out[name] |= {f"spearman{label}": _rank(groups, within), f"lo{label}": lo, f"hi{label}": hi}
    return out


def _rank(groups: Sequence[Array], within: bool) -> float:
    """Mean Spearman correlation over groups of (signal, effect, kind)."""
    found: list[float] = []
    for g in groups:
        a, b = stats.rankdata(g[:, 0]), stats.rankdata(g[:, 1])
        if within:
            for kind in np.unique(g[:, 2]):
                mine = g[:, 2] == kind
                a[mine] -= a[mine].mean()
                b[mine] -= b[mine].mean()
        if a.std() > 0 and b.std() > 0:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    return float(np.mean(found)) if found else float("nan")


def page(told: Mapping[str, Any]) -> str:
    """The study as Markdown."""
    plan = told["plan"]
    out = [
        "# One-shot vectors: how far do they carry?",
        "",
        f"{told['model']}, layer {plan['layer']}, {plan['examples']} examples per behavior and mode, seed {plan['seed']}. Effects are the rise of propensity",
        "(log-probability per token of the positive completion minus the negative's) at multiplier 1, in nats per token, on held-out questions.",
        "Every vector is one number below (its mean over the questions); median, best and worst are over the vectors of a kind. Said: the median rise",
        "of the log-probability of the positive answer itself, which falls where the model is broken.",
        "",
        "| behavior | vectors | n vectors | median | best | worst | said | questions raised | norm | questions |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for v in told["vectors"]:
        kinds.setdefault((v["behavior"], v["kind"]), []).append(v)
    for (behavior, kind), some in kinds.items():
        means = sorted(v["mean"] for v in some)
        raised, norm = (float(np.median([v[k] for v in some])) for k in ("raised", "norm"))
        said = float(np.median([v["said"]["mean"] for v in some]))
        out.append(
            f"| {behavior} | {kind} | {len(some)} | {float(np.median(means)):+.3f} | {means[-1]:+.3f} | {means[0]:+.3f} | {said:+.3f} | {raised:.2f} | "
            f"{'' if np.isnan(norm) else f'{norm:.1f}'} | {some[0]['n']} |"
        )
    out += [
        "",
        "## Norms",
        "",
        "The largest norm, in medians of the residual norm, effect and rise of the positive answer on validation questions (medians over examples).",
        "",
    ]
    norms = [f"{n:g}" for n in plan["norms"]]
    out += [
        "| behavior | mode | questions |" + "".join(f" {n}: effect | said | loss |" for n in norms) + " taken |",
        "|---" * (4 + 3 * len(norms)) + "|",
    ]
    for behavior, modes in told["norms"].items():
        for mode, x in modes.items():
            cells = "".join(f" {x['norms'][n]['effect']:+.3f} | {x['norms'][n]['said']:+.3f} | {x['norms'][n]['loss']:.1f} |" for n in norms)
            out.append(f"| {behavior} | {mode} | {x['n']} |{cells} {x['chosen']:g} |")
    out += ["", "## Cosines between vectors of a kind", "", "| behavior | vectors | median | largest | smallest |", "|---|---|---|---|---|"]
    out += [
        f"| {b} | {kind} | {c['median']:.3f} | {c['largest']:.3f} | {c['smallest']:.3f} |"
        for b, modes in told["cosines"].items()
        for kind, c in modes.items()
        if c
    ]
    return "\n".join([*out, "", *_foreseen_table(told["foreseen"])]) + "\n"


def _foreseen_table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    out = [
        "## What foresees the effect",
        "",
        "| signal | Spearman | 95 % interval | within kinds | 95 % interval | vectors |",
        "|---|---|---|---|---|---|",
    ]
    for name, f in sorted(found.items(), key=lambda kv: -abs(kv[1]["spearman"])):
        cells = [f"{f[f'spearman{w}']:+.2f} | {f[f'lo{w}']:+.2f} to {f[f'hi{w}']:+.2f}" for w in ("", " within kinds")]
        out.append(f"| {name} | {' | '.join(cells)} | {f['n']} |")
    return out
