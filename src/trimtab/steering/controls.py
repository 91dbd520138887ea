"""Vectors without the behavior in them: the one maker of controls for every method, measurement and study.

Three kinds. Random directions: the vector turned at random. Directions in the span of the training differences,
orthogonal to their mean, at its norm. Label-shuffled ones: what the same learner finds when the sides of every pair
are drawn by coin, at the norm it comes out with. (A label-shuffled mean difference made as long as the vector is
mostly plus or minus the vector itself where the differences agree, and a random combination of differences that are
only centered keeps what they share where they differ in size: neither is a null.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.data.pairs import digest
from trimtab.errors import VectorError
from trimtab.statistics.intervals import members
from trimtab.steering.vector import Provenance, SteeringVector

KEPT = 16  # label-shuffled vectors that are learned and kept beside a vector
FEWEST = 8  # from which more can be drawn


def random_controls(vector: SteeringVector, n: int, seed: int = 0) -> dict[str, SteeringVector]:
    """n random directions, "random-0" and on: the vector turned at random, so that norms at each layer, and angles
    between layers, are its own.
    """
    drawn = turned(_rows([vector]), n, seed)
    return {f"random-{k}": _shaped([vector], drawn[k], k, seed)[0] for k in range(n)}


def random_stack(vectors: Sequence[SteeringVector], draw: int, seed: int = 0) -> list[SteeringVector]:
    """Vectors that act together, turned together by one rotation: norms, and angles between them, are theirs. Of a
    vector alone it is the one that `random_controls` names "random-DRAW".
    """
    return _shaped(vectors, turned(_rows(vectors), draw + 1, seed)[draw], draw, seed)


def _rows(vectors: Sequence[SteeringVector]) -> Float[Tensor, "k d"]:
    """All rows of some vectors, one below the other."""
    return torch.cat([v.reshape(-1, one.width) for one in vectors for v in one.vectors.values()])


def _shaped(
    vectors: Sequence[SteeringVector], rows: Float[Tensor, "k d"], draw: int, seed: int
) -> list[SteeringVector]:
    """Rows that were drawn in the place of those of some vectors, as controls of their shapes."""
    out: list[SteeringVector] = []
    for one in vectors:
        method = {"name": "random-direction", "seed": seed, "draw": draw}
        made = Provenance(model=one.made.model, fingerprint=one.made.fingerprint, method=method)
        shaped: dict[int, Tensor] = {}
        for layer, v in one.vectors.items():
            n = v.numel() // one.width
            shaped[layer], rows = rows[:n].reshape(v.shape), rows[n:]
        out.append(SteeringVector(shaped, made, site=one.site))
    return out


def null_controls(vector: SteeringVector, n: int | None = None) -> dict[str, SteeringVector]:
    """The first n label-shuffled vectors that came with a vector (all by default): "shuffled-0" and on; fewer if it has
    fewer.
    """
    return {name: vector.null(name) for name in sorted(vector.nulls, key=_number)[:n]}


def turned(rows: Float[Tensor, "k d"], count: int, seed: int = 0) -> Float[Tensor, "count k d"]:
    """Some vectors turned together, `count` times, by rotations drawn evenly: all norms and angles stay, and nothing
    else does.

    A vector that acts at several layers points much the same way at neighboring ones, and so must what it is compared
    with: directions drawn apart for each layer would cancel where the vector adds up.
    """
    _, _, axes = torch.linalg.svd(rows.double(), full_matrices=False)  # (r, d), orthonormal
    places = rows.double() @ axes.T  # (k, r): the rows in these axes
    g = _generator("turned", seed)
    drawn = torch.randn(count, rows.shape[1], len(axes), generator=g, dtype=torch.float64)
    frames, upper = torch.linalg.qr(drawn)
    # evenly over rotations (Mezzadri 2007)
    frames = frames * torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None, :]
    return torch.einsum("kr,cdr->ckd", places, frames).float()


def isotropic(like: Float[Tensor, "l d"], seed: int = 0) -> Float[Tensor, "l d"]:
    """A random direction with the norm of `like` at every layer, drawn apart for each."""
    drawn = torch.randn(like.shape, generator=_generator("isotropic", seed))
    return drawn / drawn.norm(dim=-1, keepdim=True) * like.norm(dim=-1, keepdim=True)


def in_span(deltas: Float[Tensor, "n l d"], count: int, seed: int = 0) -> Float[Tensor, "count l d"]:
    """Random directions in the span of the training differences, orthogonal to their mean and with its norm: normal
    weights, the same at every layer, on what is left of the differences without it.

    Raises:
        VectorError: nothing is left, since all differences are one direction.
    """
    mean = deltas.mean(0)
    u = mean / mean.norm(dim=-1, keepdim=True)
    rest = deltas - (deltas * u).sum(-1, keepdim=True) * u
    if not (rest.norm(dim=-1).amax(0) > 1e-5 * mean.norm(dim=-1)).all():
        raise VectorError(
            "the training differences span one direction",
            expected="pairs that differ from each other, for controls in their span",
        )
    weights = torch.randn(count, len(deltas), generator=torch.Generator().manual_seed(seed))
    drawn = torch.einsum("cn,nld->cld", weights, rest)
    drawn -= (drawn * u).sum(-1, keepdim=True) * u
    return drawn / drawn.norm(dim=-1, keepdim=True) * mean.norm(dim=-1)[None, :, None]


Tied = Sequence[tuple[str, str]] | None  # (question, answer letter or "") of every pair


def coins(n: int, count: int, seed: int = 0, tied: Tied = None) -> Float[Tensor, "count n"]:
    """Signs drawn by coin: which pairs have their sides swapped.

    Pairs that share a question have one coin. So have, two by two and matched anew every time, questions answered by
    A and questions answered by B: their letters stay as balanced as the data set has them, else a coin would mostly
    draw how far the sum leans to a letter.
    """
    if tied is None:
        return torch.randint(0, 2, (count, n), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    rng, out = np.random.default_rng(seed), np.empty((count, n))
    questions = members([q for q, _ in tied], n)
    lean: list[int] = []
    for own in questions:
        letters = [tied[int(k)][1] for k in own]
        lean.append(letters.count("A") - letters.count("B"))
    for row in out:
        for unit in _matched(lean, rng):
            row[np.concatenate([questions[k] for k in unit])] = rng.choice((-1.0, 1.0))
    return torch.tensor(out, dtype=torch.float32)


def _matched(lean: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
    """Questions that lean to A two by two with questions that lean to B, as far as there are any; the others alone."""
    order = rng.permutation(len(lean)).tolist()
    a = [k for k in order if lean[k] > 0]
    b = [k for k in order if lean[k] < 0]
    rest = [k for k in order if lean[k] == 0]
    both = min(len(a), len(b))
    return [[i, j] for i, j in zip(a[:both], b[:both], strict=True)] + [[k] for k in (*a[both:], *b[both:], *rest)]


def shuffled(
    deltas: Float[Tensor, "n l d"], count: int, seed: int = 0, tied: Tied = None
) -> Float[Tensor, "count l d"]:
    """Label-shuffled mean differences, at the norm they come out with: the null of "there is a shared direction"."""
    return torch.einsum("cn,nld->cld", coins(len(deltas), count, seed, tied), deltas) / len(deltas)


def more(nulls: Float[Tensor, "k l d"], count: int, seed: int = 0) -> Float[Tensor, "count l d"]:
    """As many more null vectors as one likes from k that were learned: normal combinations of theirs, each as long as
    Student's t at k degrees of freedom makes it, since k draws know their own spread no better.
    """
    k, g = len(nulls), torch.Generator().manual_seed(seed)
    weights = torch.randn(count, k, generator=g) / k**0.5
    wide = (k / torch.randn(count, k, generator=g).square().sum(1)).sqrt()
    return torch.einsum("c,ck,kld->cld", wide, weights, nulls)


def stacked(vectors: Iterable[SteeringVector], layers: Sequence[int]) -> Float[Tensor, "k l d"]:
    """Vectors at some layers, as one tensor."""
    return torch.stack([_at(v, layers) for v in vectors])


def _at(vector: SteeringVector, layers: Sequence[int]) -> Float[Tensor, "l d"]:
    """A vector at some layers, as one tensor."""
    return torch.stack([vector[k].float() for k in layers])


def _generator(purpose: str, seed: int) -> torch.Generator:
    """Draws for one purpose are not those of another at the same seed: a learner's random direction is never its
    control.
    """
    return torch.Generator().manual_seed(int(digest(purpose, str(seed)), 16) % 2**63)


def _number(name: str) -> tuple[str, int]:
    stem, _, last = name.rpartition("-")
    return (stem, int(last)) if last.isdigit() else (name, 0)
