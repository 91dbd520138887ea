"""The server's face: OpenAI's API with a field `steer`, and a receipt in every answer of what was done."""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from trimtab import registry
from trimtab.errors import TrimtabError
from trimtab.serving.asked import Chat, Compared, Plain, Steered, told
from trimtab.serving.child import Message
from trimtab.serving.engine import Engine
from trimtab.serving.metrics import Metrics
from trimtab.serving.shelf import LARGEST, Facts, Limits, Shelf
from trimtab.steering.fits import other_weights
from trimtab.steering.interventions import Intervention
from trimtab.steering.notation import Notation

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = "*"  # among the hosts: any name will do, since a token is needed
SLOW = 10.0  # seconds for the whole of a request to arrive
NEW = 256  # tokens of an answer, where nobody says
Handle = Callable[[Request], Awaitable[Response]]
Named = list[tuple[str, Intervention]]


class Refused(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: names by which the server may be addressed; `ANY` among them for all.
        token: that every request must bring; "" for none.
        admin: the key for changes of the shelf; "" for none: nobody may.
    """

    hosts: tuple[str, ...] = LOOPBACK
    token: str = ""
    admin: str = ""


class Server:
    """The application: an engine, a shelf, who may ask for how much."""

    def __init__(self, engine: Engine, shelf: Shelf, limits: Limits, access: Access) -> None:
        self.engine, self.shelf, self.limits, self.access = engine, shelf, limits, access
        self.metrics = Metrics()
        self.beside: list[AbstractAsyncContextManager[None]] = []  # what lives as long as it does
        self.app = Starlette(routes=self._routes(), lifespan=self._life)

    def _routes(self) -> list[Route]:
        table: list[tuple[str, str, Handle]] = [
            ("GET", "/metrics", self.measured),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/steering", self.steering),
            ("PUT", "/v1/steering/{name}", self.put),
            ("DELETE", "/v1/steering/{name}", self.free),
            ("POST", "/v1/steering/compare", self.compare),
            ("POST", "/v1/chat/completions", self.chat),
            ("POST", "/v1/completions", self.plain),
        ]
        return [self.route("GET", "/health", self.health, public=True), *(self.route(*row) for row in table)]

    def route(self, method: str, path: str, handle: Handle, *, public: bool = False) -> Route:
        """A route behind the guards.

        Args:
            public: without a token: what it gives is the same for everybody.
        """
        return Route(path, self._guarded(handle, public), methods=[method])

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as lives:
            await self.engine.start()
            lives.push_async_callback(self.engine.close)
            for beside in self.beside:
                await lives.enter_async_context(beside)
            yield

    def _guarded(self, handle: Handle, public: bool) -> Handle:
        """Who asks is looked at first; what fails is told in the form of the API, and nothing else is."""

        async def guarded(request: Request) -> Response:
            try:
                self._admit(request, public)
                return await handle(request)
            except Refused as refused:
                return _error(refused.status, refused.message, refused.kind)
            except TrimtabError as problem:
                return _error(400, str(problem))
            except ClientDisconnect:
                return Response(status_code=499)
            except OSError as problem:  # a full disk, a folder that cannot be written to
                return _error(500, f"{problem.strerror or problem}: {problem.filename or ''}", "server_error")

        return guarded

    def _admit(self, request: Request, public: bool) -> None:
        """Refuse a page of another site that talks to this server through a browser, and who has no token."""
        origin = request.headers.get("origin")
        told = [request.headers.get("host", ""), *([] if origin is None else [_authority(origin)])]
        if ANY not in self.access.hosts and not {_name(host) for host in told} <= {*self.access.hosts}:
            raise Refused(403, "this address is not served", kind="permission_error")
        if self.access.token and not public:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.access.token.encode()):
                raise Refused(401, "a token is needed: Authorization: Bearer ...", kind="authentication_error")

    def _admin(self, request: Request) -> None:
        given = request.headers.get("x-admin-key", "")
        if not self.access.admin or not hmac.compare_digest(given.encode(), self.access.admin.encode()):
            raise Refused(403, "the shelf is changed with a key: X-Admin-Key", kind="permission_error")

    # ------------------------------------------------------------ what there is

    async def health(self, request: Request) -> Response:
        ready = self.engine.facts is not None
        return JSONResponse({"ready": ready, "problem": self.engine.problem}, 200 if ready else 503)

    async def measured(self, request: Request) -> Response:
        self.metrics.waiting.set(len(self.engine.open))
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        facts = self._facts()
        return JSONResponse({"object": "list", "data": [{"id": facts.model, "object": "model", "owned_by": "local"}]})

    async def steering(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "model": self._facts().model, "data": self.shelf.listed()})

    async def put(self, request: Request) -> Response:
        self._admin(request)
        facts = self._facts()
        name = request.path_params["name"]
        vector = self.shelf.put(name, await body(request, LARGEST), facts)
        self.engine.forget()
        return JSONResponse({"name": name, "hash": vector.hash})

    async def free(self, request: Request) -> Response:
        self._admin(request)
        name = request.path_params["name"]
        self.shelf.free(name)
        self.engine.forget()
        return JSONResponse({"name": name, "freed": True})

    def _facts(self) -> Facts:
        facts = self.engine.facts
        if facts is None:
            reason = self.engine.problem or "the model is being loaded"
            raise Refused(503, reason, kind="server_error")
        return facts

    # ------------------------------------------------------------ answers

    async def chat(self, request: Request) -> Response:
        asked = await self._asked(request, Chat)
        return await self._answer(request, asked, _ChatForm(asked.logprobs))

    async def plain(self, request: Request) -> Response:
        asked = await self._asked(request, Plain)
        return await self._answer(request, asked, _PlainForm(asked.logprobs is not None))

    async def _asked(self, request: Request, kind: Any) -> Any:
        raw = await body(request, self.limits.body)
        try:
            asked = msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as problem:
            raise Refused(400, str(problem)[:300]) from problem
        reason = asked.check()
        if reason:
            raise Refused(400, reason)
        return asked

    async def compare(self, request: Request) -> Response:
        """A text, token by token, with and without its vectors."""
        asked: Compared = await self._asked(request, Compared)
        facts = self._meant(asked)
        named = await self._stack(asked, facts)
        id = f"compare-{uuid.uuid4().hex}"
        job = {"id": id, "prompt": told(asked.messages), "answer": asked.answer, "top": asked.top_logprobs}
        job |= {"limit": self.limits.prompt, "stack": _described(named)}
        events = self.engine.submit("compare", job, [iv.vector for _, iv in named])
        reply = _Reply(self, request, id, facts.model, events, _Form(), _receipt(asked, named, facts))
        return JSONResponse(await reply.compared())

    async def _stack(self, asked: Steered, facts: Facts) -> Named:
        """What steers a request; controls take time, which others are not to wait for."""
        how: Any = {"force": asked.force, "control": asked.control}
        if asked.control:
            return await asyncio.to_thread(self.shelf.stack, asked.steer, facts, **how)
        return self.shelf.stack(asked.steer, facts, **how)

    def _meant(self, asked: Steered) -> Facts:
        """The facts of the model that is asked for, while there is room for a request."""
        facts = self._facts()
        if asked.model and asked.model != facts.model:
            raise Refused(404, f"no such model: {asked.model!r}; this one is {facts.model!r}")
        if len(self.engine.open) >= self.limits.queue:
            raise Refused(429, "too many requests wait", kind="rate_limit_error")
        return facts

    async def _answer(self, request: Request, asked: Chat | Plain, form: _Form) -> Response:
        facts = self._meant(asked)
        new = NEW if asked.new is None else asked.new
        if new > self.limits.new:
            raise Refused(400, f"max_tokens: at most {self.limits.new}")
        named = await self._stack(asked, facts)
        id = f"{form.prefix}-{uuid.uuid4().hex}"
        job = {
            "id": id,
            "prompt": asked.prompt,
            "chat": isinstance(asked, Chat),
            "max_tokens": new,
            "limit": self.limits.prompt,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "seed": uuid.uuid4().int >> 66 if asked.seed is None else asked.seed,
            "stop": asked.stops,
            "top": asked.top,
            "stack": _described(named),
        }
        events = self.engine.submit("job", job, [iv.vector for _, iv in named])
        reply = _Reply(self, request, id, facts.model, events, form, _receipt(asked, named, facts))
        first = await reply.first()
        if asked.stream:
            return StreamingResponse(reply.stream(first), media_type="text/event-stream")
        return JSONResponse(await reply.whole(first))


def _described(named: Named) -> list[Message]:
    """Interventions as the engine is told them."""
    return [{"name": name, **iv.describe()} for name, iv in named]


def _receipt(asked: Steered, named: Named, facts: Facts) -> dict[str, Any] | None:
    """What is done to a request, before it is; None for one that asks for nothing."""
    if not named:
        return None
    vectors = [
        {
            "name": name,
            "hash": iv.vector.hash,
            "layers": list(iv.vector.layers),
            "multiplier": iv.multiplier,
            "positions": str(iv.positions),
            "operator": registry.describe(iv.operator)["name"],
        }
        for name, iv in named
    ]
    warnings = {other_weights(iv.vector, weights=facts.weights, model=facts.model) for _, iv in named} - {None}
    said = str(Notation.parse(asked.steer)) if isinstance(asked.steer, str) else msgspec.to_builtins(asked.steer)
    out = {"steer": said, "forced": asked.force, "vectors": vectors, "warnings": sorted(map(str, warnings))}
    return out | ({"control": asked.control} if asked.control else {})


class _Form:
    """How an answer looks in one of the two APIs."""

    prefix, whole, piece = "", "", ""

    def choice(self, text: str, reason: str | None, logprobs: list[Message]) -> Message:
        raise NotImplementedError

    def delta(self, text: str, reason: str | None, logprobs: list[Message], first: bool) -> Message:
        raise NotImplementedError


class _ChatForm(_Form):
    prefix, whole, piece = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, logprobs: bool) -> None:
        self.logprobs = logprobs

    def choice(self, text: str, reason: str | None, logprobs: list[Message]) -> Message:
        held = {"content": logprobs} if self.logprobs else None
        message = {"role": "assistant", "content": text}
        return {"index": 0, "message": message, "finish_reason": reason, "logprobs": held}

    def delta(self, text: str, reason: str | None, logprobs: list[Message], first: bool) -> Message:
        held = {"content": logprobs} if self.logprobs and logprobs else None
        delta = {**({"role": "assistant"} if first else {}), "content": text}
        return {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": held}


class _PlainForm(_Form):
    prefix, whole, piece = "cmpl", "text_completion", "text_completion"

    def __init__(self, logprobs: bool) -> None:
        self.logprobs = logprobs

    def choice(self, text: str, reason: str | None, logprobs: list[Message]) -> Message:
        held = None
        if self.logprobs:
            held = {
                "tokens": [p["token"] for p in logprobs],
                "token_logprobs": [p["logprob"] for p in logprobs],
                "top_logprobs": [{t["token"]: t["logprob"] for t in p["top_logprobs"]} for p in logprobs],
            }
        return {"index": 0, "text": text, "finish_reason": reason, "logprobs": held}

    def delta(self, text: str, reason: str | None, logprobs: list[Message], first: bool) -> Message:
        return self.choice(text, reason, logprobs)


class _Reply:
    """The events of one request, as an answer."""

    def __init__(
        self,
        server: Server,
        request: Request,
        id: str,
        model: str,
        events: asyncio.Queue[Message],
        form: _Form,
        receipt: dict[str, Any] | None,
    ) -> None:
        self.server, self.request, self.id, self.model = server, request, id, model
        self.events, self.form, self.receipt = events, form, receipt
        self.started, self.prompt, self.ended = time.time(), 0, False

    async def _next(self) -> Message:
        """The next event; a client that has gone is not answered any further."""
        while True:
            try:
                event = await asyncio.wait_for(self.events.get(), 1.0)
            except TimeoutError:
                if await self.request.is_disconnected():
                    self._finish(canceled=True)
                    raise ClientDisconnect from None
                continue
            if event["kind"] == "error":
                self._finish(failed=True)
                kind = "server_error" if event["status"] >= 500 else "invalid_request_error"
                raise Refused(event["status"], event["message"], kind=kind)
            return event

    async def first(self) -> Message:
        """Up to the first token: what is wrong with a request is known by then, and has its status."""
        try:
            event = await self._next()
            self.prompt = event["prompt"]
            return await self._next()
        except asyncio.CancelledError:
            self._finish(canceled=True)
            raise

    async def _rest(self, event: Message) -> AsyncIterator[Message]:
        """This event and all that follow it."""
        try:
            while event["kind"] != "end":
                yield event
                event = await self._next()
            self._finish(event)
            yield event
        finally:
            if not self.ended:
                self._finish(canceled=True)

    async def compared(self) -> Message:
        """The one event of a comparison, with the receipt."""
        end = await self.first()
        self._finish({**end, "tokens": 0})
        found = {k: end[k] for k in ("tokens", "projections")}
        done = None if self.receipt is None else {**self.receipt, "tokens_edited": end["edited"]}
        return {**found, "model": self.model, "steering": done}

    async def whole(self, event: Message) -> Message:
        events = [e async for e in self._rest(event)]
        text = "".join(e.get("text", "") for e in events)
        logprobs = [e["logprobs"] for e in events if "logprobs" in e]
        body = self._head(self.form.whole)
        body["choices"] = [self.form.choice(text, events[-1]["reason"], logprobs)]
        return {**body, **self._tail(events[-1])}

    async def stream(self, begin: Message) -> AsyncIterator[bytes]:
        first = True
        try:
            async for event in self._rest(begin):
                body = self._head(self.form.piece)
                logprobs = [event["logprobs"]] if "logprobs" in event else []
                body["choices"] = [self.form.delta(event.get("text", ""), event.get("reason"), logprobs, first)]
                first = False
                if event["kind"] == "end":
                    body |= self._tail(event)
                yield b"data: " + msgspec.json.encode(body) + b"\n\n"
            yield b"data: [DONE]\n\n"
        except Refused as refused:
            yield b"data: " + msgspec.json.encode(_failure(refused.message, refused.kind, refused.status)) + b"\n\n"

    def _head(self, object: str) -> Message:
        return {"id": self.id, "object": object, "created": int(self.started), "model": self.model}

    def _tail(self, end: Message) -> Message:
        """Usage, and the receipt with what was done."""
        done = end["tokens"]
        usage = {"prompt_tokens": self.prompt, "completion_tokens": done, "total_tokens": self.prompt + done}
        receipt = None
        if self.receipt is not None:
            receipt = {**self.receipt, "tokens_edited": end["edited"], "projection": end["projection"]}
        return {"usage": usage, "steering": receipt}

    def _finish(self, end: Message | None = None, *, canceled: bool = False, failed: bool = False) -> None:
        """Counted once, and forgotten."""
        if self.ended:
            return
        self.ended = True
        self.server.engine.finish(self.id, canceled=canceled)
        outcome = "canceled" if canceled else "failed" if failed else "answered"
        self.server.metrics.request(outcome, self.receipt, end, time.time() - self.started)


async def body(request: Request, limit: int) -> bytes:
    """What was sent, up to a limit, and not for ever."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise Refused(413, f"at most {limit} bytes")
    read = bytearray()

    async def all_of_it() -> None:
        async for piece in request.stream():
            read.extend(piece)
            if len(read) > limit:
                raise Refused(413, f"at most {limit} bytes")

    try:
        await asyncio.wait_for(all_of_it(), SLOW)
    except TimeoutError as problem:
        raise Refused(408, f"the request did not arrive within {SLOW:g} s") from problem
    return bytes(read)


def _authority(origin: str) -> str:
    """The `host:port` of an origin; "" of what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _name(address: str) -> str:
    """The host in `host:port`, or in `[::1]:port`."""
    return address.partition("]")[0].lstrip("[") if address.startswith("[") else address.partition(":")[0]


def _failure(message: str, kind: str, status: int) -> Message:
    return {"error": {"message": message, "type": kind, "code": status}}


def _error(status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
    return JSONResponse(_failure(message, kind, status), status)
