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


def parts(source: str, sizes: Sizes, seed: int) -> tuple[Dataset, Dataset, Dataset, int]:
    """Training, validation and test pairs of a source, and how many test questions were left out because they are also
    trained on.

    Raises:
        DataError: no test file beside a training file, or too few pairs.
    """
    if ".train." not in Path(source).name:
        split = fresh_split(Dataset.load(source, form="answers"), sizes, seed)
        return split.train, split.val, split.test, 0
    beside = Path(source).with_name(Path(source).name.replace(".train.", ".test."))
    whole, test = Dataset.load(source), Dataset.load(str(beside))
    whole = replace(whole, name=name_of(source), ask=asking(name_of(source)) or whole.ask)
    seen = {p.group for p in whole}
    fresh = tuple(p for p in test if p.group not in seen)
    if len(fresh) < len(test):
        log.warning(
            "%s: %d test questions also stand in the training file and are left out",
            beside.name,
            len(test) - len(fresh),
        )
    split = whole.split(seed=seed, train=0.8, val=0.1, test=0.1)
    if not fresh:
        raise DataError(f"{beside.name} has no question that is not trained on", given=len(test))
    tested = replace(test, name=name_of(source), pairs=fresh[: sizes[2]], part="test", ask=whole.ask)
    return split.train.take(sizes[0]), split.val.take(sizes[1]), tested, len(test) - len(fresh)
