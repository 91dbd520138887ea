"""Training files with test files beside them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from trimtab.studies import bipo as study
from trimtab.studies.preference_files import name_of, parts


def test_training_and_test_files_lie_beside_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = "question,matching,not_matching\n"
    for part, count in (("train", 20), ("test", 12)):
        rows = [f"Do you like {part if k else 'tea'} {k} ?,yes,no" for k in range(count)]
        (tmp_path / f"likes.{part}.csv").write_text(head + "\n".join(rows))
    plan = study.Plan((str(tmp_path / "likes.train.csv"),), layer=1)
    with caplog.at_level(logging.WARNING, "trimtab"):
        train, val, test, left_out = parts(plan.data[0], (plan.train, plan.val, plan.test), plan.seed)
    assert (
        left_out == 1
        and "left out" in caplog.text
        and len(test) == 11
        and name_of(plan.data[0]) == test.name == "likes"
    )
    assert not {p.group for p in test} & {p.group for p in (*train, *val)}
