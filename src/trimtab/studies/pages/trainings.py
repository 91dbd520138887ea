"""The page of how preference vectors are trained: settings, epochs, layers. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.reports.figures import ACCENT, INK, QUIET, WARN, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.studies.pages.bipo_results import Value

PLAIN, RANDOM, PUBLISHED = "plain", "random", "as published"
PAPER = (
    "Published (arXiv v2, figure 8, plotted and not printed): every layer that was tried gives some control, layer 15 "
    "of 32 most, and effects level off as epochs grow. Of later work: 27 % of the coordinates carry 94 % of a BiPO "
    "vector's effect (CAS-BiPO)."
)


@dataclass(frozen=True)
class Epochs:
    """After one epoch: mean training loss; margins of the pairs not trained on with the vector added, and of their
    opposites with it subtracted (nats); the norm.
    """

    epoch: int
    loss: float
    up: float
    down: float
    norm: float


@dataclass(frozen=True)
class Looked:
    """One training, epoch by epoch, and the one that was taken."""

    name: str
    best: int
    epochs: list[Epochs]


@dataclass(frozen=True)
class Setting:
    """One vector on test questions: change of the margin at 1 and at -1 (nats), as long as it came out and as long as
    the plain one.

    Attributes:
        cosine: with the plain vector.
        best: the epoch that was taken; None where nothing was trained.
        kept: share of the coordinates of the plain vector that are kept, where it is not all.
    """

    name: str
    norm: float
    cosine: float
    best: int | None
    up: Value
    down: Value
    even_up: Value
    even_down: Value
    kept: float | None = None


@dataclass(frozen=True)
class AtLayer:
    """The plain training at one layer: change of the margin at 1 and at -1 (nats)."""

    layer: int
    up: Value
    down: Value


@dataclass(frozen=True)
class Facts:
    """One behavior."""

    name: str
    train: int
    val: int
    test: int
    settings: list[Setting]
    looked: list[Looked]
    layers: list[AtLayer]

    def setting(self, name: str) -> Setting:
        return next(s for s in self.settings if s.name == name)

    @property
    def randoms(self) -> list[Setting]:
        return [s for s in self.settings if s.best is None and s.kept is None]


@dataclass(frozen=True)
class Results:
    """What came out; `changed` holds the fields in which a setting differs from the plain training."""

    model: str
    layer: int
    norm: float
    seed: int
    changed: dict[str, dict[str, Any]]
    behaviors: list[Facts]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    about = (
        f"{r.model}, layer {r.layer}, largest norm {r.norm:g} medians of the residual norm, seed {r.seed}. Changes of "
        "the margin (log-probability of the positive answer less the negative's) on test questions, in nats, with the "
        "vector added and subtracted; every token steered. Margins by epoch are of validation pairs; where the end "
        "token is scored (as published, too), it counts in them."
    )
    sections: list[tuple[str, Sequence[Sequence[str]]]] = [("What each setting changes", _changed_rows(r))]
    for b in r.behaviors:
        sections += [
            (f"{b.name}: settings", _setting_rows(b)),
            (f"{b.name}: layers", _layer_rows(b)),
            (f"{b.name}: epochs", _epoch_rows(b)),
        ]
    plots = {f"trainings-{b.name}": _plot(b, r.layer) for b in r.behaviors}
    findings = [s for b in r.behaviors for s in (_finding(b), _epoch_finding(b), _layer_finding(b, r.layer))]
    return write_sections(
        run, "How preference vectors are trained", about, [*findings, PAPER], plots, sections, _figures(r)
    )


# ---------------------------------------------------------------- sentences


def _range(s: Setting) -> float:
    """From -1 to 1, at the norm of the plain vector."""
    return s.even_up.value - s.even_down.value


def _finding(b: Facts) -> str:
    plain = b.setting(PLAIN)
    random = max((abs(_range(s)) for s in b.randoms), default=math.nan)
    trained = sorted((s for s in b.settings if s.best is not None and s.name != PLAIN), key=_range, reverse=True)
    parts = ", ".join(f"{s.name} {_range(s):+.2f}" for s in trained)
    few = [f"{s.name} {_range(s) / _range(plain):.0%}" for s in b.settings if s.kept is not None and _range(plain)]
    left = f" Of that of the plain vector are left with the {', '.join(few)}." if few else ""
    return (
        f"{b.name}: from -1 to 1 the margin moves by {_range(plain):+.2f} nats under the plain vector; at its norm, "
        f"by: {parts}; random directions at most {random:.2f}.{left}"
    )


def _epoch_finding(b: Facts) -> str:
    """How many epochs are nine tenths of the way."""
    seen = next(x for x in b.looked if x.name == PLAIN).epochs
    margins = [(e.up + e.down) / 2 for e in seen]
    most = max(margins)
    if most <= 0:
        return f"{b.name}: on pairs not trained on, no epoch raises the margins."
    enough = next(e.epoch for e, m in zip(seen, margins, strict=True) if m >= 0.9 * most)
    parts = [f"{x.name} {x.epochs[-1].up:+.2f} and {x.epochs[-1].down:+.2f} after {len(x.epochs)} epochs (norm "
             f"{x.epochs[-1].norm:.2f})" for x in b.looked if x.name == PUBLISHED]  # fmt: skip
    return (
        f"{b.name}: on pairs not trained on, {enough} of {len(seen)} epochs are nine tenths of the way"
        + (f"; the training {'; '.join(parts)}, in nats, added and subtracted" if parts else "")
        + "."
    )


def _layer_finding(b: Facts, layer: int) -> str:
    best = max(b.layers, key=lambda x: x.up.value - x.down.value)
    ranges = ", ".join(f"{x.layer}: {x.up.value - x.down.value:+.2f}" for x in b.layers)
    return f"{b.name}: by layer, the margin from -1 to 1 moves by {ranges} nats; most at {best.layer} (taken: {layer})."


# ---------------------------------------------------------------- tables and plots


def _changed_rows(r: Results) -> list[list[str]]:
    rows = [["setting", "fields of the preference method"]]
    return rows + [[name, ", ".join(f"{k} = {v}" for k, v in some.items())] for name, some in r.changed.items()]


def _setting_rows(b: Facts) -> list[list[str]]:
    head = ["setting", "norm", "cosine with plain", "epoch taken", "added", "subtracted", "added, at the plain norm",
            "subtracted", "n"]  # fmt: skip
    rows = [head]
    for s in b.settings:
        best = "" if s.best is None else f"{s.best}"
        values = [str(v) for v in (s.up, s.down, s.even_up, s.even_down)]
        rows.append([s.name, f"{s.norm:.2f}", f"{s.cosine:+.2f}", best, *values, f"{s.up.n}"])
    return rows


def _layer_rows(b: Facts) -> list[list[str]]:
    return [
        ["layer", "added", "subtracted", "n"],
        *([f"{x.layer}", str(x.up), str(x.down), f"{x.up.n}"] for x in b.layers),
    ]


def _epoch_rows(b: Facts) -> list[list[str]]:
    """Margins added / subtracted after each epoch, a row a setting."""
    most = max(len(x.epochs) for x in b.looked)
    rows = [["setting", *(f"epoch {k + 1}" for k in range(most))]]
    for x in b.looked:
        cells = [f"{e.up:+.1f} / {e.down:+.1f}" if not math.isnan(e.up) else "" for e in x.epochs]
        rows.append([x.name, *cells, *[""] * (most - len(cells))])
    return rows


def _figures(r: Results) -> list[Figure]:
    """For machines: changes at the plain norm, beside the strongest random direction."""
    out: list[Figure] = []
    for b in r.behaviors:
        random = max((abs(s.even_up.value) for s in b.randoms), default=None)
        out += [s.even_up.figure(f"{b.name}, {s.name}, added", random) for s in b.settings if s.best is not None]
    return out


def _plot(b: Facts, layer: int) -> Plot:
    """Margins by epoch and by layer."""

    def paint(canvas: Any) -> None:
        left, right = canvas.subplots(1, 2)
        for x in b.looked:
            color, width = {PLAIN: (ACCENT, 2.0), PUBLISHED: (WARN, 2.0)}.get(x.name, (QUIET, 0.8))
            known = [e for e in x.epochs if not math.isnan(e.up)]
            label = x.name if x.name in (PLAIN, PUBLISHED) else None
            left.plot(
                [e.epoch for e in known], [(e.up + e.down) / 2 for e in known], color=color, lw=width, label=label
            )
        left.set(xlabel="epoch", ylabel="margin, both ways, nats")
        left.legend(frameon=False, fontsize=8)
        for values, color, words in (
            ([x.up.value for x in b.layers], ACCENT, "added"),
            ([x.down.value for x in b.layers], INK, "subtracted"),
        ):
            right.plot([x.layer for x in b.layers], values, "o-", color=color, ms=3, label=words)
        right.axhline(0, color=QUIET, lw=0.8)
        right.axvline(layer, color=QUIET, lw=0.8, ls="--")
        right.set(xlabel="layer (output of block)", ylabel="change of the margin, nats")
        right.legend(frameon=False, fontsize=8)

    caption = "Left: on pairs not trained on, after each epoch; thin lines are other settings. Right: test questions."
    return picture(paint, (8, 3.3), f"{b.name}: by epoch, and by layer", caption)
