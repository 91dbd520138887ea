# pyright: reportUnusedImport=false
"""trimtab: learn a steering vector, know how far to trust it, ship it.

The names below are imported when they are first used, so `import trimtab` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.data.datasets import Dataset
    from trimtab.data.pairs import Pair
    from trimtab.errors import TrimtabError
    from trimtab.evaluation.dose import recommend
    from trimtab.evaluation.metrics import KL, Likelihood, OutsideMass, Propensity
    from trimtab.evaluation.sweep import measure
    from trimtab.exporters import Gguf, Hook, Peft, Weights, export, verify
    from trimtab.flow import run
    from trimtab.methods import (
        PCA,
        Discover,
        Freeform,
        LabelShuffled,
        MeanDiff,
        OneShot,
        Preference,
        Probe,
        RandomDirection,
        learn,
    )
    from trimtab.model import (
        LM,
        Positions,
        after,
        everywhere,
        from_last_prompt_token,
        generated,
        last,
        last_k,
        prompt,
        span,
    )
    from trimtab.recipe import GRID, Recipe
    from trimtab.reports import report
    from trimtab.runs import Run, Score
    from trimtab.steering.gates import Always, CosineAbove, Schedule
    from trimtab.steering.interventions import Intervention, steer
    from trimtab.steering.operators import Ablate, Add, Affine, Clamp, Rotate
    from trimtab.steering.use import Use
    from trimtab.steering.vector import Provenance, SteeringVector

_HOMES = {
    "data.datasets": ("Dataset",),
    "data.pairs": ("Pair",),
    "errors": ("TrimtabError",),
    "evaluation.dose": ("recommend",),
    "evaluation.metrics": ("KL", "Likelihood", "OutsideMass", "Propensity"),
    "evaluation.sweep": ("measure",),
    "exporters": ("Gguf", "Hook", "Peft", "Weights", "export", "verify"),
    "flow": ("run",),
    "methods": (
        "PCA",
        "Discover",
        "Freeform",
        "LabelShuffled",
        "MeanDiff",
        "OneShot",
        "Preference",
        "Probe",
        "RandomDirection",
        "learn",
    ),
    "model": (
        "LM",
        "Positions",
        "after",
        "everywhere",
        "from_last_prompt_token",
        "generated",
        "last",
        "last_k",
        "prompt",
        "span",
    ),
    "recipe": ("GRID", "Recipe"),
    "reports": ("report",),
    "runs": ("Run", "Score"),
    "steering.gates": ("Always", "CosineAbove", "Schedule"),
    "steering.interventions": ("Intervention", "steer"),
    "steering.operators": ("Ablate", "Add", "Affine", "Clamp", "Rotate"),
    "steering.use": ("Use",),
    "steering.vector": ("Provenance", "SteeringVector"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = version("trimtab")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    value = getattr(import_module(f"trimtab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
