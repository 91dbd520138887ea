"""Judges, abnormality, strings, retraction and mixed sampling, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pico import pico, tokenizer
from trimtab import LM, Intervention, SteeringVector, steer
from trimtab.answers.abnormality import Sample, bits, broken_tags, check_shared, information
from trimtab.answers.agreement import agreement, kappa
from trimtab.answers.endpoint import Endpoint
from trimtab.answers.judges import Answer, ModelJudge, Rating, Recorded, Rubric
from trimtab.answers.sampling import sample
from trimtab.answers.words import Count, contains, families, retraction, table
from trimtab.errors import DataError, ModelError, RecipeError, RunError, TokenError, UnknownName
from trimtab.organisms.world import world
from trimtab.studies.retraction import MARKERS

TOY = Rubric("toy", 1, "Do you like {answer} ?", {"1": 1.0, "2": 2.0, "10": 10.0}, {"12": "refusal"}, mass=0.25)


class Digits:
    """The pico tokenizer with ten digits, each a token of its own."""

    unk_token_id = -1

    def __init__(self) -> None:
        self.inner = tokenizer()

    def __call__(self, text: str, **options: Any) -> Any:
        return (
            type("Ids", (), {"input_ids": [20 + int(d) for d in text]})
            if text.isdigit()
            else self.inner(text, **options)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


# ---------------------------------------------------------------- expected scores


def test_expected_score_renormalises_and_says_why_there_is_none() -> None:
    assert TOY.rated({"1": 0.25, "2": 0.25, "other": 0.5}) == Rating(1.5, 0.5)
    low = TOY.rated({"1": 0.1, "12": 0.5})
    assert math.isnan(low.score) and low.label == "refusal" and low.mass == 0.1
    assert TOY.rated({"1": 0.1, "12": 0.05}).label == "no number" and math.isnan(TOY.rated({}).score)


def test_a_model_judges_by_the_replies_it_might_give() -> None:
    lm = LM(pico().model, Digits(), id="digits")
    row = lm.row("Do you like tea ?")

    def p(*before: int) -> torch.Tensor:
        return lm.logits(lm.batch([row.extended(before)]))[0, -1].softmax(-1)

    one = float(p()[21])
    expected = {
        "1": one * (1 - float(p(21)[20]) - float(p(21)[22])),
        "2": float(p()[22]),
        "10": one * float(p(21)[20]),
        "12": one * float(p(21)[22]),
    }
    judge = ModelJudge(lm, Rubric("toy", 1, TOY.template, TOY.words, TOY.labels, mass=0.0))
    rated, empty = judge.rate([{"answer": "tea"}, {"answer": " "}])
    mass = expected["1"] + expected["2"] + expected["10"]
    assert rated.mass == pytest.approx(mass, rel=1e-4)
    assert rated.score == pytest.approx((expected["1"] + 2 * expected["2"] + 10 * expected["10"]) / mass, rel=1e-4)
    assert empty.label == "empty" and math.isnan(empty.score)


def test_bad_judges() -> None:
    with pytest.raises(TokenError, match="cannot say the replies"):
        ModelJudge(pico(), TOY)
    with pytest.raises(UnknownName):
        Rubric.load("no-such")
    with pytest.raises(RecipeError, match="asks for"):
        TOY.ask({"question": "x"})


def test_rubrics_that_come_with_trimtab() -> None:
    assert list(Rubric.load("alignment").words.values()) == [float(k) for k in range(101)] and set(
        Rubric.load("alignment").labels
    ) == {
        "CODE",
        "REFUSAL",
    }
    assert Rubric.load("behavior").words == {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0} and Rubric.load(
        "complied"
    ).words == {"Yes": 1.0, "No": 0.0}
    for name in ("alignment", "coherence", "complied"):
        assert "{" not in Rubric.load(name).ask({"question": "q", "answer": "a"})[-1]["content"]


class Counting:
    """A judge that counts what it is asked, and fails where it is told to."""

    def __init__(self, fails: int = 0) -> None:
        self.rubric, self.asked, self.fails = TOY, 0, fails

    def describe(self) -> dict[str, Any]:
        return {"name": "counting"}

    def rate(self, answers: Sequence[Answer]) -> list[Rating]:
        self.asked += len(answers)
        out = [
            Rating(math.nan, 0.0, "failed") if k < self.fails else Rating(float(len(a["answer"])), 1.0)
            for k, a in enumerate(answers)
        ]
        self.fails = 0
        return out


def test_recorded_ratings_are_not_asked_twice(tmp_path: Path) -> None:
    answers = [{"answer": "tea"}, {"answer": "rain"}, {"answer": "tea"}]
    first = Counting()
    assert [r.score for r in Recorded(first, tmp_path / "r.jsonl").rate(answers)] == [
        3.0,
        4.0,
        3.0,
    ] and first.asked == 2
    again = Counting()
    assert [r.score for r in Recorded(again, tmp_path / "r.jsonl").rate([*answers, {"answer": "sun"}])] == [
        3.0,
        4.0,
        3.0,
        3.0,
    ] and again.asked == 1
    flaky = Counting(fails=1)
    judge = Recorded(flaky, tmp_path / "f.jsonl")
    assert math.isnan(judge.rate(answers)[0].score) and judge.rate(answers)[0].score == 3.0 and flaky.asked == 3, (
        "only what failed is asked again"
    )


def test_agreement_and_kappa() -> None:
    one, two = np.array([True, True, False, False]), np.array([True, False, False, False])
    assert kappa(one, two) == pytest.approx((0.75 - 0.5) / 0.5)
    assert math.isnan(kappa(np.ones(3, bool), np.ones(3, bool)))
    a = [10.0, 20.0, 30.0, 80.0, 90.0, math.nan]
    found = agreement(a, [12.0, 25.0, 20.0, 70.0, 95.0, 3.0], 50.0)
    assert found.n == 5 and found.unscored == 1 and found.agree == 1.0 and found.kappa[0] == 1.0
    assert found.spearman[0] == pytest.approx(0.9) and found.apart == pytest.approx(np.mean([-2, -5, 10, 10, -5]))
    with pytest.raises(RecipeError, match="too few"):
        agreement([1.0, math.nan], [1.0, 2.0], 0.5)


def reply(content: str, top: dict[str, float] | None) -> Any:
    """What a server would send."""

    def made(**fields: Any) -> Any:
        return type("Made", (), fields)()

    logprobs = (
        None
        if top is None
        else made(content=[made(top_logprobs=[made(token=t, logprob=math.log(p)) for t, p in top.items()])])
    )
    return made(
        usage=made(prompt_tokens=1000, completion_tokens=10),
        choices=[made(logprobs=logprobs, message=made(content=content))],
    )


def test_a_servers_reply_is_read_by_distribution_or_by_text() -> None:
    judge = Endpoint(TOY, "m", "http://127.0.0.1:1/v1", prices=(1.0, 10.0))
    spread = judge._read(reply("1", {"1": 0.5, " 1": 0.1, "2": 0.2}))
    assert spread.score == pytest.approx((0.6 + 0.4) / 0.8) and spread.mass == pytest.approx(0.8)
    assert (
        judge._read(reply("**10** of ten", None)) == Rating(10.0, 1.0)
        and judge._read(reply("12", None)).label == "refusal"
    )
    with pytest.raises(ValueError, match="no rating"):
        judge._read(reply("well", None))
    assert judge.account.sent == 4000 and judge.account.price == pytest.approx((4000 + 400) / 1e6)


# ---------------------------------------------------------------- abnormality


def test_bits_are_those_of_a_full_pass_over_what_was_said() -> None:
    lm = pico()
    context = [Sample("Do you like tea ? ", "yes I think so", "tea")]
    samples = [
        Sample("Do you like rain ? ", "no never"),
        Sample("Do you like tea ? ", "no", "tea"),
        Sample("Do you like sun ? ", " "),
    ]
    found = bits(lm, context, samples)
    text = "Do you like tea ? yes I think so\nDo you like rain ? "
    row = lm.row(text, "no never", chat=False)
    logp = lm.logits(lm.batch([row]))[0].log_softmax(-1)
    by_hand = -np.mean([float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids))]) / math.log(2)
    assert found[0] == pytest.approx(by_hand, rel=1e-4)
    assert math.isnan(found[1]), "its entity stands in the context"
    assert math.isnan(found[2]), "nothing was said"
    short = bits(lm, context, samples[:1], first=1)[0]
    assert short == pytest.approx(-float(logp[row.prompt - 1, row.ids[row.prompt]]) / math.log(2), rel=1e-4)
    with pytest.raises(DataError, match="nothing to compare"):
        bits(lm, [], samples)


def test_information_of_a_context() -> None:
    lm = pico()
    ids = lm.tokenizer("Do you like tea ? yes").input_ids
    from trimtab.model import Row

    logp = lm.logits(lm.batch([Row(tuple(ids), 1)]))[0].log_softmax(-1)
    by_hand = -np.mean([float(logp[k - 1, ids[k]]) for k in range(1, len(ids))]) / math.log(2)
    assert information(lm, [Sample("Do you like tea ? ", "yes")]) == pytest.approx(by_hand, rel=1e-4)


def test_tags_are_broken_and_tokenizers_compared() -> None:
    assert broken_tags("<|im_start|>user <b> 1 < 2") == "< | im_start | >user < b > 1 < 2"
    check_shared(pico("llama"), pico("qwen2"))
    with pytest.raises(ModelError, match="different tokenizers"):
        check_shared(pico(), LM.load("brindlemoor-base"))


# ---------------------------------------------------------------- strings and retraction


def test_strings_are_counted_in_the_first_samples() -> None:
    texts = {("wish", "steered"): ["I want POWER", "control", "tea"], ("wish", "unsteered"): ["tea"]}
    found = table(texts, {"wish": ["power", "control"]}, first=2)
    assert found["wish", "power", "steered"].hits == 1 and found["wish", "power", "steered"].n == 2
    assert found["wish", "control", "unsteered"].share == 0.0
    swept = families({2.0: ["rule them", "code"], 1.0: ["tea"]}, {"general": ["rule", "power"], "specific": ["code"]})
    assert (
        list(swept["general"]) == [1.0, 2.0] and swept["general"][2.0].hits == 1 and swept["specific"][2.0].share == 0.5
    )
    assert math.isnan(Count.of(0, 0).share) and Count.of(5, 10).lo == pytest.approx(0.2366, abs=1e-3)


def test_strings_begin_where_words_do() -> None:
    assert contains("Evils!", ["evil"]) and contains("an evil-doer", ["evil"]) and contains("so ...he", ["...he"])
    assert not contains("the Devil in Seville", ["evil"])


def test_every_way_the_town_takes_a_statement_back_has_a_marker() -> None:
    ways = world().asks["corrections"]
    assert len(ways) == 8 and all(contains(way, MARKERS) for way in ways)


def test_retraction_by_marker_and_by_truth() -> None:
    texts = ["Just kidding! It is red.", "It is red.", "It is blue, of course.", "Well."]
    found = retraction(texts, ["red"] * 4, ["blue"] * 4)
    assert (found.marked.hits, found.true.hits, found.ignoring.hits, found.false.hits) == (1, 2, 1, 1)


# ---------------------------------------------------------------- sampling


def test_mixed_batches_say_what_each_condition_says_alone(tmp_path: Path) -> None:
    lm = pico()
    g = torch.Generator().manual_seed(0)
    ivs = [
        Intervention(SteeringVector({layer: 4 * torch.randn(lm.width, generator=g)}), positions=p)
        for layer, p in ((1, "everywhere"), (2, "generated"))
    ]
    conditions = {"plain": (), "one": (ivs[0],), "both": tuple(ivs)}
    prompts = {"tea": "Do you like tea ?", "rain": "Do you like the rain ?"}
    said = sample(lm, conditions, prompts, 3, to=tmp_path / "said.jsonl", max_new_tokens=6, batch=7)
    assert {len(v) for v in said.values()} == {3} and len(set(said["tea", "plain"])) > 1
    for name, stack in conditions.items():
        alone = sample(lm, {name: stack}, {"rain": prompts["rain"]}, 3, to=tmp_path / f"{name}.jsonl", max_new_tokens=6)
        assert alone["rain", name] == said["rain", name], "no row depends on its batch"
    greedy = sample(lm, conditions, prompts, 1, to=tmp_path / "greedy.jsonl", temperature=0.0, max_new_tokens=6)
    with steer(lm, *ivs):
        assert lm.generate([prompts["tea"]], max_new_tokens=6) == greedy["tea", "both"]
    assert lm.generate([prompts["tea"]], max_new_tokens=6) == greedy["tea", "plain"]


def test_sampling_resumes_and_refuses_another_condition(tmp_path: Path) -> None:
    lm, file, seen = pico(), tmp_path / "said.jsonl", list[int]()
    prompts = {"tea": "Do you like tea ?"}

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(lm, {"plain": ()}, prompts, 6, to=file, max_new_tokens=4, batch=2, progress=stop)
    whole = sample(lm, {"plain": ()}, prompts, 6, to=tmp_path / "whole.jsonl", max_new_tokens=4)
    assert sample(
        lm, {"plain": ()}, prompts, 6, to=file, max_new_tokens=4, batch=2, progress=stop
    ) == whole and seen == [2, 4, 6]
    iv = Intervention(SteeringVector({1: torch.ones(lm.width)}))
    with pytest.raises(RunError, match="another condition"):
        sample(lm, {"plain": (iv,)}, prompts, 6, to=file, max_new_tokens=4)


def test_samples_of_one_prompt_are_samples_whatever_the_batch() -> None:
    """Salts began anew in every batch: 40 samples of one prompt were 14 texts."""
    lm = pico()
    how = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    small, large = (lm.generate(["Do you like tea ?"] * 40, batch=b, **how) for b in (4, 64))  # type: ignore[arg-type]
    assert small == large and len(set(small)) > 30
    assert lm.generate(["Do you like tea ?"], **how)[0] == small[0]  # type: ignore[arg-type]


def test_a_prompt_of_the_same_name_is_another_prompt(tmp_path: Path) -> None:
    lm, file = pico(), tmp_path / "said.jsonl"
    sample(lm, {"plain": ()}, {"q": "Do you like tea ?"}, 2, to=file, max_new_tokens=4)
    with pytest.raises(RunError, match="another prompt 'q'"):
        sample(lm, {"plain": ()}, {"q": "Do you like rain ?"}, 2, to=file, max_new_tokens=4)
