"""Data sets and their splits."""

from __future__ import annotations

import pytest

from trimtab.data.datasets import Dataset, check_disjoint, check_unseen
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, OverlapError, TrimtabError


def test_train_and_test_never_share_a_question() -> None:
    data = Dataset.load("optimism")
    parts = data.split(seed=0)
    assert not {p.group for p in parts.train} & {p.group for p in parts.test}
    with pytest.raises(OverlapError, match="also stand in"):
        check_disjoint(parts.train, data.take(20))


def test_splits_are_disjoint_stable_and_by_question() -> None:
    pairs = tuple(Pair(f"q{k // 2}\n\nChoices:\n(A): {k}\n(B): x", "(A)", "(B)") for k in range(60))
    data = Dataset("d", pairs, "choices")
    parts, again, other = data.split(seed=3), data.split(seed=3), data.split(seed=4)
    assert parts.train.hash == again.train.hash != other.train.hash
    assert len(parts.train) + len(parts.val) + len(parts.test) == 60
    with pytest.raises(OverlapError, match="1 questions of d"):
        check_unseen([parts.test[0].group], parts.test, "the training data")


@pytest.mark.parametrize("shares", [(0.5, 0.4, 0.2), (0.0, 0.5, 0.5), (-0.1, 0.5, 0.5)])
def test_split_fractions_are_checked(shares: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="fractions"):
        Dataset.load("optimism").split(train=shares[0], val=shares[1], test=shares[2])


def test_small_sets_cannot_be_split() -> None:
    with pytest.raises(TrimtabError, match="too small to split"):
        Dataset("d", (Pair("a", "b", "c"), Pair("b", "c", "d"))).split()


def test_one_line_says_what_it_is() -> None:
    data = Dataset.load("optimism").split(seed=0).val
    assert repr(data) == f"<Dataset optimism (val), {len(data)} pairs as answers, {data.hash}>"
