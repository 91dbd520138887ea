"""From pairs whose sides were drawn by coin to a verdict: how often `trimtab auto` says "ship it" with nothing there.

The whole study on the chat model of the test bed: the race of its methods, the dose, the test beside controls.
`python simulations/null_auto.py` does 200 runs (about 17 seconds each on two cores) and writes what they said into
simulations/null_auto.json as it goes; the same command goes on.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from null_runs import MODEL, pairs, write

from trimtab import organisms, studies
from trimtab.model import LM
from trimtab.stages import RESULTS
from trimtab.statistics.intervals import wilson
from trimtab.studies.auto import Plan
from trimtab.studies.pages.auto import Results

RUNS = 200
FILE = Path(__file__).with_suffix(".json")


def verdict(lm: LM, seed: int) -> str:
    """What one run says."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pairs.jsonl")
        write(pairs(seed, coin=True), file)
        trait = organisms.TRAITS[seed % len(organisms.TRAITS)]
        plan = Plan(f"answers like somebody who is {trait}", data=str(file), max_new_tokens=24, seed=seed)
        return studies.study("auto", lm, Path(folder, "run"), plan).typed(RESULTS, Results).kind


def main(runs: int) -> None:
    lm = LM.load(MODEL)
    done: dict[str, str] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    for seed in range(runs):
        if str(seed) not in done:
            done[str(seed)] = verdict(lm, seed)
            FILE.write_text(json.dumps(done, indent=1) + "\n")
            print(seed, done[str(seed)], flush=True)
    told = Counter(done.values())
    lo, hi = wilson(told["ship it"], len(done))
    print(f"ship it: {told['ship it']} of {len(done)} ({lo:.1%} to {hi:.1%})")
    print(dict(told))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else RUNS)
