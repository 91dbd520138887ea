"""Several processes on one run: claims, failures, deaths, shards put together; and whole runs that come out byte for
byte as one process leaves them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pico import pico, toy_listed, toy_pairs
from trimtab.errors import RecipeError, RunError
from trimtab.progress import Progress, silent
from trimtab.runs import Cell, Run, Score, row
from trimtab.stages import Every, Stage, Unit, carry_out
from trimtab.workers import Ended, Job, alone, drive, engine
from trimtab.workers import run as run_with
from trimtab.workers.claims import DEATHS, TRIES, Claims
from trimtab.workers.merge import left, merge
from trimtab.workers.work import Order

TRIMTAB = str(Path(sys.executable).with_name("trimtab"))
PLAN = {"plan": {"units": 6}}


class Toy:
    """Two stages of six units; some fail."""

    def __init__(self, folder: Path, failing: tuple[int, ...] = ()) -> None:
        self.run, self.failing, self.worked = Run.create(folder), failing, list[str]()
        self.run.claim("study", PLAN)

    def stages(self) -> Iterator[Stage]:
        for name in ("one", "two"):
            yield Stage(name, [Unit(f"{k}", {}, self.work(name, k)) for k in range(6)])

    def work(self, stage: str, k: int):
        def work(progress: Progress) -> None:
            self.worked.append(f"{stage}/{k}")
            if k in self.failing:
                raise ValueError(f"unit {k} cannot be done")
            self.run.write(f"{stage}/{k}.json", k)

        return work


def test_every_unit_is_taken_once_and_stages_wait(tmp_path: Path) -> None:
    toys = [Toy(tmp_path) for _ in range(3)]
    done: list[bool] = []

    def go(k: int) -> None:
        share = Claims(tmp_path, k + 1, "s")
        share.wait = lambda: time.sleep(0.01)  # type: ignore[method-assign]
        done.append(carry_out(toys[k].stages(), toys[k].run, silent, share))

    threads = [threading.Thread(target=go, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert done == [True] * 3
    worked = [w for toy in toys for w in toy.worked]
    assert sorted(worked) == sorted(f"{s}/{k}" for s in ("one", "two") for k in range(6)), "none twice, none left"


def test_a_unit_that_fails_is_tried_again_given_up_and_named(tmp_path: Path) -> None:
    toy = Toy(tmp_path, failing=(2,))
    with pytest.raises(RunError, match=r"stage one cannot be finished.*\n.*2: ValueError: unit 2 cannot be done"):
        carry_out(toy.stages(), toy.run, silent, Claims(tmp_path, 1, "s"))
    assert toy.worked.count("one/2") == TRIES and all(f"one/{k}" in toy.worked for k in range(6)), "the rest went on"
    toy.failing = ()
    toy.worked.clear()
    assert carry_out(toy.stages(), toy.run, silent, Claims(tmp_path, 1, "another session"))
    assert toy.worked[0] == "one/2" and len(toy.worked) == 7


def test_what_a_dead_worker_had_taken_is_free_again(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    assert not carry_out(toy.stages(), toy.run, silent, Every(0, 2))
    dead, keys = Claims(tmp_path, 7, "s"), toy.run.read("units/one.json")
    assert dead.takes(1, keys["1"]) and not Claims(tmp_path, 8, "s").takes(1, keys["1"])
    for _ in range(DEATHS - 1):
        dead.bury(toy.run, 7)
        assert Claims(tmp_path, 8, "s").lost("one") == {} and dead.takes(1, keys["1"])
    dead.bury(toy.run, 7)
    assert Claims(tmp_path, 8, "s").lost("one") == {"1": "its process died"} and not dead.takes(1, keys["1"])


def test_facts_of_several_writers_are_read_as_one_and_put_together(tmp_path: Path, monkeypatch: Any) -> None:
    run = Run.create(tmp_path)
    run.note(study="toy", groups={"a": "1"})
    for k, layers in ((1, [4]), (2, [5])):
        monkeypatch.setattr(Run, "writer", k)
        run.claim(f"part-{k}", {"layers": layers})
        run.note(groups={f"b{k}": "2"})
        scores = [row(Cell("m", "vector", None, 1.0), Score(f"i{k}", 0.5, "nats"))]
        run.journal("test").append(f"test/{2 - k}/None", scores)
        with pytest.raises(RunError, match="holds another run"):
            run.claim(f"part-{k}", {"layers": [9]})
    assert sorted(p.name for p in tmp_path.glob("run*.json")) == ["run.json", "run~1.json", "run~2.json"]
    whole = run.manifest
    assert whole["groups"] == {"a": "1", "b1": "2", "b2": "2"} and whole["parts"].keys() == {"part-1", "part-2"}
    with (tmp_path / "scores" / "test~9.jsonl").open("w") as file:
        file.write(json.dumps({"item": "half"}) + "\n")  # of a writer that was killed
    (tmp_path / "x.json.1234.part").write_text("half")
    monkeypatch.setattr(Run, "writer", 0)
    run.tidy()
    assert run.manifest == whole and [p.name for p in tmp_path.glob("run*.json")] == ["run.json"]
    assert [p.name for p in tmp_path.rglob("*.jsonl")] == ["test.jsonl"] and not list(tmp_path.glob("*.part"))
    units = [
        json.loads(x)["complete"] for x in (tmp_path / "scores/test.jsonl").read_text().splitlines() if "comp" in x
    ]
    assert units == ["test/0/None", "test/1/None"], "in the order of one who does them all"
    before = (tmp_path / "scores/test.jsonl").read_bytes()
    run.tidy()
    assert (tmp_path / "scores/test.jsonl").read_bytes() == before


class Mortal:
    """An engine of threads over a toy; the first lives end before anything is done."""

    def __init__(self, toy: Path, deaths: int) -> None:
        self.toy, self.deaths, self.started = toy, deaths, 0

    def start(self, order: Order, threads: int) -> list[Ended]:
        self.started += 1
        ended: list[Ended] = []
        if self.deaths:
            self.deaths -= 1
            ended.append(Ended(died=True))
        else:
            threading.Thread(target=self._work, args=(order, ended), daemon=True).start()
        return ended

    def _work(self, order: Order, ended: list[Ended]) -> None:
        toy = Toy(self.toy)
        carry_out(toy.stages(), toy.run, silent, Claims(self.toy, order.number, order.session))
        ended.append(Ended(died=False))

    def ended(self, handle: list[Ended]) -> Ended | None:
        return handle[0] if handle else None

    def stop(self, handle: list[Ended]) -> None: ...
    def fits(self, threads: int) -> int:
        return 1

    def close(self) -> None: ...


def test_the_dead_are_replaced_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trimtab.workers", "trimtab.workers.claims"):
        monkeypatch.setattr(f"{module}.POLL", 0.02)
    Toy(tmp_path / "a")
    job, seen = Job(None, str(tmp_path), 1), dict[str, tuple[int, int]]()
    watch = lambda name: lambda done, total, words="": seen.__setitem__(name, (done, total))  # noqa: E731
    some = Mortal(tmp_path / "a", deaths=2)
    drive(some, 2, tmp_path / "a", job, watch)
    assert some.started == 4 and seen == {"one": (6, 6), "two": (6, 6)}
    assert not (tmp_path / "a" / "work" / "claims").exists()
    Toy(tmp_path / "b")
    with pytest.raises(RunError, match="workers die"):
        drive(Mortal(tmp_path / "b", deaths=99), 1, tmp_path / "b", job, silent)


@pytest.mark.parametrize("workers", ["", "local", "local:0", "local:x", "local:-1", "slurm", "slurm:", "kubernetes:3"])
def test_what_are_no_workers(workers: str) -> None:
    with pytest.raises(RecipeError, match="not workers"):
        engine(workers)


# ------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model, data and recipes."""
    place = tmp_path_factory.mktemp("place")
    lm = pico()
    lm.model.save_pretrained(place / "model")
    lm.tokenizer.save_pretrained(place / "model")
    toy_pairs(place / "toy.jsonl")
    asked = [f"Do you like {a} {b} ?" for a in ("tea", "rain", "sun") for b in ("one", "two", "three", "four", "five")]
    for name in ("snow", "tea"):
        toy_listed(place / f"{name}.json", asked)
    for name, text in RECIPES.items():
        (place / f"{name}.toml").write_text(f'model = "model"\n{text}')
    return place


