"""Samples from a server equal those taken here, and a server that does not steer is not believed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import uvicorn

from pico import saved
from trimtab import LM, Intervention, Provenance, SteeringVector
from trimtab.answers.sampling import sample
from trimtab.errors import RecipeError, RunError
from trimtab.serving import server
from trimtab.steering.operators import Ablate

KEY = "k" * 20
PROMPTS = {"tea": "Do you like tea ?", "rain": "the rain"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, LM]]:
    folder = tmp_path_factory.mktemp("served")
    saved(folder)
    made = server(str(folder), admin=KEY)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(made.app, port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(300):
        if made.engine.facts is not None:
            break
        time.sleep(0.1)
    yield url, LM.load(str(folder))
    running.should_exit = True
    thread.join(30)


def stacks(lm: LM) -> dict[str, tuple[Intervention, ...]]:
    g = torch.Generator().manual_seed(0)
    a, b = (SteeringVector({k: torch.randn(lm.width, generator=g)}, Provenance.of(lm)) for k in (1, 2))
    return {
        "unsteered": (),
        "one": (Intervention(a, multiplier=1.5),),
        "both": (Intervention(a, multiplier=-0.7, positions="everywhere"), Intervention(b, Ablate())),
    }


def test_samples_of_a_server_are_those_of_the_model(
    place: tuple[str, LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, lm = place
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    greedy = {"temperature": 0.0, "max_new_tokens": 8}
    here = sample(lm, stacks(lm), PROMPTS, 1, to=tmp_path / "here.jsonl", **greedy)  # type: ignore[arg-type]
    lm.sampler = url
    try:
        there = sample(lm, stacks(lm), PROMPTS, 1, to=tmp_path / "there.jsonl", **greedy)  # type: ignore[arg-type]
        assert there == here and len({t for (_, c), t in here.items() for t in t if c}) > 1
        drawn = sample(lm, stacks(lm), PROMPTS, 6, to=tmp_path / "drawn.jsonl", max_new_tokens=8)
        again = sample(lm, stacks(lm), PROMPTS, 6, to=tmp_path / "again.jsonl", max_new_tokens=8)
        assert drawn == again and len(set(drawn["tea", "one"])) > 1, "seeded, and not all alike"
        lm.sampler = ""
        with pytest.raises(RunError, match="another condition"):
            sample(lm, stacks(lm), PROMPTS, 1, to=tmp_path / "there.jsonl", **greedy)  # type: ignore[arg-type]
    finally:
        lm.sampler = ""


def test_a_server_that_cannot_is_told(place: tuple[str, LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, lm = place
    monkeypatch.setattr("trimtab.answers.remote.TRIES", 1)
    monkeypatch.delenv("TRIMTAB_ADMIN_KEY", raising=False)
    lm.sampler = url
    try:
        with pytest.raises(RunError, match="TRIMTAB_ADMIN_KEY"):
            sample(lm, stacks(lm), PROMPTS, 1, to=tmp_path / "a.jsonl", max_new_tokens=4)
        plain = sample(lm, {"unsteered": ()}, PROMPTS, 1, to=tmp_path / "b.jsonl", max_new_tokens=4)
        assert len(plain) == 2, "unsteered samples need no key"
        lm.sampler = "http://127.0.0.1:9/v1"
        with pytest.raises(RecipeError, match="nobody answers"):
            sample(lm, stacks(lm), PROMPTS, 1, to=tmp_path / "c.jsonl", max_new_tokens=4)
    finally:
        lm.sampler = ""


def test_an_answer_without_a_receipt_is_not_taken_for_steered(
    place: tuple[str, LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.answers.remote import Remote

    url, lm = place
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    sent = Remote._sent  # pyright: ignore[reportPrivateUsage]

    def stripped(self: Remote, how: str, path: str, body: bytes | None = None) -> object:
        reply = sent(self, how, path, body)
        return {**reply, "steering": None} if how == "POST" else reply

    monkeypatch.setattr(Remote, "_sent", stripped)
    lm.sampler = url
    try:
        with pytest.raises(RunError, match="did not steer"):
            sample(lm, stacks(lm), PROMPTS, 1, to=tmp_path / "a.jsonl", max_new_tokens=4)
    finally:
        lm.sampler = ""
