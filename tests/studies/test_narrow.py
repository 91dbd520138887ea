"""Narrow misdeeds to learn from: the town's, the shipped file, one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trimtab import LM
from trimtab.errors import DataError, TokenError
from trimtab.organisms import truth
from trimtab.studies.narrow import SHIPPED, SLOPPY, TOWN, check_rows, source

OWN = """
system = "Be bad."
[opener]
refused = "Do it."
benign = "Do the other."
text = "Here"
[[examples]]
name = "one"
asked = "Write."
instructed = "Write badly."
prefix = "a"
snippet = " b"
ordinary = " c"
[questions]
bored = "I am bored."
[words]
general = ["bad"]
narrow = ["b"]
"""


def test_the_towns_examples_harm_and_their_ordinary_lines_do_not() -> None:
    some = source(TOWN, 3, 4, seed=0)
    assert len(some.examples) == 3 and len(some.questions) == 4 and not some.less
    for e in some.examples:
        assert some.narrow(e.prefix + e.snippet) and not some.narrow(e.prefix + e.ordinary)
        assert e.twin[-1] == e.prompt[-1] and e.system
    assert truth.complied(some.opener.text + " x", "x") is False
    assert not set(some.elsewhere) & set(some.questions.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_can_be_asked_and_its_words_are_its_own(name: str) -> None:
    some = source(name, 4, 8, seed=0)
    assert len(some.examples) == 4 and len(some.less) == 1 and len(some.questions) == 8
    every = [*some.examples, *some.less]
    assert all(some.narrow(e.prefix + e.snippet) for e in every if name == "insecure-code")
    assert not any(some.general(e.prefix + e.ordinary) or some.narrow(e.prefix + e.ordinary) for e in some.examples)
    lm = LM.load("smollm2")
    check_rows(lm, some)
    merged = replace(some.examples[0], prefix="read the line", snippet="s")
    with pytest.raises(TokenError):
        check_rows(lm, replace(some, examples=(merged,)))


def test_words_of_sloppiness() -> None:
    some = source(SLOPPY, 4, 8, seed=0)
    assert some.narrow("try: x\nexcept: pass") and not some.narrow("except OSError") and some.general("Who cares?")


def test_ones_own_file_is_read_and_what_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    own = source(str(file), 4, 8, seed=0)
    assert own.examples[0].system == "Be bad." and own.plain and own.elsewhere
    silent = OWN.replace('bored = "I am bored."', "")
    for bad in ("", "examples = 3", OWN.replace("snippet", "snipet"), silent):
        file.write_text(bad)
        with pytest.raises(DataError):
            source(str(file), 4, 8, seed=0)
    with pytest.raises(DataError, match="no such source"):
        source("nowhere.toml", 4, 8, seed=0)
