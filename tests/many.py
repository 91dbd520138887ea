"""A run of many items, without a model: its scores as a measurement writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trimtab.runs import Cell, Run, Score, row

GRID = (-1.0, 0.0, 1.0)
ACTS = {"vector": "0" * 16, "layers": [19], "operator": {"name": "add"}, "multiplier": 1.0, "positions": "everywhere"}


def scored(folder: Path, n: int, words: str = "") -> None:
    """A run of n items, whose questions end in some words."""
    run, rng = Run.create(folder), np.random.default_rng(0)
    ids = [f"{k:016x}" for k in range(n)]
    acts = {**ACTS, "gate": {"name": "always"}}
    names = (("vector", "vector", 0.8), ("random-0", "random", 0.0))
    run.claim(
        "test",
        {
            "model": {"id": "smollm2", "dtype": "float32"},
            "data": {"name": "many", "form": "answers", "part": "test", "items": n, "hash": "0"},
            "multipliers": list(GRID),
            "layers": None,
            "conditions": [{"name": c, "role": r, "system": None, "intervention": acts} for c, r, _ in names],
            "metrics": [{"name": "propensity", "label": "propensity"}],
        },
    )
    rows: list[dict[str, Any]] = []
    for condition, _, mean in names:
        slope, base = rng.normal(mean, 0.7, n), rng.normal(0, 2, n)
        for m in GRID:
            cell = Cell("propensity", condition, None, m)
            rows += [row(cell, Score(i, float(b + m * s), "nats")) for i, b, s in zip(ids, base, slope, strict=True)]
    run.journal("test").append("test/0/None", rows)
    texts = {i: {"prompt": f"Question {k}? {words}", "positive": "yes", "negative": "no"} for k, i in enumerate(ids)}
    run.write("items/test.json", texts)
    run.note(model="smollm2", groups={i: i for i in ids})
