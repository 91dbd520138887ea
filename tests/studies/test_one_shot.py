"""The studies, small: a toy behavior on a pico model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pico import pico, reported, toy_pairs
from trimtab import studies
from trimtab.methods import OneShot
from trimtab.studies.one_shot import Plan
from trimtab.studies.pages.one_shot import Results


@pytest.fixture
def toy(tmp_path: Path) -> str:
    return str(toy_pairs(tmp_path / "toy.jsonl"))


def by_norm(found: Results) -> float:
    """The median norm of the vectors promoted on one example."""
    return float(np.median([v.norm for v in found.vectors if v.kind == "promote"]))


@pytest.mark.slow
def test_one_shot_vectors_are_compared_with_all_their_controls(toy: str, tmp_path: Path) -> None:
    lm, one = pico("llama"), OneShot(steps=4)
    plan = Plan((toy,), layer=1, examples=2, norms=(0.1, 0.5), sizes=(2,), draws=1, one=one)
    run = studies.study("one-shot", lm, tmp_path / "study", plan)
    found = run.typed("results.json", Results)
    names = [v.name for v in found.vectors]
    assert names[:6] == [f"{mode}-{k}" for mode in ("promote", "suppress", "mixed") for k in range(2)]
    assert names[6] == "promote of 2-0" and "mean-diff of the same 2-0" in names
    ((size,),) = found.sizes().values()
    assert size.examples == 2 and size.differences[0].norm == pytest.approx(by_norm(found))
    p = next(p for p in found.picked if p.signal == "held-out loss") if found.picked else None
    assert p is None or p.drawn <= p.best
    norms = next(n for n in found.norms if n.mode == "promote")
    assert norms.chosen == max(norms.tried, key=lambda n: n.answer).norm and {n.norm for n in norms.tried} == {0.1, 0.5}
    assert {"mean-diff of 1", "mean-diff of all, equal norm", "random-0"} <= set(names)
    by_name = {v.name: v for v in found.vectors}
    assert by_name["promote-0"].effect.n == 12 and by_name["promote-0"].effect.value > by_name["random-0"].effect.value
    assert by_name["promote-0"].signals["held-out loss"] > 0 and not by_name["random-0"].signals
    assert all(-1 <= f.spearman <= 1 for f in found.foreseen)
    studies.page(run)
    assert reported(run.path)["findings"]
    text = (tmp_path / "study" / "report.md").read_text()
    assert "| promote | 2 |" in text and "What foresees the effect" in text
    before = (tmp_path / "study" / "results.json").read_bytes()
    studies.study("one-shot", lm, tmp_path / "study", plan)
    assert (tmp_path / "study" / "results.json").read_bytes() == before
