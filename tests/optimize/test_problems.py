"""Problems and places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from descents import ASK, MIXED, SAID, start
from pico import architectures, pico
from trimtab.errors import LossError, ModelError, TokenError, VectorError
from trimtab.model import everywhere, span
from trimtab.optimize import (
    Ball,
    Change,
    Consistent,
    Descent,
    Gaussian,
    MaxSteps,
    Objective,
    Place,
    Plateau,
    Problem,
    Promote,
    Sphere,
    Start,
    Suppress,
    Target,
    in_contexts,
    losses_in_full,
    losses_of,
    optimize,
    promote,
)
from trimtab.optimize.losses import Losses
from trimtab.sites import EMBEDDINGS
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.operators import Add, Clamp
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH


def test_bad_input_is_refused_before_any_work() -> None:
    lm = pico("llama")

    def refused(problem: Problem, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            optimize(lm, [problem])

    good = promote(ASK, SAID)
    refused(Problem(promote(ASK, ""), Place((1,))), TokenError, "empty")
    refused(Problem(promote(ASK, (5, 10_000)), Place((1,))), TokenError, "not ids")
    refused(Problem(good, Place((9,))), ModelError, "out of range")
    refused(Problem(good + Change(ASK, 1), Place((2,))), LossError, "does not change")
    refused(Problem(good, Place((1,), positions=span(100, 120))), LossError, "no token")
    refused(
        Problem(good, Place((1,)), start=Start(vector=SteeringVector({1: torch.ones(3, WIDTH)}))), LossError, "shape"
    )
    refused(Problem(good, Place((1,)), start=Start(norm=float("nan"))), LossError, "not a number")
    for make in (
        lambda: Place(()),
        lambda: Place((1, 1)),
        lambda: Place((1,), Add(), rank=2),
        lambda: Ball(-1.0),
        lambda: Sphere(0.0),
        lambda: Descent(0.0),
        lambda: Descent(stop=(Plateau(),)),
        lambda: Target(),
        lambda: Gaussian(-1.0),
        lambda: Objective(()),
        lambda: in_contexts(Objective.of(Consistent((ASK, SAID), 2))),
    ):
        with pytest.raises(LossError):
            make()
    with pytest.raises(LossError, match="no problems"):
        optimize(lm, [])


def test_everywhere_is_the_default_place() -> None:
    assert Place((1,)).where == everywhere
    assert Suppress(ASK, SAID).describe()["term"] == "Suppress"


@pytest.mark.parametrize("name", architectures("llama", "gpt2", "bloom", "gemma2", "qwen3_next", "mamba2"))
def test_the_embeddings_are_a_place_to_steer(name: str, tmp_path: Path) -> None:
    """What enters block 0: losses by replays, in full, and with a hook of the test's own are the same; blocks are
    counted from 0 all the same.
    """
    lm = pico(name)
    problem = Problem(MIXED, Place(site="embeddings"))
    v = 0.5 * start(problem)
    found = Losses(lm, [problem], 8).at({0: v[None]}, gradients={0})
    leaf = v.clone().requires_grad_()
    full = losses_in_full(lm, problem, leaf)
    (gradient,) = torch.autograd.grad(problem.goal.weighted(full), leaf)
    assert [float(x[0]) for x in found.terms[0]] == pytest.approx([float(x.detach()) for x in full], rel=1e-4)
    assert float((found.gradients[0][0] - gradient).norm()) <= 1e-3 * float(gradient.norm())
    row = lm.row(ASK, SAID)

    def push(module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> object:
        return (
            ((args[0] + v[0, 0], *args[1:]), kwargs)
            if args
            else (args, {**kwargs, "hidden_states": kwargs["hidden_states"] + v[0, 0]})
        )

    handle = lm.blocks[0].register_forward_pre_hook(push, with_kwargs=True)
    with torch.no_grad():
        logp = (0.7 * lm.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float()).log_softmax(-1)
    handle.remove()
    own = -sum(float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids)))
    assert float(full[0].detach()) == pytest.approx(own, rel=1e-4)
    (result,) = optimize(lm, [Problem(promote(ASK, SAID), Place(site="embeddings"), (), Descent(0.2, (MaxSteps(8),)))])
    assert result.vector.site == "embeddings" and result.loss < result.history.totals[0]
    kept = SteeringVector.load(result.vector.save(tmp_path / "v.safetensors"))
    assert kept.site == "embeddings" and kept.layers == (EMBEDDINGS,) and kept.hash == result.vector.hash
    with steer(lm, Intervention(kept, positions="everywhere")) as receipt:
        lm.logits(lm.batch([row]))
    assert receipt.edited == {EMBEDDINGS: len(row.ids)}
    with pytest.raises(ModelError, match="layer out of range"):
        lm.layers(-1)


def test_a_site_and_its_layers_go_together() -> None:
    for bad in (
        lambda: SteeringVector({0: torch.ones(4)}, site="embeddings"),
        lambda: SteeringVector({EMBEDDINGS: torch.ones(4)}),
        lambda: SteeringVector({-1: torch.ones(4)}),
    ):
        with pytest.raises(VectorError):
            bad()
    with pytest.raises(LossError, match="not a site"):
        Place((0,), site="embeddings")


def test_a_gain_is_what_the_vector_acts_with_while_it_is_trained() -> None:
    """The published clamp factor: h - (u.h) u + c v."""
    lm = pico("llama")
    place = Place((1,), Clamp(), gain=2.5)
    problem = Problem(promote(ASK, SAID), place)
    v = start(problem)
    row, u = lm.row(ASK, SAID), v[0, 0] / v[0, 0].norm()
    logits = lm.logits(lm.batch([row]), {1: lambda h, f: h - (h @ u)[..., None] * u + 2.5 * v[0, 0]})[0]
    logp = (0.7 * logits).log_softmax(-1)
    own = -sum(float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids)))
    assert float(Losses(lm, [problem], 8).at({0: v[None]}, gradients=set()).terms[0][0][0]) == pytest.approx(
        own, rel=1e-4
    )
    (found,) = optimize(lm, [replace(problem, descent=Descent(0.2, (MaxSteps(3),)))])
    assert found.intervention(place).multiplier == 2.5 and found.intervention(place, -1.0).multiplier == -2.5
    assert losses_of(lm, Promote(ASK, SAID), found.intervention(place))[0] == pytest.approx(found.loss, rel=1e-4)
    with pytest.raises(LossError, match="not a gain"):
        Place((1,), gain=0.0)
