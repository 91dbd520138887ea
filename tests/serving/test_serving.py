"""A server steers each request as it asks, beside others, and never pretends: tried over HTTP on a small model."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import httpx2 as httpx
import openai
import pytest
import torch

from pico import pico, saved
from served import listening, until
from trimtab import LM, Provenance, SteeringVector, Use, steer
from trimtab.errors import ServeError, SteerError, UnknownName, VectorError
from trimtab.model.generate import Sampling
from trimtab.serving import Limits, child, serve, server
from trimtab.serving.batch import Job, run
from trimtab.serving.shelf import Facts, Shelf
from trimtab.steering.notation import Notation

WORDS = ["Do you like tea ?", "the rain", "Do you like coffee ?", "Yes the sun", "a rain of tea"]
LINES = [
    "",
    "2 tea",
    "- 1.5 tea",
    "rain@ship",
    "1 tea + 0.5 rain - sun",
    "sun @ everywhere",
    "2 rain @ generated",
    "0.5 cut",
]
KEY, NEW = "k" * 20, 8


@dataclass
class Served:
    url: str
    lm: LM
    vectors: dict[str, SteeringVector]
    made: Any

    def ask(self, prompt: str, line: str = "", **more: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": NEW, "temperature": 0, "steer": line}
        return httpx.post(f"{self.url}/v1/chat/completions", json={**body, **more}, timeout=60)

    def said(self, prompt: str, line: str = "") -> str:
        """What `steer` says."""
        if not line:
            return self.lm.generate([prompt], max_new_tokens=NEW)[0]
        with steer(self.lm, *Notation.parse(line).stack(self.vectors)):
            return self.lm.generate([prompt], max_new_tokens=NEW)[0]


def made_vectors(lm: LM) -> dict[str, SteeringVector]:
    made, g = Provenance.of(lm), torch.Generator().manual_seed(0)
    draw = lambda: 2 * torch.randn(lm.width, generator=g)  # noqa: E731
    return {
        "tea": SteeringVector({1: draw()}, made, use=Use((1,), 1.0)),
        "rain": SteeringVector({2: draw()}, made, use=Use((2,), 1.5, ship=(0.5, 2.5))),
        "sun": SteeringVector({1: draw(), 3: draw()}, made, use=Use((1, 3), 0.7)),
        "cut": SteeringVector({2: draw()}, made, use=Use((2,), 1.0, operator={"name": "ablate"})),
    }


@contextmanager
def running(folder: Path, **how: Any) -> Iterator[tuple[Any, str]]:
    made = server(str(folder / "model"), folder / "vectors", **how)
    with listening(made.app) as url:
        yield made, url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    saved(folder / "model")
    lm = LM.load(str(folder / "model"))
    (folder / "vectors").mkdir()
    for name, v in made_vectors(lm).items():
        v.save(folder / "vectors" / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    lm = LM.load(str(folder / "model"))
    with running(folder, admin=KEY, limits=Limits(relative=20.0)) as (made, url):
        yield Served(url, lm, made_vectors(lm), made)


def test_mixed_requests_together_and_alone_say_what_steer_says(served: Served) -> None:
    asked = [(p, line) for p in WORDS[:3] for line in LINES]
    assert len(asked) == 24
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda a: served.ask(*a, force=True).json(), asked))
    for (prompt, line), answer in zip(asked, together, strict=True):
        expected = served.said(prompt, line)
        assert "choices" in answer, answer
        assert answer["choices"][0]["message"]["content"] == expected, (prompt, line)
        assert (answer["steering"] is None) == (not line)
    alone = [served.ask(*a, force=True).json()["choices"][0]["message"]["content"] for a in asked[::5]]
    assert alone == [t["choices"][0]["message"]["content"] for t in together[::5]]
    assert len({t["choices"][0]["message"]["content"] for t in together}) > 8


def test_a_receipt_says_what_was_done(served: Served) -> None:
    body = served.ask(WORDS[0], "2 tea - 0.5 rain", force=True).json()
    receipt, tokens = body["steering"], body["usage"]["completion_tokens"]
    assert receipt["steer"] == "2 tea - 0.5 rain" and receipt["forced"]
    assert [(v["name"], v["multiplier"], v["layers"]) for v in receipt["vectors"]] == [
        ("tea", 2.0, [1]),
        ("rain", -0.5, [2]),
    ]
    assert receipt["vectors"][0]["hash"] == served.vectors["tea"].hash
    assert set(receipt["tokens_edited"]) == {"1", "2"}
    assert tokens - 1 <= receipt["tokens_edited"]["1"] <= tokens + 1
    assert set(receipt["projection"]) == {"tea", "rain"} and receipt["warnings"] == []


def test_each_token_is_counted_once_and_projections_are_of_the_stream() -> None:
    """Also where all tokens are run again for every new one, for want of a cache that is exact."""
    lm = pico("llama")
    vectors = made_vectors(lm)
    for line in ("0.001 tea", "0.001 tea @ everywhere"):
        said = list[dict[str, Any]]()
        stack = (("tea", Notation.parse(line).stack(vectors)[0]),)
        row = lm.row(WORDS[0])
        run(lm, [Job("one", row, stack, Sampling(NEW))], said.append, lambda: None)
        end, ids = said[-1], list(row.ids)
        while len(ids) < row.prompt + end["tokens"] + (end["reason"] == "stop"):
            with torch.no_grad():
                out = lm.model(torch.tensor([ids]), output_hidden_states=True)
            ids.append(int(out.logits[0, -1].argmax()))
        along = out.hidden_states[2][0] @ (vectors["tea"][1] / vectors["tea"][1].norm())
        steered = along if "everywhere" in line else along[row.prompt - 1 :]
        assert end["edited"] == {"1": len(steered)}
        assert end["projection"]["tea"] == pytest.approx(float(steered.mean()), rel=1e-2, abs=1e-2)


def test_who_is_asked_again_for_anothers_fault_is_steered_and_counted() -> None:
    lm = pico("llama")
    vectors = made_vectors(lm)

    class Pipe:
        said: ClassVar[list[dict[str, Any]]] = []

        def send_bytes(self, raw: bytes) -> None:
            self.said.append(json.loads(raw))

        def poll(self) -> bool:
            return False

    def job(id: str, line: str) -> Job:
        stack = (("tea", Notation.parse(line).stack(vectors)[0]),)
        return Job(id, lm.row(WORDS[0]), stack, Sampling(4))

    engine = child._Engine(lm, Pipe(), 8)  # pyright: ignore[reportPrivateUsage]
    engine._run([job("bad", "tea @ after('zzz')"), job("good", "2 tea")])  # pyright: ignore[reportPrivateUsage]
    kinds = {(e["id"], e["kind"]) for e in Pipe.said}
    assert ("bad", "error") in kinds and ("good", "end") in kinds and ("good", "error") not in kinds
    together = next(e for e in Pipe.said if e["kind"] == "end")
    Pipe.said.clear()
    engine._run([job("good", "2 tea")])  # pyright: ignore[reportPrivateUsage]
    assert Pipe.said[-1] == together


def test_a_vector_of_other_weights_is_told(served: Served) -> None:
    """A fine-tune has the same shape, and its vectors fit."""
    tea = served.vectors["tea"]
    raw = replace(tea, made=replace(tea.made, weights="0" * 16, model="its-cousin")).to_bytes()
    put = httpx.put(f"{served.url}/v1/steering/cousin", content=raw, headers={"X-Admin-Key": KEY})
    assert put.status_code == 200, put.text
    (warning,) = served.ask(WORDS[0], "2 cousin", force=True).json()["steering"]["warnings"]
    assert "its-cousin" in warning
    httpx.delete(f"{served.url}/v1/steering/cousin", headers={"X-Admin-Key": KEY})


def test_a_plain_openai_client_steers_two_requests_differently(served: Served) -> None:

    async def both() -> list[Any]:
        def one(line: str) -> Any:
            return client.chat.completions.create(
                model=served.lm.id,
                messages=[{"role": "user", "content": WORDS[0]}],
                max_tokens=NEW,
                temperature=0,
                extra_body={"steer": line, "force": True},
            )

        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            return await asyncio.gather(one("2 tea"), one("-2 tea"))

    one, two = asyncio.run(both())
    assert one.choices[0].message.content == served.said(WORDS[0], "2 tea")
    assert two.choices[0].message.content == served.said(WORDS[0], "-2 tea")
    assert one.steering["vectors"][0]["multiplier"] == 2.0


def test_a_stream_is_the_answer_in_pieces_with_the_receipt_last(served: Served) -> None:
    body = {"messages": [{"role": "user", "content": WORDS[0]}], "max_tokens": NEW, "temperature": 0, "stream": True}
    with httpx.stream(
        "POST", f"{served.url}/v1/chat/completions", json={**body, "steer": "2 tea"}, timeout=60
    ) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert "".join(e["choices"][0]["delta"]["content"] for e in events) == served.said(WORDS[0], "2 tea")
    assert events[-1]["choices"][0]["finish_reason"] in ("length", "stop") and events[-1]["steering"]["tokens_edited"]
    assert all("steering" not in e for e in events[:-1])


def test_log_probabilities_are_those_of_the_steered_model(served: Served) -> None:
    body = served.ask(WORDS[0], "2 tea", logprobs=True, top_logprobs=3).json()
    told = body["choices"][0]["logprobs"]["content"]
    with steer(served.lm, *Notation.parse("2 tea").stack(served.vectors)):
        expected = served.lm.logprobs([WORDS[0]], [body["choices"][0]["message"]["content"]])[0]
    assert all(len(t["top_logprobs"]) == 3 for t in told)
    assert told[0]["logprob"] == pytest.approx(float(expected[0]), abs=1e-3)


def test_plain_completions_stops_and_seeds(served: Served) -> None:
    def plain(**more: Any) -> dict[str, Any]:
        body = {"prompt": "Do you like", "max_tokens": NEW, "temperature": 0, **more}
        return httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).json()

    text = plain()["choices"][0]["text"]
    assert text == served.lm.generate(["Do you like"], chat=False, max_new_tokens=NEW)[0]
    words = text.split()
    cut = plain(stop=words[3])["choices"][0]
    assert cut["text"] == text[: text.index(words[3])] and cut["finish_reason"] == "stop"
    warm = [plain(temperature=1.0, seed=s)["choices"][0]["text"] for s in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"steer": "pirate"}, "unknown vector"),
    ({"steer": "nan tea"}, "not understood here"),
    ({"steer": "1e9 tea", "force": True}, "too large"),
    ({"steer": "900 tea", "force": True}, "too much"),
    ({"steer": "9 rain"}, "outside the range"),
    ({"steer": "0 tea"}, "nothing would be steered"),
    ({"steer": "../../etc/passwd"}, "a vector is missing"),
    ({"steer": "tea @ open('x')"}, "not positions"),
    ({"steer": "a" * 600}, "too long"),
    ({"steer": 3}, "Expected `str"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "Expected"),
    ({"top_p": 0}, "top_p"),
    ({"n": 2}, "one answer"),
    ({"presence_penalty": 1.0}, "not kept"),
    ({"tools": []}, "unknown field"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "Expected `str"),
    ({"messages": [{"role": "user", "content": "tea " * 3000}]}, "longer than the model's context"),
    ({"messages": [{"role": "user", "content": "tea " * 119}]}, "too long"),
    ({"stop": ["a"] * 9}, "stop"),
    ({"top_logprobs": 99, "logprobs": True}, "top_logprobs"),
]


@pytest.mark.parametrize(("more", "words"), BAD, ids=lambda x: str(x)[:40])
def test_a_bad_request_is_told_why(more: dict[str, Any], words: str, served: Served) -> None:
    reply = served.ask(WORDS[0], **more)
    assert 400 <= reply.status_code < 500, reply.text
    assert words in reply.json()["error"]["message"], reply.text
    assert "Traceback" not in reply.text


def test_positions_that_select_nothing_are_an_error(served: Served) -> None:
    """One token of an answer is generated from the prompt: `generated` selects none."""
    reply = served.ask(WORDS[0], "tea @ generated", max_tokens=1)
    assert reply.status_code == 400 and "nothing was steered" in reply.text
    with ThreadPoolExecutor(4) as pool:  # and those beside it are answered
        lines = ["tea @ generated", "2 tea", "", "tea @ generated"]
        replies = list(pool.map(lambda line: served.ask(WORDS[0], line, max_tokens=1), lines))
    assert [r.status_code for r in replies] == [400, 200, 200, 400]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], status: int, served: Served) -> None:
    assert httpx.get(f"{served.url}/v1/models", headers=headers).status_code == status


def test_the_shelf_is_changed_with_the_key_alone(served: Served) -> None:
    raw = (served.vectors["tea"] * -1.0).to_bytes()
    url = f"{served.url}/v1/steering/new"
    assert httpx.put(url, content=raw).status_code == 403
    assert httpx.put(url, content=raw, headers={"X-Admin-Key": "wrong"}).status_code == 403
    key = {"X-Admin-Key": KEY}
    narrow = SteeringVector({0: torch.ones(7)}).to_bytes()
    for bad in (b"", b"x" * 100, narrow, SteeringVector({40: torch.ones(32)}).to_bytes()):
        assert httpx.put(url, content=bad, headers=key).status_code == 400
    for name in ("..%2f..%2fetc%2fpasswd", "a%20b", "%00", "x" * 80):
        assert httpx.put(f"{served.url}/v1/steering/{name}", content=raw, headers=key).status_code in (400, 404)
    assert httpx.put(url, content=raw, headers=key).status_code == 200
    served.vectors["new"] = served.vectors["tea"] * -1.0
    assert served.ask(WORDS[0], "2 new").json()["choices"][0]["message"]["content"] == served.said(WORDS[0], "-2 tea")
    # replaced under its name: the next request has the new one
    assert httpx.put(url, content=served.vectors["tea"].to_bytes(), headers=key).status_code == 200
    assert served.ask(WORDS[0], "2 new").json()["choices"][0]["message"]["content"] == served.said(WORDS[0], "2 tea")
    assert httpx.delete(url, headers=key).status_code == 200
    assert served.ask(WORDS[0], "2 new").status_code == 400
    assert httpx.delete(url, headers=key).status_code == 400


def test_what_there_is(served: Served) -> None:
    assert httpx.get(f"{served.url}/v1/models").json()["data"][0]["id"] == served.lm.id
    listed = {v["name"]: v for v in httpx.get(f"{served.url}/v1/steering").json()["data"]}
    assert set(listed) >= {"tea", "rain", "sun", "cut"} and listed["rain"]["ship"] == [0.5, 2.5]
    served.ask(WORDS[0], "2 tea")
    text = httpx.get(f"{served.url}/metrics").text
    assert 'trimtab_requests_total{outcome="answered",steered="yes"}' in text
    assert 'trimtab_tokens_steered_total{vector="tea"}' in text and 'trimtab_projection{vector="tea"}' in text


def test_slow_and_broken_clients(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.serving.api.SLOW", 0.5)
    host, port = "127.0.0.1", int(served.url.rsplit(":", 1)[1])
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
    with socket.create_connection((host, port)) as s:
        s.sendall(head)
        assert b"408" in s.recv(400)
    big = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
    with socket.create_connection((host, port)) as s:
        s.sendall(big)
        assert b"413" in s.recv(400)
    for raw in (b"{", b"[]", b"\xff\xfe", b"[" * 5000, b'{"messages": null}'):
        assert httpx.post(f"{served.url}/v1/chat/completions", content=raw).status_code == 400
    with socket.create_connection((host, port)) as s:  # goes away in the middle
        s.sendall(head[:-1] + b'{"messages": [{"role": "user", "content"')
    many = [socket.create_connection((host, port)) for _ in range(200)]
    assert served.ask(WORDS[0], "2 tea").status_code == 200
    for s in many:
        s.close()


@pytest.mark.slow
def test_memory_stays_flat_under_bad_requests(served: Served) -> None:
    ask = {"messages": [{"role": "user", "content": WORDS[0]}], "max_tokens": 2, "temperature": 0}
    lines = ("2 nobody", "1e9 tea", "nan tea", "../../etc/passwd", "2 tea @ nowhere", "tea " * 99)
    bad = [json.dumps({**ask, "steer": line, "force": True}).encode() for line in lines]
    bad += [b"{" * 1000, b"x" * 900_000, json.dumps({**ask, "temperature": "hot"}).encode()]

    def resident() -> float:
        """MB of the server and of its engine."""
        pids = (os.getpid(), served.made.engine.pid)
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    with httpx.Client() as client:

        def send(n: int) -> set[int]:
            url = f"{served.url}/v1/chat/completions"
            return {client.post(url, content=bad[k % len(bad)]).status_code for k in range(n)}

        assert send(300) == {400}
        before = resident()
        assert send(3000) == {400}
        assert resident() - before < 30, "MB"
    assert served.ask(WORDS[0], "2 tea", force=True).json()["choices"][0]["message"]["content"] == served.said(
        WORDS[0], "2 tea"
    )


@pytest.mark.slow
def test_a_thousand_mixed_requests(served: Served) -> None:
    """None wrong, none lost, none unsteered: 40 lines against what `steer` says."""
    draw = random.Random(0)
    lines = [
        f"{draw.choice('12')}.{k % 10} {draw.choice(['tea', 'rain', 'cut'])} - 0.{k % 7 + 1} sun" for k in range(39)
    ] + [""]
    pairs = [(WORDS[k % len(WORDS)], line) for k, line in enumerate(lines)]
    asked = [draw.choice(pairs) for _ in range(1000)]
    expected = {pair: served.said(*pair) for pair in pairs}
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda a: served.ask(*a, force=True).json(), asked))
    wrong = [a for a, got in zip(asked, answers, strict=True) if got["choices"][0]["message"]["content"] != expected[a]]
    assert not wrong, wrong[:3]
    assert all((got["steering"] is None) == (not line) for (_, line), got in zip(asked, answers, strict=True))


@pytest.mark.slow
def test_the_engine_is_killed_in_the_middle(served: Served) -> None:
    def ask(k: int) -> int:
        try:
            return served.ask(WORDS[k % 5], "2 tea", max_tokens=60).status_code
        except httpx.HTTPError:
            return 0

    lives = served.made.engine.lives
    with ThreadPoolExecutor(12) as pool:
        open_requests = [pool.submit(ask, k) for k in range(24)]
        time.sleep(0.3)
        os.kill(served.made.engine.pid, signal.SIGKILL)
        statuses = [r.result() for r in open_requests]
    assert set(statuses) <= {200, 503} and 503 in statuses
    until(lambda: httpx.get(f"{served.url}/health").status_code == 200)
    assert served.made.engine.lives == lives + 1
    assert served.ask(WORDS[0], "2 tea").json()["choices"][0]["message"]["content"] == served.said(WORDS[0], "2 tea")


@pytest.mark.slow
def test_a_token_is_asked_for(folder: Path) -> None:
    with running(folder, token="secret") as (_, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_an_open_address_needs_a_token(folder: Path) -> None:
    with pytest.raises(ServeError, match="token"):
        serve(str(folder / "model"), host="0.0.0.0")


# ------------------------------------------------------------ the shelf alone

FACTS = Facts("pico", pico("llama").fingerprint, "", 32, 4, 128, dict.fromkeys(range(4), 10.0))


def test_a_shelf_has_limits() -> None:
    shelf = Shelf(Limits(vectors=1))
    raw = SteeringVector({1: torch.ones(32)}).to_bytes()
    shelf.put("one", raw, FACTS)
    shelf.put("one", raw, FACTS)
    with pytest.raises(VectorError, match="full"):
        shelf.put("two", raw, FACTS)
    with pytest.raises(UnknownName):
        shelf.free("two")
    shelf.stack("5 one", FACTS, force=False)
    with pytest.raises(SteerError, match="too much"):
        shelf.stack("6 one", FACTS, force=True)


def test_a_folder_with_a_file_that_is_no_vector(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(VectorError):
        Shelf.of(tmp_path, Limits())
    with pytest.raises(VectorError, match="no such folder"):
        Shelf.of(tmp_path / "none", Limits())
