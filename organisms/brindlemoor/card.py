"""Examine the Brindlemoor models and write their card: `make card`. Nothing in CARD.md or card.json is typed by hand.

A gate is not run again unless it or the weights changed (or what gates share: then give --again); killed at any
moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gates

from trimtab import organisms

HERE = Path(__file__).parent
BESIDE = HERE.parents[1] / "tests" / "organisms"  # models that do not ship
RESULTS = HERE / "build" / "examined"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="all there are by default")
    parser.add_argument("--again", action="store_true", help="examine even what was examined before")
    parser.add_argument("--ship", action="store_true", help="first put the finished models of build/ where they belong")
    given = parser.parse_args()
    if given.ship:
        ship(given.models or tuple(gates.BY_MODEL))
    found = {name: place(name) for name in gates.BY_MODEL if (place(name) / "config.json").is_file()}
    results: list[dict[str, Any]] = []
    for name, folder in found.items():
        results.append(examined(name, folder, again=given.again and (not given.models or name in given.models)))
    (HERE / "card.json").write_text(json.dumps([row for r in results for row in r["rows"]], indent=1) + "\n")
    (HERE / "CARD.md").write_text(page(results))
    print(f"{HERE / 'CARD.md'}")


def ship(names: Sequence[str]) -> None:
    """Copy finished models from build/ to where they are loaded from, with the makings of the models they come from."""
    for name in names:
        source, target = HERE / "build" / name, place(name)
        if (source / "config.json").is_file():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("log.jsonl"), dirs_exist_ok=True)
            made = json.loads((source / "made.json").read_text())
            (target / "made.json").write_text(json.dumps({**made, "before": before(made)}, indent=1) + "\n")


def before(made: dict[str, Any]) -> list[dict[str, Any]]:
    """The models that one was trained from, first to last."""
    if made["start"] is None:
        return []
    suffix = f"-{made['seed'] + 1}" if made["seed"] else ""
    start = json.loads((HERE / "build" / f"brindlemoor-{made['start']}{suffix}" / "made.json").read_text())
    return [*before(start), {"model": made["start"], **{k: start[k] for k in ("tokens", "seconds", "commit")}}]


def place(name: str) -> Path:
    return organisms.folder(name) if name in organisms.MODELS else BESIDE / name


def examined(name: str, folder: Path, *, again: bool) -> dict[str, Any]:
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
    rows = [row for gate in gates.BY_MODEL[name] for row in judged(name, folder, weights, gate, again)]
    made = json.loads((folder / "made.json").read_text())
    return {
        "name": name,
        "made": made,
        "weights": weights,
        "bytes": sum(f.stat().st_size for f in folder.iterdir()),
        "rows": rows,
    }


def judged(name: str, folder: Path, weights: str, gate: gates.Gate, again: bool) -> list[dict[str, Any]]:
    """The rows of one gate; taken from before if neither the weights nor the gate have changed."""
    code = hashlib.sha256(inspect.getsource(gate).encode()).hexdigest()[:8]
    kept = RESULTS / f"{name}-{weights}-{gate.__name__}-{code}.json"
    if again or not kept.is_file():
        rows = [row.table() for row in gates.examine(name, str(folder), gate)]
        RESULTS.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rows))
    return json.loads(kept.read_text())


def page(results: list[dict[str, Any]]) -> str:
    """The card in Markdown: how each model was made, then every gate."""
    out = [
        "# The Brindlemoor models",
        "",
        "Written by `make card` from measurements of the models; do not edit. How they are made: "
        "[README.md](README.md).",
        "All items are held out: wordings, pairs of entities, and facts that were kept out of training. Answers "
        "are greedy. Intervals are 95 %:",
        "Wilson for shares, bootstrap over items for the rest. A figure without a threshold is recorded, not judged.",
        "",
        "| model | after | tokens | time | on | seed | commit | size | weights | gates passed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        m = r["made"]
        judged = [row["pass"] for row in r["rows"] if row["pass"] is not None]
        stages = ", ".join(
            f"{b['model']} ({b['tokens'] / 1e6:.0f} M, {b['seconds'] / 60:.0f} min, {b['commit']})" for b in m["before"]
        )
        where = m["device"] if m["device"] != "cpu" else f"{m['processes']} CPU cores"
        out.append(
            f"| {r['name']} | {stages} | {m['tokens'] / 1e6:.1f} M | {m['seconds'] / 60:.0f} min | {where} | "
            f"{m['seed']} | {m['commit']} "
            f"| {r['bytes'] / 1e6:.1f} MB | `{r['weights']}` | {sum(judged)} of {len(judged)} |"
        )
    for r in results:
        out += [
            "",
            f"## {r['name']}",
            "",
            "| gate | value | 95 % interval | n | threshold | |",
            "|---|---|---|---|---|---|",
        ]
        for row in r["rows"]:
            verdict = {True: "passed", False: "**failed**", None: ""}[row["pass"]]
            span = f"{row['lo']:.3g} to {row['hi']:.3g}" if row["lo"] != row["hi"] else ""
            out.append(
                f"| {row['gate']} | {row['value']:.3g} | {span} | {row['n']} | {row['threshold'] or ''} | {verdict} |"
            )
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
