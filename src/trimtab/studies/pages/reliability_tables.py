"""Tables of the study of reliability, and what a forecast would have chosen."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.statistics.generalization import correlation
from trimtab.statistics.intervals import spearman
from trimtab.statistics.slopes import at_cost, unsteered
from trimtab.studies.pages.reliability_facts import COST, VECTOR
from trimtab.studies.pages.reliability_results import SetResult, Study, mean_slope


def published() -> dict[str, dict[str, str]]:
    """By data set, the figures of the publication, read off the plots of its repository."""
    lines = (files("trimtab") / "data" / "behaviors" / "published.csv").read_text("utf-8").splitlines()
    return {row["name"]: row for row in csv.DictReader(lines)}


@dataclass(frozen=True)
class LayerForecast:
    """How well one layer's slopes were foreseen: rank correlation over items (mean over data sets), and over data
    sets.
    """

    layer: int
    items: float
    sets: float


def foreseen_by_layer(study: Study) -> list[LayerForecast]:
    """Forecast on validation questions against the sweep there."""
    out: list[LayerForecast] = []
    for layer in sorted(next(iter(study.sweeps.values()), {})):
        plain = {s.name: study.plain[s.name][layer] for s in study.sets}
        expected = {s.name: s.forecast_slopes("val")[layer] for s in study.sets}
        items = [correlation("", expected[n].tolist(), plain[n].tolist()).value for n in plain]
        over = (
            spearman(
                np.array([mean_slope(expected[n]) for n in plain]), np.array([mean_slope(plain[n]) for n in plain])
            )
            if len(plain) > 2
            else float("nan")
        )
        out.append(LayerForecast(layer, float(np.nanmean(items)) if np.isfinite(items).any() else math.nan, over))
    return out


def regret(study: Study) -> dict[str, float]:
    """What is lost by taking the layer the forecast likes best, in mean validation slope, as a share of the best
    layer's; mean over data sets.
    """
    lost: list[float] = []
    for s in study.sets:
        swept = {k: mean_slope(v) for k, v in study.plain.get(s.name, {}).items()}
        expected = {k: float(v.mean()) for k, v in s.forecast_slopes("val").items() if k in swept}
        if swept and max(swept.values()) > 0:
            lost.append(1 - swept[max(expected, key=lambda k: expected[k])] / max(swept.values()))
    return {
        "mean": float(np.mean(lost)) if lost else float("nan"),
        "worst": float(np.max(lost)) if lost else float("nan"),
        "sets": len(lost),
    }


def item_rows(study: Study) -> Iterator[dict[str, Any]]:
    """One row per item, context, layer, vector and multiplier."""
    for s in study.sets:
        for (vector, context), c in s.curves.items():
            for i, item in enumerate(s.facts.test.ids[context]):
                for k, m in enumerate(c.multipliers):
                    yield {
                        "data": s.name,
                        "part": "test",
                        "item": item,
                        "group": s.facts.test.groups[i],
                        "letter": s.facts.test.letters[i],
                        "polarity": s.facts.test.polarities[i],
                        "context": context,
                        "layer": study.layer,
                        "vector": vector.label,
                        "multiplier": float(m),
                        "propensity": float(c.values[i, k]),
                        "unit": s.unit,
                    }


def set_rows(study: Study) -> list[dict[str, Any]]:
    """One row per data set: the ranking table."""
    return [_set_row(study, s) for s in study.ranked()]


def _set_row(study: Study, s: SetResult) -> dict[str, Any]:
    """The row of one data set."""
    return {
        "data": s.name,
        "n": s.mean.n,
        "unit": s.unit,
        "mean": s.mean.value,
        "mean_lo": s.mean.lo,
        "mean_hi": s.mean.hi,
        "median": s.median.value,
        "median_lo": s.median.lo,
        "median_hi": s.median.hi,
        "sd": s.spread,
        "anti": s.anti.value,
        "anti_lo": s.anti.lo,
        "anti_hi": s.anti.hi,
        "anti_normal": s.normal,
        **{f"confident_{k.replace('-', '_')}": v for k, v in s.classes.items()},
        "p": s.p,
        "q": study.q[s.name],
        "p_random": s.compared.beside("random"),
        "p_span": s.compared.beside("span"),
        "verdict": study.verdict(s),
        "two_level_lo": s.widened[0],
        "two_level_hi": s.widened[1],
        "cross_fitted": mean_slope(s.fold_slopes) if len(s.fold_slopes) else float("nan"),
        **{f"variance_{k}": v for k, v in s.shares.items()},
        "variance": s.total_variance,
        "gain_at_kl": _gain(s, 1),
        "loss_at_kl": _gain(s, -1),
        "position": float("nan") if s.position is None else float(s.position.mean()),
        "kl_at_1": _at(s, s.kl, 1.0),
        "forecast": float(s.forecast_slopes("test")[study.layer].mean()),
        "coherence": s.forecast.card.coherence.cosine,
        "yes_gap": s.forecast.card.confounds.yes_gap,
        "warnings": "; ".join(s.warnings),
    }


def _gain(s: SetResult, sign: int) -> float:
    """Change of mean propensity where the vector costs `COST` nats of KL, going up or down, read between the
    multipliers of the grid; NaN beyond it.
    """
    c = s.curves[VECTOR, s.first]
    mean = np.nanmean(c.values, 0) - np.nanmean(c.values, 0)[unsteered(c.multipliers)]
    return at_cost(c.multipliers, np.asarray(s.kl), mean, COST, sign)[1]


def _at(s: SetResult, values: Any, multiplier: float) -> float:
    grid = s.curves[VECTOR, s.first].multipliers
    return (
        float(values[int(np.flatnonzero(grid == multiplier)[0])])
        if values is not None and multiplier in grid
        else float("nan")
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]) -> Path:
    """Rows as CSV, with the columns of all of them."""
    records = list(rows)
    columns = list(dict.fromkeys(k for r in records for k in r))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(records)
    return path


def summary(study: Study) -> dict[str, Any]:
    """The study as JSON."""
    relative = [{"data": s.name, **asdict(r)} for s in study.sets for r in s.relative]
    content = {
        "model": study.results.model,
        "plan": study.results.plan,
        "layer": study.layer,
        "reliability": study.reliability,
        "ceiling": study.ceiling,
        "sets": set_rows(study),
        "correlations": {k: asdict(f) for k, f in study.figures.items()},
        "relative": relative,
        "fits": {s.name: asdict(s.fit) for s in study.sets if s.fit},
        "regret": regret(study),
        "foreseen": [asdict(f) for f in foreseen_by_layer(study)],
    }
    return json.loads(json.dumps(content, default=str))
