"""The state of a descent on disk, so that a stopped one goes on: safetensors, written aside and moved."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from trimtab.errors import LossError
from trimtab.model import LM

if TYPE_CHECKING:
    from trimtab.optimise.engine import Walk


@dataclass
class Kept:
    """Where the state goes, what it belongs to, and when it was last saved."""

    path: Path
    of: str
    last: float = field(default_factory=time.monotonic)

    def due(self, seconds: float) -> bool:
        return time.monotonic() - self.last >= seconds


def restore(walks: Sequence[Walk], lm: LM, to: str | Path) -> Kept:
    """Put walks where a saved descent left them, if there is one.

    Raises:
        LossError: the file holds the state of other problems, or of another model.
    """
    path = Path(to)
    kept = Kept(path, json.dumps([lm.id, lm.fingerprint, str(lm.dtype), *[w.problem.describe() for w in walks]], sort_keys=True))
    if not path.is_file():
        return kept
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts: dict[str, Any] = file.metadata() or {}
            if facts.get("of") != kept.of:
                raise LossError(f"{path} holds the state of other problems", do="choose another file, or remove it")
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as fault:
        raise LossError(f"{path} is not the state of a descent", given=str(fault)) from fault
    for k, (walk, told) in enumerate(zip(walks, json.loads(facts["walks"]), strict=True)):
        walk.v, walk.first, walk.second, walk.best = (tensors[f"{k}.{name}"] for name in ("v", "first", "second", "best"))
        walk.best_at, walk.reason = told["best_at"], told["reason"]
        walk.history.totals, walk.history.losses, walk.history.norms = told["totals"], told["losses"], told["norms"]
        walk.stopper = None if told["stopper"] is None else walk.problem.descent.stop[told["stopper"]]
    return kept


def save(walks: Sequence[Walk], kept: Kept) -> None:
    """Write the state."""
    tensors: dict[str, torch.Tensor] = {}
    told: list[dict[str, Any]] = []
    for k, w in enumerate(walks):
        tensors |= {f"{k}.{name}": getattr(w, name).contiguous() for name in ("v", "first", "second", "best")}
        stopper = None if w.stopper is None else w.problem.descent.stop.index(w.stopper)
        told.append(
            {
                "best_at": w.best_at,
                "reason": w.reason,
                "stopper": stopper,
                "totals": w.history.totals,
                "losses": w.history.losses,
                "norms": w.history.norms,
            }
        )
    aside = kept.path.with_name(kept.path.name + ".part")
    aside.write_bytes(safetensors.torch.save(tensors, {"of": kept.of, "walks": json.dumps(told)}))
    aside.replace(kept.path)
    kept.last = time.monotonic()
