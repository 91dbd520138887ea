"""Losses and gradients by replays, against full passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from descents import ASK, MIXED, OTHER, SAID, start, vector
from pico import architectures, pico
from trimtab.model import LM, from_last_prompt_token, last_k
from trimtab.optimize import (
    Change,
    Consistent,
    Echo,
    Match,
    Objective,
    Place,
    Problem,
    Promote,
    Satisfice,
    Unlearn,
    anchor,
    in_contexts,
    losses_in_full,
    promote,
    suppress,
)
from trimtab.optimize.losses import Losses
from trimtab.optimize.objectives import log_complement
from trimtab.steering.interventions import Intervention
from trimtab.steering.operators import Ablate, Affine, Clamp

FAMILIES = [
    "llama",
    "qwen2",
    "qwen3_next",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "opt",
    "bloom",
    "falcon",
    "gpt_oss",
    "olmo2",
]


PLACES = {
    "add": Place((1,)),
    "clamp": Place((1,), Clamp(), last_k(3)),
    "ablate": Place((0,), Ablate()),
    "affine": Place((1,), Affine(), rank=2),
    "shared": Place((0, 2)),
    "each": Place((0, 1, 2), shared=False, positions=from_last_prompt_token),
    "tandem": Place(
        (1,), under=(Intervention(vector(0)), Intervention(vector(2, seed=1)), Intervention(vector(1, seed=2)))
    ),
}


@pytest.mark.parametrize("name", architectures(*FAMILIES))
@pytest.mark.parametrize("kind", ["add", "each"])
def test_replayed_losses_and_gradients_are_those_of_full_passes(name: str, kind: str) -> None:
    exact(pico(name), Problem(MIXED, PLACES[kind]))


@pytest.mark.parametrize("kind", list(PLACES))
def test_every_operator_and_layer_set_is_exact(kind: str) -> None:
    exact(pico("llama"), Problem(MIXED, PLACES[kind]))


OBJECTIVES = {
    "ascent": Objective.of(Unlearn(ASK, SAID)),
    "satisficing": Objective.of(Satisfice(Promote(ASK, SAID), 3.0)),
    "distillation": Objective.of(Match(ASK, SAID, (Intervention(vector(0)),), tokens=3)),
    "anchor": anchor([(ASK, SAID), ("I like the sun .", "so I think .")], 0.5),
    "echo": Objective.of(Echo(ASK, 3, (Intervention(vector(1, seed=3), positions="everywhere"),), SAID)),
    "melbo": Objective.of(Change(ASK, 3)) + Change(ASK, 2, SAID, mean=True, positions="from_last_prompt_token"),
    "consistent": promote(ASK, SAID) + Consistent((ASK, "is it rain ?"), 3),
    "contexts": in_contexts(promote(ASK, SAID), systems=(None, "be kind"), before=("", "so , ")),
}


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_every_objective_is_exact(kind: str) -> None:
    exact(pico("qwen2"), Problem(OBJECTIVES[kind], Place((1,))))


def exact(lm: LM, problem: Problem) -> None:
    """Loss and gradient of the replays equal those of full passes."""
    problem.check(lm)
    v = start(problem)
    fast = Losses(lm, [problem], 32).at({0: v[None]}, gradients={0})
    leaf = v.clone().requires_grad_()
    slow = losses_in_full(lm, problem, leaf)
    total = sum((w * x for (w, _), x in zip(problem.goal.terms, slow, strict=True)), torch.zeros(()))
    (gradient,) = torch.autograd.grad(total, leaf)
    for a, b in zip(fast.terms[0], slow, strict=True):
        assert float(a[0]) == pytest.approx(float(b.detach()), rel=1e-5, abs=1e-5)
    assert gradient.norm() > 0
    assert float((fast.gradients[0][0] - gradient).norm() / gradient.norm()) <= 1e-5


@pytest.mark.parametrize("kind", list(PLACES))
def test_gradients_are_finite_differences(kind: str) -> None:
    """The slope along random directions, in both ways."""
    lm, problem = pico("llama"), Problem(MIXED, PLACES[kind])
    losses, v = Losses(lm, [problem], 32), start(problem)
    gradient = losses.at({0: v[None]}, gradients={0}).gradients[0][0]
    step = 3e-3
    for seed in range(3):
        u = start(problem, seed + 1) + gradient / gradient.norm()
        u /= u.norm()
        found = losses.at({0: torch.stack([v + step * u, v - step * u])}, gradients=set()).terms[0]
        total = sum((w * x for (w, _), x in zip(problem.goal.terms, found, strict=True)), torch.zeros(2))
        assert float(total[0] - total[1]) / (2 * step) == pytest.approx(float((gradient * u).sum()), rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("p", [1e-9, 1e-6, 1e-3, 0.3, 0.49, 0.51, 0.9, 1 - 1e-6, 1 - 1e-9])
def test_the_complement_is_accurate_for_every_probability(p: float) -> None:
    """In fp32, against double precision; with the gradient p / (1 - p) (up to sign) of the said class."""
    margin = math.log(p) - math.log1p(-p) + math.log(3)
    scores = torch.tensor([margin, 0.0, 0.0, 0.0], requires_grad=True)
    found = log_complement(scores, torch.tensor([0]))
    exact = torch.tensor([margin, 0.0, 0.0, 0.0], dtype=torch.float64)
    rest = exact[1:].logsumexp(0) - exact.logsumexp(0) if p >= 0.5 else torch.log1p(-exact.softmax(0)[0])
    assert float(found.detach()) == pytest.approx(float(rest), rel=1e-5, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, scores)
    assert float(gradient[0]) == pytest.approx(-float(exact.softmax(0)[0]), rel=1e-5)


def test_gradients_are_added_up_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve prompts in passes of few tokens: the same gradients, and never more than one pass under way."""
    lm = pico("llama")
    asks = [f"Do you like {x} {n} ?" for x in ("tea", "rain", "sun") for n in ("one", "two", "three", "four")]
    goal = promote(asks[0], SAID)
    for k, ask in enumerate(asks[1:]):
        goal = goal + (promote if k % 2 else suppress)(ask, SAID if k % 3 else OTHER)
    goal = goal + Consistent(tuple(asks[:3]), 3)
    problem = Problem(goal, Place((1,)))
    v = torch.stack([start(problem, s) for s in range(2)])
    whole = Losses(lm, [problem], 32).at({0: v}, gradients={0})
    small = Losses(lm, [problem], 32, tokens=40)
    sizes: list[int] = []
    replay = lm.replay
    monkeypatch.setattr(
        lm,
        "replay",
        lambda prefix, layer, h, **how: (sizes.append(h.shape[:3].numel()), replay(prefix, layer, h, **how))[1],
    )
    parts = small.at({0: v}, gradients={0})
    assert (
        torch.allclose(parts.gradients[0], whole.gradients[0], rtol=1e-4, atol=1e-5)
        and max(sizes) < 120
        and len(sizes) >= 6
    )
    assert torch.allclose(torch.stack(parts.terms[0]), torch.stack(whole.terms[0]), rtol=1e-4)
    assert len(small.groups[0]._parts({0: 2})) > 3

    def crooked(_: int, losses: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(losses)).pow(2).sum(0)

    one, two = (x.at({0: v}, gradients={0}, total=crooked).gradients[0] for x in (small, Losses(lm, [problem], 32)))
    assert torch.allclose(one, two, rtol=1e-3, atol=1e-4), "and of a total that is no sum"
