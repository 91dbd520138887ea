"""The studio's side of the wire: who may ask, what the page is told, what it may change; on a small model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import safetensors.torch
import torch

from pico import saved, toy_pairs
from served import listening, until
from trimtab import LM, Add, Dataset, Intervention, Propensity, Provenance, SteeringVector, Use, measure, report
from trimtab.errors import ServeError, VectorError
from trimtab.steering.use import Dose, DosePoint
from trimtab.studio import address, desk, studio
from trimtab.studio.jobs import Job, Queue, found
from trimtab.studio.shelved import chosen, free_name, zones

HOSTILE = '"><img src=x onerror=alert(1)>'


@dataclass
class Studio:
    url: str
    folder: Path
    made: Any

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, json={} if body is None else body, timeout=60, **more)

    def state(self) -> dict[str, Any]:
        return self.get("/studio/state").json()


def dose() -> Dose:
    rows = (
        (0.5, 0.03, 0.0, 0.0, 0.1),
        (1.0, 0.1, 0.0, 0.1, 0.5),
        (2.0, 0.4, 0.05, 0.5, 1.0),
        (4.0, 1.8, 0.6, 2.0, 1.1),
    )
    points = [DosePoint(m, m / 10, d, b, s, 0.9, p, p - 0.1, p + 0.1, 0.2) for m, d, b, s, p in rows]
    return Dose(tuple(points), 0.0, 0.9, 12, 40, 12, 12, "nats", "toy", ("random-0",))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    saved(folder / "model")
    lm = LM.load(str(folder / "model"))
    made, g = Provenance.of(lm), torch.Generator().manual_seed(0)
    use = Use((1,), 1.0, ship=(1.0, 2.0), why=("because",), dose=dose())
    tea = SteeringVector({1: torch.randn(lm.width, generator=g)}, made, use=use)
    (folder / "vectors").mkdir()
    tea.save(folder / "vectors" / "tea.safetensors")
    tea.save(folder / "vectors" / f"{HOSTILE.replace('/', '')}.safetensors")
    other = SteeringVector({1: torch.randn(7)}, use=Use((1,)))
    other.save(folder / "vectors" / "other.safetensors")
    data = Dataset.load(toy_pairs(folder / "toy.jsonl"))
    run = measure(lm, Intervention(tea, Add(), 1.0), data, [Propensity()], to=folder / "runs" / "toy", part="test")
    report(run)
    tea.save(folder / "runs" / "toy" / "vector.safetensors")
    with desk_at(folder) as studio:
        yield studio


class desk_at:
    """A studio on a folder."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.folder, self.how = folder, how

    def __enter__(self) -> Studio:
        made = desk([self.folder / "vectors"], model=str(self.folder / "model"), runs=self.folder / "runs", **self.how)
        self.listening = listening(made.app)
        return Studio(self.listening.__enter__(), self.folder, made)

    def __exit__(self, *problem: Any) -> None:
        self.listening.__exit__(*problem)


# ------------------------------------------------------------ who may ask


def test_the_page_is_small_whole_and_asks_nobody_else(place: Studio) -> None:
    index = place.get("/")
    policy = index.headers["content-security-policy"]
    assert index.status_code == 200 and "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe-eval" not in policy and "http" not in policy
    page = Path("src/trimtab/studio/page").resolve()
    page = page if page.is_dir() else Path(__file__).parents[2] / "src/trimtab/studio/page"
    files = sorted(f.name for f in page.iterdir())
    assert sum((page / f).stat().st_size for f in files) < 300_000
    for name in files:
        got = place.get(f"/studio/page/{name}")
        assert got.status_code == 200 and got.content == (page / name).read_bytes()
        text = got.text.replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:8001", "")
        assert "http://" not in text and "https://" not in text, name
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert sink not in text, (name, sink)


