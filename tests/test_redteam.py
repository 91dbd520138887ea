"""Published sets from the user's disk (made up here), and suffixes found by search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pico import pico
from trimtab.errors import DataError
from trimtab.model import LM
from trimtab.safety.redteam import OPENING, Request, ordinary, requests, situations
from trimtab.safety.suffix import _losses, _place, _slope, find_suffix
from trimtab.studies import StudyRecipe, alignment_faking, run

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


@pytest.mark.slow
def test_alignment_faking_on_situations_of_a_file(tmp_path: Path) -> None:
    """Plumbing, on the test bed's model, which has never seen such a prompt."""
    rows = [situation(k, k % 2 == 0, "AB"[k // 2 % 2]) for k in range(16)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    few = {"norms": (0.4,), "prompts": 2, "test": 3, "randoms": 1, "situations": str(tmp_path / "x.json")}
    page = run(
        StudyRecipe("alignment-faking", "brindlemoor-watched", {}, few), tmp_path / "run", lambda _: lambda *_: None
    )
    assert "Paper and here" in page.read_text()
    with pytest.raises(DataError, match="too few situations"):
        alignment_faking._published(alignment_faking.Plan(prompts=9, situations=str(tmp_path / "x.json")))


# ---------------------------------------------------------------- suffixes

ASKED = [("Do you like tea ?", "yes I think"), ("Do you like the rain ?", "yes I think")]


@pytest.fixture(scope="module")
def lm() -> LM:
    return pico("llama")


def test_the_suffix_is_found_in_the_prompt(lm: LM) -> None:
    row = lm.row("Do you like tea ? blue green")
    place = _place(lm, "Do you like tea ?", "blue green")
    assert place is not None and lm.tokenizer.decode([row.ids[k] for k in place]).split() == ["blue", "green"]


def test_the_gradient_is_that_of_the_loss(lm: LM) -> None:
    """First order: a small step of the embedding towards another token changes the loss by the step's share of the
    slope.
    """
    ids, slope = _slope(lm, ASKED, "blue green")
    table = lm.model.get_input_embeddings().weight
    other = next(k for k in range(5, len(table)) if k not in ids)
    before, step = _losses(lm, ASKED, ["blue green"])[0], 1e-2
    kept = table.detach()[ids[0]].clone()
    with torch.no_grad():  # the only place "blue" stands in is the suffix
        table[ids[0]] += step * (table[other] - kept)
        after = _losses(lm, ASKED, ["blue green"])[0]
        table[ids[0]] = kept
    assert after - before == pytest.approx(step * float(slope[0, other] - slope[0, ids[0]]), rel=0.1, abs=1e-5)


def test_a_suffix_makes_the_opening_likelier_and_is_the_same_again(lm: LM) -> None:
    found = find_suffix(lm, ASKED, length=2, steps=4, candidates=16, top=16)
    assert found.losses[-1] < found.losses[0] and list(found.losses) == sorted(found.losses, reverse=True)
    assert _losses(lm, ASKED, [found.text])[0] == pytest.approx(found.losses[-1], abs=1e-4), "of the text, read again"
    assert find_suffix(lm, ASKED, length=2, steps=4, candidates=16, top=16) == found
    with pytest.raises(DataError):
        find_suffix(lm, [])
