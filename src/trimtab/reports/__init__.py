"""report(): a run folder becomes summary.json, report.html, report.md, tables and plots. Never imports torch."""

from __future__ import annotations

from pathlib import Path

from trimtab.errors import RunError
from trimtab.reports.analysis import Analysis, analyze
from trimtab.reports.figures import draw
from trimtab.reports.page import html, markdown
from trimtab.reports.tables import summary, write_tables
from trimtab.runs import Run

__all__ = ["Analysis", "analyze", "report"]


def report(run: Run | str | Path, *, part: str = "test") -> Path:
    """Write the report of a run.

    Args:
        run: the run, or its folder. (The page of a study is written by `trimtab.studies.page`; `trimtab report` knows
            both.)
        part: the part that holds the evaluation.

    Returns:
        The path of `report.html`, one self-contained file.

    Raises:
        RunError: no finished scores in the folder.
    """
    run = run if isinstance(run, Run) else Run(run)
    if not run.path.is_dir():
        raise RunError(f"no such folder: {run.path}", expected="the folder of a run")
    if part not in run.manifest.get("parts", {}):
        parts = list(run.manifest.get("parts", {}))
        raise RunError(
            f"{run.path} holds no scores of part {part!r}", given=parts, do="measure first, or name another part"
        )
    analysis = analyze(run, part)
    run.write("summary.json", summary(analysis))
    write_tables(run, analysis)
    plots = draw(analysis)
    for name, plot in plots.items():
        run.write(f"plots/{name}.svg", plot.svg)
        run.file("plots", f"{name}.png").write_bytes(plot.png)
    run.write("report.md", markdown(analysis, plots))
    return run.write("report.html", html(analysis, plots))
