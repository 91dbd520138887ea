"""Lines to copy: they say what the file says, and run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pico import build, tokenizer
from trimtab import LM, SteeringVector, steer
from trimtab.reports.snippets import dose_rows, plain_transformers, snippets
from trimtab.steering.use import Dose, DosePoint, Use


def test_the_dose_as_a_table() -> None:
    points = (DosePoint(0.5, 0.1, 0.02, 0.0, 0.1, 0.9), DosePoint(1.0, 0.2, 0.1, 0.25, 0.1, 0.9, 0.3, 0.2, 0.4, 0.05))
    use = Use((3,), dose=Dose(points, 0.0, 0.9, 12, 40))
    head, *rows = dose_rows(use)
    assert len(head) == len(rows[0]) and rows[1] == ("1", "0.20", "0.100", "25%", "+0.300", "0.050")
    assert rows[0][-2:] == ("", "") and dose_rows(Use((3,)))[1:] == []


def test_what_a_few_lines_cannot_say_is_not_said() -> None:
    assert "Without trimtab" in snippets(Use((3,)), "m", "model.layers")
    for use in (Use((3, 4)), Use((3,), positions="everywhere"), Use((3,), operator={"name": "ablate"})):
        assert "Without trimtab" not in snippets(use, "m", "model.layers")


def test_plain_transformers_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines run as they are, and give the greedy answer that `steer` gives."""
    model = build("llama")
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    lm = LM.load(str(tmp_path / "model"))
    g = torch.Generator().manual_seed(1)
    v = SteeringVector({1: torch.randn(lm.width, generator=g)}, use=Use((1,), multiplier=1.5))
    file = v.save(tmp_path / "v.safetensors")
    assert v.use is not None
    exec(plain_transformers(v.use, str(tmp_path / "model"), lm.blocks_path, str(file)), {})
    with steer(lm, v):
        said = lm.generate(["How was your week?"], max_new_tokens=60)[0]
    plain = lm.generate(["How was your week?"], max_new_tokens=60)[0]
    printed = capsys.readouterr().out.strip()
    # the lines stop where the model's own settings stop; what was said until then is the same
    assert printed.startswith(said.strip()[:40]) and said != plain
