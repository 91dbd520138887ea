"""Lines of the notation that come straight to vLLM (`vllm_xargs={"steer": "0.6 pirate"}`), resolved in its front."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from trimtab.errors import ServeError, SteerError
from trimtab.serving.vllm_terms import Term, terms_of
from trimtab.steering.interventions import Intervention
from trimtab.steering.notation import Notation, beyond_range
from trimtab.steering.vector import SteeringVector


def resolved(line: str, settings: Mapping[str, Any]) -> list[Term]:
    """The terms of a line, over the vectors of the folder that the engine was started with.

    Raises:
        SteerError, UnknownName: a line that cannot be read, a vector that is not there, a dose outside its range.
    """
    vectors = shelf(str(settings.get("vectors", "")))
    notation = Notation.parse(line)
    ivs = notation.stack(vectors)
    doses = [(t.name, iv.multiplier) for t, iv in zip(notation.terms, ivs, strict=True)]
    outside = beyond_range(doses, vectors)
    if outside and not settings.get("force"):
        raise SteerError("a dose outside the range measured", given=outside)
    return terms_of([iv.describe() for iv in ivs])


def recommended(folder: str) -> dict[str, SteeringVector]:
    """The vectors of a folder at the layers their files recommend: what the tables hold."""
    return {name: Intervention.recommended(v).vector for name, v in shelf(folder).items()}


@lru_cache(maxsize=4)
def named(folder: str) -> dict[str, str]:
    """The name of each vector of a folder, by the hash of what is in the tables."""
    return {v.hash: name for name, v in recommended(folder).items()}


@lru_cache(maxsize=4)
def shelf(folder: str) -> dict[str, SteeringVector]:
    """The vectors of a folder, by the names of their files.

    Raises:
        ServeError: no folder was named.
    """
    if not folder:
        raise ServeError("this engine was started without a folder of vectors")
    return {file.stem: SteeringVector.load(file) for file in sorted(Path(folder).glob("*.safetensors"))}
