"""Terms."""

from __future__ import annotations

import pytest
import torch

from descents import ASK, SAID
from pico import pico
from trimtab.methods import OneShot
from trimtab.optimize import (
    Descent,
    MaxSteps,
    Place,
    Problem,
    Promote,
    Satisfice,
    likely_completions,
    losses_in_full,
    optimize,
    swapped_choice,
)


def test_satisficing_tells_the_raw_loss_too() -> None:
    lm = pico("llama")
    problem = Problem(Satisfice(Promote(ASK, SAID), 2.0), Place((1,)), (), Descent(0.3, (MaxSteps(25),)))
    (found,) = optimize(lm, [problem])
    assert found.losses[0] == pytest.approx((found.raw[0] - 2.0) ** 2, rel=1e-4) and found.describe()["raw"] == list(
        found.raw
    )
    plain = losses_in_full(lm, Problem(Promote(ASK, SAID), Place((1,))), found.vector[1][None, None])
    assert found.raw[0] == pytest.approx(float(plain[0]), rel=1e-4)


def test_every_function_that_renders_can_do_it_plainly() -> None:
    lm = pico("llama")
    for chat in (True, False):
        (best, *_) = likely_completions(lm, ASK, tokens=2, width=1, chat=chat)
        row = lm.row(ASK, chat=chat)
        logits = lm.logits(lm.batch([row]))[0, -1]
        logits[sorted(lm.end_tokens)] = -torch.inf
        assert best.ids[0] == int(logits.argmax())
        goal = swapped_choice(lm, "A good B bad ?", "A bad B good ?", ("A", "B"), chat=chat, separator=" ")
        assert all(t.chat is chat and t.separator == " " for _, t in goal.terms)  # type: ignore[attr-defined]
        one = OneShot(prompt=ASK, promote=("Yes",), chat=chat, separator=" : ")
        assert [r.ids for r in one.objective(None).terms[0][1].rows(lm)] == [
            lm.row(ASK, "Yes", chat=chat, separator=" : ").ids
        ]
