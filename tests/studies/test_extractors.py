"""Vectors with letter and polarity evened out."""

from __future__ import annotations

import pytest
import torch

from pico import toy_questions
from trimtab.data.pairs import Pair
from trimtab.errors import UnknownName
from trimtab.studies.extractors import as_long, balanced, check, code


def pairs(letters: str, polarities: str) -> list[Pair]:
    words = {"y": "yes", "n": "no"}
    return [
        Pair(f"q{k}", "yes", "no", meta={"matching_letter": a, "polarity": words.get(p, "none")})
        for k, (a, p) in enumerate(zip(letters, polarities, strict=True))
    ]


def test_a_planted_letter_is_evened_out_and_the_concept_stays() -> None:
    concept, letter, polarity = torch.eye(8)[:3]
    some = pairs("AAAAAABB", "yyynnnyn")
    a, y = (torch.tensor(code(some, part)) for part in ("letter", "polarity"))
    deltas = concept + 2 * a[:, None] * letter + 0.5 * y[:, None] * polarity
    plain, even = deltas.mean(0), balanced(deltas, some)
    assert float(plain @ letter) == pytest.approx(1.0), "three in four answers stand at A"
    assert even is not None and torch.allclose(even, concept, atol=1e-5)
    alone = balanced(deltas, some, parts=("polarity",))
    assert alone is not None and float(alone @ letter) > 0.9 and abs(float(alone @ polarity)) < 1e-5


def test_what_cannot_be_told_apart_is_left_in() -> None:
    deltas = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert balanced(deltas, pairs("AAAA", "yyyy")) is None, "one letter and one polarity: there is nothing to even out"
    same = pairs("AABB", "yynn")  # the letter is the polarity
    expected = torch.stack([deltas[:2].mean(0), deltas[2:].mean(0)]).mean(0)
    even = balanced(deltas, same)
    assert even is not None and torch.allclose(even, expected, atol=1e-5)
    assert balanced(deltas, pairs("AABB", "????")) is not None, "answers without Yes or No have letters still"


def test_names_are_checked_and_norms_kept() -> None:
    check(("balanced", "pca", "one-shot"))
    with pytest.raises(UnknownName):
        check(("pcaa",))
    assert float(as_long(torch.ones(4), torch.tensor([3.0, 0, 0, 4])).norm()) == pytest.approx(5.0)
    assert set(code(list(toy_questions(6, "tea")), "letter")) <= {-1.0, 0.0, 1.0}
