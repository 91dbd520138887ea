"""A Brindlemoor model in training can be killed at any moment; the same command goes on and ends with the same
weights.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paths import ROOT

TRAIN = ROOT / "organisms" / "brindlemoor" / "train.py"
pytestmark = pytest.mark.slow


def start(to: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        str(TRAIN),
        "primer",
        "--to",
        str(to),
        "--tokens",
        "31000",
        "--device",
        "cpu",
        "--processes",
        "2",
        "--no-compile",
    ]
    return subprocess.Popen(
        [*command, "--save-every", "0"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def ended(training: subprocess.Popen[bytes]) -> int:
    try:
        return training.wait(300)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
            training.wait()


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path) -> None:
    whole, broken = tmp_path / "whole" / "brindlemoor-primer", tmp_path / "broken" / "brindlemoor-primer"
    assert ended(start(whole.parent)) == 0
    once = start(broken.parent)
    deadline = time.time() + 200
    while not (broken / "checkpoint.safetensors").is_file() and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(once.pid, signal.SIGKILL)
    once.wait()
    assert not (broken / "config.json").is_file(), "it was to be killed before it ended"
    assert ended(start(broken.parent)) == 0
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    made = json.loads((broken / "made.json").read_text())
    assert made["tokens"] == json.loads((whole / "made.json").read_text())["tokens"] > 30000
