"""How far does a vector from a single example carry, and can that be foreseen? (Dunefsky & Cohan 2025.)

For each behavior: one vector per example and mode, solved as one batch; mean differences of 1, 10 and all examples, at their own norm and at
that of the one-shot vectors; random directions of that norm; the model asked in words. All are measured on the same held-out questions.
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

from trimtab.datasets import Dataset
from trimtab.interventions import Intervention
from trimtab.measure import measure, random_controls
from trimtab.methods import Activations, MeanDiff, OneShot, activations
from trimtab.methods.one_shot import Mode
from trimtab.metrics import Propensity
from trimtab.model import LM
from trimtab.optimise import Result, cosines, optimise, signals
from trimtab.recipe import Run, write_whole
from trimtab.steerability import Array, interval
from trimtab.vector import SteeringVector

Watch = Callable[[str], Callable[..., None]]
MODES: tuple[Mode, ...] = get_args(Mode)
SIZES = (1, 10)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        behaviors: data sets.
        layer: where the vectors act.
        examples: single examples per behavior; each gives a vector for every mode.
        one: settings of the one-shot vectors.
        train, val, test: shares of the split.
    """

    behaviors: tuple[str, ...] = ("french-answers", "formality", "agreeing-with-user")
    layer: int = 10
    examples: int = 4
    one: OneShot = field(default_factory=lambda: OneShot(steps=40))
    train: float = 0.3
    val: float = 0.1
    test: float = 0.6
    seed: int = 0


@dataclass(frozen=True)
class Carried:
    """How far one vector carries: the rise of propensity per item at multiplier 1, in nats per token.

    Attributes:
        effects: (n,) one per held-out question.
        norm: of the vector.
        signals: what was known before.
    """

    behavior: str
    name: str
    effects: Array
    norm: float
    signals: Mapping[str, float]

    @property
    def kind(self) -> str:
        """The name without the number of the example or draw."""
        return self.name.rpartition("-")[0] if self.name.rpartition("-")[2].isdecimal() else self.name


def one_shot(lm: LM, to: str | Path, plan: Plan | None = None, watch: Watch | None = None) -> dict[str, Any]:
    """Run the study into a folder; the same call resumes. Writes study.json and study.md.

    Returns:
        What study.json holds: for each behavior and kind of vector the distribution of effects, cosines between vectors, and the rank
        correlation of each signal with the effect.
    """
    plan = plan or Plan()
    folder = Run.create(to)
    found: list[Carried] = []
    gram: dict[str, Any] = {}
    for behavior in plan.behaviors:
        carried, vectors = _behavior(lm, folder, plan, behavior, watch or (lambda _: lambda *_: None))
        found += carried
        gram[behavior] = {mode: _off_diagonal([v for name, v in vectors.items() if name.startswith(mode)]) for mode in MODES}
    told = {
        "plan": {**asdict(plan), "one": asdict(plan.one)},
        "model": lm.id,
        "vectors": [{"behavior": c.behavior, "name": c.name, "norm": c.norm, **_spread(c.effects), "signals": dict(c.signals)} for c in found],
        "cosines": gram,
        "foreseen": foreseen(found),
    }
    write_whole(folder.file("study.json"), json.dumps(told, indent=1) + "\n")
    write_whole(folder.file("study.md"), page(told))
    return told


def _behavior(lm: LM, folder: Run, plan: Plan, behavior: str, watch: Watch) -> tuple[list[Carried], dict[str, SteeringVector]]:
    parts = Dataset.load(behavior).split(seed=plan.seed, train=plan.train, val=plan.val, test=plan.test)
    results, signs = _descents(lm, folder, plan, behavior, parts.train, watch)
    vectors = {name: r.vector for name, r in results.items()}
    length = float(np.median([r.vector.norm()[plan.layer] for r in results.values()]))
    others = _differences(activations(lm, parts.train, [plan.layer], progress=watch(f"{behavior}: read")), plan.layer, length)
    noise = random_controls(SteeringVector({plan.layer: torch.full((lm.width,), length / lm.width**0.5)}), 3, plan.seed)
    every = {**vectors, **others, **noise}
    first, *rest = every
    run = measure(
        lm, Intervention(every[first], positions=plan.one.positions), parts.test, [Propensity()], to=folder.file(Path(behavior).stem), multipliers=(0.0, 1.0),
        controls={name: every[name] for name in rest}, part="test", progress=watch(f"{behavior}: measure"),
    )  # fmt: skip
    table = run.table("test")
    carried: list[Carried] = []
    for name in (*every, *(c for c in table.values("condition") if c.startswith("prompt-"))):
        _, _, scores = table.curve("propensity", "vector" if name == first else name, None)
        plain = table.curve("propensity", "vector", None)[2][:, 0]
        norm = every[name].norm()[plan.layer] if name in every else float("nan")
        carried.append(Carried(behavior, name, scores[:, -1] - plain, norm, signs.get(name, {})))
    return carried, vectors


