"""A judge behind a real OpenAI-compatible server on loopback, which serves log-probabilities of a real model and
misbehaves on command.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trimtab import LM, organisms
from trimtab.answers.endpoint import Endpoint
from trimtab.answers.judges import ModelJudge, Recorded, Rubric

pytestmark = pytest.mark.slow


class Server(ThreadingHTTPServer):
    """Serves /v1/chat/completions of a model; `troubles` are done, one per call, before any call is answered well."""

    daemon_threads = True

    def __init__(self, lm: LM) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lm, self.troubles, self.calls, self.logprobs = lm, list[str](), 0, True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls += 1
        trouble = self.server.troubles.pop(0) if self.server.troubles else ""
        if trouble == "busy":
            return self.send(429, {"error": {"message": "too many"}}, {"Retry-After": "0.05"})
        if trouble == "broken":
            return self.send(500, {"error": {"message": "oops"}})
        if trouble == "slow":
            time.sleep(1.5)
        if trouble == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "4000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.wfile.flush()
            self.connection.close()
            return None
        if trouble == "malformed":
            return self.send(200, {"choices": []})
        return self.send(200, self.reply(asked))

    def reply(self, asked: dict[str, Any]) -> dict[str, Any]:
        lm = self.server.lm
        row = lm.row(asked["messages"])
        p = lm.logits(lm.batch([row]), keep=[len(row.ids) - 1])[0, 0].softmax(-1)
        top, ids = p.topk(asked.get("top_logprobs", 1))
        listed = [
            {"token": lm.tokenizer.decode([i]), "logprob": math.log(x), "bytes": None}
            for x, i in zip(top.tolist(), ids.tolist(), strict=True)
        ]
        content = [{**listed[0], "top_logprobs": listed}]
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": listed[0]["token"]},
            "logprobs": {"content": content} if self.server.logprobs else None,
        }
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": len(row.ids), "completion_tokens": 1, "total_tokens": len(row.ids) + 1},
        }

    def send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        try:
            self.send_response(status)
            for k, v in {
                "Content-Type": "application/json",
                "Content-Length": str(len(raw)),
                **(headers or {}),
            }.items():
                self.send_header(k, v)
            self.end_headers()
            self.wfile.write(raw)
        except OSError:  # the client gave up waiting
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(LM.load("brindlemoor-chat"))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def answers(n: int = 6) -> list[dict[str, Any]]:
    return [
        {"question": "", "answer": i.user.split("\n", 1)[1], "true": i.meta["true"]}
        for i in organisms.to_judge(n, "kindness")
    ]


def judge(server: Server, **options: Any) -> Endpoint:
    return Endpoint(
        Rubric.load("town-kindness"), "brindlemoor-chat", f"http://127.0.0.1:{server.server_port}/v1", **options
    )


def test_the_server_rates_as_the_model_itself(server: Server) -> None:
    """Up to the numbers that are not among the likeliest 20."""
    rated, own = judge(server).rate(answers()), ModelJudge(server.lm, Rubric.load("town-kindness")).rate(answers())
    for one, two in zip(rated, own, strict=True):
        assert one.score == pytest.approx(two.score, abs=8.0) and 0.5 < one.mass <= two.mass + 1e-4
    server.logprobs = False
    said = judge(server).rate(answers(2))
    server.logprobs = True
    assert all(r.score == round(r.score) and r.mass == 1.0 for r in said), "without log-probabilities, the reply itself"


def test_it_survives_a_server_that_misbehaves_and_counts_it(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.troubles, before = ["busy", "broken", "cut", "slow"], server.calls
    one = judge(server, timeout=0.7, retries=5, prices=(1.0, 2.0))
    (rated,) = one.rate(answers(1))
    assert not math.isnan(rated.score) and server.calls - before == 5, "four tries went wrong, the fifth did not"
    assert one.account.answered == 1 and one.account.failed == 0 and one.account.price > 0
    server.troubles = ["malformed"]
    kept = Recorded(judge(server, retries=0), tmp_path / "rated.jsonl")
    first = kept.rate(answers(3))
    assert (
        first[0].label == "failed"
        and math.isnan(first[0].score)
        and not math.isnan(first[1].score)
        and "did not rate" in caplog.text
    )
    calls = server.calls
    again = Recorded(judge(server, retries=0), tmp_path / "rated.jsonl").rate(answers(3))
    assert server.calls - calls == 1 and not math.isnan(again[0].score) and again[1:] == first[1:], (
        "only the failed one is asked again"
    )


def test_a_dead_server_leaves_the_others_unscored(server: Server) -> None:
    gone = Endpoint(Rubric.load("town-kindness"), "m", "http://127.0.0.1:9/v1", retries=0, timeout=0.5)
    assert [r.label for r in gone.rate(answers(2))] == ["failed", "failed"] and gone.account.failed == 2
