"""The engine's process: a model, a queue, and one line of JSON for everything that happens. What a client sends is
text and numbers here, and nothing else; if this process dies, the server starts another.
"""

from __future__ import annotations

import base64
import os
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import msgspec

from trimtab import registry
from trimtab.errors import TokenError, TrimtabError
from trimtab.model.generate import Sampling
from trimtab.serving.batch import Job, Stack, Unsteered, run
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
        self.comparisons: deque[Message] = deque()
        self.running: list[Job] = []

    def serve(self, facts: Facts) -> None:
        self.say({"kind": "ready", "facts": {**asdict(facts), "norms": {str(k): n for k, n in facts.norms.items()}}})
        try:
            while True:
                if not self.waiting and not self.comparisons:
                    self._take(self.connection.recv_bytes())
                    time.sleep(WAIT)
                self.listen()
                if self.waiting:
                    self._answer()
                elif self.comparisons:  # nobody waits for an answer
                    self._compare(self.comparisons.popleft())
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
            self.comparisons = deque(m for m in self.comparisons if m["id"] != message["id"])
        elif message["kind"] == "compare":
            with self._told(message["id"]):
                stack = self._stack(message)  # now: the shelf may change before it is done
                self.comparisons.append({**message, "stack": stack})
        else:
            self._enqueue(message)

    def _enqueue(self, message: Message) -> None:
        """Render a request, and tell how long its prompt is, or why it cannot be one."""
        with self._told(message["id"]):
            job = self._job(message)
            self.say({"id": job.id, "kind": "start", "prompt": job.row.prompt})
            self.waiting.append(job)

    @contextmanager
    def _told(self, id: str) -> Generator[None]:
        """A request that cannot be read is told so, and does no harm to others."""
        try:
            yield
        except TrimtabError as problem:
            self.say({"id": id, "kind": "error", "status": 400, "message": str(problem)})
        except OSError:
            raise  # the server is gone
        except Exception as problem:  # a template that cannot take these messages, say, or of memory
            told = f"the request cannot be read: {type(problem).__name__}"
            self.say({"id": id, "kind": "error", "status": 400, "message": told})

    def _job(self, m: Message) -> Job:
        row = self.lm.row(m["prompt"], chat=None if m["chat"] else False)
        limit = min(m["limit"], self.lm.context - m["max_tokens"])
        if row.prompt > limit:
            raise TokenError("the prompt is too long", given=f"{row.prompt} tokens", expected=f"at most {limit}")
        sampling = Sampling(m["max_tokens"], m["temperature"], m["top_p"], m["seed"])
        return Job(m["id"], row, self._stack(m), sampling, tuple(m["stop"]), m["top"])

    def _stack(self, m: Message) -> Stack:
        return tuple(
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
        )

    def _compare(self, m: Message) -> None:
        """A text with and without its vectors."""
        from trimtab.serving.side_by_side import compared

        with self._told(m["id"]):
            row = self.lm.row(m["prompt"], m["answer"])
            if len(row.ids) > m["limit"]:
                given, most = f"{len(row.ids)} tokens", f"at most {m['limit']}"
                raise TokenError("prompt and answer are too long", given=given, expected=most)
            self.say({"id": m["id"], "kind": "start", "prompt": row.prompt})
            found = compared(self.lm, row, m["stack"], m["top"])
            self.say({"id": m["id"], "kind": "end", "projection": {}, **found})

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
