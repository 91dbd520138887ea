"""vLLM under the plugin: mixed batches equal `steer`, nothing leaks through its caches, and the server in front is the
same. Runs where vLLM is installed (`make serve-test`).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pico import tokenizer
from served import free_port
from trimtab import LM, Intervention, Provenance, SteeringVector, Use, steer
from trimtab.errors import ServeError
from trimtab.model.generate import Sampling
from trimtab.serving.batch import Job, run
from trimtab.serving.vllm_plugin import Tables, projections
from trimtab.serving.vllm_terms import DEPTH, Term, heard, told
from trimtab.steering.notation import Notation

HERE = find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HERE, reason="vLLM is not installed: make serve-test")
NEW = 10
LONG = " ".join(["the rain and the sun like tea and coffee"] * 24)  # longer than many blocks of a cache
LINES = [
    "", "2 tea", "- 1.5 tea", "rain@ship", "1 tea + 0.5 rain - sun", "sun @ everywhere", "2 rain @ generated",
    "1 cut", "0.5 cut @ everywhere", "1.5 pin", "tea @ prompt", "2 sun @ last_k(3)",
]  # fmt: skip
PROMPTS = ["Do you like tea ?", LONG]


# ------------------------------------------------------------ without vLLM


class Block(torch.nn.Module):
    """A block as vLLM's are: what is to be added, and the stream."""

    def forward(self, h: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return h, residual


def vectors(lm: LM) -> dict[str, SteeringVector]:
    made, g = Provenance.of(lm), torch.Generator().manual_seed(0)
    draw = lambda: 4 * torch.randn(lm.width, generator=g)  # noqa: E731
    return {
        "tea": SteeringVector({1: draw()}, made, use=Use((1,), 1.0)),
        "rain": SteeringVector({2: draw()}, made, use=Use((2,), 1.5)),
        "sun": SteeringVector({1: draw(), 3: draw()}, made, use=Use((1, 3), 0.7)),
        "cut": SteeringVector({2: draw()}, made, use=Use((2,), 1.0, operator={"name": "ablate"})),
        "pin": SteeringVector({2: draw()}, made, use=Use((2,), 1.0, operator={"name": "clamp"})),
    }


@pytest.fixture(scope="module")
def lm() -> LM:
    """Small, with heads of a size that vLLM's attention knows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=1024, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    return LM(LlamaForCausalLM(config).eval(), words, id="small")


@pytest.mark.parametrize("line", LINES[1:])
def test_a_hook_over_tables_does_what_operators_do(line: str, lm: LM) -> None:
    g = torch.Generator().manual_seed(1)
    h, residual = torch.randn(7, lm.width, generator=g), torch.randn(7, lm.width, generator=g)
    ivs = Notation.parse(line).stack(vectors(lm))
    blocks = {k: Block() for k in range(4)}
    tables = Tables(blocks, lm.width, 16, "cpu", rows=8)
    terms = [Term(iv.vector.hash, type(iv.operator).__name__.lower(), iv.multiplier, str(iv.positions)) for iv in ivs]
    for iv in ivs:
        tables.put(iv.vector.hash, iv.vector)
    tables.begin("a-1", told(terms), 5)
    tables.place([("other", 3, 2), ("a-1", 2, 5)])
    for k, block in blocks.items():
        out, same = block(h, residual)
        assert same is residual and torch.equal(out[:2], h[:2]), "a row without terms is changed by nothing"
        expected = (h + residual)[2:][None]
        for iv in (iv for iv in ivs if k in iv.vector.layers):
            acts = Term("", "add", 1.0, str(iv.positions)).acts(2, 5, 5)
            expected = torch.where(acts[:, None], iv.operator(expected, iv.vector[k], iv.multiplier), expected)
        torch.testing.assert_close((out + same)[2:], expected[0], atol=1e-5, rtol=1e-5)
    _projections(lm, ivs, tables, h + residual)


def _projections(lm: LM, ivs: tuple[Intervention, ...], tables: Tables, x: torch.Tensor) -> None:
    """Of the stream as each vector found it, before and after the request is over."""
    sums: dict[str, list[float]] = {}
    for k in range(4):
        stream = x[2:][None]
        for iv in (iv for iv in ivs if k in iv.vector.layers):
            acts = Term("", "add", 1.0, str(iv.positions)).acts(2, 5, 5)
            along = (stream[0] @ iv.vector[k] / iv.vector[k].norm())[acts]
            sums.setdefault(iv.vector.hash, []).extend(along.tolist())
            stream = torch.where(acts[:, None], iv.operator(stream, iv.vector[k], iv.multiplier), stream)
    expected = {hash: sum(s) / len(s) for hash, s in sums.items() if s}
    for _ in range(2):
        assert dict(projections([tables.receipt("a")])) == pytest.approx(expected, abs=1e-5)
        assert dict(projections([tables.receipt("a")] * 2)) == pytest.approx(expected, abs=1e-5), "two workers"
        tables.end("a-1")
    assert not tables.sums.any() and len(tables.free_lines) == 256
    assert tables.norms()["2"] == pytest.approx(x.norm(dim=-1).tolist(), abs=1e-5)


def test_tokens_are_counted_once(lm: LM) -> None:
    v = SteeringVector({1: torch.ones(lm.width)})
    tables = Tables({1: Block()}, lm.width, 16, "cpu", rows=3)
    tables.begin("foreign-1", told([Term("nobody's", "add", 1.0, "everywhere")]), 1)
    tables.place([("foreign-1", 0, 1)])
    told_so = {"edited": {}, "along": [("nobody's", 0.0, 0.0)]}
    assert not tables.add.any() and tables.receipt("foreign") == told_so, "not known here: nothing is steered"
    tables.end("foreign-1")
    tables.put(v.hash, v)
    tables.begin("id-ab12", told([Term(v.hash, "add", 1.0, "from_last_prompt_token")]), 6)
    tables.place([("id-ab12", 4, 1)])  # four tokens were found in a cache
    edited = lambda id: tables.receipt(id)["edited"]  # noqa: E731  # pyright: ignore[reportOptionalSubscript]
    assert edited("id") == {"1": 0}
    tables.place([("id-ab12", 5, 1)])
    tables.place([("id-ab12", 6, 1)])
    tables.place([("id-ab12", 0, 7)])  # again, after a preemption
    tables.place([("id-ab12", 7, 1)])
    assert edited("id") == {"1": 3} and tables.receipt("else") is None
    tables.free(v.hash)
    assert v.hash in tables.rows, "as long as a request needs it"
    others = [SteeringVector({1: torch.full((lm.width,), float(k))}) for k in (2, 3)]
    tables.put(others[0].hash, others[0])
    with pytest.raises(ServeError, match="no row"):
        tables.put(others[1].hash, others[1])
    tables.end("id-ab12")
    tables.put(others[1].hash, others[1])
    assert v.hash not in tables.rows
    with pytest.raises(ServeError, match="does not steer the block"):
        tables.put("x", SteeringVector({2: torch.ones(lm.width)}))


def test_terms_travel_and_what_cannot_be_said_is_refused() -> None:
    terms = [Term("a", "add", 0.5, "everywhere"), Term("b", "clamp", -1.0, "last_k(3)")]
    assert heard(told(terms)) == terms and DEPTH >= 4
    for operator, positions in (("rotate", "everywhere"), ("add", 'after("x")'), ("add", 'span("user")')):
        with pytest.raises(ServeError):
            Term("a", operator, 1.0, positions).check()


# ------------------------------------------------------------ with it


@contextmanager
def served(folder: Path, options: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A server over vLLM, until it is ready."""
    import httpx
    import uvicorn

    from trimtab.serving import server

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    options = {"max_model_len": 1024, "max_num_batched_tokens": 1024, "block_size": 32, **options}
    made = server(
        str(folder / "model"), folder / "vectors", dtype="float32", batch=24, engine="vllm", options=options,
        admin="k" * 20,
    )  # fmt: skip
    port = free_port()
    running = uvicorn.Server(uvicorn.Config(made.app, port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                health = httpx.get(f"{url}/health", timeout=5)
                if health.status_code == 200:
                    break
                assert not health.json()["problem"], health.json()
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        else:
            raise AssertionError("vLLM did not start")
        yield url, made
    finally:
        running.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def folder(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    (folder / "vectors").mkdir()
    for name, v in vectors(lm).items():
        v.save(folder / "vectors" / f"{name}.safetensors")
    return folder


def ask(url: str, prompt: str, line: str, **more: Any) -> Any:
    import httpx

    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": NEW, "temperature": 0, "steer": line}
    return httpx.post(f"{url}/v1/chat/completions", json={**body, **more}, timeout=120)


def said(lm: LM, prompt: str, line: str) -> str:
    """What `steer` says."""
    if not line:
        return lm.generate([prompt], max_new_tokens=NEW)[0]
    with steer(lm, *Notation.parse(line).stack(vectors(lm))):
        return lm.generate([prompt], max_new_tokens=NEW)[0]


def text(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"].lstrip()  # vLLM keeps a space before the first word


WAYS = {
    "eager": {"enforce_eager": True},
    "chunked": {"enforce_eager": True, "max_num_batched_tokens": 64, "enable_chunked_prefill": True},
    "compiled": {},
}


@needs_vllm
@pytest.mark.parametrize("way", WAYS)
def test_mixed_batches_equal_steer_and_nothing_leaks(way: str, lm: LM, folder: Path) -> None:
    with served(folder, WAYS[way]) as (url, made):
        asked = [(p, line) for line in LINES for p in PROMPTS]
        expected = {(p, line): said(lm, p, line) for p, line in asked}
        assert len(set(expected.values())) > 8, "the vectors do something"
        alone = {key: text(ask(url, *key)) for key in asked}
        assert alone == expected
        for seed in range(2):  # in every order, together: caches are warm, and hold what others left
            order = asked * 2
            random.Random(seed).shuffle(order)
            with ThreadPoolExecutor(24) as pool:
                together = list(pool.map(lambda key: text(ask(url, *key)), order))
            assert together == [expected[key] for key in order]
        _replaced(url, lm, folder)
        _second_turn(url, lm)
        _refused(url, lm)
        _by_a_client(url, lm)
        if way == "eager":
            _shot(url, made, lm)
    for _ in range(50):
        if not _of_vllm():
            break
        time.sleep(0.2)
    assert not _of_vllm(), "vLLM ends with its server"


@needs_vllm
def test_the_server_of_vllm_itself(lm: LM, folder: Path) -> None:
    """A client that knows nothing of trimtab but the name of a field."""
    import httpx
    import openai

    port, steering = free_port(), {"trimtab": {"vectors": str(folder / "vectors")}}
    call = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    call += ["--served-model-name", "small", "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    call += ["--max-model-len", "1024", "--block-size", "32", "--enforce-eager"]
    call += ["--additional-config", json.dumps(steering)]
    more = {"VLLM_PLUGINS": "trimtab", "TRIMTAB_BOUND": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with subprocess.Popen(call, env={**os.environ, **more}) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

            def asked(line: str) -> Any:
                extra = {"vllm_xargs": {"steer": line}} if line else {}
                messages: Any = [{"role": "user", "content": LONG}]
                return client.chat.completions.create(
                    model="small", messages=messages, max_tokens=NEW, temperature=0, extra_body=extra
                )

            lines = ["", "2 tea", "", "- 1.5 tea", "sun @ everywhere", "2 tea"]
            for line, answer in [(line, asked(line)) for line in lines]:
                assert (answer.choices[0].message.content or "").lstrip() == said(lm, LONG, line)
            receipt = httpx.get(f"{url}/v1/steering/receipts/{asked('2 tea').id}").json()
            assert receipt["tokens_edited"]["1"] > 0 and receipt["projection"].keys() == {"tea"}
            assert {v["name"] for v in httpx.get(f"{url}/v1/steering").json()["data"]} == vectors(lm).keys()
            with pytest.raises(openai.BadRequestError, match="nobody"):
                asked("2 nobody")
        finally:
            process.kill()


def _of_vllm() -> list[str]:
    """Processes of vLLM's engine."""
    titles = [p.read_text() for p in Path("/proc").glob("[0-9]*/cmdline") if p.is_file()]
    return [t for t in titles if t.startswith(("VLLM", "EngineCore"))]


def _embedded(lm: LM, prompt: str, line: str) -> dict[str, float]:
    """The projections that the embedded engine tells."""
    notation, said = Notation.parse(line), list[dict[str, Any]]()
    stack = tuple(zip([t.name for t in notation.terms], notation.stack(vectors(lm)), strict=True))
    run(lm, [Job("one", lm.row(prompt), stack, Sampling(NEW))], said.append, lambda: None)
    return said[-1]["projection"]


def _by_a_client(url: str, lm: LM) -> None:
    """A plain client steers two concurrent requests differently, each with its receipt."""
    import asyncio

    import openai

    async def both() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            model = (await client.models.list()).data[0].id
            asked = [
                client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": LONG}], max_tokens=NEW, temperature=0,
                    extra_body={"steer": line},
                )
                for line in ("2 tea", "- 1.5 tea")
            ]  # fmt: skip
            return await asyncio.gather(*asked)

    for line, m, answer in zip(("2 tea", "- 1.5 tea"), (2.0, -1.5), asyncio.run(both()), strict=True):
        assert (answer.choices[0].message.content or "").lstrip() == said(lm, LONG, line)
        assert answer.steering["vectors"][0]["multiplier"] == m and answer.steering["tokens_edited"]["1"] > 0


def _shot(url: str, made: Any, lm: LM) -> None:
    """The engine's process is killed in the middle: the request ends in an error, and another engine is started."""
    import httpx

    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, url, LONG, line) for line in LINES for _ in range(4)]
        time.sleep(0.05)
        os.kill(made.engine.pid, signal.SIGKILL)
        statuses = {one.result().status_code for one in asked}
        assert 503 in statuses and statuses <= {200, 503}
    for _ in range(600):
        if httpx.get(f"{url}/health", timeout=5).status_code == 200:
            break
        time.sleep(0.2)
    assert made.engine.lives == 2
    assert text(ask(url, LONG, "2 tea")) == said(lm, LONG, "2 tea")


def _replaced(url: str, lm: LM, folder: Path) -> None:
    """A vector is replaced under its name: what was cached under the old one is not read."""
    import httpx

    new = SteeringVector({1: vectors(lm)["tea"][1].flip(0)}, Provenance.of(lm), use=Use((1,), 1.0))
    before = text(ask(url, LONG, "2 tea @ everywhere"))
    put = httpx.put(f"{url}/v1/steering/tea", content=new.to_bytes(), headers={"X-Admin-Key": "k" * 20}, timeout=60)
    assert put.status_code == 200, put.text
    with steer(lm, *Notation.parse("2 tea @ everywhere").stack({"tea": new})):
        expected = lm.generate([LONG], max_new_tokens=NEW)[0]
    assert text(ask(url, LONG, "2 tea @ everywhere")) == expected != before
    old = (folder / "vectors" / "tea.safetensors").read_bytes()
    httpx.put(f"{url}/v1/steering/tea", content=old, headers={"X-Admin-Key": "k" * 20}, timeout=60)
    assert text(ask(url, LONG, "2 tea @ everywhere")) == before
    assert text(ask(url, LONG, "")) == said(lm, LONG, "")


def _second_turn(url: str, lm: LM) -> None:
    """A conversation that goes on begins like the first turn, and its answer begins elsewhere."""
    for line in ("2 tea", "2 tea @ prompt", "2 sun @ last_k(3)", "2 tea @ everywhere"):
        first = text(ask(url, LONG, line))
        turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": first}]
        turns.append({"role": "user", "content": "the rain"})
        with steer(lm, *Notation.parse(line).stack(vectors(lm))):
            expected = lm.generate([turns], max_new_tokens=NEW)[0]
        assert text(ask(url, LONG, line, messages=turns)) == expected, line


def _refused(url: str, lm: LM) -> None:
    """Receipts are right, and what cannot be done is an error."""
    answer = ask(url, PROMPTS[0], "2 tea + sun", logprobs=True, top_logprobs=2).json()
    n = answer["usage"]["completion_tokens"]
    edited = {"1": 2 * n, "3": n}  # the last token of the prompt, and each but the last; two vectors at block 1
    assert answer["steering"]["tokens_edited"] == edited
    assert len(answer["choices"][0]["logprobs"]["content"]) == n
    assert answer["steering"]["projection"] == pytest.approx(_embedded(lm, PROMPTS[0], "2 tea + sun"), rel=1e-3)
    assert "times the median norm" in ask(url, PROMPTS[0], "1000 tea").json()["error"]["message"]
    for line in ("nobody", "2 tea @ after('x')", "1 tea + tea + tea + tea + tea"):
        assert ask(url, PROMPTS[0], line).status_code == 400, line
    assert ask(url, PROMPTS[0], "").json()["steering"] is None
