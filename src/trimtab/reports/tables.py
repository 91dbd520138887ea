"""summary.json and the CSV tables of a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trimtab.reports.analysis import Analysis
from trimtab.runs import Run
from trimtab.statistics.slopes import anti_steerable, confidence, unsteered


def summary(a: Analysis) -> dict[str, Any]:
    """Headline figures for machines: a list of {name, value, lo, hi, n, unit, control}; what was not measured is
    null.
    """
    figures = [_finite_fields(asdict(f)) for f in a.figures]
    return {
        "name": a.name,
        "kind": a.kind,
        "verdict": a.verdict,
        "reasons": list(a.reasons),
        "next": a.next,
        "figures": figures,
        "layer": a.manifest.get("layer"),
    }


def write_tables(run: Run, a: Analysis) -> None:
    """tables/slopes.csv (items), tables/curves.csv (multipliers) and tables/layers.csv (sweep)."""
    _csv(
        run,
        "slopes",
        ("condition", "item", "slope", "se", "r2", "unsteered", "anti_steerable", "confidence"),
        _slopes(a),
    )
    curves = [
        (c.condition, m, y, lo, hi)
        for c in a.curves.values()
        for m, y, lo, hi in zip(c.multipliers, c.mean, c.lo, c.hi, strict=True)
    ]
    effects = [
        (e.metric, e.condition, m, y, lo, hi)
        for e in a.effects
        for m, y, lo, hi in zip(e.multipliers, e.mean, e.lo, e.hi, strict=True)
    ]
    _csv(
        run,
        "curves",
        ("metric", "condition", "multiplier", "mean", "lo", "hi"),
        [*(("propensity", *c) for c in curves), *effects],
    )
    if a.layers:
        _csv(run, "layers", ("layer", "steerability", "lo", "hi"), [(p.layer, p.slope, p.lo, p.hi) for p in a.layers])


def _slopes(a: Analysis) -> Iterable[tuple[Any, ...]]:
    for c in a.curves.values():
        zero = unsteered(c.multipliers)
        anti, sure = anti_steerable(c.slopes.slope), confidence(c.slopes)
        for k, item in enumerate(c.items):
            yield (
                c.condition,
                item,
                c.slopes.slope[k],
                c.slopes.se[k],
                c.slopes.r2[k],
                c.values[k, zero],
                bool(anti[k] == 1),
                sure[k],
            )


def _csv(run: Run, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(_rounded(r) for r in rows)
    run.write(f"tables/{name}.csv", text.getvalue())


def _rounded(row: Sequence[Any]) -> list[Any]:
    """A row with its floats as text of six digits."""
    return [f"{v:.6g}" if isinstance(v, float) else v for v in row]


def _finite_fields(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A figure whose numbers that are not finite are null."""
    return {k: _finite(v) for k, v in figure.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
