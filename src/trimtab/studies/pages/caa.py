"""The page of what contrastive activation addition looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.reports.figures import QUIET, Plot, picture
from trimtab.reports.page import write_sections
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import Figure
from trimtab.studies.pages.findings import COLORS

LETTER, POLARITY = "matching_letter", "polarity"  # keys of a pair's facts
APART = 0.25  # a silhouette above it: the kinds lie apart
PUBLISHED = (
    "Published (Rimsky et al. 2024, Llama-2-7b-chat and base): activations cluster by letter first, and from about a "
    "third of the depth on by behavior; vectors of neighboring layers are alike, and so are those of base and chat "
    "model in the middle; the vector of one layer works at others near it, and the base model's on the chat model."
)


@dataclass(frozen=True)
class Cluster:
    """Activations of both answers of every training question at one layer.

    Attributes:
        shares: of their variance, on the first two principal axes.
        by_behavior, by_letter: silhouettes on these axes.
        norm: of the mean difference.
        agreement: that over the mean norm of the differences: 1 where all point one way.
        letter, polarity: norm of what letter and polarity alone make, over that of the mean difference.
        spots, letters: coordinates, the positive answers first, and the letter of each.
    """

    layer: int
    shares: list[float]
    by_behavior: float
    by_letter: float
    norm: float
    agreement: float
    letter: float | None
    polarity: float | None
    spots: list[list[float]]
    letters: list[str]


@dataclass(frozen=True)
class Slope:
    """Mean slope of propensity where a vector acts at one layer, in nats a multiplier, with its 95 % interval."""

    layer: int
    value: float
    lo: float
    hi: float
    n: int


@dataclass(frozen=True)
class Source:
    """Where the vector that is applied at a layer is from: the layer's "own", that of "layer" number, the "relative"'s
    there, or a "random" direction.
    """

    kind: str
    number: int = 0

    @property
    def label(self) -> str:
        return f"{self.kind}-{self.number}" if self.kind in ("layer", "random") else self.kind


@dataclass(frozen=True)
class Moved:
    """One source at every layer."""

    source: Source
    slopes: list[Slope]


@dataclass(frozen=True)
class Told:
    """A token, and how far the stream points along the vector there, less the mean."""

    token: str
    along: float


@dataclass(frozen=True)
class SetFacts:
    """What came out for one data set; layers as in the results.

    Attributes:
        cosines: of the vectors of every two layers.
        relative: cosines with those of the relative; None without one.
        moved: slopes of every source at every layer.
        layer: where the vector is steepest; `words` (likelier, less likely) and `tokens` are of it.
    """

    name: str
    train: int
    test: int
    clusters: list[Cluster]
    cosines: list[list[float]]
    relative: list[float] | None
    moved: list[Moved]
    layer: int
    words: list[list[str]]
    tokens: list[Told]

    def slopes(self, kind: str, number: int = 0) -> list[Slope]:
        """Of one source, by layer."""
        return next(m.slopes for m in self.moved if m.source == Source(kind, number))

    def best(self, kind: str) -> Slope:
        """The steepest of a source."""
        return max(self.slopes(kind), key=lambda s: s.value)

    @property
    def random(self) -> float:
        """The steepest of all random directions, at any layer, whichever way it goes."""
        drawn = [abs(s.value) for m in self.moved if m.source.kind == "random" for s in m.slopes]
        return max(drawn, default=float("nan"))


@dataclass(frozen=True)
class Results:
    """What came out."""

    model: str
    relative: str
    layers: list[int]
    seed: int
    sets: list[SetFacts]


def page(run: Run) -> Path:
    """Write the page of a finished study.

    Returns:
        The path of report.html.
    """
    r = run.typed(RESULTS, Results)
    with_whom = f", beside {r.relative}" if r.relative else ""
    first = r.sets[0]
    about = f"{r.model}{with_whom}; {first.train} questions learned on, {first.test} others measured; seed {r.seed}."
    findings = [_clusters(r), _layers(r), *([_relatives(r)] if r.relative else []), PUBLISHED]
    sections = [
        ("Activations by layer", _cluster_rows(r)),
        ("A vector at layers it was not learned at", _moved_rows(r)),
        *([("Vectors of the relative", _relative_rows(r))] if r.relative else []),
        ("Words that a vector points to", _word_rows(r)),
        ("Tokens along a vector", _token_rows(r)),
    ]
    plots = {"pca": _pca(r), "cosines": _cosines(r), "moved": _moved(r)}
    return write_sections(run, "What a contrast looks like inside", about, findings, plots, sections, _figures(r))


# ------------------------------------------------------------ findings


def _clusters(r: Results) -> str:
    """From which layer on behaviors lie apart, and where letters do."""
    parts: list[str] = []
    for s in r.sets:
        behavior = [c.layer for c in s.clusters if c.by_behavior > APART]
        letter = [c.layer for c in s.clusters if c.by_letter > APART]
        parts.append(f"{s.name} at {_some(behavior)} by behavior and at {_some(letter)} by letter")
    return f"On the first two principal axes activations lie apart (silhouette above {APART:g}): {'; '.join(parts)}."


def _some(layers: Sequence[int]) -> str:
    return f"layers {', '.join(map(str, layers))}" if layers else "no layer"


def _layers(r: Results) -> str:
    """How much of its slope a vector keeps away from its layer."""
    parts: list[str] = []
    for s in r.sets:
        own, k = s.best("own"), r.layers.index(s.best("own").layer)
        near = [j for j in (k - 1, k + 1) if 0 <= j < len(r.layers)]
        moved, theirs = (
            np.mean([some[j].value for j in near]) if near else float("nan")
            for some in (s.slopes("layer", own.layer), s.slopes("own"))
        )
        parts.append(
            f"{s.name} {own.value:.2f} nats at its layer {own.layer} ({own.lo:.2f} to {own.hi:.2f}), {moved:.2f} one "
            f"layer away, where these layers' own vectors have {theirs:.2f}, and at most {s.random:.2f} under random "
            "directions"
        )
    return f"Mean slopes where a vector is applied at its layer and beside it: {'; '.join(parts)}."


def _relatives(r: Results) -> str:
    """What the relative's vectors do here."""
    parts: list[str] = []
    for s in r.sets:
        theirs, own = s.best("relative"), s.best("own")
        cosine = (s.relative or [])[r.layers.index(theirs.layer)]
        parts.append(
            f"{s.name} {theirs.value:.2f} nats ({theirs.lo:.2f} to {theirs.hi:.2f}) at layer {theirs.layer}, cosine "
            f"{cosine:.2f}; its own {own.value:.2f}"
        )
    return f"Vectors of {r.relative}, at the norm of this model's own: {'; '.join(parts)}."


