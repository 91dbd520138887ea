"""Run folders as the page shows them: every item a point, every claim with what it stands on. Needs no model."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import RunError, TrimtabError, UnknownName
from trimtab.journal import plain
from trimtab.reports import Analysis, analyze
from trimtab.runs import Run
from trimtab.statistics.slopes import unsteered
from trimtab.studio.shelved import RUN

PART = "test"
ODD = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    StopIteration,
    RecursionError,
)  # of folders of another kind
MOST = 200  # run folders that are listed
LISTED, BEGINNING = 1000, 90  # items whose beginning is told, and its characters


def listed(runs: Path) -> list[dict[str, Any]]:
    """The run folders in a folder, newest first."""
    found = [about for file in runs.glob("*/run.json") if (about := _about(file.parent)) is not None]
    return sorted(found, key=lambda about: -about["when"])[:MOST]


def _about(folder: Path) -> dict[str, Any] | None:
    try:
        parts = Run(folder).manifest.get("parts", {})
        summary = Run(folder).read("summary.json") or {}
        verdict = summary.get("verdict") or next(iter(summary.get("findings") or ()), "")
        return {
            "name": folder.name,
            "items": PART in parts,
            "title": str(summary.get("name") or folder.name),
            "verdict": str(verdict),
            "report": (folder / "report.html").is_file(),
            "vector": (folder / RUN).is_file(),
            "stamp": _stamp(folder),
            "when": (folder / "run.json").stat().st_mtime,
        }
    except (TrimtabError, OSError, *ODD):
        return None


def _stamp(folder: Path) -> str:
    """Another one whenever something was scored."""
    files = [*folder.glob("scores/*.jsonl"), *folder.glob("summary.json"), *folder.glob("generations*.jsonl")]
    return "-".join(f"{f.stat().st_size:x}" for f in sorted(files))


class Evidence:
    """The run folders of a folder, each read again only when something was added to it."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._read: dict[str, tuple[str, Analysis]] = {}
        self._lock = threading.Lock()

    def folder(self, name: str) -> Path:
        """A run folder, by its name alone.

        Raises:
            UnknownName: none of that name.
        """
        names = [p.parent.name for p in self.runs.glob("*/run.json")] if self.runs.is_dir() else []
        if name not in names:
            raise UnknownName("run", name, names)
        return self.runs / name

    def report(self, name: str) -> str:
        """The report of a run folder, as HTML.

        Raises:
            RunError: none was written.
        """
        file = self.folder(name) / "report.html"
        if not file.is_file():
            raise RunError(f"{name} has no report yet", do="it is written when the run ends")
        return file.read_text("utf-8", errors="replace")

    def analysis(self, name: str) -> Analysis:
        """What the scores of a run say, as far as they are there."""
        folder = self.folder(name)
        stamp = _stamp(folder)
        with self._lock:
            there = self._read.get(name)
            if there is None or there[0] != stamp:
                there = self._read[name] = (stamp, _analyzed(folder))
            return there[1]

    def seen(self, name: str) -> dict[str, Any]:
        """A run, as the page draws it.

        Raises:
            RunError: nothing of it can be shown yet.
        """
        a = self.analysis(name)
        v = a.vector
        zero = unsteered(v.multipliers)
        return plain({
            "name": name, "title": a.name, "verdict": a.verdict, "next": a.next, "reasons": a.reasons, "unit": a.unit,
            "stamp": _stamp(self.folder(name)), "unfinished": v.unmeasured, "multipliers": v.multipliers.tolist(),
            "items": {"ids": v.items, "slope": _short(v.slopes.slope), "propensity": _short(v.values[:, zero])},
            "curves": [_curve(c.condition, c.multipliers, c.mean, c.lo, c.hi) for c in a.curves.values()],
            "asked": [{"name": k, "value": f.value} for k, f in a.asked.items()],
            "layers": a.layers, "layer": a.manifest.get("layer"), "texts": a.texts,
            "words": self._words(name, a), "figures": [f for f in a.figures if not math.isnan(f.value)], "use": a.use,
        })  # fmt: skip

    def _words(self, name: str, a: Analysis) -> dict[str, str]:
        """How the items that go wrong the most begin, by their ids."""
        texts = self._texts(name)
        worst = np.argsort(a.vector.slopes.slope, kind="stable")[:LISTED]
        ids = [a.vector.items[int(k)] for k in worst]
        return {id: " ".join(texts[id].get("prompt", "").split())[:BEGINNING] for id in ids if id in texts}

    def _texts(self, name: str) -> dict[str, dict[str, Any]]:
        """What the items say, by their ids."""
        there = Run(self.folder(name)).read(f"items/{PART}.json")
        rows = there.items() if isinstance(there, dict) else ()
        return {k: v for k, v in rows if isinstance(v, dict) and isinstance(v.get("prompt", ""), str)}

    def item(self, name: str, id: str) -> dict[str, Any]:
        """One item at every multiplier, under the vector and its controls, with what was said to it.

        Raises:
            UnknownName: no such item.
        """
        a = self.analysis(name)
        texts = self._texts(name)
        if id not in a.vector.items:
            raise UnknownName("item", id, a.vector.items[:9])
        values: dict[str, list[float | None]] = {}
        for condition, curve in a.curves.items():
            if id in curve.items:
                values[condition] = _short(curve.values[curve.items.index(id)])
        about = texts.get(id) or {}
        said = [g for g in a.generations if g.get("prompt") == about.get("prompt")]
        k = a.vector.items.index(id)
        return plain({
            "id": id, **about, "multipliers": a.vector.multipliers.tolist(), "values": values,
            "slope": float(a.vector.slopes.slope[k]), "unit": a.unit,
            "said": sorted(({"multiplier": g["multiplier"], "text": g["text"]} for g in said), key=_multiplier),
        })  # fmt: skip


def _analyzed(folder: Path) -> Analysis:
    """What the scores of a folder say.

    Raises:
        RunError: nothing that can be shown.
    """
    try:
        return analyze(Run(folder), PART)
    except ODD as problem:
        given = f"{type(problem).__name__}: {problem}"
        raise RunError(f"{folder.name} cannot be read as a run, or holds nothing yet", given=given) from problem


def _multiplier(said: Mapping[str, Any]) -> float:
    return float(said["multiplier"])


def _curve(
    name: str, multipliers: np.ndarray, mean: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> dict[str, str | list[float | None]]:
    return {"name": name, "m": _short(multipliers), "mean": _short(mean), "lo": _short(lo), "hi": _short(hi)}


def _short(values: np.ndarray | Sequence[float]) -> list[float | None]:
    """Numbers in five digits: what a picture needs."""
    return [float(f"{x:.5g}") if np.isfinite(x) else None for x in np.asarray(values, float).tolist()]
