"""The engine's process: a model, a queue, and one line of JSON for everything that happens. What a client sends is
text and numbers here, and nothing else; if this process dies, the server starts another.
"""

from __future__ import annotations

import base64
import os
import time
from collections import deque
from dataclasses import asdict
from typing import Any

import msgspec

from trimtab import registry
from trimtab.errors import TokenError, TrimtabError
from trimtab.model.generate import Sampling
from trimtab.serving.batch import Job, Unsteered, run
from trimtab.serving.shelf import Facts
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector

WAIT = 0.01  # seconds to wait for others to share a batch with
Message = dict[str, Any]


def main(connection: Any, model: dict[str, Any], batch: int) -> None:
    """Serve a model over a connection until it is closed.

    Args:
        model: name, dtype, device, threads: how it is loaded.
        batch: rows of a pass at most.
    """
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the server's, which then ends this process
    from trimtab.data.builtin import neutral
    from trimtab.model import LM

    if model.get("threads"):
        torch.set_num_threads(int(model["threads"]))
    try:
        lm = LM.load(model["name"], dtype=model.get("dtype"), device=model.get("device"))
        norms = lm.norms(lm.rows(list(neutral())[:4]))
        facts = Facts(lm.id, lm.fingerprint, lm.weights, lm.width, lm.n_layers, lm.context, norms)
    except TrimtabError as problem:
        connection.send_bytes(msgspec.json.encode({"kind": "failed", "message": str(problem)}))
        return
    _Engine(lm, connection, batch).serve(facts)


class _Engine:
    """The loop."""

    def __init__(self, lm: Any, connection: Any, batch: int) -> None:
        self.lm, self.connection, self.batch = lm, connection, batch
        self.vectors: dict[str, SteeringVector] = {}
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []

    def serve(self, facts: Facts) -> None:
        self.say({"kind": "ready", "facts": {**asdict(facts), "norms": {str(k): n for k, n in facts.norms.items()}}})
        try:
            while True:
                if not self.waiting:
                    self._take(self.connection.recv_bytes())
                    time.sleep(WAIT)
                self.listen()
                if self.waiting:
                    self._answer()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            os._exit(0)  # the server is gone, and nobody would hear of what is under way

    def say(self, event: Message) -> None:
        self.connection.send_bytes(msgspec.json.encode(event))

    def listen(self) -> None:
        """Read what has come meanwhile."""
        while self.connection.poll():
            self._take(self.connection.recv_bytes())

    def _take(self, raw: bytes) -> None:
        message: Message = msgspec.json.decode(raw)
        if message["kind"] == "vector":
            self.vectors[message["hash"]] = SteeringVector.from_bytes(base64.b64decode(message["data"]))
        elif message["kind"] == "forget":
            self.vectors.clear()
        elif message["kind"] == "cancel":
            for job in (*self.waiting, *self.running):
                job.canceled = job.canceled or job.id == message["id"]
        else:
            self._enqueue(message)

    def _enqueue(self, message: Message) -> None:
        """Render a request, and tell how long its prompt is, or why it cannot be one."""
        try:
            job = self._job(message)
        except TrimtabError as problem:
            self.say({"id": message["id"], "kind": "error", "status": 400, "message": str(problem)})
            return
        except Exception as problem:  # a template that cannot take these messages, say
            told = f"the request cannot be read: {type(problem).__name__}"
            self.say({"id": message["id"], "kind": "error", "status": 400, "message": told})
            return
        self.say({"id": job.id, "kind": "start", "prompt": job.row.prompt})
        self.waiting.append(job)

    def _job(self, m: Message) -> Job:
        row = self.lm.row(m["prompt"], chat=None if m["chat"] else False)
        limit = min(m["limit"], self.lm.context - m["max_tokens"])
        if row.prompt > limit:
            raise TokenError("the prompt is too long", given=f"{row.prompt} tokens", expected=f"at most {limit}")
        stack = [
            (
                s["name"],
                Intervention(
                    self.vectors[s["vector"]].at(*s["layers"]),
                    registry.make("operator", s["operator"]),
                    s["multiplier"],
                    s["positions"],
                    registry.make("gate", s["gate"]),
                ),
            )
            for s in m["stack"]
        ]
        sampling = Sampling(m["max_tokens"], m["temperature"], m["top_p"], m["seed"])
        return Job(m["id"], row, tuple(stack), sampling, tuple(m["stop"]), m["top"])

    def _answer(self) -> None:
        """The oldest request, and those that may share a batch with it."""
        first = self.waiting.popleft()
        jobs = [first]
        for job in list(self.waiting):
            if len(jobs) == self.batch:
                break
            rows = [j.row for j in (*jobs, job)]
            new = max(j.sampling.max_new_tokens for j in (*jobs, job))
            if not job.canceled and self.lm.together(rows, new):
                jobs.append(job)
                self.waiting.remove(job)
        self.running = [j for j in jobs if not j.canceled]
        self._run(self.running)
        self.running = []

    def _run(self, jobs: list[Job]) -> None:
        """Answer them; where one fails it alone is told so, and the others are asked again."""
        if not jobs:
            return
        ended: set[str] = set()

        def say(event: Message) -> None:
            if event["kind"] == "end":
                ended.add(event["id"])
            self.say(event)

        try:
            run(self.lm, jobs, say, self.listen)
        except Unsteered as problem:
            self.say({"id": problem.id, "kind": "error", "status": 400, "message": str(problem)})
            self._again([j for j in jobs if j.id not in ended and j.id != problem.id])
        except (TrimtabError, RuntimeError) as problem:  # of one of them, or of memory
            if len(jobs) == 1:
                told = str(problem) if isinstance(problem, TrimtabError) else "the engine could not answer this request"
                self.say({"id": jobs[0].id, "kind": "error", "status": 500, "message": told})
                return
            for job in jobs:
                self._again([job] if job.id not in ended else [])

    def _again(self, jobs: list[Job]) -> None:
        """From the beginning."""
        for job in jobs:
            job.new, job.edited, job.along, job.reached = [], {}, {}, {}
        self._run([j for j in jobs if not j.canceled])
