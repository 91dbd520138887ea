"""Samples from a server: that of `trimtab serve`, whose vectors are the study's own, or for unsteered ones any that
speaks OpenAI's API. What is read off the texts stays with the model here.

A model that was loaded with `sampler="http://127.0.0.1:8765/v1"` (a key of the recipes of studies) is sampled there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from trimtab import registry
from trimtab.answers.endpoint import reachable
from trimtab.errors import RunError, first_line
from trimtab.model.generate import Sampling
from trimtab.model.rendering import as_messages
from trimtab.model.tokens import Prompt
from trimtab.steering.interventions import Intervention
from trimtab.steering.notation import Notation, Term
from trimtab.steering.use import Use
from trimtab.steering.vector import SteeringVector

AT_ONCE = 32  # requests under way
TRIES = 8  # of a request that the server does not take now: about a minute in all
KEY = "TRIMTAB_ADMIN_KEY"  # in the environment: lets vectors be brought to the server
BUSY = (429, 502, 503, 504)
PATIENCE = 600.0  # seconds for an answer

Asked = tuple[Prompt, tuple[Intervention, ...], int]  # a prompt, how it is steered, the number of the sample


class Remote:
    """A server, by the address of its API."""

    def __init__(self, url: str, model: str = "") -> None:
        """Ask which models it has, and take the one of this name; the only one, where none has it.

        Raises:
            RecipeError: not an address, or nobody listens there.
            RunError: it does not say, or has several others.
        """
        reachable(url)
        self.url, self.held = url.rstrip("/"), set[str]()
        loopback = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
        self.opener = build_opener(ProxyHandler({})) if loopback else build_opener()
        token = os.environ.get("TRIMTAB_TOKEN") or os.environ.get("OPENAI_API_KEY") or "none"
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        reply = self._sent("GET", "/models")
        try:
            known = [str(one["id"]) for one in reply["data"]]
        except (KeyError, TypeError) as problem:
            raise RunError(f"{url} does not say which models it has", given=str(reply)[:200]) from problem
        if not known or (model not in known and len(known) > 1):
            raise RunError(f"{url} does not have the model", given=known[:8], expected=model)
        self.model = model if model in known else known[0]

    def texts(self, asked: Sequence[Asked], settings: Sampling, *, chat: bool) -> list[str]:
        """One text for each, in order; requests run side by side.

        Raises:
            RunError: the server does not answer, or does not steer.
        """
        for _, stack, _ in asked:
            for iv in stack:
                self._bring(iv)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda one: self._one(one, settings, chat), asked))

    def _bring(self, iv: Intervention) -> None:
        """See that a vector is on the server, under a name that says what it is and how it acts."""
        name = _name(iv)
        if name in self.held:
            return
        use = Use(iv.vector.layers, 1.0, str(iv.positions), registry.describe(iv.operator), registry.describe(iv.gate))
        raw = SteeringVector(iv.vector.vectors, iv.vector.made, site=iv.vector.site, use=use).to_bytes()
        self._sent("PUT", f"/steering/{name}", raw)
        self.held.add(name)

    def _one(self, asked: Asked, settings: Sampling, chat: bool) -> str:
        prompt, stack, number = asked
        messages = as_messages(prompt)
        drawn = hashlib.sha256(json.dumps([settings.seed, messages, number]).encode()).digest()
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": int.from_bytes(drawn[:4], "big") >> 1,
        }
        if stack:
            line = Notation(tuple(Term(iv.multiplier, _name(iv)) for iv in stack))
            body |= {"steer": str(line), "force": True}
        if chat:
            reply = self._sent("POST", "/chat/completions", json.dumps({**body, "messages": messages}).encode())
        else:
            reply = self._sent("POST", "/completions", json.dumps({**body, "prompt": prompt}).encode())
        if stack and not (isinstance(reply, dict) and (reply.get("steering") or {}).get("tokens_edited")):
            raise RunError(f"{self.url} did not steer", given=body["steer"], do="serve the model with trimtab serve")
        try:
            choice = reply["choices"][0]
            return str(choice["message"]["content"] or "") if chat else str(choice["text"])
        except (KeyError, IndexError, TypeError) as problem:
            raise RunError(f"{self.url} gave no answer", given=str(reply)[:200]) from problem

    def _sent(self, how: str, path: str, body: bytes | None = None) -> Any:
        """What is answered to a request, which is sent again after a while where the server is busy.

        Raises:
            RunError: it refuses, or nobody answers.
        """
        key = {"X-Admin-Key": os.environ.get(KEY, "")} if how == "PUT" else {}
        said = ""
        for k in range(TRIES):
            if k:
                time.sleep(min(15.0, 2.0**k / 2))
            request = Request(self.url + path, data=body, headers=self.headers | key, method=how)
            try:
                with self.opener.open(request, timeout=PATIENCE) as reply:
                    return json.loads(reply.read())
            except HTTPError as problem:
                said = f"{problem.code}: {problem.read()[:300].decode(errors='replace')}"
                if problem.code not in BUSY:
                    break
            except (OSError, HTTPException, ValueError) as problem:
                said = first_line(problem) or type(problem).__name__
        do = f"bringing vectors there needs the server's key in {KEY}" if how == "PUT" else "mend it, and run again"
        raise RunError(
            f"{self.url}{path} does not answer as it should", given=said,
            expected="an answer", do=f"{do}: what was sampled is kept",
        )  # fmt: skip


def _name(iv: Intervention) -> str:
    """Of a vector on the server: the same numbers that act in the same way have one name."""
    about = [iv.vector.hash, str(iv.positions), registry.describe(iv.operator), registry.describe(iv.gate)]
    return f"v{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}"
