"""Terms."""

from __future__ import annotations

import pytest
import torch

from descents import ASK, SAID
from pico import pico
from trimtab.errors import LossError
from trimtab.methods import OneShot
from trimtab.optimize import (
    Descent,
    Echo,
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
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH


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


def test_an_echo_is_nothing_at_the_teacher_itself_and_one_at_no_change() -> None:
    lm = pico("llama")
    v = SteeringVector({1: torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))})
    acting = (Intervention(v, positions="everywhere"),)
    for completion in ("", SAID):
        echo = Problem(Echo(ASK, 3, acting, completion), Place((1,)))
        at = [float(losses_in_full(lm, echo, s * v[1][None, None])[0]) for s in (1.0, 0.0)]
        assert at == pytest.approx([0.0, 1.0], abs=1e-4)
    answered = Problem(Echo(ASK, 3, acting, SAID, positions="generated"), Place((1,), positions="generated"))
    same = losses_in_full(lm, answered, v[1][None, None])
    assert 0.01 < float(same[0]) < 2, "the teacher steers the prompt as well"
    with pytest.raises(LossError, match="nothing to do again"):
        optimize(lm, [Problem(Echo(ASK, 3, (Intervention(v, multiplier=0.0),)), Place((1,)))])
