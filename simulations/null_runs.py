"""Whole runs where there is nothing to find: how often a report claims an effect.

`trimtab run` on the chat model of the test bed, a hundred times each: on free-form pairs and on A/B questions whose
sides were drawn by coin, and on real pairs with a random direction in place of what a learner finds; and on real
pairs as they are, to compare with. `python simulations/null_runs.py` writes the table of docs/statistics.md (about
half an hour on two cores); `python simulations/null_runs.py 10` tries ten of each.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from page_tables import put

from trimtab import organisms
from trimtab.data.pairs import Pair, to_choices
from trimtab.flow import run
from trimtab.model import LM
from trimtab.recipe import Recipe
from trimtab.statistics.intervals import wilson
from trimtab.statistics.verdict import Kind

MODEL, PAIRS = "brindlemoor-chat", 88
CASES = (
    "free-form pairs, sides drawn by coin",
    "A/B questions, sides drawn by coin",
    "real pairs, a random direction at the best of all layers",
    "real pairs, a random direction at layer 3",
    "real pairs, mean difference (to compare with)",
)
CLAIMS = ("works", "works backwards", "breaks the text", "does no more than asking in words")


def pairs(seed: int, coin: bool) -> list[Pair]:
    """Pairs about one disposition of the town, perhaps with their sides drawn by coin."""
    rng = random.Random(seed)
    data = organisms.dataset(organisms.TRAITS[seed % len(organisms.TRAITS)], form="answers", n=PAIRS, seed=seed)
    swap = [coin and rng.random() < 0.5 for _ in data]
    return [
        Pair(p.prompt, p.negative, p.positive) if s else Pair(p.prompt, p.positive, p.negative)
        for p, s in zip(data, swap, strict=True)
    ]


def write(some: Iterable[Pair], file: Path) -> None:
    """Pairs as a file that data sets are loaded from."""
    rows = [{"prompt": p.prompt, "positive": p.positive, "negative": p.negative, **p.meta} for p in some]
    file.write_text("\n".join(json.dumps(r) for r in rows))


def recipe(case: str, seed: int, folder: Path) -> Recipe:
    """The plan of recipes/first-light.toml, at the size of the test bed."""
    some: list[Pair] = pairs(seed, coin="coin" in case)
    some = list(to_choices(some)) if case.startswith("A/B") else some
    file = folder / f"{seed}.jsonl"
    write(some, file)
    method: dict[str, Any] = (
        {"name": "random-direction", "seed": seed} if "random direction" in case else {"name": "mean-diff"}
    )
    return Recipe(
        dose=False,
        data=str(file),
        model=MODEL,
        layer=3 if "layer 3" in case else None,
        form="choices" if case.startswith("A/B") else "answers",
        method=method,
        multipliers=(-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0),
        metrics=("propensity", "likelihood", "kl"),
        controls=2,
        samples=4,
        max_new_tokens=16,
        seed=seed,
    )


def verdicts(case: str, times: int) -> Counter[str]:
    """Verdicts of as many runs, each in a folder of its own; the model is loaded once, and nothing is drawn."""
    found: Counter[str] = Counter()
    plain = mock.patch("trimtab.reports.draw", return_value={})
    with mock.patch.object(LM, "load", cache(LM.load)), plain, tempfile.TemporaryDirectory() as folder:
        for seed in range(times):
            done = run(recipe(case, seed, Path(folder)), Path(folder) / f"run-{seed}")
            found[done.read("summary.json")["kind"]] += 1
            print(f"{case}: {seed + 1} of {times}: {dict(found)}", file=sys.stderr, flush=True)
    return found


def rows(runs: int) -> Iterator[list[str]]:
    """The table: how often each verdict is given."""
    kinds: tuple[str, ...] = get_args(Kind)
    yield ["data and vector", "runs", *kinds, "any claim (95 % interval)"]
    for case in CASES:
        times = runs if "compare" not in case else max(3, runs // 2)
        found = verdicts(case, times)
        claims = sum(found[k] for k in CLAIMS)
        lo, hi = wilson(claims, times)
        yield [case, str(times), *(str(found[k]) for k in kinds), f"{claims / times:.2f} ({lo:.2f} to {hi:.2f})"]


if __name__ == "__main__":
    table = list(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
    print("\n".join(" | ".join(r) for r in table))
    put("runs", table)
