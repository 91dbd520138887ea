"""The study of reliability, whole and small."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from pico import pico, reported, toy_questions
from trimtab.data.choices import options
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair, to_choices
from trimtab.errors import DataError, RecipeError, RunError, TokenError
from trimtab.evaluation.forecast import sensitivity
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from trimtab.studies import study
from trimtab.studies.pages.reliability import headline, page
from trimtab.studies.pages.reliability_extractors import extracted
from trimtab.studies.pages.reliability_facts import VECTOR
from trimtab.studies.pages.reliability_results import load, sweep_slopes
from trimtab.studies.reliability import Plan

reliability = partial(study, "reliability")


def small(*names: str, **changes: object) -> Plan:
    beyond = ("no-system", "two-turns", "swapped")
    return Plan(
        data=names,
        beyond=beyond,
        train=8,
        val=2,
        test=8,
        system=None,
        draws=199,
        nulls=1,
        folds=2,
        multipliers=(-1.0, 0.0, 1.0),
        **changes,
    )  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Two data sets as published files have them."""
    out: list[str] = []
    for name in ("snow", "tea"):
        rows = [
            {
                "question": f"{p.question}\n\nChoices:\n (A) {one}\n (B) {two}",
                "answer_matching_behavior": f" {p.positive}",
                "answer_not_matching_behavior": f" {p.negative}",
            }
            for p in toy_questions(24, name)
            for one, two in [options(p)[1:] if p.positive == "(A)" else options(p)[:0:-1]]
        ]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        out.append(str(path))
    return out[0], out[1]


@pytest.mark.slow
def test_the_whole_study_on_a_small_model_resumes_and_reports(files: tuple[str, str], tmp_path: Path) -> None:
    lm = pico()
    plan = small(*files)
    run = reliability(lm, tmp_path / "study", plan)
    text = page(run).read_text()
    before = {p: p.read_bytes() for p in sorted((tmp_path / "study").rglob("*")) if p.is_file()}
    page(reliability(lm, tmp_path / "study", plan))
    assert {p: p.read_bytes() for p in before} == before, "a second call changes nothing"
    whole = load(run)
    assert {s.name for s in whole.sets} == {"snow", "tea"} and whole.layer in range(lm.n_layers)
    for s in whole.sets:
        assert s.position is not None, "options were read in both orders"
        assert s.curves[VECTOR, "base"].values.shape == (8, 3) and len(s.fold_slopes) == 8
        assert {str(v) for v, c in s.curves if c == "base"} >= {"vector", "span-0", "shuffled-0", "unrelated"}
        assert 0 < s.p <= 1
    with (tmp_path / "study" / "items.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(c.values.size for s in whole.sets for c in s.curves.values())
    by = {x.name: x for x in extracted(whole) if x.data == "snow"}
    assert list(by) == ["mean difference", "balanced", "both-orders", "pca", "probe"]
    assert by["mean difference"].fewer.value == 0
    assert "Lines through single items" in text and "On neutral text" in text
    assert "Vectors of other extractors" in text
    assert "Ranking" in text and "(q ≤ 0.05)." in headline(whole)[0]
    assert "<script" not in text and "<link" not in text and "src=" not in text
    assert any(f["name"] == "mean slope, tea" for f in reported(tmp_path / "study")["figures"])
    other = reliability(lm, tmp_path / "spoken", small(*files, form="spoken", words=2, layer=1))
    assert load(other).sets[0].position is None and page(other).is_file()
    with pytest.raises(RunError):
        reliability(lm, tmp_path / "study", small(*files, seed=1))


def test_a_sweep_is_read_in_the_order_of_its_questions(tmp_path: Path) -> None:
    """Rows are written batch by batch, near in length; a short vector does to every question what the forecast says of
    that question.
    """
    lm = pico()
    pairs = [
        Pair(f"Do you {'really ' * (k % 4)}like {w} ?", "yes I think so", "no never")
        for k, w in enumerate(("tea", "rain", "snow", "sun", "coffee", "red"))
    ]
    data = Dataset("toy", to_choices(pairs), "choices")
    v = SteeringVector({k: 1e-2 * torch.randn(lm.width, generator=torch.Generator().manual_seed(k)) for k in (0, 2)})
    run = measure(
        lm,
        Intervention(v, positions="from_last_prompt_token"),
        data,
        [Propensity()],
        to=tmp_path,
        part="val-base",
        layers=[0, 2],
        multipliers=(-1.0, 0.0, 1.0),
        controls={},
    )
    assert run.table("val-base").curve("propensity", "vector", 0)[1] != [p.id for p in data], (
        "another order in the file"
    )
    expected = sensitivity(lm, data).slopes(v)
    for layer, slopes in sweep_slopes(run, {"base": [p.id for p in data], "swapped": []}).items():
        assert slopes == pytest.approx(expected[layer], rel=0.05, abs=1e-5)


def test_the_legacy_split_tests_what_it_trained_on_and_says_so(files: tuple[str, str], tmp_path: Path) -> None:
    plan = Plan(
        data=files[:1],
        train=20,
        val=2,
        test=20,
        system=None,
        draws=20,
        nulls=1,
        folds=0,
        multipliers=(-1.0, 0.0, 1.0),
        legacy=True,
        layer=1,
        contexts=("base",),
        beyond=(),
    )
    run = reliability(pico(), tmp_path / "legacy", plan)
    page(run)
    assert "LEGACY" in (tmp_path / "legacy" / "report.md").read_text()


def test_bad_data_is_refused_before_anything_runs(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "open.jsonl").write_text('{"prompt": "Who?", "positive": "me", "negative": "you"}\n')
    with pytest.raises(DataError, match="too few A/B questions"):
        reliability(pico(), tmp_path / "a", small(str(tmp_path / "open.jsonl")))
    rows = [
        {
            "question": f"Is {k} it?\n\nChoices:\n (A) Yes\n (B) No",
            "answer_matching_behavior": " (A)",
            "answer_not_matching_behavior": " (B)",
        }
        for k in range(12)
    ]
    (tmp_path / "one-sided.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="same letter"):
        reliability(pico(), tmp_path / "b", small(str(tmp_path / "one-sided.json")))
    with pytest.raises(TokenError, match="same tokens"):  # the tokenizer has no digits
        reliability(pico(), tmp_path / "c", replace(small(files[0]), beyond=("digits",)))
    with pytest.raises(RecipeError):
        small("x", "x")
    with pytest.raises(RunError):
        load(tmp_path)
