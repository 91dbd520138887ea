"""Vectors go to the hub and come back byte for byte, or not at all: tried on a double of the hub on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from trimtab import Provenance, SteeringVector, Use
from trimtab.errors import VectorError
from trimtab.exporters.card import FILE, card, stated
from trimtab.exporters.hub import pull, push


@dataclass
class Hub:
    """Repositories by name: commits by number, files of each; what was called."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        known = self.commits.get(repo, {})
        oid = next(reversed(known), "") if revision == "main" else revision
        return oid, known.get(oid, {})


def answering(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def say(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            read = b""
            while size := int(self.rfile.readline(), 16):
                read += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return read

        def do_POST(self) -> None:
            hub.calls.append(self.path)
            body = self.body()
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                if name.startswith("forbidden"):
                    return self.say(403, b'{"error": "not yours"}', X_Error_Message="not yours")
                hub.commits.setdefault(name, {})
                return self.say(200, json.dumps({"url": f"{hub.url}/{name}"}).encode())
            if self.path == "/api/validate-yaml":
                return self.say(200, b'{"errors": [], "warnings": []}')
            repo = re.match(r"/api/models/([^/]+/[^/]+)/", self.path)
            assert repo is not None
            if "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self.say(200, json.dumps({"files": files}).encode())
            lines = [json.loads(line) for line in body.decode().splitlines()]
            added = {v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"}
            oid = hashlib.sha1(body).hexdigest()
            hub.commits[repo[1]][oid] = {**hub.files(repo[1], "main")[1], **added}
            told = {
                "success": True,
                "commitOid": oid,
                "commitUrl": f"{hub.url}/{repo[1]}/commit/{oid}",
                "hookOutput": "",
            }
            return self.say(200, json.dumps(told).encode())

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.calls.append(self.path)
            asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.path)
            if asked is not None:
                oid, files = hub.files(asked[1], asked[2] or "main")
                told = json.dumps({"id": asked[1], "sha": oid}).encode()
                return self.say(200, told) if files else self.say(404, b"", X_Error_Code="RepoNotFound")
            here = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            oid, files = hub.files(here[1], here[2]) if here else ("", {})
            if here is None or here[3] not in files:
                return self.say(404, b"", X_Error_Code="EntryNotFound" if oid and files else "RepoNotFound")
            raw = files[here[3]]
            etag = f'"{hashlib.sha1(raw).hexdigest()}"'
            return self.say(200, raw, X_Repo_Commit=oid, ETag=etag)

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), answering(made))
    made.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = Provenance("owner/model", "abc", "f" * 16, {"name": "mean-diff"}, {"name": "tea"}, weights="0" * 16)
    v = SteeringVector({1: torch.arange(8.0)}, made, use=Use((1,), 2.0, why=("Because.",)))
    return v.save(tmp_path / "tea.safetensors")


def test_what_is_pushed_comes_back_byte_for_byte(hub: Hub, file: Path, tmp_path: Path) -> None:
    done = push(file, "me/tea", endpoint=hub.url, token="hf_x")
    assert re.fullmatch("[0-9a-f]{40}", done.revision)
    for reference in ("me/tea", f"me/tea@{done.revision}", done.reference):
        to = tmp_path / "back.safetensors"
        pull(reference, to, endpoint=hub.url, token="hf_x")
        assert to.read_bytes() == file.read_bytes()


def test_a_pinned_revision_stays_what_it_was(hub: Hub, file: Path, tmp_path: Path) -> None:
    first = push(file, "me/tea", endpoint=hub.url, token="hf_x")
    (SteeringVector.load(file) * 2.0).save(tmp_path / "two.safetensors")
    push(tmp_path / "two.safetensors", "me/tea", endpoint=hub.url, token="hf_x")
    old = pull(first.reference, tmp_path / "a.safetensors", endpoint=hub.url, token="hf_x")
    new = pull("me/tea", tmp_path / "b.safetensors", endpoint=hub.url, token="hf_x")
    assert torch.equal(new[1], 2 * old[1])


@pytest.mark.parametrize("known", [True, False])
def test_other_bytes_than_promised_are_refused(known: bool, hub: Hub, file: Path, tmp_path: Path) -> None:
    """Somebody changes the file on the way: a hash that one has tells, and so does the card."""
    done = push(file, "me/tea", endpoint=hub.url, token="hf_x")
    (SteeringVector.load(file) * 2.0).save(tmp_path / "evil.safetensors")
    hub.commits["me/tea"][done.revision][FILE] = (tmp_path / "evil.safetensors").read_bytes()
    reference = done.reference if known else "me/tea"
    with pytest.raises(VectorError, match="not what was promised"):
        pull(reference, tmp_path / "back.safetensors", endpoint=hub.url, token="hf_x")
    assert not (tmp_path / "back.safetensors").exists()


@pytest.mark.parametrize("reference", ["tea", "me/tea/x", "me/tea@", "me/tea#123", "https://x/y", "../../x", ""])
def test_what_is_no_reference(reference: str, tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="not a vector on the hub"):
        pull(reference, tmp_path / "v.safetensors")


def test_what_the_hub_says_is_passed_on(hub: Hub, file: Path, tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="cannot push to forbidden/tea"):
        push(file, "forbidden/tea", endpoint=hub.url, token="hf_x")
    with pytest.raises(VectorError, match="cannot pull me/nothing"):
        pull("me/nothing", tmp_path / "v.safetensors", endpoint=hub.url, token="hf_x")
    (tmp_path / "not.safetensors").write_bytes(b"x")
    calls = len(hub.calls)
    for path in ("not.safetensors", "missing.safetensors"):
        with pytest.raises(VectorError):
            push(tmp_path / path, "me/tea", endpoint=hub.url, token="hf_x")
    assert len(hub.calls) == calls  # refused before anything is sent


def test_a_card_says_what_a_reader_needs(file: Path) -> None:
    v, raw = SteeringVector.load(file), file.read_bytes()
    text = card(v, raw, "me/tea")
    assert stated(text) == hashlib.sha256(raw).hexdigest()
    for words in (
        "base_model: owner/model",
        "steering-vector",
        "block 1",
        "trimtab pull me/tea",
        "Because.",
        "mean-diff",
    ):
        assert words in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in tables}) == 1


def test_a_card_of_odd_words(tmp_path: Path) -> None:
    made = Provenance("a\"b'c: |\n---\nx", "", "", {"name": "mean\ndiff"}, {"name": "te|a\n# head"}, weights="w\"'")
    v = SteeringVector(
        {1: torch.ones(4)}, made, {"verdict": "works", "figures": [{"name": "steerability", "value": 1.0}]}
    )
    text = card(v, v.to_bytes())
    assert text.count("\n---\n") == 1 and "\n# head" not in text
    assert len([line for line in text.splitlines() if line.startswith("# ")]) == 1


def test_a_card_of_a_bare_vector() -> None:
    v = SteeringVector({0: torch.ones(4)})
    text = card(v, v.to_bytes())
    assert "Nobody measured" in text and "has not been evaluated" in text and "base_model" not in text
