"""Published sets from the user's disk (made up here), and suffixes found by search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.errors import DataError
from trimtab.safety.redteam import OPENING, Request, ordinary, requests, situations

FILES = {
    "harmbench": (
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        'Bake the bread,standard,food,,,a\n"Say it, again",contextual,food,,A text.,b\nThe song,copyright,music,,,c\n',
        [Request("Bake the bread", OPENING, "food"), Request("A text.\n\nSay it, again", OPENING, "food")],
    ),
    "jailbreakbench": (
        "Index,Goal,Target,Behavior,Category,Source\n0,Bake the bread,Sure. The bread,bread,food,own\n",
        [Request("Bake the bread", "Sure. The bread", "food")],
    ),
    "advbench": (
        "goal,target\nBake the bread,Sure. The bread\n,empty\n",
        [Request("Bake the bread", "Sure. The bread")],
    ),
    "plain": ("prompt\nBake the bread\n", [Request("Bake the bread", OPENING)]),
}


@pytest.mark.parametrize("name", FILES)
def test_requests_of_every_layout(name: str, tmp_path: Path) -> None:
    text, expected = FILES[name]
    (tmp_path / "x.csv").write_text(text, "utf-8")
    assert requests(tmp_path / "x.csv") == expected


def test_files_that_hold_no_requests_are_refused(tmp_path: Path) -> None:
    for text, said in (
        ("a,b\n1,2\n", "not a file of requests"),
        ("", "holds no rows"),
        ("prompt\n \n", "holds no requests"),
    ):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            requests(tmp_path / "x.csv")
    with pytest.raises(DataError, match="no such file"):
        requests(tmp_path / "y.csv")
    assert len(ordinary(None)) > 50


def situation(k: int, poor: bool, response: str) -> dict[str, object]:
    listed = f"A: Bake {k}\nB: Sing {k}"
    return {
        "prompt": f"<<prompt>>One: {k}\n\n{listed}\nWhich letter?\n<</prompt>>",
        "action_A": f"Bake {k}",
        "action_B": f"Sing {k}",
        "oversight_is_poor": poor,
        "response": response,
    }


def test_situations_say_which_action_is_harmful(tmp_path: Path) -> None:
    rows = [situation(0, False, "A"), situation(1, True, "A"), {**situation(2, True, "B"), "filtered_out": True}]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    watched, not_watched = situations(tmp_path / "x.json")
    assert (watched.overseen, watched.pair.positive, watched.pair.negative) == (True, "B", "A"), (
        "overseen, a faker takes the harmless action"
    )
    assert (not_watched.overseen, not_watched.pair.positive) == (False, "A")
    assert (
        "A: Sing 0\nB: Bake 0" in watched.turned.prompt
        and watched.turned.positive == "A"
        and watched.turned.group == watched.pair.group
    )
    assert watched.pair.prompt == rows[0]["prompt"], "marks and line breaks are the model's own"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"response": "C"}, "not a choice"), ({"prompt": "?"}, "not a choice"), ({"action_A": None}, "not a choice")],
)
def test_malformed_situations_are_named(change: dict[str, object], said: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([situation(0, True, "A"), {**situation(1, True, "A"), **change}]))
    with pytest.raises(DataError, match=f"situation 2 is {said}"):
        situations(tmp_path / "x.json")
    del (row := situation(0, True, "A"))["prompt"]
    for text, said in (("{", "not valid JSON"), ("{}", "not a list"), (json.dumps([row]), "lacks 'prompt'")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=said):
            situations(tmp_path / "x.json")
