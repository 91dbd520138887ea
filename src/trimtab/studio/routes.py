"""The studio's routes on the server: the page, what it is told, and what it may ask for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trimtab import registry
from trimtab.errors import TrimtabError, UnknownName
from trimtab.journal import plain, whole
from trimtab.serving.api import Refused, Server, body
from trimtab.serving.shelf import LARGEST, Facts, fits
from trimtab.steering.vector import SteeringVector
from trimtab.studio import evidence
from trimtab.studio.evidence import Evidence
from trimtab.studio.jobs import DROPPED, Job, Queue
from trimtab.studio.shelved import RUN, Shelved, free_name, in_words, measurable

PAGE = files("trimtab") / "studio" / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Styles inside the page: reports bring theirs. All else comes from this server, and no markup is ever made of text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
LARGEST_FORM = 1 << 20


class Sentence(msgspec.Struct, forbid_unknown_fields=True, tag="sentence", tag_field="kind"):
    """Learn from a sentence."""

    sentence: str
    against: str = ""
    questions: int = 48


class PairOf(msgspec.Struct, forbid_unknown_fields=True):
    prompt: str
    positive: str
    negative: str


class Pairs(msgspec.Struct, forbid_unknown_fields=True, tag="pairs", tag_field="kind"):
    """Learn from pairs."""

    name: str
    pairs: list[PairOf]


class Example(msgspec.Struct, forbid_unknown_fields=True, tag="example", tag_field="kind"):
    """Learn from one example."""

    name: str
    prompt: str
    answer: str


class Measure(msgspec.Struct, forbid_unknown_fields=True, tag="measure", tag_field="kind"):
    """Measure a vector on held-out items of the behavior it was learned on."""

    vector: str


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """What is to happen to a job."""

    do: Literal["stop", "go on", "forget"]


class Studio:
    """What a server needs to be a studio: its routes are added to it."""

    def __init__(self, server: Server, shelf: Sequence[Shelved], runs: Path, loading: dict[str, Any]) -> None:
        self.server, self.runs, self.name = server, runs, str(loading["model"])
        self.began = time.time()
        self.leaves = {"operator": registry.named("operator")}  # read from the sources: once
        self.shelved: dict[str, Shelved] = {}
        for one in shelf:
            self._take(one)
        for file in sorted((runs / DROPPED).glob("*.safetensors")):
            with contextlib.suppress(TrimtabError):  # of another version, say
                vector = SteeringVector.load(file)
                self._take(Shelved(free_name(file.stem, self.shelved), file.stem, file, vector, in_words(vector)))
        self.evidence = Evidence(runs)
        self.queue = Queue(runs, loading, self._learned)
        for job in self.queue.jobs.values():
            if job.state == "done":
                with contextlib.suppress(TrimtabError):  # its file is gone, or the shelf is full
                    self._learned(job)
        server.beside.append(self._working())
        server.app.router.routes.extend(self._routes())

    def _routes(self) -> list[Any]:
        route = self.server.route
        return [
            route("GET", "/", self.index, public=True),
            route("GET", "/studio/page/{file}", self.file, public=True),
            route("GET", "/studio/state", self.state),
            route("POST", "/studio/jobs", self.learn),
            route("POST", "/studio/jobs/{name}", self.change),
            route("GET", "/studio/runs/{name}", self.run),
            route("GET", "/studio/runs/{name}/report", self.report),
            route("GET", "/studio/runs/{name}/items/{item}", self.item),
            route("POST", "/studio/runs/{name}/vector", self.open),
            route("GET", "/studio/vectors/{name}", self.download),
            route("POST", "/studio/vectors/{name}", self.upload),
            route("DELETE", "/studio/vectors/{name}", self.put_away),
        ]

    @asynccontextmanager
    async def _working(self) -> AsyncGenerator[None]:
        task = asyncio.create_task(self.queue.work())
        yield
        task.cancel()
        await asyncio.wait([task])

    # ------------------------------------------------------------ the page

    async def index(self, request: Request) -> Response:
        return _file("index.html")

    async def file(self, request: Request) -> Response:
        name = request.path_params["file"]
        if name not in {f.name for f in PAGE.iterdir()}:
            raise Refused(404, "no such file")
        return _file(name)

    async def state(self, request: Request) -> Response:
        """All that the page shows of what is there."""
        facts, engine = self.server.engine.facts, self.server.engine
        told = {
            "began": self.began,
            "name": self.name,
            "ready": facts is not None,
            "problem": engine.problem,
            "loading": time.time() - self.began if engine.lives <= 1 else None,
            "model": None if facts is None else {"id": facts.model, "blocks": facts.n_layers, "context": facts.context},
            "vectors": [self._about(one, facts) for one in self.shelved.values()],
            "jobs": self.queue.listed(),
            "runs": await asyncio.to_thread(evidence.listed, self.runs),
            "folder": str(self.runs),
            "loaded": self.queue.loading,
            "token": bool(self.server.access.token),
            "leaves": self.leaves,
            "limit": self.server.limits.relative,
        }
        return _json(told)

    def _about(self, one: Shelved, facts: Facts | None) -> dict[str, Any]:
        """A vector, with what a multiplier of it is and does."""
        told = {**one.told, "odd": "", "unit": {}}
        if facts is not None:
            told["unit"] = {str(k): n / facts.norms[k] for k, n in one.norms.items() if facts.norms.get(k)}
            try:
                fits(one.vector, facts)
            except TrimtabError as problem:
                told["odd"] = str(problem)
        return told

    # ------------------------------------------------------------ vectors

    def _take(self, one: Shelved) -> None:
        """Put a vector on the shelf, in the place of the one of its name."""
        self.server.shelf.put(one.name, one.vector.to_bytes())
        self.shelved[one.name] = one

    def _learned(self, job: Job) -> None:
        """A job has made a vector."""
        self._from_run(job.name)

    def _from_run(self, name: str) -> Shelved:
        """The vector of a run folder."""
        file = self.runs / name / RUN
        vector = SteeringVector.load(file)
        there = next((s for s in self.shelved.values() if s.file.absolute() == file.absolute()), None)
        called = there.name if there else free_name(name, self.shelved)
        one = Shelved(called, name, file, vector, in_words(vector))
        self._take(one)
        self.server.engine.forget()
        return one

    async def open(self, request: Request) -> Response:
        """Put the vector of a run folder on the shelf."""
        _same_page(request)
        folder = self.evidence.folder(request.path_params["name"])
        if not (folder / RUN).is_file():
            raise Refused(404, f"{folder.name} holds no {RUN}")
        return JSONResponse({"name": self._from_run(folder.name).name})

    async def download(self, request: Request) -> Response:
        one = self._named(request)
        called = quote(f"{one.name}.safetensors")
        return Response(
            one.vector.to_bytes(),
            media_type="application/octet-stream",
            headers={"Content-Disposition": f"attachment; filename={called}", **HEADERS},
        )

    async def upload(self, request: Request) -> Response:
        """Take a vector's file that was dropped on the page; it is kept in the folder of runs."""
        _same_page(request)
        label = request.path_params["name"]
        raw = await body(request, LARGEST)
        vector = SteeringVector.from_bytes(raw, label[:80])
        if self.server.engine.facts is not None:
            fits(vector, self.server.engine.facts)
        kept = {f.stem: None for f in (self.runs / DROPPED).glob("*.safetensors")}
        name = free_name(label, {**self.shelved, **kept})
        file = self.runs / DROPPED / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as aside:
            aside.write_bytes(raw)
        self._take(Shelved(name, label, file, vector, in_words(vector)))
        return JSONResponse({"name": name})

    async def put_away(self, request: Request) -> Response:
        """Take a vector from the shelf; its file stays."""
        _same_page(request)
        one = self._named(request)
        self.server.shelf.free(one.name)
        del self.shelved[one.name]
        self.server.engine.forget()
        return JSONResponse({"name": one.name})

    def _named(self, request: Request) -> Shelved:
        name = request.path_params["name"]
        if name not in self.shelved:
            raise UnknownName("vector", name, self.shelved)
        return self.shelved[name]

    # ------------------------------------------------------------ learning

    async def learn(self, request: Request) -> Response:
        """Put something into the queue."""
        _same_page(request)
        asked = await _form(request, Sentence | Pairs | Example | Measure)
        if isinstance(asked, Measure):
            return self._measure(asked)
        kind: Any = {Sentence: "sentence", Pairs: "pairs", Example: "example"}[type(asked)]
        table = {k: v for k, v in msgspec.to_builtins(asked).items() if k != "kind"}
        label = table.pop("name", "") or table.get("sentence", "")
        reason = _wrong(asked, label)
        if reason:
            raise Refused(400, reason)
        job = self.queue.add(kind, label, table, self.shelved)
        return JSONResponse({"name": job.name})

    def _measure(self, asked: Measure) -> Response:
        if asked.vector not in self.shelved:
            raise UnknownName("vector", asked.vector, self.shelved)
        one = self.shelved[asked.vector]
        data = measurable(one.vector)
        if not data:
            file = one.file.absolute()
            raise Refused(400, f"No built-in behavior goes with it. In a terminal: trimtab measure {file} --data FILE")
        about = {"file": str(one.file.absolute()), "data": data}
        return JSONResponse({"name": self.queue.add("measure", f"{one.name}-measured", about, self.shelved).name})

    async def change(self, request: Request) -> Response:
        """Stop a job, let it go on, or take it from the list."""
        _same_page(request)
        name = request.path_params["name"]
        if name not in self.queue.jobs:
            raise UnknownName("job", name, self.queue.jobs)
        job, do = self.queue.jobs[name], (await _form(request, Change)).do
        if do == "stop":
            self.queue.stop(job)
        elif do == "go on":
            self.queue.go_on(job)
        else:
            self.queue.forget(job)
        return JSONResponse({"name": name})

    # ------------------------------------------------------------ evidence

    async def run(self, request: Request) -> Response:
        name = request.path_params["name"]
        return _json(await asyncio.to_thread(self.evidence.seen, name))

    async def item(self, request: Request) -> Response:
        name, item = request.path_params["name"], request.path_params["item"]
        return _json(await asyncio.to_thread(self.evidence.item, name, item))

    async def report(self, request: Request) -> Response:
        """The report as text: the page puts it into a frame that may run nothing."""
        text = await asyncio.to_thread(self.evidence.report, request.path_params["name"])
        return Response(text, media_type="text/plain", headers=HEADERS)