@pytest.mark.parametrize("path", ["/studio/page/..%2Froutes.py", "/studio/page/none.js", "/studio/page/%2e%2e"])
def test_nothing_else_is_given_as_a_file(path: str, place: Studio) -> None:
    assert place.get(path).status_code == 404


READ = ["/", "/studio/page/main.js", "/studio/state", "/studio/runs/toy", "/studio/vectors/tea"]


@pytest.mark.parametrize("path", READ)
def test_pages_of_others_are_refused(path: str, place: Studio) -> None:
    assert place.get(path, headers={"Host": "evil.example"}).status_code == 403
    assert place.get(path, headers={"Origin": "http://evil.example"}).status_code == 403


CHANGES = [
    ("POST", "/studio/jobs"), ("POST", "/studio/jobs/x"), ("POST", "/studio/vectors/x"),
    ("DELETE", "/studio/vectors/tea"),
    ("POST", "/studio/runs/toy/vector"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_what_changes_something_is_asked_by_this_page_alone(method: str, path: str, place: Studio) -> None:
    """A page that this machine serves at another port may look, and not touch."""
    for origin in ("http://127.0.0.1:1", "http://localhost:3000", "null"):
        answer = httpx.request(method, place.url + path, headers={"Origin": origin}, json={})
        assert answer.status_code == 403, origin
    assert "tea" in {v["name"] for v in place.state()["vectors"]}


def test_with_a_token_only_the_code_of_the_page_is_public(place: Studio) -> None:
    with desk_at(place.folder, token="secret") as closed:
        assert closed.get("/").status_code == 200 and closed.get("/studio/page/main.js").status_code == 200
        for path in ("/studio/state", "/studio/runs/toy", "/studio/vectors/tea", "/v1/models"):
            assert closed.get(path).status_code == 401
            assert closed.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert closed.post("/studio/jobs", {"kind": "sentence", "sentence": "x"}).status_code == 401
    assert address("127.0.0.1", 80, "a+b&c%") == "http://127.0.0.1:80/#token=a%2Bb%26c%25"
    with pytest.raises(ServeError, match="token"):
        studio(host="0.0.0.0", browser=False)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(place: Studio) -> None:
    port = int(place.url.rsplit(":", 1)[1])
    with pytest.raises(ServeError, match=str(port)):
        studio([place.folder / "vectors"], port=port, browser=False)


# ------------------------------------------------------------ vectors


def test_the_state_tells_each_vector_its_dose_and_size(place: Studio) -> None:
    state = place.state()
    told = {v["name"]: v for v in state["vectors"]}
    tea = told["tea"]
    assert state["ready"] and state["model"]["blocks"] == 4
    assert tea["ship"] == [1.0, 2.0] and tea["held"] == [1] and tea["unit"]["1"] > 0 and not tea["odd"]
    assert "width" in told["other"]["odd"]
    hostile = next(v for v in told.values() if v["label"] == HOSTILE)
    assert hostile["name"] not in ("tea", HOSTILE) and "<" not in hostile["name"]
    assert set(state["leaves"]["operator"]) >= {"add", "ablate"}


def test_zones_follow_the_dose() -> None:
    use = Use((1,), 1.0, ship=(1.0, 2.0), dose=dose())
    pieces = [(z["lo"], z["hi"], z["kind"]) for z in zones(use)]
    assert pieces == [(0.0, 1.0, "weak"), (1.0, 2.0, "ship"), (2.0, 4.0, "unsure"), (4.0, None, "broken")]
    assert [z["kind"] for z in zones(Use((1,), 1.0, dose=dose()))] == ["weak", "unsure", "broken"]
    assert zones(None) == zones(Use((1,))) == []


@pytest.mark.parametrize("label", ["tea", "", "...", "3", "Ä", "a b/c", HOSTILE, "x" * 300, "..", "-1"])
def test_names_can_be_said_in_a_line(label: str) -> None:
    from trimtab.serving.shelf import NAME
    from trimtab.steering.notation import Notation

    taken = dict.fromkeys(["tea", "v"])
    name = free_name(label, taken)
    assert NAME.fullmatch(name) and name not in taken
    assert Notation.parse(f"2 {name}").terms[0].name == name


def test_vectors_come_from_files_folders_and_runs(place: Studio, tmp_path: Path) -> None:
    assert [v.name for v in chosen([place.runs / "toy"], None)] == ["toy"]
    assert [v.label for v in chosen([place.folder / "vectors" / "tea.safetensors"] * 2, None)] == ["tea", "tea"]
    assert [v.name for v in chosen([], None)] == [v.name for v in chosen([], "smollm2")] == ["pirate", "cheerful"]
    assert chosen([], "brindlemoor-chat") == []
    with pytest.raises(VectorError, match="no vector"):
        chosen([tmp_path], None)


def test_vectors_are_dropped_downloaded_and_put_away(place: Studio) -> None:
    raw = (place.folder / "vectors" / "tea.safetensors").read_bytes()
    name = httpx.post(f"{place.url}/studio/vectors/..my tea", content=raw).json()["name"]
    assert (place.runs / "dropped" / f"{name}.safetensors").read_bytes() == raw
    assert sorted(p.name for p in place.folder.iterdir()) == ["model", "runs", "toy.jsonl", "vectors"]
    got = place.get(f"/studio/vectors/{name}")
    assert SteeringVector.from_bytes(got.content, "x").hash == SteeringVector.from_bytes(raw, "x").hash
    ask = {"messages": [{"role": "user", "content": "tea"}], "steer": f"1 {name}", "max_tokens": 2}
    assert place.post("/v1/chat/completions", ask).status_code == 200
    assert httpx.delete(f"{place.url}/studio/vectors/{name}").status_code == 200
    assert place.post("/v1/chat/completions", ask).status_code == 400
    assert httpx.delete(f"{place.url}/studio/vectors/{name}").status_code == 400
    again = [httpx.post(f"{place.url}/studio/vectors/again", content=raw).json()["name"]]
    httpx.delete(f"{place.url}/studio/vectors/{again[0]}")
    again.append(httpx.post(f"{place.url}/studio/vectors/again", content=raw).json()["name"])
    assert again[0] != again[1] and all((place.runs / "dropped" / f"{n}.safetensors").is_file() for n in again)
    for made in ({"trained_on": 12}, {"trained_on": [], "method": [1]}, [], "x"):
        about = json.dumps({"format": 2, "site": "resid_post", "evidence": None, "made": made})
        odd = safetensors.torch.save({"layers.1": torch.ones(32)}, {"trimtab": about})
        assert httpx.post(f"{place.url}/studio/vectors/odd", content=odd).status_code == 400, made
    bad = httpx.post(f"{place.url}/studio/vectors/bad", content=b"no vector")
    assert bad.status_code == 400 and "bad" not in {v["name"] for v in place.state()["vectors"]}


# ------------------------------------------------------------ evidence


def test_a_run_is_told_item_by_item(place: Studio) -> None:
    (listed,) = [r for r in place.state()["runs"] if r["name"] == "toy"]
    assert listed["items"] and listed["report"] and listed["vector"]
    seen = place.get("/studio/runs/toy").json()
    ids = seen["items"]["ids"]
    assert len(ids) == len(seen["items"]["slope"]) == len(seen["words"]) == 20
    wrong = sum(s <= 0 for s in seen["items"]["slope"]) / 20
    share = next(f for f in seen["figures"] if f["name"] == "anti-steerable share")
    assert share["value"] == pytest.approx(wrong) and share["lo"] <= wrong <= share["hi"]
    item = place.get(f"/studio/runs/toy/items/{ids[3]}").json()
    k = seen["multipliers"].index(0.0)
    assert item["values"]["vector"][k] == seen["items"]["propensity"][3]
    assert item["slope"] == pytest.approx(seen["items"]["slope"][3], rel=1e-4)
    assert item["prompt"].startswith(seen["words"][ids[3]][:20]) and item["positive"] != item["negative"]
    assert len(item["values"]) == len(seen["curves"])
    assert place.get("/studio/runs/toy/report").headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["nobody", "..", "%2e%2e%2fruns", "toy/items/none", "toy/items/..%2f..%2frun.json"])
def test_other_folders_and_items_are_not_told(path: str, place: Studio) -> None:
    assert place.get(f"/studio/runs/{path}").status_code in (400, 404)


def test_odd_run_folders_do_not_stop_the_page(place: Studio) -> None:
    for name, text in (("empty", "{}"), ("broken", "{not json"), ("half", '{"parts": {"test": {}}}'), ("list", "[]")):
        (place.runs / name).mkdir()
        (place.runs / name / "run.json").write_text(text)
    (place.runs / "null").mkdir()
    (place.runs / "null" / "run.json").write_text('{"parts": null}')
    (place.runs / "letters").mkdir()
    (place.runs / "letters" / "run.json").write_text("{}")
    (place.runs / "letters" / "summary.json").write_text('{"verdict": "\\ud800", "name": 3}')
    assert place.state()["ready"]
    for name in ("empty", "broken", "half", "list"):
        assert place.get(f"/studio/runs/{name}").status_code == 400


def test_a_vector_of_a_run_goes_on_the_shelf(place: Studio) -> None:
    name = place.post("/studio/runs/toy/vector").json()["name"]
    assert name == place.post("/studio/runs/toy/vector").json()["name"]  # once
    assert name in {v["name"] for v in place.state()["vectors"]}


# ------------------------------------------------------------ learning


PAIR = {"prompt": "Do you like tea ?", "positive": "Yes always", "negative": "No never"}


FORMS: list[dict[str, Any]] = [
    {},
    {"kind": "magic"},
    {"kind": "sentence", "sentence": " "},
    {"kind": "sentence", "sentence": "a", "against": "A "},
    {"kind": "sentence", "sentence": "a", "questions": 3},
    {"kind": "pairs", "name": "x", "pairs": []},
    {"kind": "pairs", "name": "", "pairs": [PAIR, PAIR]},
    {"kind": "pairs", "name": "x", "pairs": [PAIR, {**PAIR, "prompt": " "}]},
    {"kind": "pairs", "name": "x", "pairs": [PAIR, {**PAIR, "negative": PAIR["positive"]}]},
    {"kind": "example", "name": "x", "prompt": "a", "answer": ""},
    {"kind": "example", "name": "x", "prompt": 3, "answer": "b"},
]


@pytest.mark.parametrize("body", FORMS)
def test_forms_that_cannot_be_learned_from(body: dict[str, Any], place: Studio) -> None:
    answer = place.post("/studio/jobs", body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert not place.state()["jobs"]


WORDS = ("tea", "coffee", "rain", "sun", "red", "blue", "green", "one", "two", "three", "four", "five")


def job(of: Studio, name: str) -> dict[str, Any]:
    return next(j for j in of.state()["jobs"] if j["name"] == name)


@pytest.mark.slow
def test_jobs_are_learned_stopped_and_outlive_the_studio(place: Studio, tmp_path: Path) -> None:
    """A small vector is learned from pairs; the next job is stopped, goes on, is shot with its studio, and ends in the
    next one.
    """
    pairs = [{**PAIR, "prompt": f"Do you like {w} ?"} for w in WORDS]
    for name in ("model", "vectors"):
        (tmp_path / name).symlink_to(place.folder / name)
    with desk_at(tmp_path) as here:
        name = here.post("/studio/jobs", {"kind": "pairs", "name": "tea!", "pairs": pairs}).json()["name"]
        until(lambda: job(here, name)["state"] not in ("waiting", "running"), 240)
        done = job(here, name)
        assert done["state"] == "done" and done["vector"] and done["told"] and done["asked"]["pairs"] == 12, done
        learned = SteeringVector.load(here.runs / name / "vector.safetensors")
        assert learned.made.data["pairs"] == 9 and learned.use and learned.use.dose and learned.use.dose.items == 3
        assert name in {v["name"] for v in here.state()["vectors"]}
        body = {"kind": "example", "name": "second", "prompt": "Do you like tea ?", "answer": "red blue green"}
        second = here.post("/studio/jobs", body).json()["name"]
        until(lambda: job(here, second)["progress"].get("stage"), 60)
        assert here.post(f"/studio/jobs/{second}", {"do": "forget"}).status_code == 400  # not over
        here.post(f"/studio/jobs/{second}", {"do": "stop"})
        until(lambda: not processes(here.runs), 20)
        assert job(here, second)["state"] == "stopped"
        with desk_at(tmp_path) as beside:  # two on one folder: the second one looks on
            assert "another studio" in beside.post("/studio/jobs", body).json()["error"]["message"]
        until(lambda: here.post(f"/studio/jobs/{second}", {"do": "go on"}).status_code == 200, 20)
        until(lambda: processes(here.runs), 60)
    until(lambda: not processes(tmp_path), 20)  # they end with their studio
    with desk_at(tmp_path) as after:
        until(lambda: job(after, second)["state"] == "done", 240)
        assert {name, second} <= {v["name"] for v in after.state()["vectors"]}
        assert after.post(f"/studio/jobs/{second}", {"do": "forget"}).status_code == 200
        assert second not in {j["name"] for j in after.state()["jobs"]} and (after.runs / second).is_dir()


def test_a_job_that_cannot_end_well_does_not_stop_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that fails, one that makes a vector for which there is no place, and one that is stopped as it
    starts.
    """
    script = "import pathlib, sys; f = pathlib.Path(sys.argv[1], sys.argv[2]); (f / 'vector.safetensors').touch(); "
    monkeypatch.setattr(
        "trimtab.studio.jobs.bound", lambda module: [sys.executable, "-c", script + "sys.exit(len(f.name) == 4)"]
    )

    def done(job: Job) -> None:
        raise VectorError("the shelf is full")

    async def live() -> list[tuple[str, list[str]]]:
        queue = Queue(tmp_path, {"model": "m"}, done)
        jobs = [queue.add("pairs", name, {}, {}) for name in ("fail", "crowded", "stopped", "crowded too")]
        queue.stop(jobs[2])
        task = asyncio.create_task(queue.work())
        while any(j.state in ("waiting", "running") for j in jobs) and not task.done():
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        return [(j.state, j.told) for j in jobs]

    failed, crowded, stopped, last = asyncio.run(live())
    assert failed[0] == crowded[0] == last[0] == "failed" and "shelf is full" in crowded[1][0]
    assert "ended (1)" in failed[1][0] and stopped[0] == "stopped"


def test_jobs_of_others_are_not_carried_out(tmp_path: Path) -> None:
    """A file in a run folder that came from elsewhere is no job; one under a name that is none is not read."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / ".job.json").write_text("{}")
    (tmp_path / ".studio").mkdir()
    table = {"name": "../outside", "kind": "pairs", "asked": {}, "loading": {}, "state": "running"}
    for name, text in (("mine", json.dumps(table)), ("odd", '{"made": "x"}'), ("deep", "[" * 9999), ("list", "[]")):
        (tmp_path / ".studio" / f"{name}.json").write_text(text)
    assert [(j.name, j.state) for j in found(tmp_path)] == [("mine", "waiting")]
    assert [(j.name, j.state) for j in found(tmp_path, alone=False)] == [("mine", "running")]


def processes(folder: Path) -> list[int]:
    """Processes that learn in a folder."""
    out: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode()
            if "trimtab.studio.learning" in command and str(folder) in command:
                out.append(int(entry.name))
    return out