def _descents(lm: LM, folder: Run, plan: Plan, behavior: str, train: Dataset, watch: Watch) -> tuple[dict[str, Result], dict[str, dict[str, float]]]:
    """One vector per example and mode, as one batch, and the signals of each."""
    methods = {f"{mode}-{k}": (replace(plan.one, mode=mode), replace(train, pairs=train.pairs[k:])) for mode in MODES for k in range(plan.examples)}
    problems = {name: method.problems(lm, data, [plan.layer])[0] for name, (method, data) in methods.items()}
    state = folder.file(f"{Path(behavior).stem}.descent.safetensors")
    found = optimise(lm, list(problems.values()), to=state, progress=watch(f"{behavior}: descend"))
    results = dict(zip(problems, found, strict=True))
    report = watch(f"{behavior}: foresee")
    signs: dict[str, dict[str, float]] = {}
    for k, (name, r) in enumerate(results.items()):
        method, data = methods[name]
        signs[name] = signals(lm, problems[name], r, held_out=method.held_out(data))
        report(k + 1, len(results))
    return results, signs


def _differences(acts: Activations, layer: int, length: float) -> dict[str, SteeringVector]:
    """Mean differences of a few and of all pairs, as they are and at a given norm."""
    out: dict[str, SteeringVector] = {}
    for n in (*SIZES, len(acts.positive)):
        some = Activations(acts.positive[:n], acts.negative[:n], acts.layers)
        v = MeanDiff().fit_activations(some)[layer]
        name = "all" if n == len(acts.positive) else str(n)
        out[f"mean-diff of {name}"] = SteeringVector({layer: v})
        out[f"mean-diff of {name}, equal norm"] = SteeringVector({layer: v * (length / v.norm())})
    return out


def _spread(effects: Array) -> dict[str, float]:
    lo, hi = interval(effects)
    return {"mean": float(effects.mean()), "lo": lo, "hi": hi, "n": len(effects), "raised": float((effects > 0).mean())}


def _off_diagonal(vectors: Sequence[SteeringVector]) -> dict[str, float]:
    gram = cosines(vectors).numpy()
    values = gram[~np.eye(len(vectors), dtype=bool)]
    return {"median": float(np.median(values)), "largest": float(values.max()), "smallest": float(values.min())} if len(values) else {}


def foreseen(found: Sequence[Carried]) -> dict[str, dict[str, float]]:
    """Rank correlation of each signal with the mean effect, within behaviors and modes' pool, averaged over behaviors; 95 % bootstrap interval."""
    known = [c for c in found if c.signals]
    names = sorted({name for c in known for name in c.signals})
    out: dict[str, dict[str, float]] = {}
    for name in names:
        groups = [
            np.array([(c.signals[name], c.effects.mean()) for c in known if c.behavior == b and not np.isnan(c.signals.get(name, np.nan))])
            for b in dict.fromkeys(c.behavior for c in known)
        ]
        groups = [g for g in groups if len(g) > 2 and np.ptp(g[:, 0]) > 0]
        if not groups:
            continue
        rng = np.random.default_rng(0)
        drawn = [_rank(groups, rng) for _ in range(2000)]
        lo, hi = np.nanpercentile(drawn, [2.5, 97.5])
        out[name] = {"spearman": _rank(groups, None), "lo": float(lo), "hi": float(hi), "n": sum(len(g) for g in groups)}
    return out


def _rank(groups: Sequence[Array], rng: np.random.Generator | None) -> float:
    """Mean Spearman correlation over groups, of resampled rows if there is a generator."""
    found: list[float] = []
    for g in groups:
        some = g if rng is None else g[rng.integers(0, len(g), len(g))]
        a, b = stats.rankdata(some[:, 0]), stats.rankdata(some[:, 1])
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
        "",
        "| behavior | vectors | n vectors | median | best | worst | median share of questions raised | questions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for v in told["vectors"]:
        base, _, number = v["name"].rpartition("-")
        kinds.setdefault((v["behavior"], base if number.isdecimal() else v["name"]), []).append(v)
    for (behavior, kind), some in kinds.items():
        means = sorted(v["mean"] for v in some)
        raised = float(np.median([v["raised"] for v in some]))
        out.append(
            f"| {behavior} | {kind} | {len(some)} | {float(np.median(means)):+.3f} | {means[-1]:+.3f} | {means[0]:+.3f} | {raised:.2f} | {some[0]['n']} |"
        )
    out += ["", "## Cosines between vectors of the same mode", "", "| behavior | mode | median | largest | smallest |", "|---|---|---|---|---|"]
    out += [
        f"| {b} | {mode} | {c['median']:.3f} | {c['largest']:.3f} | {c['smallest']:.3f} |"
        for b, modes in told["cosines"].items()
        for mode, c in modes.items()
        if c
    ]
    out += ["", "## What foresees the effect", "", "| signal | Spearman | 95 % interval | vectors |", "|---|---|---|---|"]
    ranked = sorted(told["foreseen"].items(), key=lambda kv: -abs(kv[1]["spearman"]))
    out += [f"| {name} | {f['spearman']:+.2f} | {f['lo']:+.2f} to {f['hi']:+.2f} | {f['n']} |" for name, f in ranked]
    return "\n".join(out) + "\n"
