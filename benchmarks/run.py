"""Side-by-side timings on the local default model: `make bench NAME=replay`, or all of them.

On a GPU: `make bench NAME=preference DEVICE=cuda`. Every side is a process of its own, loaded once; the sides then
take turns, one repeat each, so that a slow spell of the machine meets all of them. Peers are installed from the
package registry into environments of their own. Sides must agree: a difference in their numbers fails the run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ALONE = ("auto", "driver", "plan", "studio")  # files of their own, which have no sides
RESULTS = HERE / "results"
DEVICE = os.environ.get("TRIMTAB_DEVICE", "cpu")
PEERS = {"steering-vectors": "steering-vectors==0.12.2", "repeng": "repeng==0.4.0"}


@dataclass(frozen=True)
class Side:
    """One way of doing a case. `items` is how many items one repeat does: times are compared per item."""

    name: str
    script: str
    peer: str | None = None
    items: int = 1
    file: str = "ours"
    python: str = ""  # an environment of the project's own, if not the usual one


@dataclass(frozen=True)
class Case:
    """What is timed, by whom, what ours must reach against each other side, and how far the numbers may differ."""

    name: str
    sides: tuple[Side, ...]
    targets: Mapping[str, float]
    tolerance: float
    repeats: int = int(os.environ.get("TRIMTAB_REPEATS", "5"))


@dataclass(frozen=True)
class Row:
    case: str
    side: str
    median_s: float
    spread_s: float
    peak_mb: float
    ratio: float
    repeats: int
    target: float | None


REPLAY = Case(
    "propensity sweep, 30 layers x 7 multipliers",
    (
        Side("trimtab replay", "replay", items=8),
        Side("hooked loop, batched", "hooked", items=1),
        Side("steering-vectors 0.12.2", "peer_steering_vectors", "steering-vectors"),
    ),
    {"hooked loop, batched": 25.0, "steering-vectors 0.12.2": 100.0},
    tolerance=2e-3,
)
CROSS = Case(
    "cross-context grid, 6 vectors x 7 multipliers",
    (Side("trimtab replay", "cross", items=16), Side("as published", "cross_published", items=1)),
    {"as published": 50.0},
    tolerance=2e-3,
)
SWEEP = replace(REPLAY, name="layer sweep, 30 layers x 7 multipliers")
CAPTURE = Case(
    "mean difference at all 30 layers, 24 pairs",
    (
        Side("trimtab", "capture", items=24),
        Side("steering-vectors 0.12.2", "peer_steering_vectors_capture", "steering-vectors", 24),
        Side("repeng 0.4.0 (hidden states only)", "peer_repeng", "repeng", 24),
    ),
    {"steering-vectors 0.12.2": 2.0, "repeng 0.4.0 (hidden states only)": 2.0},
    tolerance=2e-3,
)
GENERATE = Case(
    "48 new tokens for 4 prompts",
    (Side("unsteered", "generate", items=4), Side("steered, 1 layer", "generate_steered", items=4)),
    {"steered, 1 layer": 1.03},
    tolerance=float("inf"),
    repeats=9,
)
SERVING = Case(
    "8 requests at once to a server, 48 new tokens each",
    (Side("plain", "plain", items=8, file="serving"), Side("steered, 4 vectors", "steered", items=8, file="serving")),
    {"steered, 4 vectors": 1.03},
    tolerance=0.5,
    repeats=9,
)
VLLM = ".venv-vllm"  # made by `make serve-test`
SERVING_VLLM = Case(
    "8 requests at once to vLLM's CPU build, 48 new tokens each",
    tuple(
        Side(name, f"vllm {kind}", items=8, file="serving", python=VLLM)
        for name, kind in (("plain", "plain"), ("steered, 4 vectors", "steered"))
    ),
    {"steered, 4 vectors": 1.03},
    tolerance=0.5,
    repeats=9,
)
STEPS = {"replay": 10, "batch": 2, "full": 2, "published": 2, "preference": 4}
NAMES = {
    "replay": "trimtab replay",
    "batch": "trimtab, 16 vectors at once",
    "full": "full passes, frozen weights",
    "published": "as published",
}


def one_shot(case: str, title: str, dtype: str, target: float) -> Case:
    """Steps of a one-shot descent; times are per step, and per vector for the batch."""
    sides = tuple(
        Side(NAMES[k], f"{k} {case} {dtype}", None, n * (16 if k == "batch" else 1), "descent")
        for k, n in STEPS.items()
        if k in NAMES
    )
    return Case(
        f"one-shot step, {title}, {dtype}", sides, {NAMES["published"]: target}, 2e-3 if dtype == "float32" else 0.1
    )


ONE_SHOT = tuple(
    one_shot(case, title, dtype, target)
    for case, title, target in (
        ("all", "all tokens of 150, middle layer", 3.0),
        ("tail", "last 20 of 600 tokens, 3/4 depth", 20.0),
    )
    for dtype in ("float32", "bfloat16")
)


def preference(pairs: int) -> Case:
    """Steps of a training on preferences, so many pairs each."""
    sides = (
        ("trimtab, shared prompt", "shared"),
        ("trimtab, no shared prompt", "replay"),
        ("full passes, reference cached", "cached"),
        ("as published", "published"),
    )
    return Case(
        f"BiPO step, {pairs} pairs, middle layer",
        tuple(Side(name, f"{kind} {pairs}", None, STEPS["preference"], "preference") for name, kind in sides),
        {"as published": 4.0},
        tolerance=1e-4,
    )


BENCHMARKS: dict[str, tuple[Case, ...]] = {
    "replay": (REPLAY,),
    "capture": (CAPTURE,),
    "generate": (GENERATE,),
    "one_shot": ONE_SHOT,
    "reliability": (CROSS, SWEEP),
    "preference": (preference(4),),
    "serving": (SERVING,),
    "serving_vllm": (SERVING_VLLM,),
}
ON_GPU: dict[str, tuple[Case, ...]] = {"preference": (preference(4), preference(16))}


class Child:
    """A side's process: it says "ready", then does one repeat for every line it reads."""

    def __init__(self, side: Side, work: Path) -> None:
        self.side, self.times, self.peak, self.values = side, [], 0.0, None
        python = environment(side.peer) if side.peer else Path(sys.executable)
        python = HERE.parent / side.python / "bin" / "python" if side.python else python
        script = HERE / "sides" / f"{side.script if side.peer else side.file}.py"
        threads = str(os.cpu_count() or 1)
        env = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [python, script, work, side.script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.side.name} stopped without an answer (exit code {self.process.wait()})")

    def repeat(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self.read()
        self.times.append(answer["seconds"] / self.side.items)
        self.peak, self.values = answer["peak_mb"], np.array(answer["values"])


def uv(words: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "uv", *words], check=True)


