"""The study of vectors beside a LoRA, in small; and the adapter: turned off it is the model, turned up it prefers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pico import pico, reported
from trimtab import LM, Dataset, OneShot, Preference, studies
from trimtab.data.pairs import Pair
from trimtab.errors import RecipeError, TrimtabError
from trimtab.methods.contrast import paired_rows
from trimtab.progress import silent
from trimtab.studies import lora as study
from trimtab.studies.adapters import Adapted, Lora
from trimtab.studies.pages.bipo_results import BIPO
from trimtab.studies.pages.lora import LORA, Results

PAIRS = tuple(Pair(f"Do you like {x} ?", "yes I think so", "no never") for x in ("tea", "rain", "sun", "coffee"))
HOW = Lora(rank=2, alpha=4.0, dropout=0.0, rate=0.02, warm=1, batch=2, epochs=4)


def slow_margin(lm: LM, pair: Pair) -> float:
    up, down = lm.logprobs([pair.prompt, pair.prompt], [pair.positive, pair.negative])
    return float(up.sum() - down.sum())


def test_at_zero_it_is_the_model_and_training_raises_the_margin(tmp_path: Path) -> None:
    lm = pico()
    before = [p.clone() for p in lm.model.parameters()]
    adapted = Adapted(lm, HOW)
    plain = torch.tensor([slow_margin(lm, p) for p in PAIRS])
    assert torch.allclose(adapted.margins(PAIRS, 1.0), plain, atol=1e-4), "its second factor starts at zero"
    losses: list[int] = []
    adapted.trained(PAIRS, tmp_path / "adapter.safetensors", lambda done, *_: losses.append(done))
    assert losses == list(range(1, 9))
    assert torch.allclose(adapted.margins(PAIRS, 0.0), plain, atol=1e-4)
    assert (adapted.margins(PAIRS, 1.0) > plain).all() and (adapted.margins(PAIRS, -1.0) < plain).all()
    assert all(torch.equal(a, b) for a, b in zip(before, lm.model.parameters(), strict=True)), (
        "the copy alone is trained"
    )
    assert not any(p.requires_grad for p in adapted.lm.model.parameters())
    again = Adapted(lm, HOW)
    again.trained(PAIRS, tmp_path / "adapter.safetensors", lambda *_: pytest.fail("trained twice"))
    assert torch.equal(again.margins(PAIRS, 1.0), adapted.margins(PAIRS, 1.0))


def test_the_margin_with_a_graph_is_the_one_without() -> None:
    lm = pico()
    adapted = Adapted(lm, HOW)
    for p in adapted.trainable.values():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        padded = adapted._margin([paired_rows(adapted.lm, p) for p in PAIRS])
    assert torch.allclose(padded, adapted.margins(PAIRS, 1.0), atol=1e-4)


def test_fine_tuning_raises_the_answers_themselves(tmp_path: Path) -> None:
    lm, how = pico(), replace(HOW, answers=True)
    adapted = Adapted(lm, how)
    with torch.no_grad():
        loss = float(adapted._loss([paired_rows(adapted.lm, p) for p in PAIRS], torch.zeros(4)))
    said = lm.logprobs([p.prompt for p in PAIRS], [p.positive for p in PAIRS])
    assert loss == pytest.approx(-sum(float(x.mean()) for x in said) / 4, rel=1e-4)
    adapted.trained(PAIRS, tmp_path / "tuned.safetensors", silent(""))
    after = adapted.at(1.0).logprobs([p.prompt for p in PAIRS], [p.positive for p in PAIRS])
    assert all(float(b.sum()) > float(a.sum()) for a, b in zip(said, after, strict=True))
    with pytest.raises(TrimtabError):
        study.Plan(("a",), layer=1, others={"odd": {"ranks": 2}})
    with pytest.raises(RecipeError, match="different letters"):
        study.Plan(("a",), layer=1, others={"rank 1": {"rank": 1}, "Rank-1": {"answers": True}})
    for wrong in ({"epochs": 0}, {"rank": "two"}):
        with pytest.raises(TrimtabError):
            study.Plan(("a",), layer=1, others={"odd": wrong})
    with pytest.raises(RecipeError, match="more examples"):
        study.Plan(("a",), layer=1, train=6, shots=(8,))


def test_a_model_without_such_modules_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot have this adapter"):
        Adapted(pico(), Lora(targets=("nowhere",)))


@pytest.mark.slow
def test_the_study_runs_resumes_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = study.Plan(
        ("brindlemoor/cruel",),
        layer=2,
        multipliers=(-1.0, 0.0, 1.0),
        train=24,
        val=6,
        test=8,
        talk=2,
        max_new_tokens=16,
        bipo=Preference(norm=0.3, rate=0.03, epochs=2, warm=2, positions="everywhere"),
        one=OneShot(mode="mixed", steps=5, positions="everywhere"),
        lora=Lora(rate=0.002, batch=4, epochs=2),
    )
    run = studies.study("lora", lm, tmp_path / "run", plan)
    (facts,) = run.typed("results.json", Results).behaviors
    for c in (BIPO, LORA):
        line = facts.line(c)
        assert line.range.value > 0 and line.range.n == 8 and line.cost is not None and line.cost.seconds > 0
        assert [a.multiplier for a in line.at] == [-1.0, 0.0, 1.0] and line.at[1].change.value == 0
    top = [t for t in facts.together if t.adapter == LORA and t.multiplier == 1.0]
    assert len(top) == 2 and all(t.alone.value == pytest.approx(facts.line(BIPO).at[2].change.value) for t in top)
    assert {str(x.condition) for x in facts.lines} >= {"LoRA rank 1", "LoRA fine-tuned"}
    assert [s.shots for s in facts.shown] == [2, 8]
    vector, lora = facts.line(BIPO).cost, facts.line(LORA).cost
    assert vector is not None and vector.parameters == lm.width
    assert lora is not None and lora.parameters == sum(p.numel() for p in Adapted(lm, plan.lora).trainable.values())
    p = Dataset.load("brindlemoor/cruel", form="answers")[0]
    adapted = Adapted(lm, plan.lora)
    adapted.trained((), tmp_path / "run" / "sets" / "cruel" / "adapter-lora.safetensors", silent(""))
    assert float(adapted.margins([p], 0.0)) == pytest.approx(slow_margin(lm, p), abs=1e-3)
    assert reported(tmp_path / "run")["findings"]
    before = (tmp_path / "run" / "report.md").read_bytes()
    monkeypatch.setattr(Adapted, "margins", lambda *_: pytest.fail("measured twice"))
    studies.page(studies.study("lora", lm, tmp_path / "run", plan))
    assert (tmp_path / "run" / "report.md").read_bytes() == before
