"""The study of reliability where there is nothing to find: how many data sets are said to steer.

Ten data sets a study, each of A/B questions about a disposition of the test bed whose sides were drawn by coin; five
studies. `python simulations/null_study.py` writes the table of docs/statistics.md (about twenty minutes on two
cores).
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from null_runs import pairs, write
from page_tables import put

from trimtab.data.pairs import to_choices
from trimtab.model import LM
from trimtab.statistics.intervals import wilson
from trimtab.statistics.verdict import Kind
from trimtab.studies import study
from trimtab.studies.pages.reliability_results import load
from trimtab.studies.reliability import Plan

SETS = 10


def plan(seed: int, folder: Path) -> Plan:
    """A study of ten data sets, as recipes/reliability.toml reads and steers."""
    files: list[str] = []
    for k in range(SETS):
        files.append(str(folder / f"null-{k}.jsonl"))
        write(to_choices(pairs(SETS * seed + k, coin=True)), Path(files[-1]))
    return Plan(
        tuple(files),
        contexts=("base",),
        beyond=("swapped",),
        system="",
        read="role",
        positions="everywhere",
        val=12,
        test=44,
        train=32,
        folds=0,
        seed=seed,
    )


def verdicts(studies: int) -> Counter[Kind]:
    """Verdicts of all data sets of as many studies."""
    lm, found = LM.load("brindlemoor-chat"), Counter[Kind]()
    for seed in range(studies):
        with tempfile.TemporaryDirectory() as folder:
            whole = load(study("reliability", lm, Path(folder) / "run", plan(seed, Path(folder))))
        found += Counter(whole.verdict(s) for s in whole.sets)
        print(f"{seed + 1} of {studies} studies: {dict(found)}", file=sys.stderr, flush=True)
    return found


def rows(studies: int) -> Iterator[list[str]]:
    """The table: how often each verdict is given."""
    kinds = [
        k for k in get_args(Kind) if k not in ("no verdict", "breaks the text", "does no more than asking in words")
    ]
    yield ["data sets", *kinds, "any claim (95 % interval)"]
    found = verdicts(studies)
    n, claims = sum(found.values()), found["works"] + found["works backwards"]
    lo, hi = wilson(claims, n)
    yield [f"{n}, sides drawn by coin", *(str(found[k]) for k in kinds), f"{claims / n:.2f} ({lo:.2f} to {hi:.2f})"]


if __name__ == "__main__":
    table = list(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
    print("\n".join(" | ".join(r) for r in table))
    put("study", table)