def environment(peer: str) -> Path:
    """A virtual environment that holds one peer."""
    home = HERE.parent / ".venv-bench" / peer
    python = home / "bin" / "python"
    if not python.is_file():
        torch = next(
            line for line in (HERE.parent / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
        )
        uv(["venv", "--quiet", "--python", sys.executable, str(home)])
        uv(["pip", "install", "--quiet", "--python", str(python), torch, PEERS[peer]])
    return python


def measure(case: Case, work: Path) -> list[Row]:
    children = [Child(side, work) for side in case.sides]
    for k in range(case.repeats + 1):  # the first is a warm-up, and not counted
        for child in children:
            child.repeat()
            print(
                f"{case.name}: repeat {k}, {child.side.name}: {child.times[-1]:.3f} s per item",
                file=sys.stderr,
                flush=True,
            )
    for child in children:
        child.process.terminate()
    check_equal(case, children)
    ours = statistics.median(children[0].times[1:])
    return [row(case, child, ours) for child in children]


def check_equal(case: Case, children: Sequence[Child]) -> None:
    """Every side computed the same numbers (on the items it did)."""
    first = children[0].values
    for child in children[1:]:
        n = min(len(first), len(child.values))
        worst = float(np.nanmax(np.abs(first[:n] - child.values[:n])) / np.abs(first[:n]).max())
        print(f"{case.name}: {child.side.name} differs by {worst:.1e}", file=sys.stderr)
        if not worst <= case.tolerance and case.tolerance != float("inf"):
            raise SystemExit(f"{case.name}: {child.side.name} does not agree with {children[0].side.name}: {worst:.1e}")


def row(case: Case, child: Child, ours: float) -> Row:
    times = child.times[1:]
    median = statistics.median(times)
    spread = (max(times) - min(times)) / 2
    return Row(
        case.name,
        child.side.name,
        round(median, 4),
        round(spread, 4),
        round(child.peak, 1),
        round(median / ours, 3),
        len(times),
        case.targets.get(child.side.name),
    )


def prepare(folder: Path) -> Path:
    """The inputs of all sides: token ids, answer letters, vectors."""
    import torch

    from trimtab import LM, Dataset
    from trimtab.methods.contrast import contrast_index, paired_rows
    from trimtab.model.load import local_default

    lm = LM.load("smollm2")
    pairs = sorted(Dataset.load("wealth-seeking", form="choices"), key=lambda p: abs(len(lm.row(p.prompt).ids) - 120))[
        :24
    ]
    rows = [paired_rows(lm, p) for p in pairs]
    spots = [contrast_index(r) for r in rows]
    g = torch.Generator().manual_seed(0)
    long = " ".join(p.prompt for p in Dataset.load("wealth-seeking", form="choices"))
    words = long.split()
    vectors = torch.randn(lm.n_layers, lm.width, generator=g) * 0.3
    np.save(folder / "vectors.npy", vectors.numpy())
    free = Dataset.load("wealth-seeking").pairs[: 16 * STEPS["preference"]]
    inputs = {
        "preferences": [{"prompt": p.prompt, "positive": p.positive, "negative": p.negative} for p in free],
        "model": str(local_default()),
        "positive": [list(r[0].ids) for r in rows],
        "negative": [list(r[1].ids) for r in rows],
        "prompt": [r[0].prompt for r in rows],
        "spot": spots,
        "letters": [[r[0].ids[k], r[1].ids[k]] for r, k in zip(rows, spots, strict=True)],
        "multipliers": [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5],
        "vectors": str(folder / "vectors.npy"),
        "questions": [p.prompt for p in pairs],
        "short": _of_length(lm, words, 150),
        "long": _of_length(lm, words, 600),
        "said": "I would rather give all of it away.",
        "steps": STEPS,
    }
    path = folder / "work.json"
    path.write_text(json.dumps(inputs))
    return path


def _of_length(lm: Any, words: Sequence[str], tokens: int) -> str:
    """The first words that make a prompt of at least so many tokens."""
    n = next(n for n in range(50, len(words)) if len(lm.row(" ".join(words[:n])).ids) >= tokens)
    return " ".join(words[:n])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| case | side | median s per item | +/- | peak MB | ratio | target | repeats |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        target = (
            "" if r["target"] is None else f"<= {r['target']:g}" if "new tokens" in r["case"] else f">= {r['target']:g}"
        )
        lines.append(
            f"| {r['case']} | {r['side']} | {r['median_s']:.3f} | {r['spread_s']:.3f} | {r['peak_mb']:.0f} | "
            f"{r['ratio']:.2f} | {target} | {r['repeats']} |"
        )
    return "\n".join(lines)


def write_readme() -> None:
    """Put the table of all results into benchmarks/README.md, between its marks."""
    files = [
        f
        for name in BENCHMARKS
        for f in (RESULTS / f"{name}.json", *sorted(RESULTS.glob(f"{name}-*.json")))
        if f.is_file()
    ]
    found = [r for f in files for r in json.loads(f.read_text())["rows"]]
    readme = HERE / "README.md"
    head, _, rest = readme.read_text().partition("<!-- table -->")
    tail = rest.partition("<!-- end -->")[2]
    readme.write_text(f"{head}<!-- table -->\n{table(found)}\n<!-- end -->{tail}")


def main(names: Sequence[str]) -> None:
    for name in set(names) & set(ALONE):
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
    names = [name for name in names if name not in ALONE]
    if not names and len(sys.argv) > 1:
        return
    offered, suffix, machine = BENCHMARKS, "", {"cores": os.cpu_count(), "command": "make bench NAME={}"}
    if DEVICE != "cpu":
        import torch

        offered, suffix = ON_GPU, f"-{DEVICE}"
        machine |= {"command": f"make bench NAME={{}} DEVICE={DEVICE}", "device": torch.cuda.get_device_name()}
    unknown = set(names) - set(offered)
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))} on {DEVICE}; there are: {', '.join(offered)}")
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(Path(folder))
        for name in names or offered:
            lacking = {
                s.python for c in offered[name] for s in c.sides if s.python and not (HERE.parent / s.python).is_dir()
            }
            if lacking:
                print(f"{name}: left out, since there is no {', '.join(lacking)}", file=sys.stderr)
                continue
            rows = [asdict(r) for case in offered[name] for r in measure(case, work)]
            if "device" in machine:
                rows = [{**r, "case": f"{r['case']}, on {machine['device']}"} for r in rows]
            told = {**machine, "command": str(machine["command"]).format(name), "rows": rows}
            (RESULTS / f"{name}{suffix}.json").write_text(json.dumps(told, indent=1) + "\n")
            print(table(rows))
    write_readme()


if __name__ == "__main__":
    main(sys.argv[1:])
