"""Which multipliers to measure, which of them may be shipped, and which to recommend. Numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

DRIFTS = (0.04, 0.1, 0.25, 0.5, 1.2)  # nats per token at which a dose is measured
COMFORT = 0.4  # nats per token up to which a multiplier is recommended
BROKEN_MORE = 0.1  # share of answers that may break beyond the unsteered model's
STRANGER = 1.0  # nats per token by which answers may be stranger than the unsteered model's own
DISTINCT = 0.75  # of the unsteered model's different pairs of words: least that must be left
FARTHEST = 4096.0


class Point(Protocol):
    """What is looked at of one multiplier; see `steering.use.DosePoint`."""

    @property
    def multiplier(self) -> float: ...
    @property
    def drift(self) -> float: ...
    @property
    def broken(self) -> float: ...
    @property
    def strangeness(self) -> float | None: ...
    @property
    def distinct(self) -> float | None: ...
    @property
    def propensity(self) -> float | None: ...
    @property
    def lo(self) -> float | None: ...
    @property
    def control(self) -> float | None: ...
    @property
    def beats_controls(self) -> bool | None: ...


class Points(Protocol):
    """A dose; see `steering.use.Dose`."""

    @property
    def points(self) -> Sequence[Point]: ...
    @property
    def broken(self) -> float: ...
    @property
    def distinct(self) -> float | None: ...
    @property
    def questions(self) -> int: ...


def ladder(drift: Callable[[float], float]) -> list[float]:
    """Multipliers whose drift is near `DRIFTS`, in two digits, from weak to strong.

    The drift of a small step grows with its square, so one that is measured gives the others.

    Args:
        drift: of a multiplier, nats per token; not a number where the model breaks down.

    Returns:
        1 alone, where nothing moves the model.
    """
    m = 1.0
    here = drift(m)
    while not here <= 1.0 and m > 1 / FARTHEST:
        m /= 4
        here = drift(m)
    while here < DRIFTS[0] / 4 and m < FARTHEST:
        m *= 4
        here = drift(m)
    if not 0 < here < float("inf"):
        return [1.0]
    return sorted({float(f"{m * (goal / here) ** 0.5:.2g}") for goal in DRIFTS})


def whole(point: Point, dose: Points) -> bool:
    """Whether the text keeps whole at a multiplier: hardly more answers break, they are not much stranger, and their
    words do not repeat.
    """
    varied = point.distinct is None or dose.distinct is None or point.distinct >= DISTINCT * dose.distinct
    tame = point.strangeness is None or point.strangeness <= STRANGER
    return point.broken <= dose.broken + BROKEN_MORE + 1e-9 and tame and varied


def kept_whole(dose: Points) -> list[Point]:
    """The multipliers from the weakest up to the last before the text breaks."""
    out: list[Point] = []
    for point in dose.points:
        if not whole(point, dose):
            break
        out.append(point)
    return out


def ship_range(dose: Points) -> tuple[float, float] | None:
    """From the weakest multiplier that beats its controls to the strongest that keeps the text whole; None if there is
    none in between, or nobody measured.
    """
    inside = kept_whole(dose)
    first = next((p.multiplier for p in inside if p.beats_controls), None)
    return None if first is None else (first, inside[-1].multiplier)


def _unsure(inside: Sequence[Point], best: Point, questions: int) -> str:
    """Why there is no range, where something was measured: nothing is there, or too little was held out to tell (of the
    recommended multiplier, if it seems to work).
    """
    measured = [p for p in inside if p.propensity is not None and p.control is not None and p.lo is not None]
    likely = [p for p in measured if p.lo > 0 and p.propensity > p.control]  # type: ignore[operator]
    if not likely:
        return (
            "Not beyond its controls at any multiplier that keeps the text whole: expect no more of it than of a "
            "vector without the behavior."
        )
    p = best if best in likely else likely[-1]
    return (
        f"Likely to work, but {questions} held-out questions are too few to be sure: {p.propensity:+.3f} at "
        f"{p.multiplier:g} (from {p.lo:+.3f} on), and {p.control:.3f} by a vector without the behavior. Measure it."
    )


def strongest_comfortable(dose: Points, ship: tuple[float, float] | None) -> tuple[float, tuple[str, ...]]:
    """The multiplier to recommend, and why, in sentences: the strongest in the range whose drift is small; without a
    range, the strongest whose text is whole.
    """
    inside = kept_whole(dose)
    if not inside:
        least = min(dose.points, key=lambda p: p.multiplier)
        return least.multiplier, ("The text breaks at every multiplier that was measured.",)
    usable = [p for p in inside if ship is None or ship[0] <= p.multiplier <= ship[1]]
    calm = [p for p in usable if p.drift <= COMFORT] or usable[:1]
    best = calm[-1]
    if ship is not None:
        several = f"Multipliers from {ship[0]:g} to {ship[1]:g} beat their controls and keep the text whole"
        alone = f"Of the multipliers measured, {ship[0]:g} alone beats its controls and keeps the text whole"
        moves = f"{best.multiplier:g} moves the model by {best.drift:.2f} nats a token."
        return best.multiplier, (f"{alone if ship[0] == ship[1] else several}; {moves}",)
    if any(p.propensity is not None for p in dose.points):
        return best.multiplier, (_unsure(inside, best, dose.questions),)
    return best.multiplier, (
        "Whether it does anything was not measured: there were no held-out items. Up to "
        f"{inside[-1].multiplier:g} the text keeps whole.",
    )