def _figures(r: Results) -> list[Figure]:
    out: list[Figure] = []
    for s in r.sets:
        for source in ("own", *(["relative"] if r.relative else [])):
            best = s.best(source)
            name = f"steepest mean slope, {s.name}, {source} vector, layer {best.layer}"
            out.append(Figure(name, best.value, best.lo, best.hi, best.n, "nats", s.random))
    return out


# ------------------------------------------------------------ tables


def _cluster_rows(r: Results) -> list[list[str]]:
    head = ["data", "layer", "variance on 2 axes", "apart by behavior", "apart by letter", "norm of mean", "agreement"]
    head += ["letter alone", "polarity alone"]
    rows = [
        [
            s.name,
            f"{c.layer}",
            f"{sum(c.shares):.0%}",
            f"{c.by_behavior:.2f}",
            f"{c.by_letter:.2f}",
            f"{c.norm:.2f}",
            f"{c.agreement:.2f}",
            *("" if x is None else f"{x:.2f}" for x in (c.letter, c.polarity)),
        ]
        for s in r.sets
        for c in s.clusters
    ]
    return [head, *rows]


def _moved_rows(r: Results) -> list[list[str]]:
    head = ["data", "vector", *(f"at {k}" for k in r.layers)]
    rows: list[list[str]] = []
    words = {"own": "each layer's own", "relative": f"of {r.relative}"}
    for s in r.sets:
        for m in s.moved:
            what = words.get(m.source.kind, f"{m.source.kind} {m.source.number}")
            rows.append([s.name, what, *(f"{x.value:.2f}" for x in m.slopes)])
    return [head, *rows]


def _relative_rows(r: Results) -> list[list[str]]:
    head = ["data", "layer", "cosine", "slope of theirs", "slope of its own"]
    rows = [
        [s.name, f"{k}", f"{(s.relative or [])[j]:.2f}", _told(s.slopes("relative")[j]), _told(s.slopes("own")[j])]
        for s in r.sets
        for j, k in enumerate(r.layers)
    ]
    return [head, *rows]


