"""Readers of the layouts contrastive data comes in. Each gives pairs; errors carry the file and the line."""

from __future__ import annotations

import csv
import glob
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from trimtab.data.pairs import Content, Form, Pair, as_choice, dedup, polarity, to_choices
from trimtab.data.truthful import LAYOUTS, truths
from trimtab.errors import DataError

log = logging.getLogger("trimtab")
T = TypeVar("T")
Row = Mapping[str, Any]
Reader = Callable[[Row, int, str, str], list[Pair]]
_META = re.compile(r"<META_START>.*?<META_END>", re.DOTALL)
_OPTION = re.compile(r"^\s*\(([A-Z])\):?[ \t]*(.*?)\s*(?=^\s*\([A-Z]\):?|\Z)", re.DOTALL | re.MULTILINE)


def read(path: Path, form: Form | None = None) -> Content:
    """Read a file in whichever known layout its keys show.

    Raises:
        DataError: not there, not readable, malformed (with the line), of unknown layout, or unable to take `form`.
    """
    numbered = rows(path, "an existing .jsonl, .json or .csv file")
    layout = _layout(numbered[0][1], path)
    wanted = form or layout.form
    converted = [_convert(layout, row, line, path, wanted) for line, row in numbered]
    empty = [line for (line, _), made in zip(numbered, converted, strict=True) if not made]
    if empty:
        log.warning(
            "%s: %d rows without a question or options were left out (lines %s)", path.name, len(empty), empty[:5]
        )
    every = [pair for made in converted for pair in made]
    pairs = dedup(every)
    if len(pairs) < len(every):
        log.warning(
            "%s: %d exact duplicates were left out, %d pairs remain", path.name, len(every) - len(pairs), len(pairs)
        )
    if wanted == "choices" and layout.form == "answers":
        pairs = to_choices(pairs)
    return Content(path.stem, pairs, wanted)


