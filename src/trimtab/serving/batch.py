"""Many conversations in one pass, each under its own vectors: what the engine's process does.

row 0    pirate at 2.0
row 1    no vector
row 2    pirate at 2.0, formal at -1.0        one pass over all of them; at every block each group of rows with one
row 3    formal at 0.5                        stack is changed by that stack alone
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import SteerError, TrimtabError
from trimtab.model import LM, Frame, Layer, Row
from trimtab.model.generate import Sampling, generator, steps
from trimtab.steering.interventions import Intervention
from trimtab.steering.operators.base import unit

TOP = 20  # alternatives whose log-probabilities can be asked for
Say = Callable[[dict[str, Any]], None]
Stack = tuple[tuple[str, Intervention], ...]  # interventions in order, each with the name it was asked for by


@dataclass
class Job:
    """A request under way.

    Attributes:
        id: of the request.
        row: its prompt, as ids.
        stack: its interventions, in order.
        sampling: tokens, temperature, top-p, seed.
        stop: texts that end the answer.
        top: so many alternatives with every token; None for no log-probabilities.
        new: ids so far.
        edited: tokens steered, by layer.
        along: sum of the projections of the stream on each vector where it was steered, and of how many.
    """

    id: str
    row: Row
    stack: Stack
    sampling: Sampling
    stop: tuple[str, ...] = ()
    top: int | None = None
    new: list[int] = field(default_factory=list[int])
    edited: dict[Layer, int] = field(default_factory=dict[Layer, int])
    along: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])
    reached: dict[tuple[Layer, int], int] = field(
        default_factory=dict[tuple[Layer, int], int]
    )  # the last token counted
    told: int = 0  # characters, and tokens: an answer that is begun again says nothing twice
    heard: int = 0
    canceled: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What its rows must have in common with another's to be changed together."""
        return tuple(
            (iv.vector.hash, repr(iv.operator), iv.multiplier, str(iv.where), repr(iv.gate)) for _, iv in self.stack
        )


