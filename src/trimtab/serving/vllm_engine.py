"""vLLM as the engine's process: the same lines of JSON in and out as the embedded one (`child.py`), and the same server
in front. It runs where vLLM is installed; steering is the work of `vllm_plugin`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections import Counter
from importlib import import_module
from statistics import median
from typing import Any, NoReturn

import msgspec

from trimtab.data.builtin import neutral
from trimtab.errors import ServeError, TokenError, TrimtabError, first_line
from trimtab.model.generate import Sampling
from trimtab.model.identity import shape_hash
from trimtab.model.rendering import render
from trimtab.serving.shelf import Facts
from trimtab.serving.vllm_plugin import BOUND, KEY, projections
from trimtab.serving.vllm_terms import Term, check, terms_of, told
from trimtab.steering.vector import SteeringVector

QUIET = {BOUND: "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
Message = dict[str, Any]


def main(connection: Any, model: dict[str, Any], batch: int) -> None:
    """Serve a model over a connection until it is closed.

    Args:
        model: name, dtype, and under "options" what vLLM's AsyncEngineArgs take.
        batch: requests in one pass at most.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update({k: v for k, v in QUIET.items() if k not in os.environ})
    asyncio.run(_begin(connection, model, batch))


async def _begin(connection: Any, model: dict[str, Any], batch: int) -> None:
    try:
        engine = _Engine(connection, model, batch)
        await engine.prove()
    except Exception as problem:  # of vLLM, in one of many ways
        told_so = str(problem) if isinstance(problem, TrimtabError) else f"vLLM: {first_line(problem)[:500]}"
        connection.send_bytes(msgspec.json.encode({"kind": "failed", "message": told_so}))
        return
    await engine.serve()


