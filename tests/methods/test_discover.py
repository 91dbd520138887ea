"""Discovery of vectors without a goal."""

from __future__ import annotations

import pytest
import torch

from pico import pico
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.methods import Discover, learn
from trimtab.optimize import (
    Change,
    Objective,
    Place,
    Problem,
    losses_in_full,
)
from zoo import WIDTH

ASK, SAID = "Do you like tea ?", "Yes I like tea ."


@pytest.mark.slow
def test_discovery_changes_what_comes_after_and_its_members_are_orthogonal() -> None:
    lm = pico("llama")
    members = [learn(lm, None, Discover(prompt=ASK, member=k, steps=20), layers=[1]) for k in range(3)]
    norms = [m.norm()[1] for m in members]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)
    for k, one in enumerate(members):
        for two in members[k + 1 :]:
            assert abs(one.cosine(two)[1]) < 1e-3
    problem = Problem(Objective.of(Change(ASK, 2)), Place((1,)))
    random = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
    random *= norms[0] / random.norm(dim=-1, keepdim=True)
    change = [-float(losses_in_full(lm, problem, v[None, None])[0]) for v in (members[0][1], *random)]
    assert change[0] > max(change[1:])


def test_discovery_refuses_what_it_cannot_do() -> None:
    lm, data = pico("llama"), Dataset("toy", (Pair(ASK, "Yes .", "No ."),))
    assert learn(lm, data, Discover(steps=2), layers=[0]).layers == (0,)
    for make, error in (
        (lambda: Discover(member=-1), RecipeError),
        (lambda: learn(lm, None, Discover(), layers=[0]), DataError),
        (lambda: learn(lm, data, Discover(), layers=[3]), ModelError),
        (lambda: learn(lm, data, Discover(target_layer=1), layers=[1]), ModelError),
    ):
        with pytest.raises(error):
            make()
