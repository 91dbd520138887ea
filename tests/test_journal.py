"""Journals: units that are there wholly or not at all, whoever writes, however they are stopped."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from trimtab import journal as module
from trimtab.errors import RunError
from trimtab.journal import Journal, numbers_back, plain
from trimtab.runs import Run
from writer import write


def test_two_writers_harm_nothing(tmp_path: Path) -> None:
    """Four appends through two journals cost a unit and left NUL bytes."""
    one, two = Journal(tmp_path / "s.jsonl"), Journal(tmp_path / "s.jsonl")
    for k, journal in enumerate((one, two, one, two)):
        journal.append(f"u{k}", [{"k": k, "text": "x" * 50 * (k + 1)}])
    assert [r["k"] for r in Journal(tmp_path / "s.jsonl").rows()] == [0, 1, 2, 3]
    assert all(b"\0" not in file.read_bytes() for file in tmp_path.iterdir())


def test_processes_at_once_each_have_a_part(tmp_path: Path) -> None:
    path = tmp_path / "scores" / "test.jsonl"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    rows = list(Journal(path).rows())
    assert {(r["from"], r["k"]) for r in rows} == {(name, k) for name in "ab" for k in range(20)} and len(rows) == 200
    assert sorted(p.name for p in path.parent.iterdir()) == ["test.jsonl", "test~2.jsonl"]


def test_a_unit_that_two_finish_counts_once(tmp_path: Path) -> None:
    Journal(tmp_path / "s.jsonl").append("u", [{"k": 1}])
    module._mine.clear()  # as another process would
    Journal(tmp_path / "s.jsonl").append("u", [{"k": 1}])
    assert len(list(tmp_path.iterdir())) == 2 and list(Journal(tmp_path / "s.jsonl").rows()) == [{"k": 1}]


def test_what_a_kill_leaves_is_not_read_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    Journal(path).append("u0", [{"k": 0}])
    with path.open("ab") as file:
        file.write(b'{"k": 1}\n{"k": 2')
    left = path.read_bytes()
    module._mine.clear()
    again = Journal(path)
    assert again.done == {"u0"}
    again.append("u1", [{"k": 1}])
    assert path.read_bytes() == left and [r["k"] for r in Journal(path).rows()] == [0, 1]


@pytest.mark.parametrize("line", [b"not json\n", b"\0\0\0\n", b"[1, 2]\n", b'{"k": 1}}\n'])
def test_a_corrupt_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "s.jsonl"
    Journal(path).append("u0", [{"k": 0}])
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(RunError, match=r"s\.jsonl:3: not a row"):
        list(Journal(path).rows())


def test_numbers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a number that JSON does not have"):
        Journal(tmp_path / "s.jsonl").append("u", [{"value": float("nan")}])
    run = Run.create(tmp_path / "run")
    run.note(loss=float("nan"), most=[float("inf"), 1.0])
    text = run.file("run.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert run.manifest["loss"] != run.manifest["loss"] and run.manifest["most"] == [float("inf"), 1.0]
    assert plain({"a": (float("nan"), 2)}) == {"a": [None, 2]} and numbers_back({"float": "nan"}) != numbers_back(
        {"float": "nan"}
    )


def test_names_of_tables_and_keys_of_rows_do_not_get_mixed_up(tmp_path: Path) -> None:
    Journal(tmp_path / "x").append("u0", [{"n": 1}])
    module._mine.clear()
    Journal(tmp_path / "x").append("u1", [{"n": 2}])
    assert [r["n"] for r in Journal(tmp_path / "x").rows()] == [1, 2]
    Journal(tmp_path / "test.jsonl").append("a", [{"n": 1}])
    Journal(tmp_path / "test.2.jsonl").append("b", [{"n": 2}])
    assert [r["n"] for r in Journal(tmp_path / "test.jsonl").rows()] == [1]
    with pytest.raises(RunError, match="'complete'"):
        Journal(tmp_path / "c.jsonl").append("u", [{"complete": "u7"}])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to"):
        Journal(tmp_path / "file" / "s.jsonl").append("u", [{"n": 1}])


def test_threads_of_one_process_share_a_part(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "s.jsonl"
    threads = [threading.Thread(target=write, args=(path, name)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(Journal(path).rows())) == 800 and len(list(tmp_path.iterdir())) == 1
