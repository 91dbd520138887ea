"""Parts of data sets, and directions out of differences."""

from __future__ import annotations

import torch

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.studies.parts import by_question, cut, effects, folds, leave_one_out


def test_factorial_extraction_takes_the_letter_out_of_the_vector() -> None:
    a, y = torch.tensor([1.0, 1, -1, -1] * 5), torch.tensor([1.0, -1, 1, -1] * 5)
    concept, letter, polarity = torch.eye(6)[:3]
    deltas = concept + 4 * a[:, None] * letter - 2 * y[:, None] * polarity
    found = effects(deltas[:-1], a[:-1], y[:-1], (a * y)[:-1])
    assert torch.allclose(found[0], concept, atol=1e-5) and torch.allclose(found[1], 4 * letter, atol=1e-5)
    assert torch.allclose(found[2], -2 * polarity, atol=1e-5) and found[3].norm() < 1e-5
    assert deltas[:-1].mean(0) @ letter != 0, "the plain mean keeps some of it when letters are not balanced"


def test_leave_one_out_in_closed_form_and_folds_keep_groups_together() -> None:
    deltas = torch.randn(7, 3)
    for k, v in enumerate(leave_one_out(deltas)):
        assert torch.allclose(v, torch.cat([deltas[:k], deltas[k + 1 :]]).mean(0), atol=1e-6)
    groups = ["a", "b", "a", "c", "d", "e"]
    found = folds(groups, 3)
    assert sorted(i for f in found for i in f) == list(range(6))
    assert next(f for f in found if 0 in f) & {2} == {2}


def test_spoken_options_are_cut_where_they_differ() -> None:
    def shortened(one: str, two: str, words: int) -> tuple[str, str]:
        found = cut(Pair("?", one, two), words)
        return found.positive, found.negative

    assert shortened("Yes, I would do it", "No, I would not", 2) == ("Yes, I", "No, I")
    assert shortened("I would do it now", "I would not do it", 2) == ("I would do", "I would not")
    assert shortened("I would do", "I would do it", 2) == ("I would do", "I would do it")


def test_as_many_questions_as_there_are() -> None:
    pairs = tuple(Pair(f"Q{q} ?", f"yes {k}", f"no {k}") for q in range(4) for k in range(3))
    data = Dataset("some", pairs)
    assert [p.prompt for p in by_question(data, 5)] == ["Q0 ?", "Q1 ?", "Q2 ?", "Q3 ?", "Q0 ?"]
    assert [p.positive for p in by_question(data, 5)] == ["yes 0"] * 4 + ["yes 1"]
    assert sorted(p.id for p in by_question(data, 99)) == sorted(p.id for p in pairs)
