"""Questions with true and false answers: every published layout says the same, as pairs and as choices."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from trimtab import Dataset
from trimtab.data.truthful import FILE, truths
from trimtab.errors import DataError
from trimtab.evaluation.capability import questions

RIGHT, WRONG = ("It is a star.", "The sun is a star."), ("It is a planet.", "It is a lamp.")


@pytest.fixture(params=["choices", "labels by answer", "table"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One question in each layout, the best true answer first."""
    if request.param == "table":
        path = tmp_path / "TruthfulQA.csv"
        with path.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(
                ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
            )
            writer.writerow(
                ["x", "sky", "What is the sun?", RIGHT[0], "; ".join(RIGHT[::-1]), "; ".join(WRONG) + ";", "-"]
            )
        return path
    one, many = {RIGHT[0]: 1, **dict.fromkeys(WRONG, 0)}, {**dict.fromkeys(RIGHT[::-1], 1), **dict.fromkeys(WRONG, 0)}
    row = {"question": "What is the sun?", "mc1_targets": one, "mc2_targets": many}
    if request.param == "choices":
        row |= {k: {"choices": list(v), "labels": list(v.values())} for k, v in row.items() if k != "question"}  # type: ignore[union-attr]
    path = tmp_path / "mc.json"
    path.write_text(json.dumps([row]))
    return path


def test_every_layout_gives_the_same_pairs_and_choices(file: Path) -> None:
    data = Dataset.load(str(file))
    assert {(p.positive, p.negative) for p in data} == {(r, w) for r in RIGHT for w in WRONG}
    assert len({p.group for p in data}) == 1, "the pairs of a question never fall into two parts"
    (q,) = questions(file)
    assert q.truthful and q.choices == (*RIGHT, *WRONG) and q.right == (0, 1), "the best answer is the first"


def test_what_comes_with_trimtab() -> None:
    data, asked = Dataset.load("truthful"), questions("truthful")
    assert len(asked) == 80 and all(q.truthful for q in asked)
    assert len(data) == sum(len(q.right) * (len(q.choices) - len(q.right)) for q in asked) > 400
    parts = data.split(seed=0)
    assert not {p.group for p in parts.train} & {p.group for p in parts.test}
    rows = [truths(json.loads(line)) for line in FILE.read_text("utf-8").splitlines()]
    true, false = _lengths(t.right for t in rows), _lengths(t.wrong for t in rows)
    assert abs(true - false) < 1, "length tells nothing"


def _lengths(answers: Iterable[Sequence[str]]) -> float:
    """Mean length in words."""
    lengths = [len(answer.split()) for some in answers for answer in some]
    return sum(lengths) / len(lengths)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "What?", "mc2_targets": {"choices": ["a"], "labels": [1]}},
        {"question": "What?", "mc2_targets": {"choices": ["a", "b"], "labels": [1]}},
        {"question": "What?", "mc2_targets": {"choices": ["a", "a"], "labels": [1, 0]}},
        {"question": "What?", "mc1_targets": 3},
    ],
)
def test_rows_without_true_and_false_answers_are_refused_with_their_line(
    row: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:1"):
        Dataset.load(str(tmp_path / "x.jsonl"))
    with pytest.raises(DataError, match=r"x\.jsonl:1"):
        questions(tmp_path / "x.jsonl")
