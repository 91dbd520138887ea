"""Gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimtab import registry
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector


def draw(seed: int, *shape: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["gate"])
def test_gates_are_remade_from_their_description(kind: str) -> None:
    for cls in registry.leaves(kind).values():
        gate: Any = cls()
        iv = Intervention(SteeringVector({0: draw(0, 8)}), gate=gate, positions="last_k(2) | generated")
        assert Intervention.from_json(iv.to_json()).describe() == iv.describe()
