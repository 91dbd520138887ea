"""Pages."""

from __future__ import annotations

from trimtab.reports.page import markdown_sections


def test_tables_need_no_row() -> None:
    assert "## Empty" not in markdown_sections("T", "a", [], {}, [("Empty", [["head"]])])
