"""Interventions: a vector, how it acts, how strongly, where and when. `steer` puts a stack of them into a model."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab import registry
from trimtab.errors import SteerError
from trimtab.model import LM, Edit, Frame, Layer, Positions, from_last_prompt_token
from trimtab.model.hooks import Threads
from trimtab.recipe import FARTHEST
from trimtab.steering.fits import check_fits, other_weights
from trimtab.steering.gates import Always, CosineAbove, Gate
from trimtab.steering.operators import Add, Affine
from trimtab.steering.operators.base import Operator
from trimtab.steering.use import Use
from trimtab.steering.vector import SteeringVector

log = logging.getLogger("trimtab")


@dataclass(frozen=True)
class Intervention:
    """A vector applied at all of its layers.

    Args:
        vector: what to apply.
        operator: how; addition by default.
        multiplier: times the stored vector.
        positions: which tokens, as `Positions` or in words ("everywhere"); by default the last token of the prompt and
            all that are generated, so that a prompt is read once and caches of it hold.
        gate: when.
    """

    vector: SteeringVector
    operator: Operator = field(default_factory=Add)
    multiplier: float = 1.0
    positions: Positions | str = from_last_prompt_token
    gate: Gate = field(default_factory=Always)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", Positions.parse(self.positions))
        if not isinstance(self.operator, Operator) or not isinstance(self.gate, Gate):
            raise SteerError(
                "operator and gate must be values",
                given=(self.operator, self.gate),
                expected="such as Add() and Always()",
            )
        if not isinstance(self.operator, Affine) and any(v.ndim > 1 for v in self.vector.vectors.values()):
            given, expected = registry.describe(self.operator)["name"], "affine"
            raise SteerError("this vector is an affine map", given=given, expected=expected, do="use that operator")
        if not abs(float(self.multiplier)) <= FARTHEST:
            raise SteerError("not a multiplier", given=self.multiplier, expected=f"a number up to {FARTHEST:g}")

    @classmethod
    def recommended(
        cls,
        vector: SteeringVector,
        *,
        layers: Sequence[Layer] = (),
        multiplier: float | None = None,
        positions: Positions | str | None = None,
        operator: Operator | str | Mapping[str, Any] | None = None,
    ) -> Intervention:
        """A vector as its file says it is to be used; what is given here instead.

        Raises:
            SteerError: it has several layers that were learned apart, and does not say which to use.
        """
        use = vector.use
        if not layers and use is None and vector.apart:
            raise SteerError(
                "the vector does not say at which of its layers to use it",
                given=f"{len(vector.layers)} layers, {vector.layers[0]} to {vector.layers[-1]}, learned to act alone",
                expected="one layer",
                do="name it (--layer N, or vector.at(N)); `trimtab learn` chooses one, `trimtab run` measures all",
            )
        use = use or Use(vector.layers)
        how = use.operator if operator is None else operator
        return cls(
            vector.at(*(layers or use.layers)),
            how if isinstance(how, Operator) else registry.make("operator", how),
            use.multiplier if multiplier is None else multiplier,
            use.positions if positions is None else positions,
            registry.make("gate", use.gate),
        )

    @property
    def where(self) -> Positions:
        """The positions, parsed."""
        return Positions.parse(self.positions)

    def apply(
        self, h: Float[Tensor, "b s d"], layer: Layer, frame: Frame, multiplier: float | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The edited stream of one layer, and how many tokens were selected (a scalar tensor).

        Args:
            multiplier: instead of the stored one; a number, or one per row (b, 1, 1).
        """
        m = self.multiplier if multiplier is None else multiplier
        m = m.to(h.device) if isinstance(m, Tensor) else m
        selected = self.where.select(frame.index, frame.rows)  # (b, s)
        v = self.vector[layer].to(h.device)
        weight = self.gate.weight(h, v, frame)
        # a gate scales the multiplier, (b, s) -> (b, s, 1): a multiplier of 0 is off, bit for bit
        if weight is not None:
            m = m * weight[..., None].to(h.device)
        count = selected.sum()
        # computed for every token and chosen by mask: an index would copy, and its gradient would scatter
        moved = self.operator(h, v, m)
        if h.dtype == torch.float16:
            self._check_range(moved, selected.to(h.device), layer)
        return (h if moved is h else torch.where(selected[..., None].to(h.device), moved, h)), count

    def _check_range(self, moved: Tensor, selected: Tensor, layer: Layer) -> None:
        """Refuse what float16 cannot hold: it would be cut off, and steer by something else than was asked for."""
        most = torch.finfo(moved.dtype).max
        if (moved[selected].abs() >= most).any():
            raise SteerError(
                f"not finite at block {layer}: the vector takes the residual stream beyond float16",
                given=f"norm {self.vector.norm()[layer]:.3g}, multiplier {self.multiplier:g}",
                expected=f"values below {most:g}",
                do='load the model with dtype="bfloat16", or use a smaller multiplier',
            )

    def describe(self) -> dict[str, Any]:
        """Everything but the vector's numbers, as a table."""
        gate = registry.describe(self.gate)
        if isinstance(self.gate, CosineAbove) and self.gate.other is not None:
            gate["other"] = self.gate.other.to_text()
        return {
            "vector": self.vector.hash,
            "layers": list(self.vector.layers),
            "operator": registry.describe(self.operator),
            "multiplier": self.multiplier,
            "positions": str(self.positions),
            "gate": gate,
        }

    def to_json(self) -> str:
        """A self-contained text, vector included."""
        return json.dumps({**self.describe(), "vector": self.vector.to_text()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Intervention:
        """What `to_json` wrote."""
        table = json.loads(text)
        gate = dict(table["gate"])
        if gate.get("other"):
            gate["other"] = SteeringVector.from_text(gate["other"])
        return cls(
            SteeringVector.from_text(table["vector"]),
            registry.make("operator", table["operator"]),
            table["multiplier"],
            Positions.parse(table["positions"]),
            registry.make("gate", gate),
        )

    def times(self, multiplier: float) -> Intervention:
        """The same with another multiplier."""
        return replace(self, multiplier=multiplier)


Stack = Intervention | SteeringVector | Sequence["Intervention | SteeringVector"]


@dataclass
class Receipt:
    """What `steer` did: how many tokens it selected at each layer, over all passes inside the context."""

    passes: int = 0
    _counts: dict[Layer, Tensor] = field(default_factory=dict[Layer, Tensor])

    @property
    def edited(self) -> dict[Layer, int]:
        return {layer: int(n) for layer, n in self._counts.items()}

    def note(self, layer: Layer, count: Tensor) -> None:
        self._counts[layer] = self._counts.get(layer, 0) + count
        self.passes += 1


def as_stack(stack: Stack) -> tuple[Intervention, ...]:
    """One intervention or several, as a tuple; a vector alone is used as its file says."""
    every = (stack,) if isinstance(stack, Intervention | SteeringVector) else tuple(stack)
    return tuple(Intervention.recommended(s) if isinstance(s, SteeringVector) else s for s in every)


_warned: set[str] = set()  # what was said already: a conversation checks its vector at every turn


def check_stack(lm: LM, stack: Stack) -> tuple[Intervention, ...]:
    """The interventions of a stack, checked against the model. A vector of another model of the same shape is let
    through with a warning.

    Raises:
        VectorError: a vector for a model of another shape.
    """
    ivs = as_stack(stack)
    for iv in ivs:
        check_fits(iv.vector, width=lm.width, n_layers=lm.n_layers, fingerprint=lm.fingerprint, model=lm.id)
        warning = other_weights(iv.vector, weights=lm.weights, model=lm.id)
        if warning and warning not in _warned:
            _warned.add(warning)
            log.warning(warning)
    return ivs


def edits(ivs: Sequence[Intervention], receipt: Receipt, multiplier: float | Tensor | None = None) -> dict[Layer, Edit]:
    """One edit per layer that applies the stack in order."""
    layers = sorted({k for iv in ivs for k in iv.vector.layers})
    return {layer: partial(_applied, ivs, receipt, multiplier, layer) for layer in layers}


def _applied(
    ivs: Sequence[Intervention],
    receipt: Receipt,
    multiplier: float | Tensor | None,
    layer: Layer,
    h: Tensor,
    frame: Frame,
) -> Tensor:
    """The stream of one layer after those of a stack that act there."""
    for iv in ivs:
        if layer in iv.vector.vectors:
            h, count = iv.apply(h, layer, frame, multiplier)
            receipt.note(layer, count)
    return h


@contextmanager
def steer(lm: LM, *stack: Intervention | SteeringVector, threads: Threads = "own") -> Generator[Receipt]:
    """Within the context every pass of the model is steered by the interventions, in order; a vector alone is used as
    its file says (`Intervention.recommended`).

    Args:
        threads: "own" steers the passes of this thread, and makes it an error to run the model in a thread that
            entered no `steer`; "all" steers those of every thread (`Thread(target=model.generate)`, servers).

    Yields:
        A receipt: per layer, how many tokens were selected.

    Raises:
        VectorError: a vector of another model, before anything runs.
        SteerError: on leaving, if no token was selected in any pass: an intervention that does nothing is a mistake.
    """
    # refused before anything runs: a vector of another width would fail deep inside a block
    ivs = check_stack(lm, stack)
    if not ivs:
        raise SteerError("steer() needs at least one intervention")
    receipt = Receipt()
    with lm.edit(edits(ivs, receipt), threads=threads):
        yield receipt
    # an intervention that does nothing is a mistake, and the one people do not notice
    if not receipt.passes:
        raise SteerError(
            "nothing was steered: no forward pass ran inside steer()",
            do="call lm.generate or lm.logprobs inside the with block",
        )
    if not any(receipt.edited.values()):
        raise SteerError(
            "nothing was steered: the positions selected no token",
            given=[str(iv.positions) for iv in ivs],
            do="check the positions against the prompt",
        )
