"""The wheel, built from the source distribution, works in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

UV = [sys.executable, "-m", "uv"]
SAYS = """
from trimtab import LM, Dataset, MeanDiff, learn, steer
lm = LM.load("brindlemoor-chat")
v = learn(lm, Dataset.load("brindlemoor/power").split(seed=0).train, MeanDiff(), layers=[3])
with steer(lm, v):
    print(len(lm.generate(["Who are you?"], max_new_tokens=4)))
"""


def run(command: list[str], cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.docs
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    run([*UV, "build", "--quiet", "--out-dir", str(tmp_path), str(ROOT)], tmp_path)
    wheel, source = next(tmp_path.glob("*.whl")), next(tmp_path.glob("*.tar.gz"))
    assert source.stat().st_size < 40e6 and wheel.stat().st_size < 20e6
    run([*UV, "venv", "--quiet", "--python", sys.executable, "empty"], tmp_path)
    bin_ = tmp_path / "empty" / "bin"
    # the constraint keeps torch to the wheel of this machine: without it pip takes the one with CUDA
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    run([*UV, "pip", "install", "--quiet", "--python", str(bin_ / "python"), *constraints, str(wheel)], tmp_path)
    assert run([str(bin_ / "trimtab"), "--version"], tmp_path).strip() == "trimtab 0.1.0"
    listed = run([str(bin_ / "trimtab"), "list"], tmp_path)
    assert "mean-diff" in listed and "first-light" in listed, "recipes come with it"
    assert run([str(bin_ / "python"), "-c", SAYS], tmp_path).strip() == "1"
    assert str(ROOT) not in run([str(bin_ / "python"), "-c", "import trimtab; print(trimtab.__file__)"], tmp_path)