def rows(path: Path, expected: str) -> list[tuple[int, Row]]:
    """Rows of a file of JSON lines, a JSON array or CSV, each with its line (of an array: its place).

    Raises:
        DataError: no such file, no such kind of file, no rows; a row that cannot be read, with its number.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"cannot read {path}", given=path.suffix or "no suffix", expected=", ".join(SUFFIXES))
    if not path.is_file():
        raise DataError(f"no such file: {path}", expected=expected)
    numbered = list(SUFFIXES[path.suffix](path))
    if not numbered:
        raise DataError(f"{path} holds no rows", expected=expected)
    return numbered


def matching(sources: Iterable[str]) -> tuple[str, ...]:
    """Sources with patterns such as "evals/*.jsonl" replaced by the files they stand for.

    Raises:
        DataError: a pattern no file matches.
    """
    out: list[str] = []
    for source in sources:
        paths = sorted(glob.glob(str(Path(source).expanduser()))) if "*" in source else [source]
        if not paths:
            raise DataError(
                f"no file matches {source}", expected="files of A/B questions", do="correct the path in the recipe"
            )
        out += paths
    return tuple(out)


def records(path: Path, make: Callable[[Row], T], expected: str) -> list[T]:
    """What `make` makes of every row of a file; see `rows`.

    Raises:
        DataError: a row that `make` cannot take, with its number.
    """
    out: list[T] = []
    for line, row in rows(path, expected):
        try:
            out.append(make(row))
        except (KeyError, TypeError, ValueError) as fault:
            raise DataError(
                f"{path.name}:{line}: malformed row ({fault})", given=dict(row), expected=expected
            ) from fault
    return out


def _convert(layout: _Layout, row: Row, line: int, path: Path, form: Form) -> list[Pair]:
    where = f"{path.name}:{line}"
    lacking = [k for k in layout.keys if k not in row]
    if lacking:
        raise DataError(f"{where}: the row lacks {lacking[0]!r}", given=sorted(row), expected=list(layout.keys))
    try:
        return layout.reader(row, line, where, form)
    except (TypeError, AttributeError, KeyError, ValueError) as problem:
        raise DataError(
            f"{where}: malformed row ({problem})", given=dict(row), expected=f"the {layout.name} layout"
        ) from problem


# ---------------------------------------------------------------- layouts


def _plain(row: Row, line: int, where: str, form: str) -> list[Pair]:
    prompt, before = _conversation(row, where)
    return [Pair(prompt, row["positive"], row["negative"], _meta(where, line, row["positive"]), before)]


def _conversation(row: Row, where: str) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """The prompt of a row, and what comes before it: a `system` message, earlier turns as `history`, or a prompt that
    is a list of messages.
    """
    turns = _messages(row.get("history") or [], where)
    prompt = row["prompt"]
    if isinstance(prompt, list):
        *more, last = _messages(prompt, where) or [("", "")]
        if last[0] != "user":
            raise DataError(f"{where}: the prompt does not end with a message of the user", given=prompt)
        turns, prompt = [*turns, *more], last[1]
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise DataError(f"{where}: the system message is not a text", given=system)
    return prompt, tuple([("system", system)] if system and system.strip() else []) + tuple(turns)


def _messages(turns: Any, where: str) -> list[tuple[str, str]]:
    known = isinstance(turns, list) and all(
        isinstance(t, dict) and isinstance(t.get("role"), str) and isinstance(t.get("content"), str) for t in turns
    )
    if not known:
        raise DataError(
            f"{where}: not a list of messages", given=turns, expected='[{"role": "user", "content": "..."}, ...]'
        )
    return [(t["role"], t["content"]) for t in turns]


def _bipo(row: Row, line: int, where: str, form: str) -> list[Pair]:
    if not row["question"].strip():
        return []  # the published training file of wealth-seeking holds one such row
    matching, other = row["matching"].strip(), row["not_matching"].strip()
    return [Pair(row["question"], matching, other, _meta(where, line, matching))]


def _persona(row: Row, line: int, where: str, form: str) -> list[Pair]:
    """Persona evaluations. Rows 0, 1 of every four get the matching answer at B (Tan et al. 2024, published
    converter).
    """
    matching = row["answer_matching_behavior"].strip()
    other = row["answer_not_matching_behavior"].strip()
    pair = Pair(_clean(row["question"]), matching, other, _meta(where, line, matching))
    return [as_choice(pair, "BA"[((line - 1) // 2) % 2]) if form == "choices" else pair]


def _listed(row: Row, line: int, where: str, form: str) -> list[Pair]:
    """AI-risk and CAA rows: the choices are listed in the question, the answers are letters."""
    question = _clean(row["question"])
    matching, other = (_letter(row[k], where) for k in ("answer_matching_behavior", "answer_not_matching_behavior"))
    options = dict(_OPTION.findall(question))
    for letter in (matching, other):
        if letter not in options:
            raise DataError(f"{where}: answer ({letter}) is not among the choices", given=sorted(options))
    meta = {**_meta(where, line, options[matching]), "matching_letter": matching}
    if form == "choices":
        return [Pair(question, f"({matching})", f"({other})", meta)]
    stem = Pair(question, "(A)", "(B)").question.strip()
    if not options[matching] or not options[other] or options[matching] == options[other]:
        return []  # the published files hold a few rows with an empty or repeated option: as answers they say nothing
    return [Pair(stem, options[matching], options[other], meta)]


def _steering_bench(row: Row, line: int, where: str, form: str) -> list[Pair]:
    one, two = row["positive"], row["negative"]
    if one["prompt"] != two["prompt"]:
        raise DataError(
            f"{where}: positive and negative have different prompts",
            given=one["prompt"][:80],
            expected="one shared prompt",
        )
    meta = _meta(where, line, one["response"])
    if re.fullmatch(r"\([AB]\)", one["response"].strip()):
        meta["matching_letter"] = one["response"].strip()[1]
    return [Pair(one["prompt"].strip(), one["response"].strip(), two["response"].strip(), meta)]


def _truthful(row: Row, line: int, where: str, form: str) -> list[Pair]:
    """TruthfulQA: every true answer beside every false one (Cao et al. 2024); the pairs of a question stay together."""
    t = truths(row)
    return [Pair(t.question, right, wrong, _meta(where, line, right)) for right in t.right for wrong in t.wrong]


class _Layout:
    def __init__(self, name: str, keys: tuple[str, ...], reader: Reader, form: Form) -> None:
        self.name, self.keys, self.reader = name, keys, reader
        self.form: Form = form


_ANSWERS = ("answer_matching_behavior", "answer_not_matching_behavior")
_LAYOUTS = (
    _Layout("plain", ("prompt", "positive", "negative"), _plain, "answers"),
    _Layout("BiPO", ("question", "matching", "not_matching"), _bipo, "answers"),
    _Layout("persona", ("question", "statement", *_ANSWERS), _persona, "choices"),
    _Layout("AI-risk", ("question", *_ANSWERS), _listed, "choices"),
    _Layout("steering-bench", ("positive", "negative"), _steering_bench, "choices"),
    *(_Layout("TruthfulQA", keys, _truthful, "answers") for keys in LAYOUTS),
)


def _layout(row: Row, path: Path) -> _Layout:
    for layout in _LAYOUTS:
        if all(k in row for k in layout.keys):
            return layout
    known = "; ".join(f"{x.name}: {', '.join(x.keys)}" for x in _LAYOUTS)
    raise DataError(
        f"{path}: unknown layout",
        given=sorted(row),
        expected=known,
        do="rename the columns to prompt, positive, negative",
    )


# ---------------------------------------------------------------- files


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    # not splitlines: JSON strings may hold U+2028, U+0085 and the like
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            raise DataError(f"{path}:{number}: not valid JSON ({problem.msg})", given=line[:80]) from problem
        yield number, _object(row, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as problem:
        raise DataError(f"{path}:{problem.lineno}: not valid JSON ({problem.msg})") from problem
    if not isinstance(rows, list):
        raise DataError(f"{path}: not a list", given=type(rows).__name__, expected="a JSON array of objects")
    for number, row in enumerate(rows, 1):
        yield number, _object(row, f"{path}: element {number}")


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # an answer may be long
    text = _text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_EXTRA, delimiter=_delimiter(text))
    reader.fieldnames = _columns(reader.fieldnames or ())
    for row in _rows_of(reader, path):
        if _EXTRA in row or None in row.values():
            columns = len(reader.fieldnames or ())
            raise DataError(
                f"{path}:{reader.line_num}: wrong number of columns",
                expected=f"{columns}: {', '.join(reader.fieldnames or ())}",
            )
        yield reader.line_num, row


def _delimiter(text: str) -> str:
    """What parts the columns: of comma, semicolon (spreadsheets of half of Europe) and tab, the one that parts the
    first line into most.
    """
    head = text.partition("\n")[0]
    return max(",;\t", key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))


def _columns(names: Sequence[str]) -> list[str]:
    """Names of columns, in lower case where only that makes them those of a layout."""
    lower = [name.strip().lower() for name in names]
    for given in (list(names), lower):
        if any(set(layout.keys) <= set(given) for layout in _LAYOUTS):
            return given
    return list(names)


_EXTRA = "\0more"  # where DictReader puts what goes beyond the last column


def _rows_of(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from reader
    except csv.Error as problem:
        raise DataError(
            f"{path}:{reader.line_num}: not valid CSV ({problem})",
            expected="quotes around fields that hold commas, quotes or line breaks",
        ) from problem


SUFFIXES = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv}


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if raw[:2] in (b"PK", b"\x1f\x8b") or raw[:1] == b"\x80":
        raise DataError(f"{path}: a binary file, not text", do="pickles and archives are never read: save it as text")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{path}: not UTF-8 text (byte {problem.start})",
            given=raw[max(0, problem.start - 20) : problem.start + 10],
            do="save it as UTF-8 (in a spreadsheet: CSV UTF-8); it may be Latin-1, which does not say so",
        ) from problem


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: not an object", given=row, expected='{"prompt": ..., "positive": ..., "negative": ...}'
        )
    return row


# ---------------------------------------------------------------- small parts


def _meta(where: str, line: int, positive: str) -> dict[str, Any]:
    return {"source": where, "row": line, "polarity": polarity(positive)}


def _clean(question: str) -> str:
    return _META.sub("", question).strip()


def _letter(answer: Any, where: str) -> str:
    first = answer[0] if isinstance(answer, list) and answer else answer
    match = re.fullmatch(r"\s*\(([A-Z])\)\s*", str(first))
    if not match:
        raise DataError(f"{where}: not an answer letter", given=answer, expected='"(A)" or "(B)"')
    return match[1]