RECIPES = {
    "first-light": """
data = "toy.jsonl"
form = "answers"
multipliers = [-1.0, 0.0, 1.0]
metrics = ["propensity", "kl"]
controls = 1
draws = 199
samples = 2
max_new_tokens = 4
dose = false
""",
    "reliability": """
study = "reliability"
data = ["snow.json", "tea.json"]
contexts = ["base", "user-negative"]
beyond = ["swapped"]
system = ""
train = 6
val = 2
test = 6
draws = 199
nulls = 1
folds = 2
extractors = ["pca"]
multipliers = [-1.0, 0.0, 1.0]
""",
    "one-shot": """
study = "one-shot"
behaviors = ["toy.jsonl"]
layer = 1
examples = 2
norms = [0.1, 0.5]
sizes = [2]
draws = 1
one = { steps = 4 }
""",
    "bipo": """
study = "bipo"
data = ["toy.jsonl"]
layers = [0, 1]
scouts = 6
train = 6
val = 4
test = 6
few = 4
shots = 1
items = 0
talk = 1
randoms = 1
drifting = 2
max_new_tokens = 4
budget = 0.01
multipliers = [-1.0, 0.0, 1.0]
bipo = { norm = 0.3, rate = 0.05, epochs = 2, warm = 1 }
one = { mode = "mixed", steps = 3 }
""",
}


