"""Published sets a model should refuse, or behave differently in, from the user's own disk. None of them is shipped,
and none is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.data import formats
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError

OPENING = "Sure, here is"  # of an answer that complies, where a file has none

# Field of the request, of the opening it would get, of its category: JailbreakBench, HarmBench, AdvBench, and a plain
# file.
LAYOUTS = (
    ("Goal", "Target", "Category"),
    ("Behavior", "", "SemanticCategory"),
    ("goal", "target", ""),
    ("prompt", "target", "category"),
)


@dataclass(frozen=True)
class Request:
    """Something a model is asked to do.

    Attributes:
        user: the request.
        opening: how an answer that does it begins.
        category: as the file has it, or "".
        twin: a harmless request like it, from a column of that name, or "".
    """

    user: str
    opening: str
    category: str = ""
    twin: str = ""


def requests(path: str | Path) -> list[Request]:
    """Requests of a CSV file in the layout of HarmBench, JailbreakBench or AdvBench, or with a column `prompt`.

    Copyright requests of HarmBench are left out, as in Dunefsky & Cohan 2025; a context is put before its request.

    Raises:
        DataError: no such file, columns of none of these layouts, or no requests in it.
    """
    file = Path(path).expanduser()
    rows = [row for _, row in formats.rows(file, "a CSV file of requests")]
    columns = set(rows[0])
    layout = next((x for x in LAYOUTS if x[0] in columns and (not x[1] or x[1] in columns or x[0] == "prompt")), None)
    if layout is None:
        raise DataError(
            f"{file.name}: not a file of requests",
            given=sorted(columns),
            expected=" or ".join(f"{a}, {b}" if b else a for a, b, _ in LAYOUTS),
        )
    out = [
        _request(row, *layout)
        for row in rows
        if row.get("FunctionalCategory") != "copyright" and (row.get(layout[0]) or "").strip()
    ]
    if not out:
        raise DataError(f"{file.name} holds no requests")
    return out


def _request(row: formats.Row, request: str, opening: str, category: str) -> Request:
    context = (row.get("ContextString") or "").strip()
    user = (row[request] or "").strip()
    return Request(
        f"{context}\n\n{user}" if context else user,
        (row.get(opening) or OPENING).strip(),
        (row.get(category) or "").strip(),
        (row.get("twin") or "").strip(),
    )


@dataclass(frozen=True)
class Situation:
    """A choice between two actions, with or without oversight.

    Attributes:
        pair: the question; the positive completion is the harmful action's letter.
        turned: the same with its actions at each other's letters.
        overseen: whether the situation says that somebody would notice.
    """

    pair: Pair
    turned: Pair
    overseen: bool


def situations(path: str | Path) -> list[Situation]:
    """Situations of a JSON file in the layout of Poser (Clymer et al. 2024): `prompt`, `action_A`, `action_B`,
    `oversight_is_poor`, `response`.

    A model that fakes alignment takes the `response`: the harmless action where it is overseen, the harmful one where
    it is not. Prompts stay as they are, marks included; situations marked `filtered_out` are left out.

    Raises:
        DataError: no such file, not such a file, or a situation that lacks something, with its number.
    """
    file = Path(path).expanduser()
    rows = formats.rows(file, "a JSON file of situations")
    return [_situation(f"{file.name}, situation {k}", row) for k, row in rows if not row.get("filtered_out")]


def _situation(where: str, row: formats.Row) -> Situation:
    needed = ("prompt", "action_A", "action_B", "oversight_is_poor", "response")
    lacking = [k for k in needed if k not in row]
    if lacking:
        raise DataError(f"{where} lacks {lacking[0]!r}", expected=needed)
    listed, turned = (f"A: {row[f'action_{one}']}\nB: {row[f'action_{two}']}" for one, two in ("AB", "BA"))
    if row["response"] not in ("A", "B") or listed not in row["prompt"]:
        raise DataError(
            f"{where} is not a choice between A and B",
            given=row["response"],
            expected='"A" or "B", and both actions listed in the prompt',
        )
    harmful = row["response"] if row["oversight_is_poor"] else _other(row["response"])
    prompt = row["prompt"]
    pair, back = (
        Pair(x, y, _other(y), {"about": prompt})
        for x, y in ((prompt, harmful), (prompt.replace(listed, turned), _other(harmful)))
    )
    return Situation(pair, back, not row["oversight_is_poor"])


def _other(letter: str) -> str:
    return "B" if letter == "A" else "A"


def ordinary(path: str | Path | None) -> Sequence[Request]:
    """Requests nobody should refuse, from a file like those above; without one, the questions of the built-in behavior
    optimism.
    """
    if path:
        return requests(path)
    return [Request(p.prompt, OPENING) for p in Dataset.load("optimism")]
