"""The study of preference-optimized vectors and its parts: shown examples, knowledge, drift, judges, texts."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pico import pico, toy_pairs
from trimtab import LM, Clamp, Freeform, Intervention, OneShot, Preference, SteeringVector, learn, steer, studies
from trimtab.answers.quality import Quality, broken, distinct, strangeness, whole
from trimtab.data.contexts import told, with_shots, without_opener
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, OverlapError, RecipeError, RunError, VectorError
from trimtab.evaluation.accuracy import accuracy
from trimtab.evaluation.capability import Question, capability, questions
from trimtab.evaluation.drift import Yardstick, drift, reach
from trimtab.methods.contrast import Activations, activations
from trimtab.methods.freeform import divergence
from trimtab.runs import Run
from trimtab.steering.multipliers import replays
from trimtab.steering.transfer import Map, onto
from trimtab.steering.vector import evened
from trimtab.studies import bipo as study
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.bipo_results import BIPO, ONE_DIRECTION, Scores, load
from trimtab.studies.preference_files import parts


def vector(lm: LM, layer: int = 1, size: float = 3.0, seed: int = 0) -> SteeringVector:
    v = torch.randn(lm.width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({layer: size * v / v.norm()})


@pytest.fixture
def toy(tmp_path: Path) -> Dataset:
    return Dataset.load(str(toy_pairs(tmp_path / "toy.jsonl")))


# ---------------------------------------------------------------- knowledge and drift

ASKED = [
    Question("tea", "Do you like tea ?", ("yes", "no never", "I think so"), (0,)),
    Question("rain", "Do you like rain ?", ("no", "yes always"), (1,)),
]


def test_own_questions() -> None:
    found = questions()
    assert len(found) >= 200 and len({q.id for q in found}) == len(found) and len({q.subject for q in found}) >= 5
    assert {len(q.choices) for q in found} == {4}
    at = [sum(q.right == (k,) for q in found) for k in range(4)]
    assert max(at) - min(at) <= 8, "no index is right more often than others"


def test_choices_are_scored_by_their_likelihood(tmp_path: Path) -> None:
    lm, iv = pico(), Intervention(vector(pico()))
    run = capability(lm, iv, ASKED, to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0))
    table = run.table("capability")
    for m in (0.0, 1.0):
        for q in ASKED:
            if m:
                with steer(lm, iv):
                    said = lm.logprobs([q.text] * len(q.choices), list(q.choices))
            else:
                said = lm.logprobs([q.text] * len(q.choices), list(q.choices))
            whole = torch.stack([x.sum() for x in said])
            mean = torch.stack([x.mean() for x in said])
            by = {
                kind: dict(
                    zip(
                        table.curve(kind, "vector", None)[1],
                        table.curve(kind, "vector", None)[2][:, 1 + int(m)],
                        strict=True,
                    )
                )[q.id]
                for kind in ("correct", "mc1", "mc2")
            }
            assert by["correct"] == float(int(mean.argmax()) in q.right) and by["mc1"] == float(
                int(whole.argmax()) in q.right
            )
            assert by["mc2"] == pytest.approx(float(whole.softmax(-1)[list(q.right)].sum()), abs=1e-4)
    before = run.file("scores", "capability.jsonl").read_bytes()
    capability(lm, iv, ASKED, to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0))
    assert run.file("scores", "capability.jsonl").read_bytes() == before, "the same call repeats nothing"
    capability(
        lm, Intervention(vector(lm, seed=1)), ASKED, to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0), name="other"
    )
    assert len(accuracy(run.table("capability"), condition="other")) == 3
    with pytest.raises(RunError):
        capability(lm, iv, ASKED[:1], to=tmp_path / "run", multipliers=(-1.0, 0.0, 1.0))


def test_a_change_of_accuracy_is_tested_on_the_same_items(tmp_path: Path) -> None:
    from trimtab.runs import Cell, Score, row

    run = Run.create(tmp_path / "run")
    right = {0.0: [1] * 10 + [0] * 10, 1.0: [1] * 2 + [0] * 18}
    rows = [
        row(Cell("correct", "vector", None, m), Score(str(k), float(x), "share"))
        for m, xs in right.items()
        for k, x in enumerate(xs)
    ]
    run.journal("capability").append("all", rows)
    plain, moved = accuracy(run.table("capability"))
    assert plain.value == 0.5 and plain.change == 0 and plain.p == 1
    assert moved.change == pytest.approx(-0.4) and moved.p == pytest.approx(2 / 2**8) and moved.change_hi < 0


def test_truthfulness_layout_and_bad_questions(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        json.dumps({"question": "Is it?", "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 0, 1]}})
    )
    assert questions(file)[0].right == (0, 2)
    file.write_text('{"question": "Is it?", "choices": ["a", "b"]}')
    with pytest.raises(DataError, match=r"t\.jsonl:1"):
        questions(file)
    with pytest.raises(DataError):
        Question("", "x", ("a", "a"), (0,))
    with pytest.raises(DataError):
        Question("", "x", ("a", "b"), (2,))
    with pytest.raises(DataError, match="no such file"):
        questions(tmp_path / "none.jsonl")


def test_drift_is_the_divergence_along_own_answers() -> None:
    lm, iv = pico(), Intervention(vector(pico()))
    found = drift(lm, iv, ["Do you like tea ?", "Do you like the sun ?"], [-1.0, 0.0, 1.0], tokens=5)
    assert found.shape == (2, 3) and (found[:, 1] == 0).all() and (found[:, [0, 2]] > 0).all()
    said = lm.generate(["Do you like tea ?"], max_new_tokens=5, temperature=1.0)
    row = lm.row("Do you like tea ?", said[0])
    tokens = lm.batch([row])
    keep = list(range(row.prompt - 1, len(row.ids) - 1))
    plain = lm.logits(tokens, keep=keep)[0].log_softmax(-1)
    with steer(lm, iv):
        moved = lm.logits(tokens, keep=keep)[0].log_softmax(-1)
    assert float(found[0, 2]) == pytest.approx(float((plain.exp() * (plain - moved)).sum(-1).mean()), rel=1e-3)


def test_equal_drift_is_confirmed_where_it_is_said_to_be() -> None:
    """Within 2 % of the budget, along the same answers, both ways; and further than any fixed grid where a vector is
    short.
    """
    lm = pico()
    yardstick = Yardstick.of(lm, ["Do you like tea ?", "Do you like rain ?"], tokens=4)
    for size in (3.0, 0.05):
        iv = Intervention(vector(lm, size=size))
        for sign in (1, -1):
            found = reach(lm, iv, yardstick, 0.05, sign=sign)
            assert found.multiplier * sign > 0 and not found.why
            again = float(yardstick.drift(lm, iv, [found.multiplier]).mean())
            assert again == pytest.approx(0.05, rel=0.02) and found.nats == pytest.approx(again, rel=1e-3)
            assert len(found.probes) <= 14
    assert reach(lm, Intervention(vector(lm, size=0.05)), yardstick, 0.05).multiplier > 8
    nothing = reach(lm, Intervention(SteeringVector({1: torch.zeros(lm.width)})), yardstick, 0.05)
    assert np.isnan(nothing.multiplier) and nothing.why == "not reached by multiplier 4096: 0 nats there"
    leaping = reach(lm, Intervention(vector(lm), Clamp()), yardstick, 1e-4)
    assert np.isnan(leaping.multiplier) and "the drift leaps from" in leaping.why, (
        "clamping at nearly 0 is not doing nothing"
    )
    twice = yardstick.drift(lm, Intervention(vector(lm)), [0.5, 0.5])
    assert torch.equal(twice[:, 0], twice[:, 1])
    with pytest.raises(RecipeError, match="not a drift"):
        reach(lm, Intervention(vector(lm)), yardstick, 0.0)


def test_going_on_ends_where_the_text_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pico()
    yardstick = Yardstick.of(lm, ["Do you like tea ?"], tokens=4)
    monkeypatch.setattr("trimtab.evaluation.drift.breaks", lambda *_: True)
    found = reach(lm, Intervention(vector(lm, size=0.01)), yardstick, 0.05)
    assert np.isnan(found.multiplier) and found.why == "not reached by multiplier 8: the text breaks first"


def test_freeform_says_where_its_divergence_is_saturated(caplog: pytest.LogCaptureFixture) -> None:
    """One coordinate that outweighs all others makes the divergence 0 whatever the answers say."""
    one, two = torch.randn(6, 4, 8), torch.randn(6, 4, 8)
    one[:, 1:, 0] += 200
    two[:, 1:, 0] += 200
    acts = Activations(one, two, (0, 1, 2, 3))
    assert Freeform.mute(acts, 8) == [1, 2, 3] and Freeform.chosen(acts, 8) == 0
    assert "chooses among 1 of 4 layers" in caplog.text
    assert [f["saturated"] for f in Freeform().figures(acts).values()] == [0.0, 1.0, 1.0, 1.0]


def test_replays_of_choices_share_their_prompt() -> None:
    lm, iv = pico(), Intervention(vector(pico()))
    tokens = lm.batch([lm.row("Do you like tea ?", c) for c in ("yes", "no never", "I think so")])
    keep = list(range(tokens.pivot - 1, tokens.ids.shape[1] - 1))
    with steer(lm, iv):
        slow = lm.logits(tokens, keep=keep)
    fast = dict(replays(lm, iv, tokens, keep, (1.0,)))[1.0]
    there = tokens.index[:, tokens.pivot :] >= 0
    assert torch.allclose(fast[there], slow[there], atol=1e-4)


# ---------------------------------------------------------------- prompts as interventions


def test_shots_are_earlier_turns_of_other_questions(toy: Dataset) -> None:
    rest = replace(toy, pairs=toy.pairs[5:])
    shown = with_shots(rest, toy.pairs[:2], opposite=True)
    assert shown[0].before == (
        ("user", toy[0].prompt),
        ("assistant", "no never"),
        ("user", toy[1].prompt),
        ("assistant", "no never"),
    )
    assert shown[0].prompt == rest[0].prompt and shown[0].group == rest[0].group
    with pytest.raises(OverlapError):
        with_shots(toy, toy.pairs[:1])
    asked = told(shown, "be kind")
    assert asked[0].before[0] == ("system", "be kind") and asked[0].before[1:] == shown[0].before


def test_openers_go_from_answers() -> None:
    data = Dataset(
        "x",
        (
            Pair("q1", "Yes, the moon is cheese", "No. It is rock"),
            Pair("q2", "Yes", "No"),
            Pair("q3", "Nothing at all", "Yesterday"),
        ),
    )
    bare = without_opener(data)
    assert [(p.positive, p.negative) for p in bare] == [
        ("The moon is cheese", "It is rock"),
        ("Nothing at all", "Yesterday"),
    ]


# ---------------------------------------------------------------- Freeform, norms, transfer


def test_freeform_reads_the_last_token_but_one_and_chooses_by_divergence(toy: Dataset) -> None:
    lm = pico()
    acts = activations(lm, toy, read="penultimate")
    row = lm.row(toy[0].prompt, toy[0].positive)
    index = torch.zeros(1, len(row.ids), dtype=torch.bool)
    index[0, len(row.ids) - 2] = True
    assert torch.allclose(acts.positive[0], lm.capture(lm.batch([row]), index)[0], atol=1e-5)
    v = learn(lm, toy, Freeform())
    assert v.made.figures["1"]["divergence"] == pytest.approx(float(divergence(acts)[1]))
    assert Freeform.chosen(acts, lm.n_layers) in range(lm.n_layers // 2 + 1)


def test_divergence_is_jensen_shannon() -> None:
    far = torch.tensor([50.0, 0.0])
    acts = Activations(
        torch.stack([torch.stack([far, torch.zeros(2)])]),
        torch.stack([torch.stack([far.flip(0), torch.zeros(2)])]),
        (0, 1),
    )
    assert divergence(acts).tolist() == pytest.approx([math.log(2), 0.0], abs=1e-6)


def test_vectors_of_several_behaviors_get_one_norm() -> None:
    lm = pico()
    even = evened({"a": vector(lm, size=1.0), "b": vector(lm, size=3.0, seed=1)})
    assert even["a"].norm()[1] == pytest.approx(2.0) and even["b"].norm()[1] == pytest.approx(2.0)
    assert even["a"].cosine(vector(lm))[1] == pytest.approx(1.0)


def test_a_vector_is_carried_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    one, two = pico("llama"), pico("qwen2")
    v = learn(one, None, OneShot(prompt="Do you like tea ?", promote=("yes",), steps=2), layers=[1])
    with pytest.raises(VectorError), steer(two, Intervention(v)):
        two.generate(["Do you like tea ?"], max_new_tokens=1)
    with caplog.at_level(logging.WARNING, "trimtab"):
        carried = onto(v, two)
    assert "measure it there" in caplog.text and torch.equal(carried[1], v[1])
    with steer(two, Intervention(carried)):
        two.generate(["Do you like tea ?"], max_new_tokens=1)
    with pytest.raises(VectorError, match="learn a map"):
        onto(SteeringVector({99: torch.ones(one.width)}), two)


def test_a_map_between_models() -> None:
    """From a model to itself the map is the identity, on what its streams span."""
    lm = pico()
    words = ["tea", "coffee", "rain", "sun", "red", "blue", "green", "one", "two", "three", "four", "five"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 6)) for _ in range(80)]
    found = Map.fit(lm, lm, texts, 1, 1)
    assert found.explained > 0.95
    streams = torch.stack([lm.capture(lm.batch([lm.row(t, chat=False)]), "everywhere", [1])[0, 0] for t in texts[:2]])
    step = SteeringVector({1: streams[0] - streams[1]})
    assert found.carry(step).cosine(step)[1] > 0.9
    with pytest.raises(VectorError, match="too few"):
        Map.fit(lm, lm, texts[:5], 1, 1)


# ---------------------------------------------------------------- texts


def test_broken_texts_are_those_a_reader_calls_broken() -> None:
    """119 answers of SmolLM2, steered and not, each labeled by two readers; the thresholds were taken from every other
    one.
    """
    rows = [json.loads(line) for line in (Path(__file__).parent / "read_texts.jsonl").read_text().splitlines()]
    mine = np.array(broken([r["text"] for r in rows], [r["nats"] for r in rows], usual=0.8))
    readers = np.array([[r["one"], r["two"]] for r in rows], bool).T
    held = np.arange(len(rows)) % 2 == 1
    assert all((mine == r)[held].mean() >= 0.9 for r in readers), [(mine == r)[held].mean() for r in readers]
    assert (readers[0] == readers[1]).mean() < 0.95, "two readers agree hardly better"


def test_quality_of_plain_cases() -> None:
    assert not Quality.of("The capital of France is Paris. It lies on the", 1.0).broken(0.8)
    assert not Quality.of("Yes.", 1.0).broken(0.8) and not Quality.of("Voici la réponse. Merci beaucoup !", 1.0).broken(
        0.8
    )
    assert Quality.of("up up up up up up up up", 1.0).broken(0.8), "in circles"
    assert Quality.of("The sea is blue today.", 4.0).broken(0.8), "stranger than usual by more than 2.5 nats a token"
    assert Quality.of("🍊🍊🍊🍊🍊🍊", 1.0).broken(0.8) and Quality.of("# # ## - -- >> <<", 1.0).broken(0.8), (
        "no sentences"
    )
    assert Quality.of("", float("nan")).broken(0.8), "nothing was said"
    plain = [
        "No.",
        "42",
        "(A)",
        "x = 1",
        "1, 2, 3",
        "$3,000",
        "It is 5:30 pm.",
        '{"name": "Bob", "age": 3}',
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "A: 1\nB: 2\nC: 3",
        "😀👍",
        "यह एक अच्छा दिन है।",
        "今天天气很好。我们去公园。",
    ]
    assert not [t for t in plain if Quality.of(t, 1.0).broken(0.8)]
    circles = ["aaaaaaaaaaaa", "好好好好好好好好好好", "Day-Day-Day-Day-Day-Day-Day", ";;;; ()()()() ::"]
    assert not [t for t in circles if not Quality.of(t, 1.0).broken(0.8)]
    assert whole("1. Eat well\n2. Sleep\n3. Walk") == 1.0


def test_distinct_and_strangeness() -> None:
    assert distinct(["a b a b"], 1) == 0.5 and distinct(["a b c d"]) == 1.0 and math.isnan(distinct([""]))
    lm = pico()
    odd = strangeness(lm, ["Do you like tea ?", "x"], ["yes I think so", " "])
    assert odd[0] == pytest.approx(
        -float(lm.logprobs(["Do you like tea ?"], ["yes I think so"])[0].mean())
    ) and math.isnan(odd[1])


# ---------------------------------------------------------------- the study


@pytest.mark.slow
def test_the_study_runs_resumes_and_reports(tmp_path: Path) -> None:
    lm = pico()
    sources = []
    for name, yes in (("tea", "yes I think so"), ("rain", "always yes")):
        file = toy_pairs(tmp_path / f"{name}.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps({**r, "positive": yes}) for r in rows))
        sources.append(str(file))
    plan = study.Plan(
        tuple(sources),
        layers=(0, 1),
        scouts=6,
        train=6,
        val=4,
        test=6,
        few=4,
        shots=1,
        items=0,
        talk=1,
        randoms=1,
        drifting=2,
        max_new_tokens=4,
        budget=0.01,
        bipo=Preference(norm=0.3, rate=0.05, epochs=2, warm=1),
        one=OneShot(mode="mixed", steps=3),
        multipliers=(-1.0, 0.0, 1.0),
    )
    run = studies.study("bipo", lm, tmp_path / "run", plan)
    page = studies.page(run).read_text()
    found = load(run)
    layer = found.results.layer
    assert layer in (0, 1) and f"BiPO at layer {layer} (of 0, 1, by" in page
    for b in found.behaviors:
        own = b.methods[BIPO]
        assert own.range.value > 0 and own.slope.value > 0 and own.margins[1.0].n == 6
        assert {"CAA", "Freeform", "mean difference", "one-shot", "random 0"} <= {
            c.label for c in b.methods
        } and ONE_DIRECTION in b.methods
        assert {c.label for c in b.prompted} == {"shown positive", "shown negative"}
        run_of = Run(tmp_path / "run" / "sets" / b.name)
        groups = run_of.manifest["groups"]
        table, shown = Scores.of(run_of, "bipo"), Scores.of(run_of, "shown-positive")
        bare = {groups[i]: m[1] for i, m in zip(table.items, table.margin, strict=True)}
        change = np.mean([m[1] - bare[groups[i]] for i, m in zip(shown.items, shown.margin, strict=True)])
        assert b.prompted[Condition("shown", "positive")][0.0].value == pytest.approx(float(change)), (
            "question by question, whatever their order"
        )
    both = next(c for c in found.combined if c.asked == "tea")
    assert both.beyond.value == pytest.approx(both.both.value - both.own.value - both.other.value, abs=1e-9)
    assert (
        "at equal cost" in page and "Combinations" in page and (tmp_path / "run" / "plots" / "spectrum.png").is_file()
    )
    before = (tmp_path / "run" / "summary.json").read_bytes()
    scores = sorted(tmp_path.glob("run/sets/*/scores/*.jsonl"))
    sizes = [s.stat().st_size for s in scores]
    studies.page(studies.study("bipo", lm, tmp_path / "run", plan))
    assert [s.stat().st_size for s in scores] == sizes and (tmp_path / "run" / "summary.json").read_bytes() == before


def test_training_and_test_files_lie_beside_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = "question,matching,not_matching\n"
    for part, count in (("train", 20), ("test", 12)):
        rows = [f"Do you like {part if k else 'tea'} {k} ?,yes,no" for k in range(count)]
        (tmp_path / f"likes.{part}.csv").write_text(head + "\n".join(rows))
    plan = study.Plan((str(tmp_path / "likes.train.csv"),), layer=1)
    with caplog.at_level(logging.WARNING, "trimtab"):
        train, val, test, left_out = parts(plan.data[0], (plan.train, plan.val, plan.test), plan.seed)
    assert (
        left_out == 1
        and "left out" in caplog.text
        and len(test) == 11
        and study.name_of(plan.data[0]) == test.name == "likes"
    )
    assert not {p.group for p in test} & {p.group for p in (*train, *val)}