class Edits:
    """The edit of every layer for a batch of jobs: rows with one stack are changed together."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.groups: dict[tuple[Any, ...], list[int]] = {}
        for k, job in enumerate(jobs):
            if job.stack:
                self.groups.setdefault(job.key, []).append(k)

    def by_layer(self) -> dict[Layer, Callable[[Tensor, Frame], Tensor]]:
        layers = {k for job in self.jobs for _, iv in job.stack for k in iv.vector.layers}
        return {layer: lambda h, frame, layer=layer: self._change(layer, h, frame) for layer in sorted(layers)}

    def _change(self, layer: Layer, h: Tensor, frame: Frame) -> Tensor:
        out = h
        for rows in self.groups.values():
            stack = self.jobs[rows[0]].stack
            acting = [k for k, (_, iv) in enumerate(stack) if layer in iv.vector.vectors]
            if not acting:
                continue
            out = out.clone() if out is h else out
            here = torch.tensor(rows, device=h.device)
            part, about = out[here], Frame(frame.index[here], [frame.rows[k] for k in rows])
            for k in acting:
                part = self._apply(k, layer, part, about, rows)
            out[here] = part
        return out

    def _apply(self, at: int, layer: Layer, h: Tensor, frame: Frame, rows: Sequence[int]) -> Tensor:
        """One intervention on some rows, and how much of it there was: each token once, also where a model without an
        exact cache runs over all of them again.
        """
        iv = self.jobs[rows[0]].stack[at][1]
        moved, _ = iv.apply(h, layer, frame)
        before = torch.tensor([self.jobs[k].reached.get((layer, at), -1) for k in rows])
        fresh = frame.index > before[:, None].to(frame.index)
        selected = iv.where.select(frame.index, frame.rows) & fresh  # (r, s)
        counts = selected.sum(-1).tolist() if iv.multiplier else [0] * len(rows)
        v = iv.vector[layer].reshape(-1, iv.vector.width)[0].to(h.device)
        along = ((h.float() @ unit(v)) * selected.to(h.device)).sum(-1).tolist()
        last = frame.index.amax(-1).tolist()
        for k, n, a, end in zip(rows, counts, along, last, strict=True):
            job, name = self.jobs[k], self.jobs[k].stack[at][0]  # one vector may have two names
            job.reached[layer, at] = max(end, job.reached.get((layer, at), -1))
            job.edited[layer] = job.edited.get(layer, 0) + n
            total, seen = job.along.get(name, (0.0, 0))
            job.along[name] = (total + a, seen + n)
        return moved


@torch.no_grad()
def run(lm: LM, jobs: Sequence[Job], say: Say, listen: Callable[[], None]) -> None:
    """Answer jobs that may share a batch.

    Args:
        say: called with every token, end and error, as plain JSON.
        listen: called before every pass; it may mark jobs as canceled.
    """
    tokens, alive = lm.batch([job.row for job in jobs]), torch.ones(len(jobs), dtype=torch.bool)
    longest = max(job.sampling.max_new_tokens for job in jobs)
    draws = [generator(job.sampling.seed, job.row, 0) for job in jobs]  # what `LM.generate` draws by
    with lm.edit(Edits(jobs).by_layer()):
        step = steps(lm, tokens, longest)
        logits = step(None, alive)
        for _ in range(longest):
            listen()
            chosen = torch.zeros(len(jobs), dtype=torch.long)
            for k, job in enumerate(jobs):
                if alive[k]:
                    chosen[k] = _choose(job, logits[k].cpu(), draws[k])
                    alive[k] = _told(lm, job, int(chosen[k]), logits[k].cpu(), say)
            if not alive.any():
                return
            logits = step(chosen, alive)


def _choose(job: Job, logits: Tensor, draw: torch.Generator) -> int:
    """The next token of a row."""
    if not logits.isfinite().any() or logits.isnan().any():
        raise SteerError("the model's numbers are not finite", do="a smaller dose")
    if job.sampling.temperature == 0:
        return int(logits.argmax())
    p, order = torch.softmax(logits / job.sampling.temperature, -1).sort(-1, descending=True)
    p = p.masked_fill(p.cumsum(-1) - p >= job.sampling.top_p, 0.0)
    return int(order[torch.multinomial(p, 1, generator=draw)])


def _told(lm: LM, job: Job, token: int, logits: Tensor, say: Say) -> bool:
    """Tell of a token; whether the row goes on."""
    if job.canceled:
        return False
    if token in lm.end_tokens:
        _end(lm, job, "stop", say)
        return False
    job.new.append(token)
    text = lm.tokenizer.decode(job.new, skip_special_tokens=True)
    cut = min((at for s in job.stop if (at := text.find(s)) >= 0), default=None)
    done = cut is not None or len(job.new) == job.sampling.max_new_tokens
    text = text if cut is None else text[:cut]
    # what may still change is kept back: half a character, the beginning of a stop text
    sure = len(text) if done else _sure(text, job.stop)
    event: dict[str, Any] = {"id": job.id, "kind": "token", "text": text[job.told : sure]}
    job.told = max(job.told, sure)
    if job.top is not None:
        event["logprobs"] = _logprobs(lm, token, logits, job.top)
    if len(job.new) > job.heard:
        job.heard = len(job.new)
        say(event)
    if done:
        _end(lm, job, "stop" if cut is not None else "length", say)
    return not done


def _sure(text: str, stop: Sequence[str]) -> int:
    """How much of a text cannot change any more."""
    sure = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    for s in stop:
        for n in range(min(len(s) - 1, sure), 0, -1):
            if text[:sure].endswith(s[:n]):
                sure -= n
                break
    return sure


def _logprobs(lm: LM, token: int, logits: Tensor, top: int) -> dict[str, Any]:
    logp = logits.log_softmax(-1)
    best = alternatives(lm, logp, top)
    return {"token": lm.tokenizer.decode([token]), "logprob": float(logp[token]), "top_logprobs": best}


def alternatives(lm: LM, logp: Tensor, top: int) -> list[dict[str, Any]]:
    """The likeliest tokens of a distribution, (v,) in nats, from the first on."""
    best = logp.topk(min(top, len(logp)))
    return [
        {"token": lm.tokenizer.decode([i]), "logprob": p}
        for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _end(lm: LM, job: Job, reason: str, say: Say) -> None:
    """The end of a row, with what was steered; or an error, if it should have been and was not."""
    text = lm.tokenizer.decode(job.new, skip_special_tokens=True)
    if reason == "stop" and len(text) > job.told and not any(s in text for s in job.stop):
        say({"id": job.id, "kind": "token", "text": text[job.told :]})
    if job.stack and not any(job.edited.values()):
        where = [str(iv.positions) for _, iv in job.stack]
        raise Unsteered(job.id, where)
    say(
        {
            "id": job.id,
            "kind": "end",
            "reason": reason,
            "tokens": len(job.new),
            "edited": {str(k): n for k, n in sorted(job.edited.items())},
            "projection": {name: total / n for name, (total, n) in job.along.items() if n},
        }
    )


class Unsteered(TrimtabError):
    """A request whose positions selected no token: an answer would look steered and be none."""

    def __init__(self, id: str, where: Sequence[str]) -> None:
        self.id = id
        super().__init__("nothing was steered: the positions selected no token", given=where, do="other positions")
