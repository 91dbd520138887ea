"""report(): a run folder becomes summary.json, report.html, report.md, tables and plots. Never imports torch."""

from __future__ import annotations

from pathlib import Path

from trimtab.errors import RunError
from trimtab.recipe import Run
from trimtab.reports import bipo, reliability_page
from trimtab.reports.analysis import Analysis, analyze
from trimtab.reports.figures import draw
from trimtab.reports.page import html, markdown
from trimtab.reports.tables import summary, write_tables

__all__ = ["Analysis", "analyze", "report"]


def report(run: Run | str | Path, *, part: str = "test") -> Path:
    """Write the report of a run.

    Args:
        run: the run, or its folder; or that of a study of reliability.
        part: the part that holds the evaluation.

    Returns:
        The path of `report.html`, one self-contained file.

    Raises:
        RunError: no finished scores in the folder, or a study whose page is written by running it.
    """
    run = run if isinstance(run, Run) else Run(run)
    if not run.path.is_dir():
        raise RunError(f"no such folder: {run.path}", expected="the folder of a run")
    if "study" in run.manifest.get("parts", {}) or "study" in run.manifest:
        return _study(run)
    if part not in run.manifest.get("parts", {}):
        parts = list(run.manifest.get("parts", {}))
        raise RunError(f"{run.path} holds no scores of part {part!r}", given=parts, do="measure first, or name another part")
    found = analyze(run, part)
    run.write("summary.json", summary(found))
    write_tables(run, found)
    plots = draw(found)
    for name, plot in plots.items():
        run.write(f"plots/{name}.svg", plot.svg)
        run.file("plots", f"{name}.png").write_bytes(plot.png)
    run.write("report.md", markdown(found, plots))
    return run.write("report.html", html(found, plots))


def _study(run: Run) -> Path:
    """The page of a study, made again from its folder where everything it needs is in there."""
    shape = {"combined": "bipo", "sets": "reliability"}  # of folders that do not say
    name = run.manifest.get("study") or next((study for key, study in shape.items() if key in run.manifest), "")
    if name == "bipo":
        return bipo.write(run)
    if name == "reliability":
        return reliability_page.write(run)
    raise RunError(
        f"{run.path} holds the study {name!r}" if name else f"{run.path} holds a study",
        given=[str(p) for p in sorted(run.path.glob("*.html"))] or "no page yet",
        do="run its recipe on this folder again: it repeats no work and writes the page",
    )
