"""The state of a descent on disk, so that a stopped one goes on: safetensors, written aside and moved."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from trimtab.errors import LossError
from trimtab.journal import numbers_back, plain, whole
from trimtab.model import LM
from trimtab.optimize.walk import Walk


@dataclass
class Kept:
    """Where the state goes, what it belongs to, and when it was last written."""

    path: Path
    of: str
    last: float = field(default_factory=time.monotonic)

    def due(self, seconds: float) -> bool:
        return time.monotonic() - self.last >= seconds

    def read(self) -> tuple[dict[str, torch.Tensor], Any] | None:
        """Tensors and plain facts, if the file is there.

        Raises:
            LossError: the file holds another state, or none.
        """
        if not self.path.is_file():
            return None
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                facts: dict[str, Any] = file.metadata() or {}
                if facts.get("of") != self.of:
                    raise LossError(
                        f"{self.path} holds the state of other problems", do="choose another file, or remove it"
                    )
                return {k: file.get_tensor(k) for k in file.keys()}, json.loads(facts["told"], object_hook=numbers_back)  # noqa: SIM118
        except safetensors.SafetensorError as fault:
            raise LossError(f"{self.path} is not the state of a descent", given=str(fault)) from fault

    def write(self, tensors: Mapping[str, torch.Tensor], told: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"of": self.of, "told": json.dumps(plain(told, "kept"))}
        with whole(self.path) as aside:
            aside.write_bytes(safetensors.torch.save({k: t.contiguous() for k, t in tensors.items()}, facts))
        self.last = time.monotonic()


def restore(walks: Sequence[Walk], lm: LM, to: str | Path) -> Kept:
    """Put walks where a saved descent left them, if there is one.

    Raises:
        LossError: the file holds the state of other problems, or of another model.
    """
    store = Kept(
        Path(to),
        json.dumps(
            [
                lm.facts,
                *[w.problem.describe() for w in walks],
                *(["vectors"] if any(w.remembers for w in walks) else []),
            ],
            sort_keys=True,
        ),
    )
    tensors, every = store.read() or ({}, [])
    for k, (walk, facts) in enumerate(zip(walks, every, strict=True) if tensors else ()):
        walk.v, walk.first, walk.second, walk.best = (
            tensors[f"{k}.{name}"] for name in ("v", "first", "second", "best")
        )
        walk.best_at, walk.reason = facts["best_at"], facts["reason"]
        walk.history.totals, walk.history.losses, walk.history.norms = facts["totals"], facts["losses"], facts["norms"]
        walk.history.raw = facts["raw"]
        walk.history.vectors = list(tensors.get(f"{k}.vectors", ()))
        walk.stopper = None if facts["stopper"] is None else walk.problem.descent.stop[facts["stopper"]]
    return store


def save(walks: Sequence[Walk], kept: Kept) -> None:
    """Write the state."""
    facts: list[dict[str, Any]] = []
    for w in walks:
        stopper = None if w.stopper is None else w.problem.descent.stop.index(w.stopper)
        history = {
            "totals": w.history.totals,
            "losses": w.history.losses,
            "norms": w.history.norms,
            "raw": w.history.raw,
        }
        facts.append({"best_at": w.best_at, "reason": w.reason, "stopper": stopper, **history})
    tensors = {
        f"{k}.{name}": getattr(w, name) for k, w in enumerate(walks) for name in ("v", "first", "second", "best")
    }
    tensors |= {f"{k}.vectors": torch.stack(w.history.vectors) for k, w in enumerate(walks) if w.history.vectors}
    kept.write(tensors, facts)
