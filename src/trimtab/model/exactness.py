"""Exactness: which shortcuts give a model's own numbers, decided in one place and asked by every pass; remembered per
configuration and versions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from trimtab.model.gguf import cache_folder

log = logging.getLogger("trimtab")


@dataclass(frozen=True)
class Switch:
    """A length from which on a model computes its positions in another way.

    Attributes:
        length: the longest row on the near side, in tokens.
        graded: every length beyond is computed in a way of its own (dynamic NTK); else all of them alike (longrope).
    """

    length: int
    graded: bool

    def side(self, n: int) -> int:
        """Two lengths are computed alike if this is equal: of Switch(16, graded=True) 9 and 16 tokens are both at 0, 17
        at 17, 18 at 18.
        """
        return 0 if n <= self.length else n if self.graded else 1


@dataclass(frozen=True)
class Exactness:
    """What is exact for a model: equal to full passes over single, unpadded rows, up to rounding.

    Attributes:
        replayable: a pass may go on from a cache, and the blocks above a layer be run alone; if not, full passes are
            used.
        steppable: a token at a time may be added to a cache, as in generation.
        batchable: a prompt may be padded on the left; if not, only rows whose prompts are equally long share a batch.
        foldable: conditions of a replay, and completions of a prompt, may stand side by side in one row: several
            times faster, where attention allows it.
        openable: prompts that begin alike may share the pass over their beginning.
        cache_differentiable: gradients pass through a cached pass; if not, they are taken through full passes.
        switches: lengths at which positions change.
        worst: the largest relative error of each kind that was found where it was decided.
        tried_on: what it was decided on.
        noise: relative difference that the dtype of the model in hand makes between a row alone and the same row
            beside others: told, and excuses nothing.
    """

    replayable: bool = True
    batchable: bool = True
    steppable: bool = True
    foldable: bool = False
    openable: bool = False
    cache_differentiable: bool = True
    switches: tuple[Switch, ...] = ()
    worst: tuple[tuple[str, float], ...] = ()
    tried_on: str = "nothing"
    noise: float = 0.0

    def sides(self, n: int) -> tuple[int, ...]:
        """On which side of every switch a row of n tokens is."""
        return tuple(switch.side(n) for switch in self.switches)

    def resumes(self, cached: Iterable[int], whole: Iterable[int]) -> bool:
        """Whether rows whose first `cached` tokens were run before may be gone on with, up to `whole` tokens."""
        return self.replayable and all(self.sides(a) == self.sides(b) for a, b in zip(cached, whole, strict=True))


def switches(model: Any) -> tuple[Switch, ...]:
    """Lengths at which the rotary embeddings of a model change, read off its modules."""
    changes: set[Switch] = set()
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for name, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if kind == "longrope":
                table = module.config.rope_parameters
                changes.add(
                    Switch(
                        int((table if name is None else table[name])["original_max_position_embeddings"]), graded=False
                    )
                )
            elif isinstance(kind, str) and "dynamic" in kind:
                changes.add(Switch(int(module.original_max_seq_len), graded=True))
    return tuple(sorted(changes, key=lambda s: (s.length, s.graded)))


def remembered(model: Any, examine: Callable[[], Exactness]) -> Exactness:
    """The outcome of `examine`, looked up where a model of this configuration was examined before with the same
    versions.
    """
    path = cache_folder() / "exactness" / f"{_key(model)}.json"
    try:
        table: dict[str, Any] = json.loads(path.read_text("utf-8"))
        table["switches"] = tuple(Switch(**s) for s in table["switches"])
        table["worst"] = tuple((k, v) for k, v in table["worst"])
        return Exactness(**table)
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there, or not whole: examined anew
    outcome = examine()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.part")
        aside.write_text(json.dumps(asdict(outcome)), "utf-8")
        aside.replace(path)
    except OSError as problem:
        log.info("the outcome of the check cannot be remembered: %s", problem)
    return outcome


def _key(model: Any) -> str:
    """Hash of all the outcome depends on: configuration, class, attention, dtype, device, versions, and the code that
    decides.
    """
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"):
        config.pop(name, None)
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    weight = model.get_input_embeddings().weight
    about = [
        config,
        kind,
        getattr(model.config, "_attn_implementation", ""),
        str(weight.dtype),
        weight.device.type,
        str(sorted(_devices(model))),
    ]
    versions = [version("trimtab"), torch.__version__, transformers.__version__, _code()]
    return hashlib.sha256(json.dumps([about, versions], sort_keys=True, default=str).encode()).hexdigest()[:24]


def _devices(model: Any) -> set[str]:
    return {str(p.device) for p in model.parameters()}


@cache
def _code() -> str:
    """Hash of this package's model layer: another engine decides anew."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
