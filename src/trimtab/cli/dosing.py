"""The command that measures a dose, and how a recommended use is shown."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from trimtab.cli.flags import Common, ForOutput, ModelFlags, OfData, OnModel, PartFlags, UseFlags, show, writable

WIDTHS = (10, 11, 19, 13, 10, 10)

if TYPE_CHECKING:
    from trimtab.data.datasets import Dataset
    from trimtab.model import LM
    from trimtab.steering.vector import SteeringVector


def dosed(lm: LM, vector: SteeringVector, method: Any, val: Dataset | None, quiet: bool) -> SteeringVector:
    """The vector with its recommended use, measured; says before how long that will take."""
    from trimtab.cli.bars import bars
    from trimtab.evaluation.dose import held_out, recommend, seconds

    if not quiet:
        print(f"measuring the dose: about {seconds(lm):.0f} s (--no-dose leaves it out)", file=sys.stderr, flush=True)
    with bars(not quiet) as watch:
        progress = watch("dose")
        progress(0, 1)
        return recommend(lm, vector, held_out(lm, method, val), progress=progress)


def usage(vector: SteeringVector) -> list[str]:
    """How a vector is to be used, in lines: what is recommended, why, and the price of each multiplier."""
    from trimtab.reports.snippets import dose_rows

    use = vector.use
    if use is None:
        return ["no use recommended: name a layer (--layer N), or measure a dose (trimtab dose)"]
    layers = ", ".join("embeddings" if k < 0 else str(k) for k in use.layers)
    lines = [f"use it at layer {layers}, multiplier {use.multiplier:g}, {use.positions}", *(f"  {w}" for w in use.why)]
    if use.dose is None:
        return lines
    for row in dose_rows(use):
        lines.append("  " + "".join(f"{cell:>{width}}" for cell, width in zip(row, WIDTHS, strict=True)))
    return lines


@dataclass(frozen=True)
class Dose:
    """Measure how a vector is to be used, and write that into its file: layer, multiplier, what each multiplier costs
    and brings.
    """

    vector: Positional[Path]
    data: str | None = None
    """Held-out items of the behavior: the val part of a built-in data set or file; without any, only the cost is
    known."""
    to: Path | None = None
    """File to write; by default the vector's own."""
    use: UseFlags = field(default_factory=UseFlags)
    which: OfData = field(default_factory=PartFlags)
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        self.on.check()
        from trimtab import registry
        from trimtab.data.datasets import check_unseen
        from trimtab.steering.interventions import Intervention, check_stack
        from trimtab.steering.use import Use
        from trimtab.steering.vector import SteeringVector

        vector = SteeringVector.load(self.vector)
        to = writable(self.to or self.vector, ".safetensors")
        data = None if self.data is None else self.which.of(self.data, "val")
        if data is not None:
            check_unseen(vector.made.trained_on, data, "the training data of the vector")
        if self.use.layers or not vector.apart:
            iv = self.use.of(vector)
            use = Use(iv.vector.layers, positions=str(iv.positions), operator=registry.describe(iv.operator))
            vector = dataclasses.replace(vector, use=use)
        else:
            vector = dataclasses.replace(vector, use=None)
        lm = self.on.of(vector).load(self.common.json)
        check_stack(lm, Intervention(vector))
        vector = dosed(lm, vector, None, data, self.common.json)
        path = vector.save(to)
        assert vector.use is not None
        show({"path": str(path), "use": vector.use.to_json()}, self.common.json, [*usage(vector), str(path)])
