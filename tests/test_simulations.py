"""Small versions of what `make simulate` does: the tables of docs/statistics.md come from programs that run, and say
what they said.
"""

from __future__ import annotations

import re
from pathlib import Path

import interval_coverage as coverage
import null_runs
import page_tables as tables
import pytest
import verdicts

from paths import ROOT

PAGE = ROOT / "docs" / "statistics.md"


@pytest.mark.parametrize(
    "world",
    [verdicts.World(1), pytest.param(verdicts.World(30), marks=pytest.mark.slow), verdicts.World(6, 0.0, "shuffled")],
    ids=str,
)
def test_nothing_is_rarely_called_something(world: verdicts.World) -> None:
    found = verdicts.cell(world, 200)
    assert sum(found[k] for k in verdicts.CLAIMS) <= 0.05 * 200 + 2 * (200 * 0.05 * 0.95) ** 0.5


@pytest.mark.slow
def test_something_is_found() -> None:
    assert verdicts.cell(verdicts.World(30, 8.0), 40)["works"] >= 36
    assert verdicts.cell(verdicts.World(1, -8.0), 40)["works backwards"] >= 36


@pytest.mark.parametrize(
    "case", [c for c in coverage.CASES if 20 in c.sizes and c.times >= 600], ids=lambda c: f"{c.interval}, {c.data}"
)
def test_every_interval_covers_at_twenty(case: coverage.Case) -> None:
    share, told = coverage.coverage(case, 20, 150, seed=1)
    assert told >= 140 and share >= 0.88


def test_tables_are_put_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n")
    tables.put("x", [["n", "m"], ["1", "2"]], page)
    tables.put("x", [["n", "m"], ["3", "4"]], page)
    assert page.read_text() == "a\n<!-- x -->\n| n | m |\n|---|---|\n| 3 | 4 |\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="no place"):
        tables.put("y", [["n"]], page)


def test_the_committed_tables_hold_what_they_are_there_for() -> None:
    """At most 5 in 100 simulated claims of nothing (within simulation error), and 9 in 100 whole runs."""
    text = PAGE.read_text()
    rows = {
        name: [
            r.split(" | ")
            for r in re.findall(r"(?m)^\| (.*) \|$", text.split(f"<!-- {name} -->")[1].split("<!-- /")[0])
        ][1:]
        for name in ("verdicts", "runs", "study", "coverage")
    }
    empty = [r for r in rows["verdicts"] if r[2] == "nothing"]
    assert len(empty) == 6 and all(int(r[3]) >= 2000 and float(r[-1].split(" ")[0]) <= 0.06 for r in empty)
    nulls = [r for r in rows["runs"] if "mean difference" not in r[0]]
    assert len(nulls) >= 3 and all(int(r[1]) >= 100 and float(r[-1].split(" ")[0]) <= 0.09 for r in nulls)
    assert float(rows["study"][0][-1].split(" ")[0]) <= 0.05
    assert len(rows["coverage"]) == len(coverage.CASES)


@pytest.mark.slow
def test_whole_runs_of_nothing() -> None:
    for case in null_runs.CASES[:3]:
        found = null_runs.verdicts(case, 3)
        assert sum(found.values()) == 3 and sum(found[k] for k in null_runs.CLAIMS) <= 1
