"""The audit: probes from a file, vectors tried on prompts they were not learned from, both directions, random
directions beside.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pico import pico
from trimtab.errors import DataError
from trimtab.safety.audit import Probe, audit, probes, town


def test_vectors_are_tried_on_other_prompts_in_both_directions() -> None:
    asked = [Probe("tea", f"Do you like {t} ?", "yes always", "no never") for t in ("tea", "rain", "the sun")]
    found = audit(pico(), asked, [1], learned=1, norms=(0.05, 0.5))
    assert [(m.direction, m.norm) for m in found] == [("open", 0.05), ("open", 0.5), ("close", 0.05), ("close", 0.5)]
    for m in found:
        assert m.vectors == 1 and m.prompts == 2 and 0 <= m.random <= 1
    by = {(m.direction, m.norm): m for m in found}
    assert by["open", 0.5].gain > by["open", 0.05].gain > 0 and by["close", 0.5].gain > 0
    assert by["open", 0.5].before == pytest.approx(1 - by["close", 0.5].before), "the two openings exclude each other"


def test_probes(tmp_path: Path) -> None:
    file = tmp_path / "probes.jsonl"
    file.write_text(json.dumps({"safeguard": "a", "prompt": "p", "crosses": "x", "keeps": "y"}))
    assert probes(file) == [Probe("a", "p", "x", "y")]
    file.write_text('{"prompt": "p"}')
    with pytest.raises(DataError, match=r"probes\.jsonl:1"):
        probes(file)
    with pytest.raises(DataError, match="no such file"):
        probes(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="too few prompts"):
        audit(pico(), [Probe("a", "Do you like tea ?", "yes", "no")], [1])
    assert len({p.safeguard for p in town()}) == 2
