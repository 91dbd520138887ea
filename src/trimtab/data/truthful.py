"""Questions people answer wrongly, with true and false answers, in the layouts of TruthfulQA (Lin et al. 2022): pairs
to train a vector on, and choices to test one on (MC1, MC2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

NAME = "truthful"  # of the questions that come with trimtab
FILE = Path(str(files("trimtab") / "data" / "truthful.jsonl"))
LAYOUTS = (  # keys by which a row is known
    ("question", "mc2_targets"),
    ("question", "mc1_targets"),
    ("Question", "Correct Answers", "Incorrect Answers"),
)


@dataclass(frozen=True)
class Truths:
    """One question.

    Attributes:
        right: true answers, the best one first.
        wrong: false answers.
    """

    question: str
    category: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def holds_truths(row: Mapping[str, Any]) -> bool:
    """Whether a row is of one of the layouts."""
    return any({*keys} <= {*row} for keys in LAYOUTS)


def truths(row: Mapping[str, Any]) -> Truths:
    """What a row says: of the table (`Question`, `Best Answer`, `Correct Answers`, `Incorrect Answers`, separated by
    semicolons), or of the multiple-choice files (`question`, `mc1_targets`, `mc2_targets`, as `choices` and `labels` or
    as a table from answers to labels).

    Raises:
        KeyError, TypeError, ValueError: a row that lacks something, or has nothing true or nothing false.
    """
    if "Question" in row:
        best, right, wrong = (
            _listed(row.get("Best Answer")),
            _listed(row["Correct Answers"]),
            _listed(row["Incorrect Answers"]),
        )
        question, category = row["Question"], row.get("Category")
    else:
        best, _ = _labeled(row.get("mc1_targets"))
        right, wrong = _labeled(row.get("mc2_targets") or row.get("mc1_targets"))
        question, category = row["question"], row.get("category")
    right = list(dict.fromkeys([*best, *right]))
    if not right or not wrong or {*right} & {*wrong}:
        raise ValueError("no true answer, no false one, or one that is both")
    return Truths(question.strip(), category or "truthfulness", tuple(right), tuple(dict.fromkeys(wrong)))


def _listed(cell: str | None) -> list[str]:
    """Answers of a cell that separates them by semicolons."""
    parts = (part.strip() for part in (cell or "").split(";"))
    return [part for part in parts if part]


def _labeled(targets: Any) -> tuple[list[str], list[str]]:
    """Answers labeled 1, and answers labeled 0."""
    if not targets:
        return [], []
    labels = dict(zip(targets["choices"], targets["labels"], strict=True)) if "choices" in targets else dict(targets)
    true = [answer.strip() for answer, label in labels.items() if label]
    return true, [answer.strip() for answer, label in labels.items() if not label]
