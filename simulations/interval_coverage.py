"""How often each interval of the library holds the truth it is about: simulated, from 3 to 100 items, skewed, and in
groups.

`python simulations/interval_coverage.py` writes the table of docs/statistics.md (about five minutes on two cores).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from page_tables import put
from scipy import stats

from trimtab.answers.agreement import agreement
from trimtab.statistics.factors import fit_factors, leaning
from trimtab.statistics.foresight import Carried, foreseen
from trimtab.statistics.generalization import closer, correlation, relative
from trimtab.statistics.intervals import Array, Groups, crossed, interval, median_interval, share_figure

RNG = np.random.default_rng
SIZES = (3, 5, 10, 20, 40, 100)


@dataclass(frozen=True)
class Case:
    """One row of the table: an interval, what it is drawn from, and how often it is tried at a size; `at` gives (truth,
    lo, hi) of one draw.
    """

    interval: str
    data: str
    at: Callable[[np.random.Generator, int], tuple[float, float, float]]
    sizes: tuple[int, ...] = SIZES
    times: int = 2000


def normal(rng: np.random.Generator, n: int) -> tuple[Array, Groups, float]:
    return rng.normal(0.3, 1.0, n), None, 0.3


def skewed(rng: np.random.Generator, n: int) -> tuple[Array, Groups, float]:
    return rng.exponential(1.0, n), None, 1.0


def heavy(rng: np.random.Generator, n: int) -> tuple[Array, Groups, float]:
    return rng.standard_t(3, n), None, 0.0


def grouped(rng: np.random.Generator, n: int) -> tuple[Array, Groups, float]:
    """n questions of four items each, with an intraclass correlation of 0.8."""
    values = np.repeat(rng.normal(0, 0.8**0.5, n), 4) + rng.normal(0, 0.2**0.5, 4 * n)
    return values, [str(k // 4) for k in range(4 * n)], 0.0


def uneven(rng: np.random.Generator, n: int) -> tuple[Array, Groups, float]:
    """n questions of one to seven items, with an intraclass correlation of 0.8."""
    sizes = rng.integers(1, 8, n)
    who = np.repeat(np.arange(n), sizes)
    return rng.normal(0, 0.8**0.5, n)[who] + rng.normal(0, 0.2**0.5, len(who)), who.tolist(), 0.0


def _mean(
    draw: Callable[..., tuple[Array, Groups, float]],
) -> Callable[[np.random.Generator, int], tuple[float, float, float]]:
    def at(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
        values, groups, truth = draw(rng, n)
        return (truth, *interval(values, groups))

    return at


def _median(
    draw: Callable[..., tuple[Array, Groups, float]], truth: float
) -> Callable[[np.random.Generator, int], tuple[float, float, float]]:
    def at(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
        values, groups, _ = draw(rng, n)
        return (truth, *median_interval(values, groups, seed=int(rng.integers(1 << 30))))

    return at


def _share(
    truth: float, draw: Callable[..., tuple[Array, Groups, float]] = normal
) -> Callable[[np.random.Generator, int], tuple[float, float, float]]:
    """A share of items below the quantile of that share."""

    def at(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
        values, groups, middle = draw(rng, n)
        figure = share_figure("", values < stats.norm.ppf(truth) + middle, groups=groups)
        return truth, figure.lo, figure.hi

    return at


def _crossed(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
    """Items and pairs both matter: main effects of either, and noise."""
    table = 0.5 + rng.normal(0, 1, (n, 1)) + rng.normal(0, 1, (1, n)) + rng.normal(0, 1, (n, n))
    return (0.5, *crossed(table))


def _correlation(truth: float) -> Callable[[np.random.Generator, int], tuple[float, float, float]]:
    """Spearman's coefficient of a bivariate normal is 6 / pi arcsin(r / 2) (Pearson 1907)."""
    r = 2 * np.sin(np.pi * truth / 6)

    def at(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
        x, y = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], n).T
        f = correlation("", x.tolist(), y.tolist())
        return truth, f.lo, f.hi

    return at


