"""recommend(): at which layer a vector is to be used, how strongly, and what each multiplier costs and brings.

A dose is measured on three things: how far the model moves from itself (drift, along its own answers to neutral
prompts), whether its text stays whole, and how much the behavior rises on held-out items, beside vectors without the
behavior in them. The recommended use goes into the vector's file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.answers.quality import Usual
from trimtab.data.builtin import neutral
from trimtab.data.datasets import Dataset, check_unseen
from trimtab.data.pairs import Pair
from trimtab.evaluation.drift import Yardstick
from trimtab.evaluation.forecast import sensitivity
from trimtab.evaluation.metrics import Likelihood, Propensity
from trimtab.evaluation.metrics.base import Metric
from trimtab.evaluation.readings import chunks, values_under
from trimtab.methods import OneShot
from trimtab.methods.base import Method
from trimtab.model import LM, Layer
from trimtab.model.rendering import as_prompt
from trimtab.model.tokens import Prompt
from trimtab.progress import Progress
from trimtab.statistics.dose import ladder, ship_range, strongest_comfortable
from trimtab.statistics.intervals import Array, mean_figure
from trimtab.statistics.layers import Sweep, steepest
from trimtab.steering.controls import null_controls, random_controls
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.operators import Add
from trimtab.steering.use import UNMEASURED, Dose, DosePoint, Use
from trimtab.steering.vector import SteeringVector

TOKENS = 40  # of an answer: about what people let a model say
TEMPERATURE = 0.7  # of the answers whose text is looked at
SHORTLIST = 5  # layers whose drift is measured
EQUAL = 0.2  # nats per token at which layers are compared
SMALL = 0.3  # nats per token up to which drift grows with the square of the multiplier
RANDOM, SHUFFLED = 2, 2  # controls
SHARES = (0.25, 0.5, 0.75, 1.0)  # multipliers of operators that do not add: all of the vector is 1
EVERYDAY = "neutral prompts"  # name of what a vector of one prompt is tried on
MOST = 16  # held-out items that are looked at
ON_TOPIC = 12  # of their prompts that are answered, beside the neutral ones


@dataclass(frozen=True)
class HeldOut:
    """Items on which a dose is measured, and what is read off them."""

    data: Dataset
    metric: Metric

    @property
    def unit(self) -> str:
        return self.metric.unit(self.data[0])

    @property
    def groups(self) -> list[str]:
        return [p.group for p in self.data]


def recommend(
    lm: LM,
    vector: SteeringVector,
    data: Dataset | HeldOut | None = None,
    *,
    use: Use | None = None,
    prompts: Sequence[str] | None = None,
    tokens: int = TOKENS,
    seed: int = 0,
    progress: Progress | None = None,
) -> SteeringVector:
    """The same vector with its recommended use: layer, multiplier, and the range it may be shipped in.

    The layer is the one that raises the behavior most for sure at equal drift, of a few that are likely by forecast
    (one backward pass an item). Multipliers are then measured from a drift of 0.04 nats per token on, until the text
    breaks.

    Args:
        data: held-out items, none of which the vector was learned on; without any it is not known whether the vector
            does anything, and no range is given.
        use: what is settled already (layers, positions, operator); by default what the vector says.
        prompts: what drift and text are measured on; by default twelve neutral ones.
        tokens: longest answer.
        seed: of sampling and of the random directions.
        progress: called with (multipliers done, in all).

    Raises:
        DataError: the vector was learned on some of the items.
    """
    held = data if isinstance(data, HeldOut | None) else HeldOut(data.take(MOST), Propensity())
    if held is not None:
        check_unseen(vector.made.trained_on, held.data, "the training data of the vector")
    yard = Yardstick.of(lm, list(prompts or neutral()), tokens=tokens, seed=seed)
    settled = use or vector.use
    if settled is None:
        layer, why = choose_layer(lm, vector, held, yard, Use(vector.layers))
        settled = Use((layer,), why=(why,))
    settled = replace(settled, why=tuple(w for w in settled.why if w != UNMEASURED))
    iv = Intervention.recommended(replace(vector, use=settled), multiplier=1.0)
    dose = _Measuring(lm, iv, yard, tokens, seed).dose(held, progress)
    return replace(vector, use=concluded(settled, dose))


def concluded(use: Use, dose: Dose) -> Use:
    """The use of a vector whose dose was measured: the range, the multiplier inside it, and why."""
    ship = ship_range(dose)
    best, why = strongest_comfortable(dose, ship)
    return replace(use, multiplier=best, ship=ship, dose=dose, why=(*use.why, *why))


def seconds(lm: LM, tokens: int = TOKENS) -> float:
    """About how long measuring a dose will take here: eight tokens of the answers are generated, and timed."""
    prompts = list(neutral())
    start = time.perf_counter()
    lm.generate(prompts, max_new_tokens=8)
    return (time.perf_counter() - start) * tokens / 8 * 16


def carried(lm: LM, method: OneShot) -> HeldOut:
    """Whether a vector of one prompt says the same to others: the neutral prompts, with what it promotes as positive
    answer and what it suppresses as negative one; the model's own answer stands for what is not given.
    """
    prompts = list(neutral())
    own = lm.generate(prompts, max_new_tokens=24)
    up, down = method.promote, method.suppress
    pairs: list[Pair] = []
    for k, (prompt, answer) in enumerate(zip(prompts, own, strict=True)):
        positive = up[k % len(up)] if up else answer
        negative = down[k % len(down)] if down else answer
        if positive.strip() and negative.strip() and positive != negative:
            pairs.append(Pair(prompt, positive, negative))
    data = Dataset(EVERYDAY, tuple(pairs), part="all")
    return HeldOut(data, Propensity() if down else Likelihood())


def held_out(lm: LM, method: Method | None, val: Dataset | None) -> HeldOut | None:
    """What a vector of a method can be tried on: held-out pairs, or other prompts for one that was made from one."""
    if val is not None:
        return HeldOut(val.take(MOST), Propensity())
    return carried(lm, method) if isinstance(method, OneShot) and method.prompt else None


# ---------------------------------------------------------------- the layer


def choose_layer(lm: LM, vector: SteeringVector, held: HeldOut | None, yard: Yardstick, use: Use) -> tuple[Layer, str]:
    """The layer that raises the behavior most for sure at equal drift, and how it was chosen, in a sentence."""
    layers = vector.layers
    if held is None:
        middle = layers[len(layers) // 2]
        return middle, f"Nothing was held out to choose a layer by: block {middle} is the middle of {len(layers)}."
    slopes = sensitivity(lm, held.data, held.metric, positions=use.positions).slopes(vector)
    likely = sorted(layers, key=lambda k: float(np.nanmean(slopes[k])))[-SHORTLIST:]
    few, rises = _some(yard), dict[Layer, Array]()
    for k in likely:
        iv = Intervention.recommended(vector, layers=[k], multiplier=1.0, positions=use.positions)
        costs = curvature(lm, iv, few)
        if costs > 0:
            rises[k] = changes(lm, [iv], held, [(EQUAL / costs) ** 0.5])[0, 0].numpy().astype(float)
    if not rises:
        return likely[-1], f"Block {likely[-1]} was taken of {len(layers)}: none of them moves the model."
    sweep = Sweep(rises, held.groups)
    best = steepest([sweep])
    sure = "" if sweep.bound(best) > 0 else "; no layer is told from 0 there, so it may be any"
    of = f"of {len(layers)}" if len(layers) == lm.n_layers else f"of the {len(layers)} tried"
    among = f", {of}," if len(layers) > 1 else ""
    items = "everyday prompts" if held.data.name == EVERYDAY else f"held-out items of {held.data.name}"
    return best, (
        f"Block {best}{among} raises the behavior most for sure at equal drift ({EQUAL:g} nats a token), on "
        f"{len(held.data)} {items}{sure}."
    )


def _drift(lm: LM, iv: Intervention, yard: Yardstick) -> float:
    return float(yard.drift(lm, iv, [iv.multiplier]).mean())


def curvature(lm: LM, iv: Intervention, yard: Yardstick) -> float:
    """Drift over the square of the multiplier, where it is small enough to grow with that square."""
    drift = _drift(lm, iv, yard)
    while not drift <= SMALL and iv.multiplier > 1e-3:
        iv = iv.times(iv.multiplier / 4)
        drift = _drift(lm, iv, yard)
    return drift / iv.multiplier**2


def _some(yard: Yardstick) -> Yardstick:
    """A few of its answers: enough to tell layers apart."""
    return Yardstick(yard.prompts[:6], yard.rows[:6])


# ---------------------------------------------------------------- the dose


@dataclass(frozen=True)
class _Measuring:
    lm: LM
    iv: Intervention
    yard: Yardstick
    tokens: int
    seed: int

    def dose(self, held: HeldOut | None, progress: Progress | None) -> Dose:
        multipliers = self.multipliers()
        controls = self.controls() if held else {}
        rises = self.rises(held, controls, multipliers) if held else {}
        prompts = self.prompts(held)
        usual = Usual(self.lm, prompts, self.said(prompts, 0.0))
        points: list[DosePoint] = []
        drifts = self.yard.drift(self.lm, self.iv, multipliers).mean(0).tolist()
        for k, (m, drift) in enumerate(zip(multipliers, drifts, strict=True)):
            if progress:
                progress(k, len(multipliers))
            points.append(self.point(m, drift, usual, rises.get(m, {})))
            if points[-1].broken > usual.own.broken + 0.5:
                break  # what is stronger is worse
        if progress:
            progress(len(multipliers), len(multipliers))
        return Dose(
            tuple(points),
            usual.own.broken,
            _known(usual.own.distinct),
            len(prompts),
            self.tokens,
            len(held.data) if held else 0,
            len(set(held.groups)) if held else 0,
            held.unit if held else "",
            held.data.name if held else "",
            tuple(controls),
            self.seed,
        )

    def prompts(self, held: HeldOut | None) -> list[Prompt]:
        """What is answered to see whether text keeps whole: what people ask of a model, and what the behavior is about,
        where a vector is strongest.
        """
        topical = [as_prompt(p.asked) for p in held.data.pairs[:ON_TOPIC]] if held else []
        return [*self.yard.prompts, *(p for p in topical if p not in self.yard.prompts)]

    def multipliers(self) -> list[float]:
        if not isinstance(self.iv.operator, Add):
            return list(SHARES)
        few = _some(self.yard)
        return ladder(lambda m: _drift(self.lm, self.iv.times(m), few))

    def controls(self) -> dict[str, SteeringVector]:
        vector = self.iv.vector
        return random_controls(vector, RANDOM, self.seed) | null_controls(vector, SHUFFLED)

    def rises(
        self, held: HeldOut, controls: Mapping[str, SteeringVector], multipliers: Sequence[float]
    ) -> dict[float, dict[str, float]]:
        """Mean rise of the propensity at each multiplier, with its interval, and the largest change of a control."""
        ivs = [self.iv, *(replace(self.iv, vector=v) for v in controls.values())]
        deltas = changes(self.lm, ivs, held, multipliers)  # (c, k, n)
        out: dict[float, dict[str, float]] = {}
        for k, m in enumerate(multipliers):
            f = mean_figure("", deltas[0, k].numpy().astype(float), held.unit, groups=held.groups)
            beside = deltas[1:, k].nanmean(-1).abs()
            if f.n:
                out[m] = {"propensity": f.value, "control": float(beside.max())}
                out[m] |= {} if np.isnan(f.lo) else {"lo": f.lo, "hi": f.hi}
        return out

    def said(self, prompts: Sequence[Prompt], multiplier: float) -> list[str]:
        """Answers to the prompts, sampled as people would have them."""
        options = {"max_new_tokens": self.tokens, "temperature": TEMPERATURE, "seed": self.seed, "batch": len(prompts)}
        if multiplier == 0:
            return self.lm.generate(prompts, **options)  # type: ignore[arg-type]
        with steer(self.lm, self.iv.times(multiplier)):
            return self.lm.generate(prompts, **options)  # type: ignore[arg-type]

    def point(self, m: float, drift: float, usual: Usual, rise: Mapping[str, float]) -> DosePoint:
        texts = usual.beside(self.said(usual.prompts, m))
        stranger = _known(texts.strangeness - usual.own.strangeness)
        return DosePoint(m, self.relative * m, drift, texts.broken, stranger, _known(texts.distinct), **rise)

    @cached_property
    def relative(self) -> float:
        """|v| over the median |h|; the largest over its layers."""
        norms = self.lm.norms(self.yard.rows, self.iv.vector.layers)
        return max(n / norms[k] for k, n in self.iv.vector.norm().items())


def changes(lm: LM, ivs: Sequence[Intervention], held: HeldOut, multipliers: Sequence[float]) -> Float[Tensor, "c k n"]:
    """Change of every item's propensity from the unsteered model, under interventions at the same layers, at each
    multiplier. NaN where an item was not measured.
    """
    out = torch.full((len(ivs), len(multipliers), len(held.data)), float("nan"))
    place = {p.id: k for k, p in enumerate(held.data)}
    batches = chunks(lm, held.data, [held.metric], ivs[0].where)
    for chunk, piece, values, plain in values_under(lm, batches, ivs, held.metric, multipliers):
        where = [place[p.id] for p in chunk.pairs]
        for c, of in zip(piece, values, strict=True):
            out[c, :, where] = (of - plain[:, None]).T
    return out


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
