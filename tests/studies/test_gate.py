"""A gate holds figures to budgets; what is not measured is not passed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trimtab import cli
from trimtab.errors import RecipeError, RunError
from trimtab.evaluation.accuracy import Accuracy
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.steering.use import Dose, DosePoint, Use
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.capability import Results, Row
from trimtab.studies.pages.gate import Budgets, gate, markdown


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    run = Run.create(tmp_path / "run")
    figures = [
        {"name": "steerability", "value": 0.3, "lo": 0.08, "hi": 0.5, "n": 20, "unit": "nats", "control": 0.1},
        {
            "name": "anti-steerable share",
            "value": 0.15,
            "lo": 0.03,
            "hi": 0.38,
            "n": 20,
            "unit": "share",
            "control": None,
        },
    ]
    run.write("summary.json", {"figures": figures})
    point = DosePoint(2.0, 0.1, 0.12, 0.0, None, None)
    run.write("use.json", Use((1,), 2.0, dose=Dose((point,), 0.0, None, 12, 24)).to_json())
    return run.path


@pytest.fixture
def cost(tmp_path: Path) -> Path:
    run = Run.create(tmp_path / "cost")
    run.note(study="capability")
    rows = [
        Row(
            "knowledge", "correct", Condition("vector"), Accuracy(m, 0.5 + d, 0.4, 0.6, d, d - 0.05, d + 0.05, 0.5, 100)
        )
        for m, d in ((-2.0, 0.01), (0.0, 0.0), (2.0, -0.03))
    ]
    run.write(RESULTS, Results("pico", "tea", [1], rows, 0))
    run.write("summary.json", {"figures": []})
    return run.path


KEPT = {"min_slope": 0.1, "max_wrong": 0.2, "max_drift": 0.2, "max_knowledge_drop": 0.04}
BROKEN = {"min_slope": 0.31, "max_wrong": 0.1, "max_drift": 0.1, "max_knowledge_drop": 0.02}


@pytest.mark.parametrize("name", KEPT)
def test_each_budget_is_kept_and_broken(name: str, measured: Path, cost: Path) -> None:
    folder = cost if name == "max_knowledge_drop" else measured
    assert all(h.kept for h in gate([folder], Budgets(**{name: KEPT[name]})))
    held = gate([folder], Budgets(**{name: BROKEN[name]}))
    assert [h.kept for h in held if not h.kept] == [False] and "broken: " in str(next(h for h in held if not h.kept))


def test_surely_asks_for_the_unfavorable_end(measured: Path, cost: Path) -> None:
    held = gate([measured, cost], Budgets(min_slope=0.1, max_wrong=0.2, max_knowledge_drop=0.04, surely=True))
    assert {h.budget: h.value for h in held if h.figure.name != "fall of knowledge at -2"} == {
        "min_slope": 0.08,
        "max_wrong": 0.38,
        "max_knowledge_drop": pytest.approx(0.08),
    }
    assert not any(h.kept for h in held if h.figure.name != "fall of knowledge at -2")


def test_a_figure_that_is_no_number_breaks(measured: Path) -> None:
    summary = json.loads((measured / "summary.json").read_text())
    summary["figures"][0]["value"] = None
    (measured / "summary.json").write_text(json.dumps(summary))
    (held,) = gate([measured], Budgets(min_slope=-5.0))
    assert math.isnan(held.value) and not held.kept


def test_a_dose_without_its_point_is_not_measured(measured: Path) -> None:
    """The nearest point of the other sign says nothing of it."""
    run = Run(measured)
    point = DosePoint(2.0, 0.1, 0.05, 0.0, None, None)
    for m in (-4.0, 3.0, 0.0):
        run.write("use.json", Use((1,), m, dose=Dose((point,), 0.0, None, 12, 24)).to_json())
        with pytest.raises(RunError, match="--max-drift"):
            gate([measured], Budgets(max_drift=0.5))


def test_every_folder_measures_something_and_intervals_are_there(measured: Path, cost: Path) -> None:
    with pytest.raises(RunError, match="measures none of it"):
        gate([measured, cost], Budgets(min_slope=0.1))
    with pytest.raises(RunError, match="no interval"):
        gate([measured], Budgets(max_drift=0.5, surely=True))
    with pytest.raises(RunError, match="no folder"):
        gate([], Budgets(max_drift=0.5))


@pytest.mark.parametrize(
    "summary", [{}, [], {"figures": [{"name": "x"}]}, {"figures": [{"name": "steerability", "value": "x"}]}]
)
def test_a_summary_of_another_shape(summary: object, measured: Path) -> None:
    (measured / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError):
        gate([measured], Budgets(min_slope=0.1))


def test_what_nothing_measures_is_an_error(measured: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--max-knowledge-drop(.|\n)*trimtab capability"):
        gate([measured], Budgets(max_knowledge_drop=0.1))
    with pytest.raises(RecipeError, match="no budget"):
        gate([measured], Budgets())
    with pytest.raises(RunError, match="no summary"):
        gate([tmp_path], Budgets(min_slope=0.1))


def test_the_command_ends_with_one(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(measured)]
    cli.main(["gate", *folders, "--min-slope", "0.1", "--max-wrong", "0.2", "--summary", str(tmp_path / "s.md")])
    assert capsys.readouterr().out.count("kept: ") == 2
    with pytest.raises(SystemExit) as end:
        cli.main(["gate", *folders, "--min-slope", "0.4", "--max-drift", "0.1", "--summary", str(tmp_path / "s.md")])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1 and len(lines) == 2 and all(line.startswith("broken: ") for line in lines)
    text = (tmp_path / "s.md").read_text()
    assert "All 2 budgets kept" in text and "**2 of 2 budgets broken**" in text


def test_the_table_has_as_many_cells_in_every_row(measured: Path) -> None:
    text = markdown(gate([measured], Budgets(min_slope=0.1, max_drift=0.1)))
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {8}
