"""Do points of one kind lie together? numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def silhouette(points: Array, labels: Sequence[str]) -> float:
    """Mean silhouette of points (n, d) by their labels (Rousseeuw 1987): 1 where kinds lie apart, 0 where they mix,
    below 0 where points lie nearer to another kind. NaN with fewer than two kinds; a kind of one point counts 0.
    """
    kinds = list(dict.fromkeys(labels))
    if len(kinds) < 2:
        return float("nan")
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)  # (n, n)
    own = np.array([[label == kind for label in labels] for kind in kinds])  # (k, n)
    out: list[float] = []
    for i, label in enumerate(labels):
        mine = own[kinds.index(label)]
        if mine.sum() == 1:
            out.append(0.0)
            continue
        within = distance[i, mine].sum() / (mine.sum() - 1)
        nearest = min(distance[i, own[k]].mean() for k, kind in enumerate(kinds) if kind != label)
        most = max(within, nearest)
        out.append(float((nearest - within) / most) if most > 0 else 0.0)
    return float(np.mean(out))


def principal(points: Array, n: int = 2) -> tuple[Array, Array]:
    """Coordinates (rows, n) of points on their first principal axes, and the share of the variance on each (n,)."""
    centered = points - points.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    total = float((s**2).sum())
    shares = s[:n] ** 2 / total if total > 0 else np.zeros(min(n, len(s)))
    return (u * s)[:, :n], shares
