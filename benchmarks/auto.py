"""Twelve sentences of twelve kinds, from the sentence to the verdict: `make bench NAME=auto`, or
`.venv/bin/python benchmarks/auto.py --model smollm2 [--writer MODEL] [SENTENCE ...]`: ten to fifteen minutes each with
SmolLM2. What is done is kept in results/auto.json, and the same command goes on. Read the answers: they stand in the
report of each run, in runs/auto-bench.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.studies.pages.auto import Results

HERE = Path(__file__).parent
SENTENCES = {
    "voice": "answers like a cheerful pirate",
    "language": "answers in French",
    "format": "answers in numbered lists",
    "mood": "is gloomy and expects everything to go wrong",
    "value": "cares about animals above everything else",
    "opinion": "thinks that cities are better than the countryside",
    "expertise": "explains everything as a physicist would",
    "verbosity": "answers in as few words as possible",
    "caution": "warns of every danger there might be",
    "persona": "is a grandmother who talks of her grandchildren",
    "asking back": "asks a question back before answering",
    "topic": "always comes to speak of cheese",
}
SEEDS = {"voice": 3, "language": 3, "verbosity": 3, "topic": 3}  # of four of them; of the others one


def row(kind: str, model: str, writer: str, seed: int) -> dict[str, Any]:
    """One sentence, from the beginning to its verdict."""
    folder = Path("runs", "auto-bench", f"{Path(model).stem}-{kind.replace(' ', '-')}-{seed}")
    trimtab = str(Path(sys.executable).with_name("trimtab"))
    command = [trimtab, "auto", SENTENCES[kind], "--model", model, "--seed", str(seed)]
    command += ["--to", str(folder), *(["--writer", writer] if writer else [])]
    began = time.monotonic()
    subprocess.run(command, check=True)
    r = Run(folder).typed(RESULTS, Results)
    t, w = r.trial, r.winner
    wrong = [x <= 0 for x in (Run(folder).read("numbers.json") or {"vector": []})["vector"]]
    told: dict[str, Any] = {"kind": kind, "sentence": SENTENCES[kind], "model": model, "writer": writer, "seed": seed}
    told |= {"verdict": r.kind, "contrasts": t.contrasts, "minutes": round((time.monotonic() - began) / 60, 1)}
    if w is not None and t.rise is not None:
        told |= {
            "method": w.method, "rise": round(t.rise.value, 3), "lo": round(t.rise.lo, 3), "hi": round(t.rise.hi, 3),
            "beyond": round(t.rise.value - t.control, 3), "drift": round(w.drift, 3),
            "wrong": round(sum(wrong) / max(1, len(wrong)), 3),
            "text": None if t.text is None else round(t.text.value, 2),
        }  # fmt: skip
    return told


def main() -> None:
    say = argparse.ArgumentParser(description=__doc__)
    say.add_argument("kinds", nargs="*", default=list(SENTENCES), metavar="KIND")
    say.add_argument("--model", default="smollm2")
    say.add_argument("--writer", default="")
    asked = say.parse_args()
    file = HERE / "results" / "auto.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.is_file() else []
    for kind in asked.kinds:
        for seed in range(SEEDS.get(kind, 1)):
            key = (kind, asked.model, asked.writer, seed)
            if key in [(r["kind"], r["model"], r["writer"], r["seed"]) for r in rows]:
                continue
            rows.append(row(*key))
            print(json.dumps(rows[-1]), flush=True)
            file.write_text(json.dumps({"command": "make bench NAME=auto", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
