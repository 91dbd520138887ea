"""The engine as the server sees it: a process that is watched over. Requests go in, events come out; when the process
dies, every open request ends in an error and another process is started.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import logging
import multiprocessing
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trimtab.serving.child import Message, main
from trimtab.serving.shelf import Facts
from trimtab.steering.vector import SteeringVector

log = logging.getLogger("trimtab")
AGAIN = 1.0  # seconds before another process is started


@dataclass
class _Process:
    """One life of the engine."""

    process: Any
    connection: Any
    outbox: queue.SimpleQueue[bytes | None] = field(default_factory=queue.SimpleQueue)
    held: set[str] = field(default_factory=set[str])  # hashes of the vectors it was sent


class Engine:
    """A supervised process with a model.

    Attributes:
        facts: of its model; None while there is no process that is ready.
        problem: why there is none, if it could not load.
        lives: processes started so far.
        holds: vectors that its process keeps; with one more it begins anew.
    """

    def __init__(
        self, model: dict[str, Any], batch: int = 8, main: Callable[..., None] = main, holds: int = 256
    ) -> None:
        self.model, self.batch, self._main, self.holds = model, batch, main, holds
        self.facts: Facts | None = None
        self.problem = ""
        self.lives = 0
        self.open: dict[str, asyncio.Queue[Message]] = {}
        self._now: _Process | None = None
        self._closing = False

    async def start(self) -> None:
        """Start a process; returns at once, and `facts` are there when its model is loaded."""
        self._loop = asyncio.get_running_loop()
        self._spawn()

    async def close(self) -> None:
        """End the process."""
        self._closing = True
        if self._now is not None:
            self._now.outbox.put(None)
            process = self._now.process
            process.terminate()
            await asyncio.to_thread(process.join, 5)

    @property
    def pid(self) -> int | None:
        return None if self._now is None else self._now.process.pid

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        arguments = (its, self.model, self.batch)
        process = context.Process(target=self._main, args=arguments, daemon=self._main is main)
        atexit.register(process.kill)  # vLLM's is no daemon, since it has children of its own
        process.start()
        its.close()
        self.lives += 1
        now = self._now = _Process(process, mine)
        threading.Thread(target=self._read, args=(now,), daemon=True).start()
        threading.Thread(target=_write, args=(now,), daemon=True).start()

    def _read(self, process: _Process) -> None:
        """Events of a process, to the loop; until it ends."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            with contextlib.suppress(EOFError, OSError):
                while True:
                    event: Message = msgspec.json.decode(process.connection.recv_bytes())
                    self._loop.call_soon_threadsafe(self._event, process, event)
            self._loop.call_soon_threadsafe(self._died, process)

    def _event(self, process: _Process, event: Message) -> None:
        if process is not self._now:
            return
        if event["kind"] == "ready":
            norms = {int(k): n for k, n in event["facts"].pop("norms").items()}
            self.facts, self.problem = Facts(**event["facts"], norms=norms), ""
        elif event["kind"] == "failed":
            self.problem = event["message"]
            log.error("the model cannot be loaded: %s", self.problem)
        elif event["id"] in self.open:
            self.open[event["id"]].put_nowait(event)

    def _died(self, process: _Process) -> None:
        """Every open request ends in an error; another process is started, unless this one never was ready."""
        if process is not self._now:
            return
        was_ready = self.facts is not None
        self.facts, self._now = None, None
        process.outbox.put(None)
        for id, events in self.open.items():
            events.put_nowait({"id": id, "kind": "error", "status": 503, "message": "the engine stopped"})
        if self._closing or not was_ready:
            return
        log.warning("the engine stopped and is started again")
        self._loop.call_later(AGAIN, self._spawn)

    # ------------------------------------------------------------ requests

    def submit(self, kind: str, job: Message, vectors: Sequence[SteeringVector]) -> asyncio.Queue[Message]:
        """Ask for an answer ("job") or a comparison ("compare"); its events come in the queue.

        Args:
            job: with the key `id`.
            vectors: of its stack.
        """
        events: asyncio.Queue[Message] = asyncio.Queue()
        self.open[job["id"]] = events
        now = self._now
        if now is None:
            events.put_nowait({"id": job["id"], "kind": "error", "status": 503, "message": "the engine is not ready"})
            return events
        if len(now.held | {v.hash for v in vectors}) > self.holds:
            self.forget()
        for vector in vectors:
            hash = vector.hash
            if hash not in now.held:
                data = base64.b64encode(vector.to_bytes()).decode()
                now.outbox.put(msgspec.json.encode({"kind": "vector", "hash": hash, "data": data}))
                now.held.add(hash)
        now.outbox.put(msgspec.json.encode({"kind": kind, **job}))
        return events

    def finish(self, id: str, *, canceled: bool = False) -> None:
        """A request that nobody waits for any more."""
        self.open.pop(id, None)
        if canceled and self._now is not None:
            self._now.outbox.put(msgspec.json.encode({"kind": "cancel", "id": id}))

    def forget(self) -> None:
        """The shelf has changed, or the process holds too many: vectors are sent anew with the next requests, and those
        under way keep theirs.
        """
        if self._now is not None:
            self._now.held.clear()
            self._now.outbox.put(msgspec.json.encode({"kind": "forget"}))


def _write(process: _Process) -> None:
    """Messages to a process, in order; a full pipe does not hold up the server."""
    with contextlib.suppress(OSError):
        while (raw := process.outbox.get()) is not None:
            process.connection.send_bytes(raw)
    process.connection.close()
