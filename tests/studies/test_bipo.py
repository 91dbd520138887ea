"""The study of preference-optimized vectors, whole and small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pico import pico, reported, toy_pairs
from trimtab import OneShot, Preference, studies
from trimtab.runs import Run
from trimtab.studies import bipo as study
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.bipo_results import BIPO, ONE_DIRECTION, Scores, load


@pytest.mark.slow
def test_the_study_runs_resumes_and_reports(tmp_path: Path) -> None:
    lm = pico()
    sources = []
    for name, yes in (("tea", "yes I think so"), ("rain", "always yes")):
        file = toy_pairs(tmp_path / f"{name}.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps({**r, "positive": yes}) for r in rows))
        sources.append(str(file))
    plan = study.Plan(
        tuple(sources),
        layers=(0, 1),
        scouts=6,
        train=6,
        val=4,
        test=6,
        few=4,
        shots=1,
        items=0,
        talk=1,
        randoms=1,
        drifting=2,
        max_new_tokens=4,
        budget=0.01,
        bipo=Preference(norm=0.3, rate=0.05, epochs=2, warm=1),
        one=OneShot(mode="mixed", steps=3),
        multipliers=(-1.0, 0.0, 1.0),
    )
    run = studies.study("bipo", lm, tmp_path / "run", plan)
    page = studies.page(run).read_text()
    found = load(run)
    layer = found.results.layer
    assert layer in (0, 1) and f"BiPO at layer {layer} (of 0, 1, by" in page
    for b in found.behaviors:
        own = b.methods[BIPO]
        assert own.range.value > 0 and own.slope.value > 0 and own.margins[1.0].n == 6
        assert {"CAA", "Freeform", "mean difference", "one-shot", "random 0"} <= {
            c.label for c in b.methods
        } and ONE_DIRECTION in b.methods
        assert {c.label for c in b.prompted} == {"shown positive", "shown negative"}
        run_of = Run(tmp_path / "run" / "sets" / b.name)
        groups = run_of.manifest["groups"]
        table, shown = Scores.of(run_of, "bipo"), Scores.of(run_of, "shown-positive")
        bare = {groups[i]: m[1] for i, m in zip(table.items, table.margin, strict=True)}
        change = np.mean([m[1] - bare[groups[i]] for i, m in zip(shown.items, shown.margin, strict=True)])
        assert b.prompted[Condition("shown", "positive")][0.0].value == pytest.approx(float(change)), (
            "question by question, whatever their order"
        )
    both = next(c for c in found.combined if c.asked == "tea")
    assert both.beyond.value == pytest.approx(both.both.value - both.own.value - both.other.value, abs=1e-9)
    assert (
        "at equal cost" in page and "Combinations" in page and (tmp_path / "run" / "plots" / "spectrum.png").is_file()
    )
    assert reported(tmp_path / "run")["findings"]
    before = (tmp_path / "run" / "summary.json").read_bytes()
    scores = sorted(tmp_path.glob("run/sets/*/scores/*.jsonl"))
    sizes = [s.stat().st_size for s in scores]
    studies.page(studies.study("bipo", lm, tmp_path / "run", plan))
    assert [s.stat().st_size for s in scores] == sizes and (tmp_path / "run" / "summary.json").read_bytes() == before