def _relative(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
    under = rng.normal(1.0, 0.5, n)
    over = 0.8 * under + rng.normal(0, 0.3, n)
    found = relative({("a", "b"): over, ("b", "b"): under}, "a", "b", seed=int(rng.integers(1 << 30)), resamples=400)
    return 0.8, found.lo, found.hi


def _leaning(both: bool) -> Callable[[np.random.Generator, int], tuple[float, float, float]]:
    """Items differ much and lean little; each read in one order of its options, or in both."""

    def at(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
        item, code = rng.normal(0, 2.0, n), np.resize([1.0, -1.0], n)
        one = item + 0.3 * code + rng.normal(0, 0.2, n)
        if not both:
            return (0.3, *leaning(one, code, list(range(n)))[1:])
        two = item - 0.3 * code + rng.normal(0, 0.2, n)
        return (0.3, *leaning(np.concatenate([one, two]), np.concatenate([code, -code]), [*range(n)] * 2)[1:])

    return at


def _factors(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
    """n items a cell of letter and polarity, whose spread differs from cell to cell."""
    letter, polarity = np.repeat([1.0, 1.0, -1.0, -1.0], n), np.repeat([1.0, -1.0, 1.0, -1.0], n)
    slope = 0.5 + 0.2 * letter + rng.normal(0, 1, 4 * n) * (1 + 0.5 * letter)
    fit = fit_factors(slope, letter, polarity)
    return (0.2, *fit.interval("letter"))


def _clustered(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
    """n clusters of five points, alike within; the truth is that of as many points as one likes."""
    who = np.repeat(np.arange(n), 5)
    x = rng.normal(size=n)[who] + 0.5 * rng.normal(size=5 * n)
    y = x + rng.normal(size=n)[who] + 0.5 * rng.normal(size=5 * n)
    f = correlation("", x.tolist(), y.tolist(), who.tolist(), seed=int(rng.integers(1 << 30)))
    return float(6 / np.pi * np.arcsin(0.5**0.5 / 2)), f.lo, f.hi


def _closer(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
    """One predictor follows the truth at 0.8, the other at 0.4 (Pearson)."""
    y = rng.normal(size=n)
    x, z = (r * y + (1 - r * r) ** 0.5 * rng.normal(size=n) for r in (0.8, 0.4))
    _, lo, hi = closer(x.tolist(), z.tolist(), y.tolist(), seed=int(rng.integers(1 << 30)))
    return float(6 / np.pi * (np.arcsin(0.4) - np.arcsin(0.2))), lo, hi


def _judges(which: str) -> Callable[[np.random.Generator, int], tuple[float, float, float]]:
    """Two judges that share 0.7 of what they see; kappa at a threshold of 0."""
    truth = {"pearson": 0.7, "kappa": 2 / np.pi * np.arcsin(0.7)}[which]

    def at(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
        x, y = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], n).T
        found = getattr(agreement(x.tolist(), y.tolist(), 0.0, seed=int(rng.integers(1 << 30)), resamples=400), which)
        return float(truth), found[1], found[2]

    return at


def _within(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
    """What foresees how far one-shot vectors carry: rank correlations within three behaviors of n vectors, averaged."""
    found = []
    for behavior in "abc":
        signal = rng.normal(size=n)
        effect = 0.6 * signal + 0.8 * rng.normal(size=n)
        found += [
            Carried(behavior, "promote", str(k), e * np.ones(2), np.ones(2), 1.0, {"signal": float(s)})
            for k, (s, e) in enumerate(zip(signal, effect, strict=True))
        ]
    (signal,) = foreseen(found)
    return float(6 / np.pi * np.arcsin(0.3)), signal.lo, signal.hi


CASES = (
    Case("mean", "normal", _mean(normal)),
    Case("mean", "exponential (skewness 2)", _mean(skewed)),
    Case("mean", "Student's t at 3 degrees of freedom", _mean(heavy)),
    Case("mean", "questions of 4 items, ICC 0.8; n counts questions", _mean(grouped)),
    Case("mean", "questions of 1 to 7 items, ICC 0.8; n counts questions", _mean(uneven)),
    Case("median", "normal", _median(normal, 0.3), times=600),
    Case("median", "exponential (skewness 2)", _median(skewed, float(np.log(2))), times=600),
    Case("median", "questions of 4 items, ICC 0.8; n counts questions", _median(grouped, 0.0), times=300),
    Case("share", "0.5", _share(0.5)),
    Case("share", "0.1", _share(0.1)),
    Case("share", "0.3, questions of 4 items, ICC 0.8; n counts questions", _share(0.3, grouped)),
    Case("mean over items and training pairs", "n of each, both matter", _crossed),
    Case("Spearman correlation", "0.3", _correlation(0.3), (5, 10, 20, 40, 100)),
    Case("Spearman correlation", "0.9", _correlation(0.9), (5, 10, 20, 40, 100)),
    Case("Spearman correlation, clustered", "clusters of 5; n counts clusters", _clustered, (10, 20, 40, 100), 300),
    Case("difference of two correlations", "0.8 and 0.4", _closer, (10, 20, 40, 100), 300),
    Case("agreement of judges: Pearson", "0.7", _judges("pearson"), (10, 20, 40, 100), 300),
    Case("agreement of judges: kappa", "0.49", _judges("kappa"), (10, 20, 40, 100), 300),
    Case("what foresees one-shot vectors", "0.58, within 3 behaviors of n vectors", _within, (10, 20), 100),
    Case("relative steerability", "0.8", _relative, (10, 20, 40, 100), 600),
    Case("leaning to a letter", "one order of the options", _leaning(False), (10, 20, 40, 100)),
    Case("leaning to a letter", "both orders", _leaning(True), (10, 20, 40, 100)),
    Case("effect of the letter (HC3)", "unequal spread; n items in a cell", _factors, (20, 40, 100)),
)


def coverage(case: Case, n: int, times: int, seed: int = 0) -> tuple[float, int]:
    """Share of intervals that hold the truth, and how many there were (those that say nothing are left out)."""
    rng = RNG(seed)
    found = [case.at(rng, n) for _ in range(times)]
    told = [(t, lo, hi) for t, lo, hi in found if not np.isnan(lo)]
    return (float(np.mean([lo <= t <= hi for t, lo, hi in told])), len(told)) if told else (float("nan"), 0)


def rows(scale: float = 1.0) -> Iterator[list[str]]:
    """The table; `scale` times as many draws."""
    yield ["interval (95 %)", "of", *(f"n = {n}" for n in SIZES)]
    for case in CASES:
        times = max(50, round(case.times * scale))
        cells = {n: coverage(case, n, times) for n in case.sizes}
        yield [case.interval, case.data, *(f"{cells[n][0]:.3f}" if n in cells and cells[n][1] else "" for n in SIZES)]


if __name__ == "__main__":
    table = list(rows(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0))
    print("\n".join(" | ".join(r) for r in table))
    put("coverage", table)
