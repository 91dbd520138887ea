"""Run folders elsewhere: what is written gets there, what is there is gone on with, and nobody harms anybody."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from pico import saved, toy_pairs
from trimtab import cli, journal, storage
from trimtab.errors import RunError
from trimtab.runs import Run
from trimtab.storage import address, here

TRIMTAB = str(Path(sys.executable).with_name("trimtab"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    saved(folder / "model")
    data = toy_pairs(folder / "toy.jsonl")
    file = folder / "r.toml"
    file.write_text(
        f'data = "{data}"\nmodel = "{folder / "model"}"\nmultipliers = [-1.0, 0.0, 1.0]\ncontrols = 1\ndraws = 3\n'
        "samples = 0\ndose = false\n"
    )
    return file


def results(folder: Path) -> dict[str, bytes]:
    """What has to be equal: scores, their summary, the vector."""
    some = [*folder.glob("scores/*"), folder / "summary.json", folder / "vectors.safetensors"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in some}


def test_addresses() -> None:
    for text, url in (
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("memory://a", "memory://a"),
        ("file:///tmp/x", "file:///tmp/x"),
        ("runs/a", None),
        ("C:/runs", None),
        ("/tmp/a:b", None),
    ):
        assert address(Path(text)) == url and address(text) == url


def test_what_is_written_gets_there_and_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PERIOD", 0.05)
    files = fsspec.filesystem("memory")
    with here("memory://one/run") as folder:
        run = Run.create(folder)
        run.journal("test").append("a", [{"x": 1}])
        run.note(model="m")
        run.write("work/logs/x.json", {})
        for _ in range(100):
            if files.exists("/one/run/scores"):
                break
            time.sleep(0.05)
        assert files.exists("/one/run/scores"), "before the end"
    assert not folder.exists() and journal.first == 1 and Run.writer == 0
    names = {n.removeprefix("/one/run/") for n in files.find("/one/run")}
    assert len(names) == 2 and not any(n.startswith("work") for n in names), names
    with here("memory://one/run") as folder:
        run = Run(folder)
        assert list(run.journal("test").rows()) == [{"x": 1}] and run.manifest["model"] == "m"
        run.journal("test").append("b", [{"x": 2}])
        run.note(more=1)
    assert len(files.find("/one/run")) == 4, "another process writes parts of its own"
    with here("memory://one/run") as folder:
        run = Run(folder)
        assert {r["x"] for r in run.journal("test").rows()} == {1, 2} and run.manifest["model"] == "m"
        run.tidy()
    assert {n.removeprefix("/one/run/") for n in files.find("/one/run")} == {"scores/test.jsonl", "run.json"}


def test_a_run_elsewhere_is_the_run_here(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["run", str(recipe), "--to", str(tmp_path / "alone"), "--threads", "1"])
    cli.main(["run", str(recipe), "--to", "memory://two/run", "--threads", "1"])
    assert capsys.readouterr().out.strip().endswith("memory://two/run")
    for k in (1, 2, 1, 2, 1, 2):
        cli.main(["run", str(recipe), "--to", "memory://three/run", "--threads", "1", "--shard", f"{k}/2"])
        if k == 2:
            cli.main(["merge", "memory://three/run"])
    assert "merge memory://three/run" in capsys.readouterr().out
    for url in ("memory://two/run", "memory://three/run"):
        with here(url) as folder:
            assert results(folder) == results(tmp_path / "alone"), url
            assert not list(folder.rglob("*~*"))
    cli.main(["report", "memory://two/run", "--json"])
    assert json.loads(capsys.readouterr().out)["folder"] == "memory://two/run"


@pytest.mark.slow
def test_a_run_elsewhere_is_shot_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    cli.main(["run", str(recipe), "--to", str(tmp_path / "alone"), "--threads", "1"])
    url = f"file://{tmp_path / 'there'}"
    command = [TRIMTAB, "run", str(recipe), "--to", url, "--threads", "1"]
    for seed in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.Random(seed).uniform(7, 12))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert results(tmp_path / "there") == results(tmp_path / "alone")


def test_what_cannot_be_opened_or_written_is_said_before_any_work(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, words in (("nosuch://a/b", "cannot open"), ("file:///proc/nothing/here", "cannot write")):
        with pytest.raises(RunError, match=words), here(url):
            raise AssertionError("nothing is begun")
    with pytest.raises(SystemExit):
        cli.main(["run", str(recipe), "--to", "memory://x/run", "--workers", "slurm:gpu"])
    assert "a disk that all of them see" in capsys.readouterr().err
    kept: list[Path] = []

    def interrupted() -> None:
        def refused(self: object, local: Path, name: str) -> None:
            raise OSError("the bucket is gone")

        with here("memory://gone/run") as folder:
            kept.append(folder)
            Run.create(folder).note(model="m")
            monkeypatch.setattr(storage._Mirror, "_put", refused)  # pyright: ignore[reportPrivateUsage]

    with pytest.raises(RunError, match="cannot write") as caught:
        interrupted()
    assert str(kept[0]) in str(caught.value) and Run(kept[0]).manifest["model"] == "m", "what was done is not lost"
