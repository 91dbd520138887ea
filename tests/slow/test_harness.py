"""Tasks of lm-eval on a steered model: a task file of our own, offline, on the small real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trimtab.evaluation.capability import harness
from trimtab.model import LM
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector

pytestmark = pytest.mark.slow

TASK = """task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
CITIES = ("Paris", "Rome", "Madrid", "Tokyo")
ASKED = {"France": 0, "Italy": 1, "Spain": 2, "Japan": 3}


def test_tasks_see_the_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'trimtab[eval]'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    questions = [{"question": f"What is the capital of {c}?", "choices": CITIES, "answer": k} for c, k in ASKED.items()]
    (tmp_path / "capitals.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "capitals.yaml").write_text(TASK.format(file=tmp_path / "capitals.jsonl"))
    lm = LM.load("smollm2")
    plain = harness(lm, None, ["capitals"], folder=tmp_path)["capitals"]
    assert plain["acc,none"] >= 0.75 and len(plain["samples"]) == len(ASKED)
    scores = [[float(r[0]) for r in s["filtered_resps"]] for s in plain["samples"]]
    own = [
        lm.logprobs([f"Question: {q['question']}\nAnswer:"] * 4, [f" {c}" for c in CITIES], chat=False)
        for q in questions
    ]
    assert scores == [pytest.approx([float(x.sum()) for x in mine], abs=1e-3) for mine in own], (
        "log-probabilities are those of the model"
    )
    direction = torch.randn(lm.width, generator=torch.Generator().manual_seed(0))
    strong = Intervention(SteeringVector({12: 40 * direction / direction.norm()}), positions="everywhere")
    steered = harness(lm, strong, ["capitals"], folder=tmp_path)["capitals"]
    moved = [[float(r[0]) for r in s["filtered_resps"]] for s in steered["samples"]]
    assert max(abs(a - b) for x, y in zip(scores, moved, strict=True) for a, b in zip(x, y, strict=True)) > 0.5
    again = harness(lm, None, ["capitals"], folder=tmp_path)["capitals"]
    assert [s["filtered_resps"] for s in again["samples"]] == [s["filtered_resps"] for s in plain["samples"]], (
        "and nothing stays behind"
    )
