"""learn(): a method turns data into a steering vector that knows where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from torch import Tensor

from trimtab import registry
from trimtab.data.datasets import Dataset
from trimtab.errors import DataError
from trimtab.methods.base import ContrastMethod, Fit, Method
from trimtab.methods.contrast import Activations, activations
from trimtab.model import LM, Layer
from trimtab.model.hooks import Layers
from trimtab.progress import Progress
from trimtab.sites import RESID_POST
from trimtab.steering.vector import Provenance, SteeringVector


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
        (`nulls`), which `measure` uses as controls and compares with. Of several layers learned apart it does not say
        which to use: `evaluation.dose.recommend` finds out.

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
            do="add pairs (a split trains on 40 % of them), or use all of them: --part all",
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
    made = _provenance(lm, data, method, fit)
    vector = SteeringVector(fit.vectors, made, nulls=nulls, site=getattr(method, "site", RESID_POST))
    return vector if vector.apart else replace(vector, use=method.use(vector.layers))


def _provenance(lm: LM, data: Dataset | None, method: Method, fit: Fit) -> Provenance:
    """Where a vector comes from; the questions it was learned on are remembered, so that none of them is tested."""
    about: dict[str, Any] = {}
    trained_on: tuple[str, ...] = ()
    if data is not None:
        about = {"name": data.name, "part": data.part, "form": data.form, "hash": data.hash, "pairs": len(data)}
        trained_on = tuple(sorted({p.group for p in method.used(data)}))
    # where its state was kept says nothing about the vector
    described = {k: v for k, v in registry.describe(method).items() if k != "resume"}
    return Provenance.of(
        lm,
        method=described,
        data=about,
        trained_on=trained_on,
        version=version("trimtab"),
        figures=dict(fit.figures),
    )
