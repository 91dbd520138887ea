"""From a sentence to a vector: the whole way on the test bed, from pairs; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab import LM, SteeringVector, cli, studies
from trimtab.errors import RecipeError, TrimtabError
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.studies.auto import Plan, stages
from trimtab.studies.pages.auto import Results

SENTENCE = "wants to rule over others"


def test_the_whole_way_from_pairs(tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = Plan(SENTENCE, data="brindlemoor/power", methods=("mean-diff", "one-shot"), controls=6, max_new_tokens=16)
    page = studies.page(studies.study("auto", lm, tmp_path / "run", plan))
    r = Run(tmp_path / "run").typed(RESULTS, Results)
    assert r.kind != "cannot be shown here" and r.winner is not None and r.trial.rise is not None
    assert r.trial.rise.lo > r.trial.control, "the preference rises beyond the controls"
    v = SteeringVector.load(tmp_path / "run" / "vector.safetensors")
    assert v.use is not None and v.use.dose is not None and v.evidence is not None and v.evidence["verdict"] == r.kind
    text = page.read_text("utf-8")
    assert "asked, and steered" in text and "The race" in text and "control" in text
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")}
    studies.study("auto", lm, tmp_path / "run", plan)
    assert {p: p.stat().st_mtime_ns for p in before if "vectors" in str(p)} == {
        p: t for p, t in before.items() if "vectors" in str(p)
    }, "nothing is learned twice"


def test_a_model_that_does_not_react_to_being_asked_is_told(tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = Plan(SENTENCE, questions=12, max_new_tokens=8)
    page = studies.page(studies.study("auto", lm, tmp_path / "run", plan))
    r = Run(tmp_path / "run").typed(RESULTS, Results)
    assert r.kind == "cannot be shown here" and r.winner is None and sum(r.thrown.values()) > 0
    assert not (tmp_path / "run" / "vector.safetensors").exists() and "--writer" in page.read_text("utf-8")
    assert (tmp_path / "run" / "pairs.jsonl").is_file()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sentence": " "}, {"against": SENTENCE.upper()}, {"methods": ("mean-diff", "magic")}, {"methods": ("probe",)},
        {"questions": 3}, {"questions": 1000}, {"writer": "no-such-model"}, {"controls": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_work(wrong: dict[str, object]) -> None:
    with pytest.raises((RecipeError, TrimtabError)):
        Plan(**{"sentence": SENTENCE, **wrong})  # type: ignore[arg-type]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["auto", SENTENCE, "--model", "brindlemoor-chat", "--questions", "12", "--to", str(tmp_path / "run")]
    cli.main([*call, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["vector"] is None and told["findings"][0].startswith("Cannot be shown here")
    assert 'study = "auto"' in (tmp_path / "run" / "recipe.toml").read_text()
    with pytest.raises(SystemExit):
        cli.main(["auto", "", "--to", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists() and callable(stages)
