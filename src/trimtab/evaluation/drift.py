"""How far a vector moves the model from itself, and the multiplier at which that is as far as it is with another
vector: equal side effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.answers.quality import Usual
from trimtab.errors import RecipeError
from trimtab.model import LM, Row
from trimtab.model.tokens import Prompt
from trimtab.statistics.verdict import BROKEN
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.multipliers import replays

NEAR = 0.02  # of the drift asked for: how close to it a multiplier is confirmed
READ_FROM = 8.0  # multiplier from which on the text is read before going further
FARTHEST = 4096.0


@dataclass(frozen=True)
class Yardstick:
    """What the unsteered model itself says to some prompts (sampled once, at temperature 1): every vector is measured
    along the same answers.
    """

    prompts: tuple[Prompt, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, lm: LM, prompts: Sequence[Prompt], *, tokens: int = 24, seed: int = 0) -> Yardstick:
        answers = lm.generate(prompts, max_new_tokens=tokens, temperature=1.0, seed=seed)
        rows = [
            lm.row(p, s) if s.strip() else lm.row(p).extended(sorted(lm.end_tokens)[:1])
            for p, s in zip(prompts, answers, strict=True)
        ]
        return cls(tuple(prompts), tuple(rows))

    @torch.no_grad()
    def drift(self, lm: LM, iv: Intervention, multipliers: Sequence[float], batch: int = 8) -> Float[Tensor, "n c"]:
        """KL(unsteered || steered) per token, averaged along each answer, at each multiplier. Nats."""
        out = torch.zeros(len(self.rows), len(multipliers))
        for chosen in lm.batches(list(self.rows), batch):
            packed = lm.batch([self.rows[k] for k in chosen])
            keep = list(range(packed.pivot - 1, packed.ids.shape[1] - 1))
            there = (packed.index[:, packed.pivot :] >= 0).float()
            plain = torch.zeros(())
            for m, logits in replays(lm, iv, packed, keep, multipliers):
                logp = logits.log_softmax(-1)
                plain = logp if m == 0 else plain
                kl = (plain.exp() * (plain - logp)).sum(-1).clamp(min=0)
                for column in (k for k, x in enumerate(multipliers) if x == m):
                    out[chosen, column] = ((kl * there).sum(-1) / there.sum(-1)).cpu()
        return out


def drift(
    lm: LM,
    iv: Intervention,
    prompts: Sequence[Prompt],
    multipliers: Sequence[float],
    *,
    tokens: int = 24,
    batch: int = 8,
    seed: int = 0,
) -> Float[Tensor, "n c"]:
    """KL(unsteered || steered) per token, averaged along what the unsteered model itself says to each prompt (sampled
    at temperature 1). Nats.

    This is the yardstick of methods compared at equal cost: it counts every change, at every token of an answer.
    """
    return Yardstick.of(lm, prompts, tokens=tokens, seed=seed).drift(lm, iv, multipliers, batch)


@dataclass(frozen=True)
class Reached:
    """Where a vector costs a given drift.

    Attributes:
        multiplier: there, with its sign; NaN if it is not reached.
        nats: the drift measured there, mean over prompts.
        why: what kept it from being reached; empty if it was.
        probes: every (multiplier, drift) that was measured on the way.
    """

    multiplier: float
    nats: float
    why: str
    probes: tuple[tuple[float, float], ...]


def reach(lm: LM, iv: Intervention, yardstick: Yardstick, budget: float, *, sign: int = 1) -> Reached:
    """The multiplier at which an intervention first costs `budget` (nats per token), up or down (sign -1) from 0:
    doubled until the budget is passed, then closed in on by the root of the drift, which is nearly straight, until
    the drift measured there is within 2 % of the budget. The multiplier of the intervention itself plays no part.

    It goes on until the budget is reached or the text breaks (more than half of the answers to the prompts, beyond
    those of the unsteered model).
    """
    if not budget > 0:
        raise RecipeError("not a drift to be reached", given=budget, expected="nats per token, above 0")
    probes: list[tuple[float, float]] = []

    def root(m: float) -> float:
        probes.append((sign * m, float(yardstick.drift(lm, iv, [sign * m]).mean())))
        return probes[-1][1] ** 0.5

    target = budget**0.5
    low, high, at_low, at_high = 0.0, 1.0, 0.0, root(1.0)
    while at_high < target:
        if high >= FARTHEST or (high >= READ_FROM and breaks(lm, replace(iv, multiplier=sign * high), yardstick)):
            why = "the text breaks first" if high < FARTHEST else f"{at_high**2:.3g} nats there"
            return _missed(f"by multiplier {sign * high:g}: {why}", probes)
        low, high, at_low = high, 2 * high, at_high
        at_high = root(high)
    m, here = high, at_high
    for _ in range(40):
        if abs(here**2 - budget) <= NEAR * budget:
            break
        straight = low + (target - at_low) / (at_high - at_low) * (high - low)
        inside = low + 0.02 * (high - low) < straight < high - 0.02 * (high - low)
        # a bend that keeps one end in place is halved now and then
        m = straight if inside and len(probes) % 4 else (low + high) / 2
        here = root(m)
        low, at_low, high, at_high = (m, here, high, at_high) if here < target else (low, at_low, m, here)
    if not abs(here**2 - budget) <= NEAR * budget:
        return _missed(
            f"near multiplier {sign * m:g}: the drift leaps from {at_low**2:.3g} to {at_high**2:.3g} nats", probes
        )
    return Reached(sign * m, here**2, "", tuple(probes))


def _missed(why: str, probes: Sequence[tuple[float, float]]) -> Reached:
    return Reached(float("nan"), float("nan"), f"not reached {why}", tuple(probes))


def breaks(lm: LM, iv: Intervention, yardstick: Yardstick, tokens: int = 24) -> bool:
    """Whether steering breaks more than half of the (greedy) answers to the prompts that do not break without it."""
    prompts = list(yardstick.prompts)
    usual = Usual(lm, prompts, lm.generate(prompts, max_new_tokens=tokens))
    with steer(lm, iv):
        texts = lm.generate(prompts, max_new_tokens=tokens)
    return usual.beside(texts).broken - usual.own.broken > BROKEN
