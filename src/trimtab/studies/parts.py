"""Parts of data sets for studies: splits, folds, shorter answers; directions out of differences."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.data.datasets import Dataset, Splits
from trimtab.data.pairs import Pair
from trimtab.errors import RecipeError
from trimtab.methods.contrast import Activations, Read, activations
from trimtab.model import LM, Layer
from trimtab.progress import Progress
from trimtab.steering.vector import kept_tensors

Sizes = tuple[int, int, int]  # of the training, validation and test part, at most


def check_names(sources: Sequence[str], names: Sequence[str], what: str = "data sets") -> None:
    """That there are data sets, and that the names they go by differ.

    Raises:
        RecipeError: otherwise.
    """
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"not a list of {what}", given=sources, expected="data sets of different names")


def file_name(label: str) -> str:
    """A label in words, fit for a file's name."""
    return "".join(c if c.isalnum() else "-" for c in label.lower())


def fresh_split(data: Dataset, sizes: Sizes, seed: int) -> Splits:
    """Disjoint parts by question, cut to size."""
    parts = data.split(seed=seed)
    return Splits(parts.train.take(sizes[0]), parts.val.take(sizes[1]), parts.test.take(sizes[2]))


def kept_activations(
    file: Path,
    lm: LM,
    data: Dataset,
    layers: Sequence[Layer] | None,
    read: Read,
    tied: tuple[tuple[str, str], ...],
    progress: Progress,
) -> Activations:
    """Activations of a data set, read once and kept in a file.

    Args:
        read, tied: see `activations`, and what it returns.
    """

    def made() -> dict[str, Tensor]:
        acts = activations(lm, data, layers, read=read, progress=progress)
        return {"positive": acts.positive, "negative": acts.negative, "layers": torch.tensor(acts.layers)}

    there = kept_tensors(file, made)
    return Activations(there["positive"], there["negative"], tuple(there["layers"].tolist()), tied)


def by_question(data: Dataset, n: int) -> Dataset:
    """n pairs at most, of as many questions as there are: every question's first pair before any second one."""
    times, rounds = Counter[str](), list[int]()
    for p in data:
        rounds.append(times[p.group])
        times[p.group] += 1
    order = sorted(range(len(data)), key=lambda k: rounds[k])
    return replace(data, pairs=tuple(data[k] for k in order[:n]))


def legacy_split(data: Dataset, sizes: Sizes) -> Splits:
    """The published one: training questions 0 to 50 %, test questions from number 50 on, so that most training
    questions are tested.
    """
    pairs = list(data.pairs)
    random.Random(0).shuffle(pairs)
    train, test = pairs[: len(pairs) // 2][: sizes[0]], pairs[min(50, len(pairs) // 2) :][: sizes[2]]
    named = {"train": train, "val": train[: sizes[1]], "test": test}
    return Splits(**{name: replace(data, pairs=tuple(p), part=name) for name, p in named.items()})


def cut(pair: Pair, words: int) -> Pair:
    """The first words of both completions: as many as asked for, and more until they differ."""
    one, two = pair.positive.split(), pair.negative.split()
    for n in range(words, max(len(one), len(two))):
        if one[:n] != two[:n]:
            return replace(pair, positive=" ".join(one[:n]), negative=" ".join(two[:n]))
    return pair


# ---------------------------------------------------------------- directions out of differences


def effects(deltas: Float[Tensor, "n d"], *codes: Float[Tensor, " n"]) -> Float[Tensor, "k d"]:
    """Factorial extraction: least-squares coefficients of the differences on (1, *codes). The first is the vector with
    all codes balanced out.

    Args:
        codes: -1 or +1 for every pair, such as letter, polarity, and their product.
    """
    # in double: LAPACK's sums depend on where in memory numbers lie, and rounded back they do not
    design = torch.stack([torch.ones(len(deltas)), *codes], 1).double()
    return torch.linalg.lstsq(design, deltas.double()).solution.to(deltas.dtype)


def leave_one_out(deltas: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """For every pair the mean difference of all others, in closed form."""
    n = len(deltas)
    return (n * deltas.mean(0) - deltas) / (n - 1)


def folds(groups: Sequence[str], count: int, seed: int = 0) -> list[set[int]]:
    """Indices of items in `count` folds; items of a group stay together."""
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    place = {g: k % count for k, g in enumerate(names)}
    out: list[set[int]] = []
    for k in range(count):
        members = {i for i, g in enumerate(groups) if place[g] == k}
        if members:
            out.append(members)
    return out
