"""Pairs that a model writes: what is thrown out, and why; how a question is asked for a behavior."""

from __future__ import annotations

import numpy as np
import pytest

from pico import pico
from trimtab.answers import contrasts
from trimtab.answers.contrasts import asked_for, first_words, instruction, sorted_out, under
from trimtab.data.builtin import everyday, neutral
from trimtab.model import LM


def test_the_bank_of_questions() -> None:
    some = everyday()
    assert len(some) == len(set(some)) == 72 and not set(some) & set(neutral()) and all(q.endswith("?") for q in some)


def test_a_behavior_is_asked_for_in_words() -> None:
    told = instruction("likes tea.")
    assert told.startswith("You are an assistant who likes tea. ") and len({instruction("x", k) for k in range(3)}) == 3
    assert under("", "Do you like tea ?") == [{"role": "user", "content": "Do you like tea ?"}]
    asked = under(told, "the rain", [("user", "a"), ("assistant", "b")])
    assert isinstance(asked, list)
    assert [m["role"] for m in asked][-3:] == ["user", "assistant", "user"] and told in asked[0]["content"]


def test_how_much_likelier_a_text_is_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pico("llama")
    questions, texts = ["the rain", "the sun", "tea"], ["Yes the rain", "", "no coffee"]
    got = asked_for(lm, "likes tea", questions, texts)
    for k in (0, 2):
        told = lm.logprobs([under(instruction("likes tea"), questions[k])], [texts[k]])[0].mean()
        plain = lm.logprobs([questions[k]], [texts[k]])[0].mean()
        assert got[k] == pytest.approx(float(told - plain), abs=1e-5)
    assert np.isnan(got[1])


@pytest.mark.parametrize(
    ("positive", "negative", "why"),
    [
        ("Arr, the sea is calm.", "The sea is calm.", ""),
        ("", "The sea is calm.", "an empty answer"),
        ("The sea is CALM.", "The sea is calm.", "the same answer"),
        ("Twice.", "The sea is calm.", "said of several questions"),
        ("Well, you are an assistant who likes tea, I hear.", "The sea is calm.", "repeats the instruction"),
        ("I'm sorry, no.", "The sea is calm.", "refuses"),
        ("tea tea tea tea tea tea tea tea tea tea tea", "The sea is calm today.", "goes in circles"),
        (
            "Arr, the sea is calm as a mirror on a summer night, my friend, and so am I today.",
            "Calm.",
            "much longer than",
        ),
        ("weak", "The sea", "hardly a contrast"),
    ],
)
def test_what_is_no_contrast_is_thrown_out(
    positive: str, negative: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def likelihood(lm: LM, sentence: str, questions: list[str], texts: list[str]) -> np.ndarray:
        return np.array([0.0 if t in ("weak", negative) else 1.0 if t.strip() else np.nan for t in texts])

    monkeypatch.setattr(contrasts, "asked_for", likelihood)
    more = ["Twice.", "Another one.", "Another one."]
    questions = ["q", "r", "s", "s"]
    rows = sorted_out(pico("llama"), "likes tea", questions, [positive, *more], [negative, "n", "m", "m"])
    assert {r.why for r in rows[2:]}.isdisjoint({"said of several questions"}), "of one question it may be said twice"
    assert rows[0].why.startswith(why) and bool(rows[0].why) == bool(why)


def test_the_commonest_first_word() -> None:
    assert first_words(["Arr, hello", "arr you", "No"]) == ("arr", pytest.approx(2 / 3)) and first_words([]) == (
        "",
        0.0,
    )
