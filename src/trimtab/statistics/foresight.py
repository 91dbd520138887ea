"""What is known of a vector before it is measured, and how well that ranks what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trimtab.statistics.intervals import NOTHING, Array, ends, resampled


@dataclass(frozen=True)
class Carried:
    """How far one vector carries: the rise of propensity per item at multiplier 1, in nats per token.

    Attributes:
        kind: what sort of vector; those of one kind differ by the examples or the seed.
        effects: (n,) one per held-out question.
        said: (n,) rise of the log-probability of the positive answer alone, in nats per token.
        norm: of the vector.
        signals: what was known before.
    """

    behavior: str
    kind: str
    name: str
    effects: Array
    said: Array
    norm: float
    signals: Mapping[str, float]


@dataclass(frozen=True)
class Foreseen:
    """Rank correlation of one signal with the mean effect, and with what is left of both when the mean rank of each
    kind of vector is taken away; each with its 95 % interval.
    """

    signal: str
    n: int
    spearman: float
    lo: float
    hi: float
    within: float
    within_lo: float
    within_hi: float


# what a better vector should have more of (1) or less of (-1), said before anything is measured
BETTER = {
    "held-out loss": -1,
    "loss": -1,
    "sharpness": -1,
    "neutral kl": -1,
    "gradient cosine": 1,
    "norm": 1,
    "norm at half loss": -1,
    "detection": 1,
    "strangeness": -1,
    "gain": 1,
    "in top directions": 1,
    "cosine to mean difference": 1,
}


@dataclass(frozen=True)
class Picked:
    """What comes of trying, of the vectors of one kind, the one that a signal likes best.

    Attributes:
        groups: kinds of vectors with several, over behaviors; k: how many vectors each has, in the mean.
        best, picked, drawn: mean effect of the best vector, the picked one, and one drawn blindly (nats per token).
        kept: share of the way from a blind draw to the best one, (picked - drawn) / (best - drawn); with its 95 %
            bootstrap interval over behaviors, where there are five or more: vectors of one behavior, also of different
            kinds, share examples.
    """

    signal: str
    groups: int
    behaviors: int
    k: float
    best: float
    picked: float
    drawn: float
    kept: float
    lo: float
    hi: float


def picked(vectors: Sequence[Carried]) -> list[Picked]:
    """For every signal whose better side is known; kinds with fewer than three vectors are left out."""
    known = [c for c in vectors if c.signals]
    families: dict[tuple[str, str], list[Carried]] = {}
    for c in known:
        families.setdefault((c.behavior, c.kind), []).append(c)
    out: list[Picked] = []
    for signal, better in BETTER.items():
        rows: list[tuple[float, float, float, int]] = []
        of: list[str] = []
        for (behavior, _), some in families.items():
            values = np.array([better * c.signals.get(signal, np.nan) for c in some])
            effects = np.array([c.effects.mean() for c in some])
            if len(some) > 2 and not np.isnan(values).any() and np.ptp(values) > 0:
                rows.append((float(effects.max()), float(effects[values.argmax()]), float(effects.mean()), len(some)))
                of.append(behavior)
        if rows:
            out.append(_picked(signal, np.array(rows), of))
    # signals that are known of fewer kinds come last: they are not compared on the same vectors
    return sorted(out, key=lambda p: (-p.groups, np.isnan(p.kept), -p.kept))


def _picked(signal: str, rows: Array, behaviors: Sequence[str]) -> Picked:
    """Of rows (groups, 4): best, picked, blind, and how many."""
    best, mine, blind, k = rows.mean(0).tolist()
    many = len(set(behaviors))
    lo, hi = NOTHING if many < 5 else ends([_kept(rows[k]) for k in resampled(behaviors, len(rows), 0, 2000)])
    return Picked(signal, len(rows), many, k, best, mine, blind, _kept(rows), lo, hi)


def _kept(rows: Array) -> float:
    best, mine, blind = rows[:, :3].mean(0)
    return float((mine - blind) / (best - blind)) if best > blind else float("nan")


def foreseen(vectors: Sequence[Carried]) -> list[Foreseen]:
    """For each signal its rank correlation with the mean effect, within each behavior, averaged over behaviors; 95 %
    bootstrap interval over vectors. Signals that do not vary are left out.
    """
    known = [c for c in vectors if c.signals]
    out: list[Foreseen] = []
    for name in sorted({name for c in known for name in c.signals}):
        groups = _by_behavior(name, known)
        if groups:
            whole, within = _interval(groups, False), _interval(groups, True)
            out.append(Foreseen(name, sum(len(g) for g in groups), *whole, *within))
    return out


def _by_behavior(signal: str, known: Sequence[Carried]) -> list[Array]:
    """For each behavior with three vectors or more, (n, 3): the signal, the mean effect, and the number of the vector's
    kind.
    """
    some = [c for c in known if not np.isnan(c.signals.get(signal, np.nan))]
    kinds = list(dict.fromkeys(c.kind for c in some))
    groups: list[Array] = []
    for behavior in dict.fromkeys(c.behavior for c in some):
        rows = [(c.signals[signal], c.effects.mean(), kinds.index(c.kind)) for c in some if c.behavior == behavior]
        groups.append(np.array(rows))
    return [g for g in groups if len(g) > 2 and np.ptp(g[:, 0]) > 0]


def _interval(groups: Sequence[Array], within: bool) -> tuple[float, float, float]:
    """The correlation, and its interval by resampling the vectors of every behavior."""
    rng = np.random.default_rng(0)
    drawn: list[float] = []
    for _ in range(1000):
        sample = [g[rng.integers(0, len(g), len(g))] for g in groups]
        drawn.append(_rank(sample, within))
    return (_rank(groups, within), *ends(drawn))


def _rank(groups: Sequence[Array], within: bool) -> float:
    """Mean Spearman correlation over groups of (signal, effect, kind)."""
    correlations: list[float] = []
    for g in groups:
        a, b = stats.rankdata(g[:, 0]), stats.rankdata(g[:, 1])
        if within:
            for kind in np.unique(g[:, 2]):
                mine = g[:, 2] == kind
                a[mine] -= a[mine].mean()
                b[mine] -= b[mine].mean()
        if a.std() > 0 and b.std() > 0:
            correlations.append(float(np.corrcoef(a, b)[0, 1]))
    return float(np.mean(correlations)) if correlations else float("nan")