def told(folder: Path) -> dict[str, bytes]:
    """What must not depend on who did it: scores and summary."""
    files = [p for p in folder.rglob("*.jsonl") if "scores" in p.parts] + [folder / "summary.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def single(place: Path, name: str) -> dict[str, bytes]:
    """By one process of one thread, once for all tests."""
    folder = place / "single" / name
    if not (folder / "summary.json").is_file():
        assert command(place, "run", f"{name}.toml", "--to", str(folder), "--threads", "1").returncode == 0
    return told(folder)


def command(place: Path, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    call = [TRIMTAB, *args]
    return subprocess.run(call, cwd=place, capture_output=True, text=True, check=False, **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_workers_leave_the_same_bytes(name: str, place: Path, tmp_path: Path) -> None:
    expected = single(place, name)
    assert len(expected) > 1
    done = command(place, "run", f"{name}.toml", "--to", str(tmp_path / "r"), "--workers", "local:2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "r") == expected
    assert (tmp_path / "r" / "report.html").is_file() and not list((tmp_path / "r").rglob("*~*"))


@pytest.mark.slow
def test_shards_apart_are_merged_stage_by_stage(place: Path, tmp_path: Path) -> None:
    """Three shares in folders of their own, as on machines without a common disk."""
    folders, text = [tmp_path / f"{k}" for k in range(3)], str(place / "reliability.toml")
    before = Path.cwd()
    try:
        os.chdir(place)
        for stage in range(9):
            for k, folder in enumerate(folders):
                if stage and k:
                    shutil.rmtree(folder)
                    shutil.copytree(folders[0], folder)
            for k, folder in enumerate(folders):
                alone(Path(text), folder, (k, 3), threads=1)
            with pytest.raises(RunError, match="lacks"):
                merge(folders[0])
            if merge(folders[0], folders[1:]) is not None:
                break
    finally:
        os.chdir(before)
    assert told(folders[0]) == single(place, "reliability") and not left(Run(folders[0]))
    job = folders[1] / "work" / "job.json"
    job.write_text(job.read_text().replace('"size": null', '"size": "full"'))
    before = {p: p.read_bytes() for p in folders[0].rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="another size"):
        merge(folders[0], [folders[1]])
    (folders[1] / "work" / "recipe.toml").write_text("other")
    with pytest.raises(RunError, match="another run"):
        merge(folders[0], [folders[1]])
    assert {p: p.read_bytes() for p in before} == before, "what is refused touches nothing"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("TRIMTAB_SHOTS", "3"))))
def test_workers_and_driver_are_shot(seed: int, place: Path, tmp_path: Path) -> None:
    expected, draw, folder = single(place, "reliability"), random.Random(seed), tmp_path / "r"
    call = [TRIMTAB, "run", "reliability.toml", "--to", str(folder)]
    call += ["--workers", "local:2", "--threads", "1"]
    with subprocess.Popen(call, cwd=place, stderr=subprocess.PIPE, text=True, start_new_session=True) as driver:
        time.sleep(6 + 6 * draw.random())
        for pid in _workers(folder)[: 1 + seed % 2]:
            os.kill(pid, signal.SIGKILL)
        if seed % 3 == 2:
            time.sleep(2 * draw.random())
            driver.kill()
        _, said = driver.communicate(timeout=300)
    if seed % 3 == 2:
        time.sleep(2.5)
        assert not _workers(folder), "workers end with their driver"
        done = subprocess.run(call, cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        assert driver.returncode == 0, said
    assert told(folder) == expected


def _workers(folder: Path) -> list[int]:
    """Processes of workers on a folder."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"trimtab.workers.work\0{folder}" in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_jobs_of_submitit(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.chdir(place)
    run_with(Path("first-light.toml"), tmp_path / "r", "slurm:local", threads=1, count=2)
    assert told(tmp_path / "r") == single(place, "first-light")


CLUSTER = """
import sys, threading
from pathlib import Path
from ray.cluster_utils import Cluster
from trimtab.workers import run

small = {"object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **small})
second = cluster.add_node(num_cpus=1, **small)
threading.Timer(9.0, lambda: cluster.remove_node(second, allow_graceful=False)).start()
run(Path("reliability.toml"), Path(sys.argv[1]), f"ray:{cluster.address}", threads=1)
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_of_ray_that_loses_a_node(place: Path, tmp_path: Path) -> None:
    """In a process of its own, which is ended if the cluster does not come up."""
    pytest.importorskip("ray", reason="ray is not installed")
    expected = single(place, "reliability")
    call = [sys.executable, "-c", CLUSTER, str(tmp_path / "r")]
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    log = tmp_path / "log"  # not a pipe: what Ray starts would hold it open
    with log.open("w") as told_there:
        driver = subprocess.Popen(call, cwd=place, env=env, stderr=told_there, start_new_session=True)
    try:
        driver.wait(timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert driver.returncode == 0, log.read_text()[-3000:]
    assert told(tmp_path / "r") == expected
