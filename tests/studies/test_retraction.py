"""The study of false statements."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.studies import StudyRecipe, run


@pytest.mark.slow
def test_retraction_with_one_layer_and_one_source(tmp_path: Path) -> None:
    """Nothing can be distilled above the only layer: said in the page, where min() of nothing ended all the work."""
    plan = {"layers": [1], "sources": 1, "test": 6, "context": 2}
    page = run(StudyRecipe("retraction", "brindlemoor-chat", {}, plan), tmp_path / "run", lambda _: lambda *_: None)
    assert "not run" in page.read_text()
