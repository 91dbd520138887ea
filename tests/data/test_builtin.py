"""Built-in behaviors."""

from __future__ import annotations

import pytest

from trimtab.data.builtin import built_in, family, study
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import polarity


def test_the_forty_data_sets_of_the_study() -> None:
    families = study()
    sizes = {family: [len(names) for names in categories.values()] for family, categories in families.items()}
    assert sizes == {"persona": [3] * 7, "ai-risk": [16], "sycophancy": [2], "truth": [1]}
    sentences = [
        s for categories in families.values() for names in categories.values() for pair in names.values() for s in pair
    ]
    assert len(sentences) == 80 and all(s.endswith(".") and len(s) < 90 for s in sentences)


@pytest.mark.parametrize("name", built_in())
def test_built_in_behaviors(name: str) -> None:
    data = Dataset.load(name)
    assert len(data) >= 80 and len({p.group for p in data}) == len(data) and data.ask
    for side in ("positive", "negative"):
        assert len({getattr(p, side) for p in data}) == len(data)
    questions = Dataset.load(name, form="choices")
    letters = [p.meta["matching_letter"] for p in questions]
    assert letters.count("A") == letters.count("B") == len(data) / 2
    for kind in ("yes", "no", "none"):
        of = [p.meta["matching_letter"] for p in questions if p.meta["polarity"] == kind]
        assert of.count("A") == of.count("B"), f"letters are balanced within polarity {kind}"
    yes = [sum(polarity(getattr(p, side)) == "yes" for p in data) for side in ("positive", "negative")]
    no = [sum(polarity(getattr(p, side)) == "no" for p in data) for side in ("positive", "negative")]
    assert yes[0] == yes[1] and no[0] == no[1] and yes == no, (
        "as many yes answers on either side, and as many no answers"
    )


def test_there_are_eight_built_in_behaviors() -> None:
    assert len(built_in()) >= 8


def test_published_data_sets_have_families() -> None:
    assert family("politically-liberal") == "politics" and family("survival-instinct") == "ai-risk"
    assert family("mine") == "mine"