def _json(value: Any) -> Response:
    """JSON of letters that every encoding has: files of others may hold halves of characters."""
    text = json.dumps(plain(value), allow_nan=False)
    return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})


def _file(name: str) -> Response:
    kind = KINDS.get(Path(name).suffix, "application/octet-stream")
    return Response((PAGE / name).read_bytes(), media_type=kind, headers=HEADERS)


def _same_page(request: Request) -> None:
    """Refuse what another page of this machine asks for: it may be served here, too, from another port."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Refused(403, "the studio is changed from its own page", kind="permission_error")


async def _form(request: Request, kind: Any) -> Any:
    try:
        return msgspec.json.decode(await body(request, LARGEST_FORM), type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as problem:
        raise Refused(400, str(problem)[:300]) from problem


def _wrong(asked: Sentence | Pairs | Example, label: str) -> str:
    """Why a form cannot be learned from; "" if it can."""
    if not label.strip():
        return "Say what it is to do." if isinstance(asked, Sentence) else "Give it a name."
    if isinstance(asked, Sentence):
        if asked.sentence.strip().casefold() == asked.against.strip().casefold():
            return "The behavior and its opposite are the same."
        return "" if 12 <= asked.questions <= 72 else "questions: from 12 to 72"
    if isinstance(asked, Example):
        return "" if asked.prompt.strip() and asked.answer.strip() else "An example is a prompt and an answer."
    if len(asked.pairs) < 2:
        return "At least two pairs, please: twenty are enough to begin with."
    bare = [k for k, p in enumerate(asked.pairs, 1) if not all(t.strip() for t in (p.prompt, p.positive, p.negative))]
    same = [k for k, p in enumerate(asked.pairs, 1) if p.positive.strip() == p.negative.strip()]
    if bare:
        return f"Pair {bare[0]} is not complete: a prompt, an answer with the behavior, and one without it."
    return f"Both answers of pair {same[0]} are the same." if same else ""
