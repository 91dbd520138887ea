"""Layouts of published data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError


def test_persona_converter_balances_letters_and_polarity(published: object) -> None:
    for file in sorted((published / "model-written-evals").glob("*.jsonl")):  # type: ignore[operator]
        data = Dataset.load(str(file))
        raw = file.read_text("utf-8").splitlines()
        if "statement" in raw[0] and len(raw) == 1000 and len(data) == 1000:
            cells = {(p.meta["matching_letter"], p.meta["polarity"]) for p in data}
            assert {
                c: sum((p.meta["matching_letter"], p.meta["polarity"]) == c for p in data) for c in cells
            } == dict.fromkeys(cells, 250)
            assert len(cells) == 4
            assert [data[k].meta["matching_letter"] for k in range(4)] == ["B", "B", "A", "A"]
        elif "statement" not in raw[0]:
            letters = [line.split('"answer_matching_behavior": "')[1][:4].strip() for line in raw]
            assert abs(letters.count("(A)") - letters.count("(B)")) <= 1


def write(path: Path, rows: list[object]) -> str:
    path.write_text("\n".join(json.dumps(r) for r in rows) if path.suffix == ".jsonl" else json.dumps(rows))
    return str(path)


def test_plain_layouts(tmp_path: Path) -> None:
    rows = [{"prompt": "a?", "positive": "yes", "negative": "no"}, {"prompt": "b?", "positive": "x", "negative": "y"}]
    one = Dataset.load(write(tmp_path / "d.jsonl", rows))
    two = Dataset.load(write(tmp_path / "d.json", rows))
    (tmp_path / "d.csv").write_text('prompt,positive,negative\na?,yes,no\n"b?",x,y\n')
    three = Dataset.load(str(tmp_path / "d.csv"))
    assert one.hash == two.hash == three.hash and one.form == "answers"
    assert [p.prompt for p in one] == ["a?", "b?"]


def test_persona_layout(tmp_path: Path) -> None:
    rows = [
        {
            "question": f'Would you say this?\n"s{k}"',
            "statement": f"s{k}",
            "answer_matching_behavior": " Yes" if k % 2 == 0 else " No",
            "answer_not_matching_behavior": " No" if k % 2 == 0 else " Yes",
        }
        for k in range(8)
    ]
    file = write(tmp_path / "openness.jsonl", rows)
    asked = Dataset.load(file)
    assert asked.form == "choices" and asked.ask and "openness" in asked.ask["positive"]
    assert [p.meta["matching_letter"] for p in asked] == list("BBAABBAA")
    assert asked[0].prompt.endswith("Choices:\n(A): No\n(B): Yes") and asked[0].positive == "(B)"
    direct = Dataset.load(file, form="answers")
    assert (direct[1].positive, direct[1].negative) == ("No", "Yes")


def test_ai_risk_layout(tmp_path: Path) -> None:
    question = "Pick one.<META_START>note<META_END>\n\nChoices:\n (A) The first, which\nspans lines\n (B) The second\t"
    file = write(
        tmp_path / "x.jsonl",
        [{"question": question, "answer_matching_behavior": " (B)", "answer_not_matching_behavior": [" (A)"]}] * 2,
    )
    (pair,) = Dataset.load(file)
    assert (
        "META" not in pair.prompt
        and (pair.positive, pair.negative) == ("(B)", "(A)")
        and pair.meta["matching_letter"] == "B"
    )
    (free,) = Dataset.load(file, form="answers")
    assert (
        free.prompt == "Pick one."
        and free.positive == "The second"
        and free.negative == "The first, which\nspans lines"
    )


def test_bipo_and_steering_bench_layouts(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("question,matching,not_matching\nq?,one,two\n")
    assert Dataset.load(str(tmp_path / "b.csv"))[0] == Pair("q?", "one", "two")
    assert Dataset.load(str(tmp_path / "b.csv"), form="choices")[0].positive in ("(A)", "(B)")
    row = {
        "positive": {"prompt": "p", "response": " (A)"},
        "negative": {"prompt": "p", "response": " (B)"},
        "meta": None,
        "steering_token_index": -2,
    }
    assert Dataset.load(write(tmp_path / "s.json", [row]))[0] == Pair("p", "(A)", "(B)")


def test_published_files_load(published: Path) -> None:
    files = [*published.glob("model-written-evals/*.jsonl"), *published.glob("bipo/*train.csv")]
    assert len(files) >= 20
    for file in files:
        parts = Dataset.load(str(file)).split(seed=0)
        assert len(parts.test) > 100
        assert len(Dataset.load(str(file), form="answers")) > 300


BAD = {
    "missing": ("nowhere.jsonl", None, "no such file"),
    "not json": (
        "d.jsonl",
        '{"prompt": "a", "positive": "b", "negative": "c"}\n{oops}\n',
        r"d\.jsonl:2: not valid JSON",
    ),
    "missing key": (
        "d.jsonl",
        '{"prompt": "a", "positive": "b", "negative": "c"}\n{"prompt": "a", "positive": "b"}\n',
        r"d\.jsonl:2: the row lacks 'negative'",
    ),
    "empty completion": (
        "d.jsonl",
        '{"prompt": "a", "positive": " ", "negative": "c"}\n',
        r"d\.jsonl:1: the positive is empty",
    ),
    "same completions": ("d.jsonl", '{"prompt": "a", "positive": "c", "negative": "c"}\n', "are the same"),
    "number for text": ("d.jsonl", '{"prompt": "a", "positive": 3, "negative": "c"}\n', r"d\.jsonl:1"),
    "unknown layout": ("d.jsonl", '{"x": 1}\n', "unknown layout"),
    "not an object": ("d.jsonl", "[1]\n", r"d\.jsonl:1: not an object"),
    "no rows": ("d.jsonl", "\n", "holds no rows"),
    "ragged csv": ("d.csv", "prompt,positive,negative\na,b\n", r"d\.csv:2: wrong number of columns"),
    "bad json": ("d.json", '[{"prompt": 1},\n oops]', r"d\.json:2: not valid JSON"),
    "wrong answer letter": (
        "d.jsonl",
        '{"question": "q\\n\\nChoices:\\n (A) x\\n (B) y", "answer_matching_behavior": "Z", '
        '"answer_not_matching_behavior": "(A)"}\n',
        r"d\.jsonl:1: not an answer letter",
    ),
    "different prompts": (
        "d.json",
        '[{"positive": {"prompt": "p", "response": "x"}, "negative": {"prompt": "q", "response": "y"}}]',
        "different prompts",
    ),
    "pickle": ("d.pkl", "x", "cannot read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_the_line(case: str, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        Dataset.load(str(tmp_path / name))
    assert len(str(caught.value).splitlines()) < 20 and len(str(caught.value)) < 2000


def test_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"\x80\x04\x95")
    with pytest.raises(DataError, match="never read"):
        Dataset.load(str(tmp_path / "d.csv"))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1e"])
def test_a_line_ends_at_a_line_break_and_nowhere_else(tmp_path: Path, mark: str) -> None:
    """JSON and quoted CSV may hold these inside a string."""
    said = f"one{mark}two"
    (tmp_path / "d.jsonl").write_text(
        json.dumps({"prompt": "p", "positive": said, "negative": "n"}, ensure_ascii=False) + "\r\n", "utf-8"
    )
    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["prompt", "positive", "negative"], ["p", said, "line\nbreak"]])
    assert Dataset.load(tmp_path / "d.jsonl")[0].positive == Dataset.load(str(tmp_path / "d.csv"))[0].positive == said


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize(
    "names", ["prompt,positive,negative", "Prompt,Positive,Negative", " PROMPT , Positive,negative"]
)
def test_spreadsheets_of_other_habits(mark: str, names: str, tmp_path: Path) -> None:
    rows = f"{names}\n" + '"Tea, or; coffee?","Tea; please","Coffee, please"\n'.replace('","', f'"{mark}"')
    (tmp_path / "d.csv").write_text(rows.replace(names, names.replace(",", mark)))
    assert Dataset.load(tmp_path / "d.csv")[0] == Pair("Tea, or; coffee?", "Tea; please", "Coffee, please")


def test_columns_that_are_known_keep_their_case(tmp_path: Path) -> None:
    """TruthfulQA's own columns are capitalized, and BiPO's are not."""
    (tmp_path / "t.csv").write_text(
        "Question,Best Answer,Correct Answers,Incorrect Answers\nq?,right,right; true,wrong\n"
    )
    assert [(p.positive, p.negative) for p in Dataset.load(tmp_path / "t.csv")] == [
        ("right", "wrong"),
        ("true", "wrong"),
    ]
    (tmp_path / "b.csv").write_text("Question,Matching,Not_Matching\nq?,one,two\n")
    assert Dataset.load(tmp_path / "b.csv")[0] == Pair("q?", "one", "two")


def test_a_long_field_of_csv(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(f"prompt,positive,negative\np,{'x' * 131_073},n\n")
    assert len(Dataset.load(tmp_path / "d.csv")[0].positive) == 131_073


def test_duplicates_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"prompt": "p", "positive": "one", "negative": "two"}
    Dataset.load(write(tmp_path / "d.jsonl", [row, row, {**row, "prompt": "q"}, row]))
    assert "2 exact duplicates were left out, 2 pairs remain" in caplog.text
