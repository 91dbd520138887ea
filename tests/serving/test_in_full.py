"""Vectors said in full, controls in their place, and texts compared with and without them: the same as `steer` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
import torch

from pico import saved
from served import listening
from trimtab import LM, Add, Intervention, Provenance, SteeringVector, Use, registry, steer
from trimtab.serving import Limits, server
from trimtab.steering.controls import random_controls, random_stack

PROMPT, ANSWER, NEW = "Do you like tea ?", "Yes I think so always .", 8


@dataclass
class Served:
    url: str
    lm: LM
    vectors: dict[str, SteeringVector]

    def post(self, path: str, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": PROMPT}]
        return httpx.post(f"{self.url}/v1/{path}", json={"messages": messages, **body}, timeout=60)

    def ask(self, **body: Any) -> dict[str, Any]:
        answer = self.post("chat/completions", max_tokens=NEW, temperature=0, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def text(self, **body: Any) -> str:
        return self.ask(**body)["choices"][0]["message"]["content"]

    def compare(self, **body: Any) -> dict[str, Any]:
        answer = self.post("steering/compare", **{"answer": ANSWER, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def said(self, *stack: Intervention) -> str:
        with steer(self.lm, *stack):
            return self.lm.generate([PROMPT], max_new_tokens=NEW)[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("in-full")
    saved(folder / "model")
    lm = LM.load(str(folder / "model"))
    made, g = Provenance.of(lm), torch.Generator().manual_seed(0)
    draw = lambda: 2 * torch.randn(lm.width, generator=g)  # noqa: E731
    vectors = {
        "tea": SteeringVector({1: draw(), 2: draw()}, made, use=Use((1,), 1.5, ship=(0.5, 3.0))),
        "sun": SteeringVector({1: draw(), 3: draw()}, made, use=Use((1, 3), 0.7)),
        "coin": SteeringVector({2: draw()}, made, nulls={"shuffled-0": {2: draw()}}, use=Use((2,), 1.0)),
    }
    vectors["map"] = SteeringVector(
        {2: torch.randn(3, lm.width, generator=g)}, made, use=Use((2,), operator={"name": "affine"})
    )
    (folder / "vectors").mkdir()
    for name, v in vectors.items():
        v.save(folder / "vectors" / f"{name}.safetensors")
    with listening(server(str(folder / "model"), folder / "vectors", limits=Limits(relative=20.0)).app) as url:
        yield Served(url, lm, vectors)


def test_said_in_full_is_what_steer_does(served: Served) -> None:
    tea, sun = served.vectors["tea"], served.vectors["sun"]
    gate = {"name": "schedule", "shape": "until", "tokens": 3}
    cases: list[tuple[list[dict[str, Any]], list[Intervention]]] = [
        ([{"vector": "tea"}], [Intervention.recommended(tea)]),
        ([{"vector": "tea", "multiplier": 2}], [Intervention(tea.at(1), Add(), 2.0)]),
        ([{"vector": "tea", "multiplier": 2, "layers": [2]}], [Intervention(tea.at(2), Add(), 2.0)]),
        (
            [{"vector": "tea", "multiplier": -1, "positions": "everywhere"}, {"vector": "sun", "multiplier": 1}],
            [Intervention(tea.at(1), Add(), -1.0, "everywhere"), Intervention(sun, Add(), 1.0)],
        ),
        (
            [{"vector": "sun", "operator": "ablate", "multiplier": 1, "positions": "answer"}],
            [Intervention(sun, registry.make("operator", "ablate"), 1.0)],
        ),
        (
            [{"vector": "tea", "multiplier": 3, "gate": gate}],
            [Intervention(tea.at(1), Add(), 3.0, gate=registry.make("gate", gate))],
        ),
    ]
    texts = [served.text(steer=parts, force=True) for parts, _ in cases]
    assert texts == [served.said(*stack) for _, stack in cases]
    assert len(set(texts)) > 3
    assert served.text(steer=cases[1][0], force=True) == served.text(steer="2 tea", force=True)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_draws_what_generate_draws(seed: int, served: Served) -> None:
    iv = Intervention(served.vectors["sun"], Add(), 1.0)
    with steer(served.lm, iv):
        drawn = served.lm.generate([PROMPT], max_new_tokens=NEW, temperature=1.3, top_p=0.9, seed=seed)[0]
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": NEW, "temperature": 1.3, "top_p": 0.9}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json={**body, "seed": seed, "steer": "1 sun"}, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == drawn


def test_its_receipt_says_what_was_asked(served: Served) -> None:
    parts = [{"vector": "tea", "multiplier": 2.0, "layers": [2]}]
    receipt = served.ask(steer=parts, force=True, control="random-1")["steering"]
    assert receipt["control"] == "random-1" and receipt["steer"][0]["layers"] == [2]
    control = random_controls(served.vectors["tea"].at(2), 3)["random-1"]
    assert receipt["vectors"][0]["hash"] == control.hash and list(receipt["tokens_edited"]) == ["2"]
    assert served.ask(steer=[])["steering"] is None and served.ask(steer="")["steering"] is None


def test_controls_are_as_long_as_the_vector_and_say_what_steer_says(served: Served) -> None:
    sun, coin = served.vectors["sun"], served.vectors["coin"]
    control = random_controls(sun, 4)["random-3"]  # the one of that name beside a measurement
    assert control.norm() == pytest.approx(sun.norm(), rel=1e-5)
    asked = [{"vector": "sun", "multiplier": 2}]
    assert served.text(steer=asked, control="random-3") == served.said(Intervention(control, Add(), 2.0))
    shuffled = served.text(steer="2 coin", control="shuffled-0")
    assert shuffled == served.said(Intervention(coin.null("shuffled-0"), Add(), 2.0))


def test_controls_of_vectors_that_act_together_keep_their_angles(served: Served) -> None:
    tea, sun, g = served.vectors["tea"], served.vectors["sun"], torch.Generator().manual_seed(1)
    near = SteeringVector({1: tea[1] + 0.3 * torch.randn(tea.width, generator=g)}, tea.made)
    for some in ([tea, sun], [tea.at(1), near, sun.at(3)], [sun]):
        rows = torch.cat([v.reshape(1, -1) for one in some for v in one.vectors.values()])
        drawn = random_stack(some, 5)
        turned = torch.cat([v.reshape(1, -1) for one in drawn for v in one.vectors.values()])
        assert turned @ turned.T == pytest.approx(rows @ rows.T, rel=1e-3, abs=1e-2)
        assert [one.layers for one in drawn] == [one.layers for one in some]
    one, two = random_stack([tea.at(1), near], 0)
    assert one.cosine(two)[1] == pytest.approx(tea.at(1).cosine(near)[1], abs=1e-4) != pytest.approx(1, abs=1e-3)


def test_what_is_refused(served: Served) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"steer": [{"vector": "nobody"}]}, "nobody"),
        ({"steer": [{"vector": "tea", "layers": [3]}], "force": True}, "no layer 3"),
        ({"steer": [{"vector": "tea", "operator": "melt"}], "force": True}, "melt"),
        ({"steer": [{"vector": "tea", "gate": {"name": "schedule", "tokens": 0}}], "force": True}, "schedule"),
        ({"steer": [{"vector": "tea", "positions": "sideways"}]}, "sideways"),
        ({"steer": [{"vector": "tea", "multiplier": 9}]}, "force"),
        ({"steer": [{"vector": "tea", "layers": [2]}]}, "force"),  # measured at another
        ({"steer": [{"vector": "tea", "shout": 1}]}, "shout"),
        ({"steer": [{"vector": "sun"}] * 17}, "16"),
        ({"steer": [{"vector": "sun", "multiplier": 0}]}, "multiplier is 0"),
        ({"steer": "2 sun", "control": "wild-0"}, "control"),
        ({"steer": "2 sun", "control": "random-64"}, "control"),
        ({"steer": "2 sun", "control": "random-²"}, "control"),
        ({"steer": [{"vector": "sun", "operator": {"name": []}}]}, "operator"),
        ({"steer": [{"vector": "sun", "gate": {"name": {}}}]}, "gate"),
        ({"steer": [{"vector": "sun", "positions": "|".join(["last"] * 250)}]}, "positions"),
        ({"steer": [{"vector": "sun", "positions": "~" * 20000 + "last"}]}, "positions"),
        ({"steer": [{"vector": "map", "operator": "add"}]}, "affine"),
        ({"steer": "2 sun", "control": "shuffled-0"}, "0 of them"),
    ]
    for body, told in wrong:
        answer = served.post("chat/completions", **body)
        assert answer.status_code == 400 and told in answer.json()["error"]["message"], (body, answer.text)


@pytest.mark.parametrize("where", ["answer", "everywhere", "generated"])
def test_a_comparison_is_both_models_log_probabilities(served: Served, where: str) -> None:
    found = served.compare(steer=[{"vector": "sun", "multiplier": 1.5, "positions": where}], top_logprobs=3)
    usual = "from_last_prompt_token" if where == "answer" else where
    iv = Intervention(served.vectors["sun"], Add(), 1.5, usual)
    plain = served.lm.logprobs([PROMPT], [ANSWER])[0].tolist()
    with steer(served.lm, iv) as receipt:
        steered = served.lm.logprobs([PROMPT], [ANSWER])[0].tolist()
    assert [t["unsteered"] for t in found["tokens"]] == pytest.approx(plain, abs=1e-4)
    assert [t["steered"] for t in found["tokens"]] == pytest.approx(steered, abs=1e-4)
    assert plain != pytest.approx(steered, abs=1e-2)
    for token in found["tokens"]:
        for k in ("unsteered", "steered"):
            best = [a["logprob"] for a in token["alternatives"][k]]
            assert best == sorted(best, reverse=True) and len(best) == 3 and token[k] <= best[0] + 1e-4
    assert found["steering"]["tokens_edited"] == {str(k): n for k, n in receipt.edited.items()}


def test_the_tokens_of_a_comparison_make_up_the_text(served: Served) -> None:
    found = served.compare(steer="1 sun")
    row = served.lm.row(PROMPT, ANSWER)
    assert "".join(t["token"] for t in found["tokens"]) == served.lm.text(row)
    assert len(found["tokens"]) == len(row.ids) - row.prompt


def test_projections_are_those_of_the_stream(served: Served) -> None:
    tea, row = served.vectors["tea"], served.lm.row(PROMPT, ANSWER)
    along = served.compare(steer=[{"vector": "tea", "multiplier": 2.5}])["projections"]["tea"]
    u = tea[1] / tea[1].norm()
    with torch.no_grad():
        plain = served.lm.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[2][0] @ u
    assert along["unsteered"] == pytest.approx(plain[row.prompt :].tolist(), abs=1e-3)
    # the vector is the only one and acts at this block alone: its projection grows by its dose
    rise = [a - b for a, b in zip(along["steered"], along["unsteered"], strict=True)]
    assert rise == pytest.approx([2.5 * float(tea[1].norm())] * len(rise), rel=1e-3)


def test_a_comparison_without_vectors_finds_no_change(served: Served) -> None:
    found = served.compare()
    assert found["steering"] is None and found["projections"] == {}
    assert all(t["steered"] == pytest.approx(t["unsteered"], abs=1e-5) for t in found["tokens"])


def test_what_cannot_be_compared(served: Served) -> None:
    assert served.post("steering/compare", answer="").status_code == 400
    long = served.post("steering/compare", answer="tea " * 4000)
    assert long.status_code == 400 and "tokens" in long.json()["error"]["message"]
    assert served.post("steering/compare", answer="tea", messages=[]).status_code == 400
    assert served.post("steering/compare", answer="tea", steer="2 nobody").status_code == 400
    assert served.post("steering/compare", answer="tea", top_logprobs=99).status_code == 400
    nowhere = served.post("steering/compare", answer="tea", steer=[{"vector": "sun", "positions": "span(900, 901)"}])
    assert nowhere.status_code == 400 and "nothing was steered" in nowhere.json()["error"]["message"]
    twice = served.compare(steer="1 sun + 1 sun")["projections"]
    assert list(twice) == ["sun"]
    assert served.text(steer="1 sun")  # and the engine goes on