class _Engine:
    """The loop: a thread reads, a task answers each request."""

    def __init__(self, connection: Any, model: dict[str, Any], batch: int) -> None:
        from transformers import AutoConfig, AutoTokenizer

        from trimtab.model.load import source

        path = source(model["name"])
        config: Any = AutoConfig.from_pretrained(path).get_text_config(decoder=True)
        self.connection, self.tasks, self.raw = connection, dict[str, asyncio.Task[None]](), dict[str, str]()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        args = {
            "model": path,
            "dtype": model.get("dtype") or "auto",
            "max_num_seqs": max(2, batch),
            "disable_log_stats": True,
            "enable_prefix_caching": True,
            "additional_config": {KEY: {"trusted": True, **model.get("steering", {})}},
            **model.get("options", {}),
        }
        arguments = import_module("vllm.engine.arg_utils").AsyncEngineArgs(**args)
        self.llm: Any = import_module("vllm.v1.engine.async_llm").AsyncLLM.from_engine_args(arguments)
        self.sampling = import_module("vllm.sampling_params")
        self.entering: dict[str, asyncio.Task[Any]] = {}  # vectors in the tables, or on their way
        self.using: Counter[str] = Counter()
        self.stale: set[str] = set()  # to be freed when nobody uses them any more
        layers, width = int(config.num_hidden_layers), int(config.hidden_size)
        context = int(self.llm.model_config.max_model_len)
        shape = shape_hash(config, width, layers)
        self.facts = Facts(model["name"], shape, "", width, layers, context)

    async def prove(self) -> None:
        """Steer one prompt before anybody asks, and see that it is.

        Raises:
            ServeError: it is not: another version, or another way of running.
        """
        import torch

        settings = self.llm.vllm_config.additional_config[KEY]
        layer = int((settings.get("layers") or [self.facts.n_layers // 2])[0])
        g = torch.Generator().manual_seed(0)
        probe = SteeringVector({layer: 100.0 * torch.randn(self.facts.width, generator=g)})
        self.raw[probe.hash] = base64.b64encode(probe.to_bytes()).decode()
        self.using[probe.hash] += 1
        await self._hold([probe.hash])
        ids = list(range(5, 13))
        plain = await self._probed(ids, None)
        steered = await self._probed(ids, Term(probe.hash, "add", 1.0, "everywhere"))
        again = await self._probed(ids, None)
        receipt = (await self._receipt("probe-1"))[0]
        edited = receipt and receipt["edited"]
        await self._let_go([probe.hash])
        await self._forget()
        if plain != again or plain == steered or edited != {str(layer): len(ids)}:
            raise ServeError(
                "vLLM does not steer as it should",
                given=f"unsteered {plain} and {again}, steered {steered}, tokens edited {edited}",
                expected="another answer under a large vector, the same without one",
            )

    async def _norms(self) -> dict[str, float]:
        """The median norm of the stream at every steered block, on everyday prompts."""
        seen: dict[str, list[float]] = {}
        for prompt in list(neutral())[:4]:
            await self._probed(list(render(self.tokenizer, prompt).ids), None)
            for worker in await self.llm.collective_rpc("trimtab_norms"):
                for layer, norms in worker.items():
                    seen.setdefault(layer, []).extend(norms)
        return {layer: median(norms) for layer, norms in seen.items()}

    async def _probed(self, ids: list[int], term: Term | None) -> Any:
        params = self.sampling.SamplingParams(
            max_tokens=1, temperature=0.0, logprobs=1, extra_args=None if term is None else {KEY: told([term])}
        )
        stream = self.llm.generate({"prompt_token_ids": ids}, params, f"probe-{int(term is not None)}")
        first = [out async for out in stream][-1].outputs[0].logprobs[0]
        return {k: round(v.logprob, 4) for k, v in first.items()}

    async def serve(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end)
        facts = msgspec.to_builtins(self.facts)
        self.say({"kind": "ready", "facts": {**facts, "norms": await self._norms()}})
        while True:
            try:
                raw = await asyncio.to_thread(self.connection.recv_bytes)
            except (EOFError, OSError):  # the server is gone
                self._end()
            await self._take(msgspec.json.decode(raw))

    def _end(self) -> NoReturn:
        """Stop vLLM's processes, and this one."""
        self.llm.shutdown()
        os._exit(0)

    def say(self, event: Message) -> None:
        self.connection.send_bytes(msgspec.json.encode(event))

    async def _take(self, m: Message) -> None:
        if m["kind"] == "vector":
            self.raw[m["hash"]] = m["data"]
        elif m["kind"] == "forget":
            await self._forget()
        elif m["kind"] == "cancel":
            if m["id"] in self.tasks:
                self.tasks[m["id"]].cancel()
        elif m["kind"] == "compare":
            told = "texts are compared by the embedded engine: serve with --engine hf"
            self.say({"id": m["id"], "kind": "error", "status": 400, "message": told})
        else:
            self.using.update(s["vector"] for s in m["stack"])  # from now on: the shelf may change before it is begun
            task = asyncio.create_task(self._answered(m))
            self.tasks[m["id"]] = task
            task.add_done_callback(lambda _, id=m["id"]: self.tasks.pop(id, None))

    async def _hold(self, hashes: list[str]) -> None:
        """See that vectors that are in use are in the tables.

        Raises:
            ServeError: there is no row for one.
        """
        for hash in hashes:
            self.stale.discard(hash)
            if hash not in self.entering:
                rpc = self.llm.collective_rpc("trimtab_put", args=(hash, self.raw[hash]))
                self.entering[hash] = asyncio.create_task(rpc)
            try:
                await asyncio.shield(self.entering[hash])  # others may wait for it, too
            except Exception as problem:
                self.entering.pop(hash, None)
                raise ServeError("a vector finds no place in the engine", given=first_line(problem)[:300]) from problem

    async def _let_go(self, hashes: list[str]) -> None:
        self.using.subtract(hashes)
        await self._free([h for h in hashes if h in self.stale and self.using[h] <= 0])

    async def _forget(self) -> None:
        """The shelf has changed: rows are given back, once no request needs them."""
        self.stale |= self.entering.keys()
        await self._free([h for h in self.entering if self.using[h] <= 0])

    async def _free(self, hashes: list[str]) -> None:
        for hash in hashes:
            if self.using[hash] > 0:  # somebody has come meanwhile
                continue
            self.stale.discard(hash)
            if self.entering.pop(hash, None) is not None:
                self.raw.pop(hash, None)
                await self.llm.collective_rpc("trimtab_free", args=(hash,))

    async def _receipt(self, id: str) -> list[dict[str, Any] | None]:
        """What every worker knows of a request."""
        return list(await self.llm.collective_rpc("trimtab_receipt", args=(id,)))

    async def _answered(self, m: Message) -> None:
        """One request, from its prompt to its end; what fails is its alone."""
        try:
            row = render(self.tokenizer, m["prompt"], chat=None if m["chat"] else False)
            limit = min(m["limit"], self.facts.context - m["max_tokens"])
            if row.prompt > limit:
                raise TokenError("the prompt is too long", given=f"{row.prompt} tokens", expected=f"at most {limit}")
            terms = terms_of(m["stack"])
            if terms:
                check(terms)
            await self._hold([t.hash for t in terms])
            self.say({"id": m["id"], "kind": "start", "prompt": row.prompt})
            await self._told(m, list(row.ids), terms)
        except asyncio.CancelledError:  # vLLM has stopped with it
            return
        except (TrimtabError, ValueError) as problem:
            self.say({"id": m["id"], "kind": "error", "status": 400, "message": str(problem)})
        except Exception as problem:
            if "EngineDead" in type(problem).__name__:
                os._exit(1)  # the server starts another
            self.say({"id": m["id"], "kind": "error", "status": 500, "message": "the engine could not answer this"})
        finally:
            await self._let_go([s["vector"] for s in m["stack"]])

    async def _told(self, m: Message, ids: list[int], terms: list[Term]) -> None:
        how = Sampling(m["max_tokens"], m["temperature"], m["top_p"], m["seed"])
        params = self.sampling.SamplingParams(
            max_tokens=how.max_new_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
            seed=how.seed,
            stop=list(m["stop"]),
            logprobs=m["top"],
            output_kind=self.sampling.RequestOutputKind.DELTA,
            extra_args={KEY: told(terms)} if terms else None,
        )
        tokens, reason = 0, None
        async for out in self.llm.generate({"prompt_token_ids": ids}, params, m["id"]):
            piece = out.outputs[0]
            tokens, reason = tokens + len(piece.token_ids), piece.finish_reason or reason
            event: Message = {"id": m["id"], "kind": "token", "text": piece.text}
            for k, token in enumerate(piece.token_ids):
                if m["top"] is not None and piece.logprobs:
                    event["logprobs"] = self._logprobs(token, piece.logprobs[k], m["top"])
                    self.say(event)
                    event = {"id": m["id"], "kind": "token", "text": ""}
            if event["text"] and "logprobs" not in event:
                self.say(event)
        receipts = await self._receipt(m["id"]) if terms else [None]
        edited = receipts[0]["edited"] if receipts[0] else {}
        if terms and not any(edited.values()):
            where = [t.positions for t in terms]
            raise ServeError("nothing was steered: the positions selected no token", given=where, do="other positions")
        names = {s["vector"]: s["name"] for s in m["stack"]}
        along = {names[hash]: mean for hash, mean in projections(receipts)}
        end = {"reason": reason or "length", "tokens": tokens, "edited": edited, "projection": along}
        self.say({"id": m["id"], "kind": "end", **end})

    def _logprobs(self, token: int, given: Any, top: int) -> Message:
        ranked = sorted(given.items(), key=lambda item: -item[1].logprob)[:top]
        alternatives = [{"token": self.tokenizer.decode([i]), "logprob": x.logprob} for i, x in ranked]
        return {
            "token": self.tokenizer.decode([token]),
            "logprob": given[token].logprob,
            "top_logprobs": alternatives,
        }
