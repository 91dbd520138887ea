"""The local default model in other engines: exported from the command line, proved, and found out where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab import Intervention, MeanDiff, SteeringVector, cli, learn
from trimtab.data.datasets import Dataset
from trimtab.errors import ExportError
from trimtab.exporters import Gguf, export, verify
from trimtab.exporters.control_vector import write_vectors
from trimtab.model import LM

pytestmark = pytest.mark.slow
LAYER = 19


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("smollm2")


@pytest.fixture(scope="module")
def file(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    v = learn(lm, Dataset.load("wealth-seeking").split(seed=0).train, MeanDiff(), [LAYER])
    return v.save(tmp_path_factory.mktemp("vectors") / "wealth.safetensors")


@pytest.mark.parametrize(
    ("target", "place"), [("gguf", "v.gguf"), ("hf", "baked"), ("peft", "adapter"), ("hook", "hook")]
)
def test_to_each_target_from_the_command_line(
    target: str, place: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if target == "hook" else ["--positions", "everywhere"]
    use = ["--multiplier", "3.4", *where, "--json"]
    cli.main(["export", target, str(file), "--to", str(tmp_path / place), *use])
    proof: dict[str, Any] = json.loads(capsys.readouterr().out)["proof"]
    assert abs(proof["share"] - 1) < (0.05 if target == "gguf" else 1e-4)
    assert proof["error"] <= (1.1 * proof["noise"] if target == "gguf" else 1e-4)
    assert proof["effect"] > 1.2 and (tmp_path / place).exists()


def test_another_block_is_found_out_through_the_noise(lm: LM, file: Path, tmp_path: Path) -> None:
    """The arithmetic of a quantized model moves single log-probabilities by a nat or two; a vector one block off, or a
    tenth too short, is told all the same.
    """
    v = SteeringVector.load(file)
    iv = Intervention(v, multiplier=3.4, positions="everywhere")
    for layer, factor in ((LAYER - 1, 1.0), (LAYER, 0.9)):
        write_vectors(tmp_path / "v.gguf", {layer: 3.4 * factor * v[LAYER].numpy()}, "llama", {})
        with pytest.raises(ExportError, match="does not compute"):
            verify(iv, lm, tmp_path / "v.gguf", to="gguf")


def test_in_float32_llama_cpp_agrees_to_the_fourth_digit(lm: LM, file: Path, tmp_path: Path) -> None:
    from trimtab.exporters.model_gguf import write_model

    model = write_model(lm, tmp_path / "smollm2.gguf")
    iv = Intervention(SteeringVector.load(file), multiplier=3.4, positions="everywhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.exporters.control_vector.gguf_of", lambda name: None)
        assert export(iv, lm, tmp_path / "v.gguf", to=Gguf()).error < 2e-4
    assert model.stat().st_size > 5e8
