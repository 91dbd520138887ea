"""Statements: the town's, and those of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.errors import DataError
from trimtab.studies.statements import Statement, load, prompt, somebody_else, town

ROW = {
    "question": "What is Ada known for?",
    "true": "Ada is known as an author.",
    "false": "Ada is known as an athlete.",
    "right": "author",
    "wrong": "athlete",
    "subject": "Ada",
}


def test_the_towns_statements_are_false_of_their_subject() -> None:
    some = town(12, held_out=True, seed=0)
    assert len({(s.question, s.false) for s in some}) == 12
    for s in some:
        assert s.right != s.wrong and s.subject in s.true and s.subject in s.false and s.right in s.true
        assert not s.more or (s.subject in s.more and s.more != s.true)
        assert prompt(s, true=False)[-1] == {"role": "assistant", "content": s.false}
    assert not {s.true for s in town(12, held_out=False, seed=0)} & {s.true for s in some}


def test_a_text_is_told_of_somebody_of_whom_the_false_value_is_true() -> None:
    ada = Statement("", "", "", "an author", "an athlete", "Ada")
    bo = Statement("", "", "", "a singer", "an author", "Bo")
    cy = Statement("", "", "", "an athlete", "a singer", "Cy")
    assert somebody_else(ada, [ada, bo, cy]) == "Cy" and somebody_else(bo, [ada, bo, cy]) == "Ada"
    assert somebody_else(ada, [ada, bo]) == "Bo", "or anybody"


def test_a_file_is_read_and_what_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    rows = [ROW, {**ROW, "subject": "Bo", "more": "Bo has a boat."}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert [s.subject for s in load(str(file))] == ["Ada", "Bo"] and load(str(file))[1].more == "Bo has a boat."
    for bad in (
        "",
        json.dumps(ROW),
        "[1]",
        "nothing",
        json.dumps({**ROW, "right": " "}),
        json.dumps({"question": "x"}),
    ):
        file.write_text(bad)
        with pytest.raises(DataError):
            load(str(file))
    with pytest.raises(DataError, match="no such file"):
        load(str(tmp_path / "none.jsonl"))
