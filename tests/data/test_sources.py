"""Data by its name."""

from __future__ import annotations

import pytest

from trimtab.data.datasets import Dataset
from trimtab.errors import UnknownName


def test_unknown_names_propose_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'optimism'"):
        Dataset.load("optimsm")
    with pytest.raises(UnknownName, match="did you mean 'choices'"):
        Dataset.load("optimism", form="choice")  # type: ignore[arg-type]
