"""One study on several models: known agreements are found, runs that do not belong together are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pico import reported
from trimtab.errors import RunError
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.statistics.foresight import Carried, foreseen, picked
from trimtab.statistics.intervals import Figure
from trimtab.studies.pages import across, one_shot
from trimtab.studies.pages.across import Model, agreement


def model(name: str, slopes: list[float], **more: list[float]) -> Model:
    columns = {"mean slope": slopes, **{k.replace("_", " "): v for k, v in more.items()}}
    return Model(name, {c: {f"set {k}": x for k, x in enumerate(xs)} for c, xs in columns.items()}, ceiling=0.9)


def test_two_models_that_rank_alike_agree_and_reliability_is_taken_out() -> None:
    one = model("one", [1, 2, 3, 4, 5], mean_slope_under_shifts=[5, 4, 3, 2, 1])
    two = model("two", [1, 2, 4, 3, 5], mean_slope_under_shifts=[1, 2, 3, 4, 5])
    found = {f.name: f for f in agreement(one, two)}
    assert found["one and two: mean slope"].value == pytest.approx(0.9)
    assert found["one and two: mean slope, corrected for reliability"].value == 1.0, "never above 1"
    assert found["one and two: mean slope under shifts"].value == pytest.approx(-1)
    assert agreement(one, model("few", [1, 2, 3])) == [], "three data sets say nothing"


def one_shot_run(path: Path, seed: int, telling: bool) -> Run:
    """A finished folder whose held-out losses tell the effect, or do not."""
    rng = np.random.default_rng(seed)
    vectors: list[Carried] = []
    for behavior in "abcde":
        effects = rng.normal(0, 1, 5)
        losses = -effects if telling else rng.normal(0, 1, 5)
        vectors += [
            Carried(behavior, "promote", f"{k}", np.full(4, e), np.zeros(4), 1.0, {"held-out loss": float(x)})
            for k, (e, x) in enumerate(zip(effects, losses, strict=True))
        ]
    run = Run.create(path)
    run.note(study="one-shot")
    nothing = Figure("", 0, 0, 0, 4, "")
    described = [one_shot.Vector(v.behavior, v.kind, v.name, 1.0, nothing, nothing, 1.0, {}) for v in vectors]
    results = one_shot.Results("m", 1, 5, 0, (0.1,), [], described, [], foreseen(vectors), picked(vectors), ())
    run.write(RESULTS, results)
    return run


def test_what_foresees_on_one_model_is_tried_on_the_other(tmp_path: Path) -> None:
    runs = [one_shot_run(tmp_path / f"{k}", k, telling=True) for k in range(2)]
    text = across.page(runs, Run.create(tmp_path / "both")).read_text()
    assert "the signal is held-out loss (100% of the way" in text
    assert reported(tmp_path / "both")["findings"]
    before = json.loads((tmp_path / "both" / "summary.json").read_text())
    across.page(runs, Run(tmp_path / "both"))
    assert json.loads((tmp_path / "both" / "summary.json").read_text()) == before


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    run = one_shot_run(tmp_path / "one", 0, telling=True)
    other = Run.create(tmp_path / "other")
    other.note(study="refusal")
    with pytest.raises(RunError, match="side by side"):
        across.page([run], Run.create(tmp_path / "a"))
    with pytest.raises(RunError, match="side by side"):
        across.page([run, other], Run.create(tmp_path / "b"))
    with pytest.raises(RunError, match="side by side"):
        across.page([other, other], Run.create(tmp_path / "c"))
    with pytest.raises(RunError, match="another run"):
        across.page([run, run], other)
