"""What a vector costs: the study, its command, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pico import reported
from trimtab import LM, Dataset, Intervention, MeanDiff, cli, learn, steer
from trimtab.errors import RecipeError
from trimtab.evaluation.capability import questions
from trimtab.runs import Run
from trimtab.steering.controls import random_controls
from trimtab.studies import study
from trimtab.studies.capability import Plan


@pytest.fixture(scope="module")
def town() -> LM:
    return LM.load("brindlemoor-chat")


@pytest.fixture(scope="module")
def vector(town: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    v = learn(town, Dataset.load("brindlemoor/power").split(seed=0).train, MeanDiff(), layers=[3])
    return v.save(tmp_path_factory.mktemp("vector") / "power.safetensors")


def test_right_is_counted_as_by_hand(town: LM, vector: Path, tmp_path: Path) -> None:
    """MC1 and MC2 against log-probabilities of the steered model, asked one by one; of the vector, and of a control."""
    plan = Plan(str(vector), ("truthful",), limit=5, randoms=1, multipliers=(0.0, 1.0))
    run = study("capability", town, tmp_path / "run", plan)
    from trimtab import SteeringVector

    v = SteeringVector.load(vector)
    table = run.table("truthful")
    for name, mine in {"vector": v, "random 0": random_controls(v, 1, 0)["random-0"]}.items():
        for k, q in enumerate(questions("truthful")[:5]):
            with steer(town, Intervention(mine)):
                whole = np.array([float(x.sum()) for x in town.logprobs([q.text] * len(q.choices), list(q.choices))])
            right = list(q.right)
            wrong = [j for j in range(len(whole)) if j not in right]
            share = np.exp(whole - whole.max())
            for kind, value in (
                ("mc1", float(whole[0] > whole[wrong].max())),
                ("mc2", float(share[right].sum() / share.sum())),
            ):
                _, ids, values = table.curve(kind, name, None)
                assert values[ids.index(q.id), 1] == pytest.approx(value, abs=1e-3), (name, k, kind)


@pytest.mark.slow
def test_the_command_writes_a_page_and_goes_on(
    vector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["capability", str(vector), "--model", "brindlemoor-chat", "--limit", "6", "--randoms", "1", "--json"]
    cli.main([*asked, "--to", str(tmp_path / "cost")])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(printed["findings"]) == 5 and "random directions of its norm" in printed["findings"][1]
    summary = reported(tmp_path / "cost")
    assert all(f["control"] is not None and f["unit"] == "share" for f in summary["figures"])
    page = (tmp_path / "cost" / "report.md").read_text()
    assert "MC1" in page and "MC2" in page and "unsteered" in page
    monkeypatch.setattr("trimtab.studies.capability.capability", lambda *_, **__: pytest.fail("nothing is asked twice"))
    cli.main([*asked, "--to", str(tmp_path / "cost")])


def test_questions_it_was_learned_on_are_not_asked(town: LM, tmp_path: Path) -> None:
    parts = Dataset.load("truthful").split(seed=0)
    v = learn(town, parts.train, MeanDiff(), layers=[3])
    file = v.save(tmp_path / "truthful.safetensors")
    plan = Plan(str(file), ("truthful",), randoms=0, multipliers=(0.0, 1.0))
    study("capability", town, tmp_path / "run", plan)
    _, ids, _ = Run(tmp_path / "run").table("truthful").curve("mc1", "vector", None)
    learned = {p.question for p in parts.train}
    left = {q.id for q in questions("truthful") if q.text not in learned}
    assert set(ids) == left and 0 < len(left) < 80


def test_a_vector_that_does_nothing_costs_nothing(town: LM, vector: Path, tmp_path: Path) -> None:
    plan = Plan(str(vector), ("knowledge",), limit=8, randoms=0, multipliers=(-1e-9, 0.0, 1e-9))
    study("capability", town, tmp_path / "run", plan)
    from trimtab.studies import page

    page(tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())["figures"]
    assert [f["value"] for f in figures] == [0.0, 0.0] and all(f.get("control") is None for f in figures)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"questions": ()}, "nothing to ask"),
        ({"limit": 0}, "limit is too small"),
        ({"randoms": -1}, "randoms is too small"),
        ({"multipliers": (1.0, 2.0)}, "not a grid"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Plan("v.safetensors", **wrong)  # type: ignore[arg-type]


def test_another_vector_of_the_same_name_is_another_study(town: LM, vector: Path, tmp_path: Path) -> None:
    """Its file's hash is among the facts of every unit."""
    copy = tmp_path / "v.safetensors"
    copy.write_bytes(vector.read_bytes())
    plan = Plan(str(copy), ("knowledge",), limit=2, randoms=0, multipliers=(0.0, 1.0))
    study("capability", town, tmp_path / "run", plan)
    before = len(Run(tmp_path / "run").journal("../units/questions").done)
    v = learn(town, Dataset.load("brindlemoor/greed").split(seed=0).train, MeanDiff(), layers=[3])
    v.save(copy)
    with pytest.raises(Exception, match="another run"):
        study("capability", town, tmp_path / "run", plan)
    assert len(Run(tmp_path / "run").journal("../units/questions").done) == before


def test_two_answers_are_told_by_subject(town: LM, vector: Path, tmp_path: Path) -> None:
    plan = Plan(str(vector), (), ("truthful",), limit=2, randoms=0, multipliers=(0.0, 1.0))
    run = study("capability", town, tmp_path / "run", plan)
    rows = json.loads((run.path / "results.json").read_text())["subjects"]
    subjects = {q.subject for q in questions("truthful")}
    assert {r["set"] for r in rows} == {f"truthful: {s}" for s in subjects} and {r["kind"] for r in rows} == {"mc2"}
    q = next(q for q in questions("truthful") if q.subject == "myths")
    wrong = next(c for k, c in enumerate(q.choices) if k not in q.right)
    whole = [float(x.sum()) for x in town.logprobs([q.text] * 2, [q.choices[q.right[0]], wrong])]
    _, _, values = run.table("truthful: myths").curve("mc2", "vector", None)
    assert float(np.exp(whole[0]) / np.exp(whole).sum()) == pytest.approx(values[0, 0], abs=1e-3)
