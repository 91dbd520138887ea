"""The project keeps its own rules: README, documentation, sizes."""

from __future__ import annotations

import ast
import re

import house
import write_reference

from paths import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_readme_shows_every_room() -> None:
    """The README's tree names the folders of code and the files at the top, by path, and nothing else."""
    lines = (ROOT / "README.md").read_text().split("```text\nsrc/trimtab/")[1].split("```")[0].split("\n")[1:]
    shown: set[str] = set()
    room = ""
    for line in filter(None, lines):
        name = line.split()[0]
        room = name if line.startswith("  ") and not line.startswith("    ") else room
        shown.add(name if room == name else room + name)
    package = ROOT / "src" / "trimtab"
    folders = {f"{p.parent.relative_to(package)}/" for p in package.rglob("__init__.py")} - {"./"}
    assert shown == folders | ({p.name for p in package.glob("*.py")} - {"__init__.py"})


def test_no_file_imports_itself_however_far_around() -> None:
    """Lazy imports and those for types alone are counted, too."""
    assert house.circles(house.imports(house.sources())) == []
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]  # one it would find


BRITISH = re.compile(
    r"\b\w*(?:optim|minim|maxim|general|normal|token|linear|recogn|summar|quant|random|initial|penal|special|visual)"
    r"is(?:e|ed|es|er|ers|ing|ation|ations)\b|\banalys(?:e|ed|er|es|ing)\b|\b(?:behavi|fav|neighb|hon)our\w*"
    r"|\b(?:grey|centre|centred|artefacts?|judgement)\b|\b(?:label|model|cancel|travel)l(?:ed|ing)\b",
    re.IGNORECASE,
)


def test_one_spelling() -> None:
    """American, in code and documents; what the town of the test bed says stays as its models have read it."""
    assert BRITISH.search("optimised") and BRITISH.search("Behaviour") and not BRITISH.search("organism, noise, raised")
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.md")]
    files += [*(ROOT / "docs").glob("*.md"), *(ROOT / "design").glob("*.md"), *(ROOT / "simulations").glob("*.py")]
    for file in files:
        if "organisms" not in file.parts and file.name != "test_project.py" and file.name != "012-house.md":
            hit = BRITISH.search(file.read_text())
            assert hit is None, f"{file.relative_to(ROOT)}: {hit[0]}"


def test_nothing_takes_a_label_apart() -> None:
    """Studies, reports and statistics ask values what they are: no prefix or suffix of a name is looked at."""
    rooms = [f for f in SOURCES if f.parent.name in ("studies", "pages", "reports", "statistics")]
    allowed = {"preference_files.py", "page.py", "sentences.py", "verdict.py"}  # names of files, dtypes and units
    for file in rooms:
        if file.name not in allowed:
            assert not re.search(r"\.(?:startswith|endswith|removeprefix|removesuffix)\(", file.read_text()), file.name


def test_readme_names_the_commands_that_exist() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?m)(?:^|`)make (\w+)", readme):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_reference_is_current() -> None:
    for page, text in (
        (write_reference.TARGET, write_reference.reference()),
        (write_reference.COMMANDS, write_reference.commands()),
    ):
        assert page.read_text() == text, f"docs/{page.name} is out of date: run make docs"


def test_coverage_names_what_exists() -> None:
    """Every row of docs/coverage.md has its five cells and a command; what it names is there."""
    rows = [r for r in (ROOT / "docs" / "coverage.md").read_text().split("\n") if r.startswith("| ")]
    cells = [re.split(r"(?<!\\) \| ", r.strip("| ")) for r in rows if not r.startswith("| technique")]
    assert len(cells) > 300
    for row in cells:
        *_, here, command, outcome = row
        for path in re.findall(r"`((?:src|tests|recipes|docs|organisms|benchmarks)/[^`\s:]+)`", here):
            assert (ROOT / path).exists(), path
        for path in re.findall(r"(?:recipes|tests|organisms|benchmarks)/[\w./-]+\.(?:toml|py)", command):
            assert (ROOT / path).exists(), path
        assert command.strip("` ") and outcome.strip(), row[0]


def test_files_and_functions_stay_small() -> None:
    for file in SOURCES:
        lines = file.read_text().splitlines()
        assert len(lines) <= 500, f"{file.name} has {len(lines)} lines"
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{file.name}: {node.name}"


def test_functions_are_short_at_the_median() -> None:
    sizes = sorted(
        (n.end_lineno or 0) - n.lineno + 1
        for f in SOURCES
        for n in ast.walk(ast.parse(f.read_text()))
        if isinstance(n, ast.FunctionDef)
    )
    assert sizes[len(sizes) // 2] <= 10


def test_public_names_have_docstrings() -> None:
    for file in SOURCES:
        for node in ast.parse(file.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and node.name != "Emit"
            ):
                assert ast.get_docstring(node) or any(
                    isinstance(b, ast.AnnAssign) for b in getattr(node, "body", [])
                ), f"{file.name}: {node.name}"


def test_nothing_reads_pickles_or_runs_remote_code() -> None:
    for file in SOURCES:
        text = file.read_text()
        assert not re.search(
            r"^\s*import pickle|(?<!safetensors\.)torch\.load\(|trust_remote_code\s*=\s*True", text, re.M
        ), file.name


def test_everything_in_the_public_list_exists() -> None:
    import trimtab

    for name in trimtab.__all__:
        assert getattr(trimtab, name) is not None
    assert set(trimtab.__all__) <= set(dir(trimtab))
