"""Other ways to a vector from the training questions, to stand beside their mean difference: with letter and polarity
evened out, and by the other methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from trimtab import registry
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import UnknownName
from trimtab.methods import learn
from trimtab.methods.base import ContrastMethod, Method
from trimtab.methods.contrast import Activations
from trimtab.model import LM, Layer
from trimtab.progress import Progress
from trimtab.studies.pages.reliability_extractors import BALANCED, BOTH_ORDERS
from trimtab.studies.parts import effects


def check(names: Sequence[str]) -> None:
    """Refuse what is no extractor.

    Raises:
        UnknownName: which.
    """
    known = [BALANCED, BOTH_ORDERS, *registry.named("method")]
    for name in names:
        if name not in known:
            raise UnknownName("extractor", name, known)


def extract(
    name: str, lm: LM, data: Dataset, acts: Activations, layer: Layer, positions: str, letters: bool, progress: Progress
) -> Tensor | None:
    """One vector (d,); None where the training questions do not tell its parts apart.

    Args:
        letters: whether the model answers by letter, so that there is a letter to even out.
    """
    if name == BALANCED:
        parts = ("letter", "polarity") if letters else ("polarity",)
        return balanced(acts.at([layer]).deltas[:, 0], data.pairs, parts)
    method = _method(name, positions)
    known = acts if isinstance(method, ContrastMethod) else None
    return learn(lm, data, method, [layer], acts=known, progress=progress)[layer]


def balanced(deltas: Tensor, pairs: Sequence[Pair], parts: Sequence[str] = ("letter", "polarity")) -> Tensor | None:
    """The concept part of the factorial fit: the mean difference (n, d) -> (d,) with letter, polarity and their product
    evened out, as far as every answer has them and the pairs tell them apart.
    """
    codes = [torch.tensor(code(pairs, part)) for part in parts]
    codes = [c for c in codes if bool(c.abs().all()) and c.unique().numel() == 2]
    codes += [codes[0] * codes[1]] if len(codes) == 2 else []
    for n in range(len(codes), 0, -1):
        design = torch.stack([torch.ones(len(deltas)), *codes[:n]], 1)
        if torch.linalg.matrix_rank(design) == design.shape[1]:
            return effects(deltas, *codes[:n])[0]
    return None


def code(pairs: Sequence[Pair], part: str) -> list[float]:
    """1 and -1 for the letter or the polarity of the matching answer; 0 for neither."""
    values = [p.meta["matching_letter" if part == "letter" else "polarity"] for p in pairs]
    return [{"A": 1.0, "B": -1.0, "yes": 1.0, "no": -1.0}.get(v, 0.0) for v in values]


def as_long(v: Tensor, like: Tensor) -> Tensor:
    """A direction at the norm of another vector."""
    return v / v.norm() * like.norm()


def _method(name: str, positions: str) -> Method:
    """With its defaults, and acting where the study's vectors act."""
    known = {f.name for f in fields(registry.leaves("method")[name])}
    return registry.make("method", {"name": name, **({"positions": positions} if "positions" in known else {})})