def _told(s: Slope) -> str:
    return f"{s.value:.2f} ({s.lo:.2f} to {s.hi:.2f})"


def _word_rows(r: Results) -> list[list[str]]:
    rows = [
        [s.name, f"{s.layer}", " · ".join(_shown(w) for w in s.words[0]), " · ".join(_shown(w) for w in s.words[1])]
        for s in r.sets
    ]
    return [["data", "layer", "likelier", "less likely"], *rows]


def _token_rows(r: Results) -> list[list[str]]:
    """The tokens of one answered question that lie farthest along the vector, and against it."""
    rows: list[list[str]] = []
    for s in r.sets:
        order = sorted(s.tokens, key=lambda t: -t.along)
        up, down = (
            " · ".join(f"{_shown(t.token)} {t.along:+.1f}" for t in some) for some in (order[:6], order[::-1][:6])
        )
        rows.append([s.name, f"{s.layer}", f"{len(s.tokens)}", up, down])
    return [["data", "layer", "tokens", "most along", "most against"], *rows]


def _shown(token: str) -> str:
    return token.strip() or repr(token)


# ------------------------------------------------------------ plots


def _pca(r: Results) -> Plot:
    """The first data set: three layers, a point for each answer."""
    s = r.sets[0]
    some = sorted({0, len(s.clusters) // 2, len(s.clusters) - 1})

    def paint(canvas: Any) -> None:
        axes = np.atleast_1d(canvas.subplots(1, len(some)))
        for ax, k in zip(axes, some, strict=True):
            c = s.clusters[k]
            x, n = np.array(c.spots), len(c.spots) // 2
            for half, color, what in ((slice(None, n), COLORS[0], "behavior"), (slice(n, None), COLORS[1], "other")):
                for letter, mark in (("A", "o"), ("B", "^")):
                    chosen = [j for j in range(*half.indices(len(x))) if c.letters[j] == letter]
                    ax.plot(x[chosen, 0], x[chosen, 1], mark, color=color, ms=3, label=f"{what}, {letter}")
            ax.set_title(f"layer {c.layer}", fontsize=9)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].legend(frameon=False, fontsize=6)

    words = f"Activations of both answers of each question of {s.name} on their first two principal axes."
    return picture(paint, (7.2, 2.8), "Do activations cluster by behavior, or by letter?", words)


def _cosines(r: Results) -> Plot:
    """Of every two layers, a panel for each data set."""

    def paint(canvas: Any) -> None:
        axes = np.atleast_1d(canvas.subplots(1, len(r.sets)))
        for ax, s in zip(axes, r.sets, strict=True):
            ax.imshow(np.array(s.cosines), vmin=-1, vmax=1, cmap="RdBu_r")
            ax.set_title(s.name, fontsize=8)
            ax.set_xticks(range(len(r.layers)), r.layers, fontsize=6)
            ax.set_yticks(range(len(r.layers)), r.layers, fontsize=6)
            if len(r.layers) <= 8:
                for i, row in enumerate(s.cosines):
                    for j, value in enumerate(row):
                        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6)

    return picture(paint, (7.2, 3.0), "Cosines of the vectors of two layers", "Red is 1, blue -1.")


def _moved(r: Results) -> Plot:
    """Slopes by layer: each layer's own vector, the best one everywhere, random ones."""

    def paint(canvas: Any) -> None:
        axes = np.atleast_1d(canvas.subplots(1, len(r.sets), sharey=True))
        for ax, s in zip(axes, r.sets, strict=True):
            best = s.best("own").layer
            lines = {"each layer's own": s.slopes("own"), f"that of layer {best}": s.slopes("layer", best)}
            lines |= {f"of {r.relative}": s.slopes("relative")} if r.relative else {}
            for k, (words, slopes) in enumerate(lines.items()):
                ax.plot(r.layers, [x.value for x in slopes], "o-", color=COLORS[k], ms=3, label=words)
            for m in (m for m in s.moved if m.source.kind == "random"):
                ax.plot(r.layers, [x.value for x in m.slopes], "-", color=QUIET, lw=0.8)
            ax.set_title(s.name, fontsize=8)
            ax.set_xlabel("layer")
        axes[0].set_ylabel("mean slope, nats")
        axes[0].legend(frameon=False, fontsize=6)

    return picture(paint, (7.2, 2.8), "A vector at other layers", "Thin lines are random directions.")
