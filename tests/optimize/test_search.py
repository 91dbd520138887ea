"""Completions, and losses to aim at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from descents import ASK, SAID, vector
from pico import pico
from trimtab.errors import LossError
from trimtab.optimize import (
    Place,
    Problem,
    Promote,
    likely_completions,
    losses_in_full,
    losses_of,
    swapped_choice,
    target_from,
)
from trimtab.steering.interventions import Intervention, steer
from zoo import WIDTH


def test_targets_come_from_where_the_model_says_it_already() -> None:
    lm = pico("llama")
    term = Promote(ASK, SAID)
    assert losses_of(lm, term)[0] == pytest.approx(
        float(losses_in_full(lm, Problem(term, Place((1,))), torch.zeros(1, 1, WIDTH))[0]), rel=1e-5
    )
    twin = losses_of(lm, Promote("say something kind", SAID))[0]
    assert target_from(lm, term, "say something kind", share=0.75) == pytest.approx(0.75 * twin)
    iv = Intervention(vector(1))
    row = lm.row(ASK, SAID)
    with steer(lm, iv):
        logp = (0.7 * lm.logits(lm.batch([row]))[0]).log_softmax(-1)
    steered = -sum(float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids)))
    assert losses_of(lm, term, iv)[0] == pytest.approx(steered, rel=1e-4)


def test_the_swap_rule_aims_at_traded_places() -> None:
    lm = pico("llama")
    goal = swapped_choice(lm, "A good B bad ?", "A bad B good ?", ("A", "B"))
    kinds = [(type(t).__name__, t.prompt, t.completion) for _, t in goal.terms]  # type: ignore[attr-defined]
    assert [k for k, _, _ in kinds] == ["Promote", "Suppress"] * 2 and kinds[0][2] == kinds[3][2] != kinds[1][
        2
    ] == kinds[2][2]
    first = goal.terms[0][1]
    assert first.target == pytest.approx(losses_of(lm, replace(first, completion=kinds[1][2]))[0])  # type: ignore[type-var]


def test_beam_search_finds_the_most_likely_of_all_completions() -> None:
    """Against every completion there is, for two tokens and a beam as wide as the vocabulary."""
    lm = pico("llama")
    row = lm.row(ASK)
    found = likely_completions(lm, ASK, tokens=2, width=96)
    every: dict[tuple[int, int], float] = {}
    first = lm.logits(lm.batch([row]))[0, -1].log_softmax(-1)
    for a in range(96):
        second = lm.logits(lm.batch([row.extended((a,))]))[0, -1].log_softmax(-1)
        every |= {(a, b): float(first[a] + second[b]) for b in range(96) if not {a, b} & lm.end_tokens}
    best = sorted(every, key=every.__getitem__, reverse=True)[:20]
    assert [c.ids for c in found[:20]] == best
    assert [c.logp for c in found[:20]] == pytest.approx([every[k] for k in best], abs=1e-4)
    apart = likely_completions(lm, ASK, against="is it rain ?", tokens=3, width=4)
    assert all(math.exp(c.logp) - math.exp(c.against or 0) > 0 for c in apart) and len({c.ids for c in apart}) == 4
    last = likely_completions(lm, ASK, tokens=2, width=3, least=True)
    assert last[0].logp < found[0].logp
    with pytest.raises(LossError):
        likely_completions(lm, ASK, tokens=0)
