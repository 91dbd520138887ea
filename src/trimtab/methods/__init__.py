"""learn(): a method turns data into a steering vector. One file per method; what contrast methods share is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab import registry
from trimtab.controls import KEPT, Tied, coins
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, TokenError, VectorError
from trimtab.model import LM, Layer, Row, Tokens
from trimtab.model.hooks import Layers
from trimtab.model.rendering import as_prompt, turn_end
from trimtab.sites import RESID_POST
from trimtab.vector import Provenance, SteeringVector

Read = Literal["auto", "completion", "contrast", "penultimate", "last", "role"]
Progress = Callable[..., None]  # (done, in all), and for a descent its loss in words


@dataclass(frozen=True)
class Activations:
    """Residual streams of positive and negative completions, one mean over the read positions per pair.

    Attributes:
        positive, negative: (n, l, d) fp32.
        layers: the l layers.
        tied: question and answer letter of every pair, by which label-shuffled controls are drawn; None where nobody knows.
    """

    positive: Float[Tensor, "n l d"]
    negative: Float[Tensor, "n l d"]
    layers: tuple[Layer, ...]
    tied: Tied = None

    @property
    def deltas(self) -> Float[Tensor, "n l d"]:
        """positive - negative, pair by pair."""
        return self.positive - self.negative

    def at(self, layers: Sequence[Layer]) -> Activations:
        """The same at some of the layers."""
        if tuple(layers) == self.layers:
            return self
        chosen = [self.layers.index(k) for k in layers]
        return Activations(self.positive[:, chosen], self.negative[:, chosen], tuple(layers), self.tied)

    def mean_difference(self) -> Float[Tensor, "l d"]:
        return self.deltas.mean(0)

    def by_coin(self, seed: int) -> Activations:
        """The same pairs with their sides drawn by coin: what is learned from them has no behavior in it."""
        swap = (coins(len(self.positive), 1, seed, self.tied)[0] < 0)[:, None, None]
        sides = torch.where(swap, self.negative, self.positive), torch.where(swap, self.positive, self.negative)
        return Activations(*sides, self.layers, self.tied)


class Fit(NamedTuple):
    """What a learner found: one tensor (d,) per layer, and figures about how it found them."""

    vectors: Mapping[Layer, Tensor]
    figures: Mapping[str, Any] = {}


class Method:
    """A learner: a frozen dataclass whose fields are its parameters.

    Attributes:
        least: how many pairs it needs.
        alone: whether it needs no data at all.
    """

    least = 2
    alone = False

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        """Learn.

        Args:
            data: training pairs; None only for a method that can do without.
            progress: called with (done, in all), if it takes long.
        """
        raise NotImplementedError

    def used(self, data: Dataset) -> Sequence[Pair]:
        """The pairs it looks at."""
        return data.pairs


class FewShot(Method):
    """A learner that takes one prompt and no data, or the first few pairs of the data."""

    prompt: str
    examples: int
    least = 1

    @property
    def alone(self) -> bool:  # type: ignore[override]
        return bool(self.prompt)

    def used(self, data: Dataset) -> Sequence[Pair]:
        return () if self.prompt else data.pairs[: self.examples]


class ContrastMethod(Method):
    """A learner that needs the activations alone. The result is rescaled to the norm of the mean difference at each layer,

    so that a multiplier means the same whichever method found the direction.
    """

    read: Read = "auto"
    nulls = KEPT  # label-shuffled vectors to keep beside the learned one

    def directions(self, acts: Activations) -> Float[Tensor, "l d"]:
        """A direction per layer, of any norm."""
        raise NotImplementedError

    def fit(self, lm: LM, data: Dataset | None, layers: Sequence[Layer], progress: Progress | None = None) -> Fit:
        assert data is not None
        return Fit(self.fit_activations(activations(lm, data, layers, read=self.read, progress=progress)))

    def figures(self, acts: Activations) -> Mapping[str, Any]:
        """What is to be kept about the fit, by layer."""
        return {}

    def fit_activations(self, acts: Activations) -> dict[Layer, Tensor]:
        found = rescaled(self.directions(acts), acts.mean_difference())
        return dict(zip(acts.layers, found, strict=True))

    def label_shuffled(self, acts: Activations) -> dict[str, dict[Layer, Tensor]]:
        """What this learner finds where the sides of every pair are drawn by coin, at the norm of the mean difference there."""
        drawn = (acts.by_coin(seed) for seed in range(self.nulls))
        moved = [a for a in drawn if (a.mean_difference().norm(dim=-1) > 1e-6 * acts.deltas.norm(dim=-1).amax(0)).all()]
        return {f"shuffled-{k}": self.fit_activations(a) for k, a in enumerate(moved)}


def learn(
    lm: LM,
    data: Dataset | None,
    method: Method,
    layers: Layers | None = None,
    *,
    acts: Activations | None = None,
    progress: Progress | None = None,
) -> SteeringVector:
    """Learn a steering vector.

    Args:
        lm: the model.
        data: contrastive pairs; use the training part of a split. None for a method that brings its own example.
        method: such as `MeanDiff()`.
        layers: block indices from 0 (layer L is the output of block L); all by default.
        acts: activations computed before by `activations`, to learn several vectors from one pass.
        progress: called with (done, in all).

    Returns:
        The vector, with the figures of the fit in its provenance; contrast methods put label-shuffled vectors beside it
        (`nulls`), which `measure` uses as controls and compares with.

    Raises:
        DataError: fewer pairs than the method needs.
        ModelError: a layer out of range.
        VectorError: the data give no direction (all differences are zero).
    """
    chosen = lm.layers(layers)
    if data is None and not method.alone:
        raise DataError("nothing to learn from", expected="a data set")
    if data is not None and len(data) < method.least:
        raise DataError(
            f"{data.name} has too few pairs",
            given=len(data),
            expected=f"at least {method.least}: a mean needs several" if method.least > 1 else "at least one",
        )
    nulls: dict[str, Mapping[Layer, Tensor]] = {}
    if isinstance(method, ContrastMethod):
        assert data is not None
        acts = (acts or activations(lm, data, chosen, read=method.read, progress=progress)).at(chosen)
        fit = Fit(method.fit_activations(acts), method.figures(acts))
        if len(data) > 2:
            nulls = dict(method.label_shuffled(acts))
    else:
        fit = method.fit(lm, data, chosen, progress)
    about = {"name": data.name, "part": data.part, "form": data.form, "hash": data.hash, "pairs": len(data)} if data is not None else {}
    made = Provenance(
        model=lm.id,
        revision=lm.revision,
        fingerprint=lm.fingerprint,
        method={k: v for k, v in registry.describe(method).items() if k != "resume"},  # where it was kept says nothing about the vector
        data=about,
        trained_on=tuple(sorted({p.group for p in method.used(data)})) if data is not None else (),
        version=version("trimtab"),
        figures=dict(fit.figures),
    )
    return SteeringVector(fit.vectors, made, nulls=nulls, site=getattr(method, "site", RESID_POST))


def activations(
    lm: LM, data: Dataset, layers: Layers | None = None, *, read: Read = "auto", batch: int = 16, progress: Progress | None = None
) -> Activations:
    """Residual streams of every pair's completions; the prompt of a pair is run once for both, and for all layers.

    Args:
        read: which tokens to average over: "completion" (all of them), "contrast" (the first that differs: the answer
            letter of an A/B question), "last" (the final one), "penultimate" (the one before it), "role" (the one that names the next speaker in the chat template,
            where a model may sum up what was said), or "auto": contrast for A/B questions, else completion.
        progress: called with (pairs done, pairs in all).
    """
    chosen = lm.layers(layers)
    rows = [paired_rows(lm, p) for p in data]
    if read == "role":
        end, _ = turn_end(lm.tokenizer, lm.rendering)
        rows = [(one.extended(end), two.extended(end)) for one, two in rows]
    stacked: dict[int, Tensor] = {}
    done = 0
    for picked in lm.batches([r[0] for r in rows], batch):
        tokens = lm.batch([rows[k][side] for side in (0, 1) for k in picked])
        spots = torch.stack([_spot(lm, tokens, j, rows[k], _rule(read, data[k])) for j, k in enumerate(picked * 2)])
        both = lm.capture(tokens, spots, chosen)
        n = len(picked)
        stacked.update({k: torch.stack([both[j], both[n + j]]) for j, k in enumerate(picked)})
        done += n
        if progress:
            progress(done, len(data))
    out = torch.stack([stacked[k] for k in range(len(data))])
    return Activations(out[:, 0], out[:, 1], tuple(chosen), tied(data))


def tied(data: Iterable[Pair]) -> tuple[tuple[str, str], ...]:
    """Question and answer letter of every pair."""
    return tuple((p.group, str(p.meta.get("matching_letter", ""))) for p in data)


def paired_rows(lm: LM, pair: Pair, system: str | None = None) -> tuple[Row, Row]:
    """The two rows of a pair.

    Raises:
        TokenError: the completions have the same tokens.
    """
    asked = as_prompt(pair.asked)
    one, two = (lm.row(asked, said, system=system) for said in (pair.positive, pair.negative))
    if one.ids == two.ids:
        raise TokenError("positive and negative have the same tokens", given=(pair.positive, pair.negative), expected="two different completions")
    return one, two


def contrast_index(rows: tuple[Row, Row]) -> int:
    """Position of the first token at which two rows differ (or at which the shorter one has ended, its last token)."""
    one, two = rows
    shared = next((i for i, (a, b) in enumerate(zip(one.ids, two.ids, strict=False)) if a != b), min(len(one.ids), len(two.ids)))
    return min(shared, len(one.ids) - 1, len(two.ids) - 1)


def _rule(read: Read, pair: Pair) -> Read:
    return read if read != "auto" else "contrast" if "matching_letter" in pair.meta else "completion"


def _spot(lm: LM, tokens: Tokens, j: int, rows: tuple[Row, Row], rule: Read) -> Tensor:
    index, row = tokens.index[j], tokens.rows[j]
    if rule == "contrast":
        return index == contrast_index(rows)
    if rule == "penultimate":
        return index == max(row.prompt, len(row.ids) - 2)
    if rule == "role":
        ids, named = turn_end(lm.tokenizer, lm.rendering)
        return index == len(row.ids) - len(ids) + named
    return index == len(row.ids) - 1 if rule == "last" else index >= row.prompt


def rescaled(directions: Float[Tensor, "l d"], like: Float[Tensor, "l d"]) -> Float[Tensor, "l d"]:
    """Each direction with the norm of `like`.

    Raises:
        VectorError: a direction of norm zero.
    """
    norms = directions.norm(dim=-1, keepdim=True)
    if not (norms > 0).all() or not (like.norm(dim=-1) > 0).all():
        raise VectorError("the data give no direction: positive and negative activations do not differ", do="check the completions of the data set")
    return directions / norms * like.norm(dim=-1, keepdim=True)


from trimtab.methods.discover import Discover  # noqa: E402
from trimtab.methods.freeform import Freeform  # noqa: E402
from trimtab.methods.label_shuffled import LabelShuffled  # noqa: E402
from trimtab.methods.mean_diff import MeanDiff  # noqa: E402
from trimtab.methods.one_shot import OneShot  # noqa: E402
from trimtab.methods.pca import PCA  # noqa: E402
from trimtab.methods.preference import Preference  # noqa: E402
from trimtab.methods.probe import Probe  # noqa: E402
from trimtab.methods.random_direction import RandomDirection  # noqa: E402

__all__ = [
    "PCA",
    "Activations",
    "ContrastMethod",
    "Discover",
    "FewShot",
    "Fit",
    "Freeform",
    "LabelShuffled",
    "MeanDiff",
    "Method",
    "OneShot",
    "Preference",
    "Probe",
    "RandomDirection",
    "activations",
    "learn",
    "paired_rows",
]
