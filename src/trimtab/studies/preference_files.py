"""Free-form pairs for the study of preferences: built-in behaviors, or training files with test files beside them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from trimtab.data.builtin import asking
from trimtab.data.datasets import Dataset
from trimtab.errors import DataError
from trimtab.studies.parts import Sizes, fresh_split

log = logging.getLogger("trimtab")


def name_of(source: str) -> str:
    """The behavior a data set is about."""
    return Path(source).name.removesuffix(".csv").removesuffix(".jsonl").removesuffix(".train")


def beside(source: str) -> str:
    """Where the test pairs of a source are: of a training file the test file beside it, else the source itself."""
    path = Path(source)
    return str(path.with_name(path.name.replace(".train.", ".test."))) if ".train." in path.name else source


def parts(source: str, sizes: Sizes, seed: int) -> tuple[Dataset, Dataset, Dataset, int]:
    """Training, validation and test pairs of a source, and how many test questions were left out because they are also
    trained on.

    Raises:
        DataError: no test file beside a training file, or too few pairs.
    """
    if ".train." not in Path(source).name:
        split = fresh_split(Dataset.load(source, form="answers"), sizes, seed)
        return split.train, split.val, split.test, 0
    whole, test = Dataset.load(source), Dataset.load(beside(source))
    whole = replace(whole, name=name_of(source), ask=asking(name_of(source)) or whole.ask)
    seen = {p.group for p in whole}
    fresh = tuple(p for p in test if p.group not in seen)
    if len(fresh) < len(test):
        log.warning(
            "%s: %d test questions also stand in the training file and are left out",
            Path(beside(source)).name,
            len(test) - len(fresh),
        )
    split = whole.split(seed=seed, train=0.8, val=0.1, test=0.1)
    if not fresh:
        raise DataError(f"{Path(beside(source)).name} has no question that is not trained on", given=len(test))
    tested = replace(test, name=name_of(source), pairs=fresh[: sizes[2]], part="test", ask=whole.ask)
    return split.train.take(sizes[0]), split.val.take(sizes[1]), tested, len(test) - len(fresh)
