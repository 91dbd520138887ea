"""llama.cpp as an oracle: log-probabilities of tokens under a model and a control vector, by the library in the wheel
`xllamacpp`, whose C functions are called through ctypes.

It runs in a process of its own (this file as a script): what goes wrong in C ends that process and not yours. The
structures of parameters are taken as the library fills them, and a few numbers are changed in place; whether they stand
where they are expected is checked first.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import ExportError

PACKAGE = "xllamacpp"
SIZE = 1024  # bytes of a structure, amply
F32 = 0  # ggml's number for it
# byte offset in llama_context_params -> what the library fills in there
EXPECTED = {0: 512, 4: 2048, 8: 512, 12: 1, 28: 4, 32: 4, 44: -1, 48: -1, 104: 1, 108: 1}
N_CTX, N_BATCH, N_UBATCH, THREADS, THREADS_BATCH, FLASH, TYPE_K, TYPE_V = 0, 4, 8, 28, 32, 52, 104, 108


class _Params(ctypes.Structure):
    """A structure that is passed by value, of a size not known here."""

    _fields_ = [("bytes", ctypes.c_ubyte * SIZE)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def installed() -> str:
    """The version of the library.

    Raises:
        ExportError: not installed.
    """
    try:
        return version(PACKAGE)
    except PackageNotFoundError as problem:
        raise ExportError(
            "the proof that llama.cpp computes the same needs llama.cpp", do="pip install 'trimtab[llama]'"
        ) from problem


def logprobs(
    model: Path, rows: Sequence[Sequence[int]], control: Path | None = None, *, timeout: float = 1800
) -> list[np.ndarray]:
    """Log-probabilities of every next token, at every token of each row: (s, v) arrays, fp32.

    Args:
        model: a GGUF file.
        rows: token ids.
        control: a control vector in GGUF, at strength 1; its keys and values are kept in float32.

    Raises:
        ExportError: the library is not there, is of another build than is known here, or cannot read a file.
    """
    installed()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "logits.npz")
        task = {"model": str(model), "rows": [list(r) for r in rows], "out": str(out)}
        task |= {"control": None if control is None else str(control)}
        command = [sys.executable, "-P", __file__]  # the file alone: neither this room nor torch is imported
        done = subprocess.run(
            command, input=json.dumps(task), capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode or not out.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise ExportError(
                f"llama.cpp cannot run {model.name}",
                given=said[-1] if said else f"exit code {done.returncode}",
                do="look whether it runs in llama.cpp without a vector",
            )
        with np.load(out) as held:
            return [_log_softmax(held[f"row{k}"]) for k in range(len(rows))]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return (x - np.log(np.exp(x).sum(-1, keepdims=True))).astype(np.float32)


# ------------------------------------------------------------ in the process of its own


def _library() -> Any:
    """The C functions of the wheel's shared library; the wheel itself is not imported."""
    spec = find_spec(PACKAGE)
    places = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    lib: Any = ctypes.CDLL(str(next(file for place in places for file in place.glob(f"{PACKAGE}*.so"))))
    pointer = ctypes.c_void_p
    for name, result, arguments in (
        ("llama_model_default_params", _Params, []),
        ("llama_context_default_params", _Params, []),
        ("llama_model_load_from_file", pointer, [ctypes.c_char_p, _Params]),
        ("llama_init_from_model", pointer, [pointer, _Params]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
        ("llama_model_n_embd", ctypes.c_int32, [pointer]),
        ("llama_get_memory", pointer, [pointer]),
        ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
        ("llama_batch_init", _Batch, [ctypes.c_int32] * 3),
        ("llama_decode", ctypes.c_int32, [pointer, _Batch]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
        (
            "llama_set_adapter_cvec",
            ctypes.c_int32,
            [pointer, ctypes.POINTER(ctypes.c_float), ctypes.c_size_t, *[ctypes.c_int32] * 3],
        ),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _context_params(lib: Any, longest: int) -> _Params:
    """Parameters of a context for rows of so many tokens, with keys and values in float32 and plain attention."""
    params = lib.llama_context_default_params()
    there = {at: struct.unpack_from("<i", params.bytes, at)[0] for at in EXPECTED}
    if there != EXPECTED:
        raise SystemExit(f"this build of llama.cpp keeps its parameters elsewhere: {there}, expected {EXPECTED}")
    threads = int(os.environ.get("OMP_NUM_THREADS") or min(8, os.cpu_count() or 1))
    changes = {N_CTX: longest, N_BATCH: longest, N_UBATCH: longest, THREADS: threads, THREADS_BATCH: threads}
    for at, value in {**changes, FLASH: 0, TYPE_K: F32, TYPE_V: F32}.items():
        struct.pack_into("<i", params.bytes, at, value)
    return params


def _control(file: Path, width: int) -> np.ndarray:
    """A control vector as llama.cpp takes it: the layers from 1 on in one buffer, zero where there is none."""
    from gguf import GGUFReader

    tensors = {int(t.name.split(".")[1]): np.asarray(t.data, np.float32) for t in GGUFReader(file).tensors}
    buffer = np.zeros((max(tensors), width), np.float32)
    for layer, v in tensors.items():
        buffer[layer - 1] = v
    return buffer


def _run(task: dict[str, Any]) -> None:
    lib = _library()
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(task["model"].encode(), lib.llama_model_default_params())
    if not model:
        raise SystemExit("the model could not be loaded")
    context = lib.llama_init_from_model(model, _context_params(lib, max(len(r) for r in task["rows"])))
    if not context:
        raise SystemExit("no context could be made")
    size, width = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)), lib.llama_model_n_embd(model)
    if task["control"]:
        buffer = _control(Path(task["control"]), width)
        data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if lib.llama_set_adapter_cvec(context, data, buffer.size, width, 1, len(buffer)):
            raise SystemExit("the control vector was refused")
    rows: dict[str, Any] = {f"row{k}": _logits(lib, context, row, size) for k, row in enumerate(task["rows"])}
    np.savez(task["out"], **rows)


def _logits(lib: Any, context: int, row: list[int], size: int) -> np.ndarray:
    """(s, v) logits of one row, in one pass."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    batch = lib.llama_batch_init(len(row), 0, 1)
    batch.n_tokens = len(row)
    for k, token in enumerate(row):
        batch.token[k], batch.pos[k], batch.n_seq_id[k], batch.logits[k] = token, k, 1, 1
        batch.seq_id[k][0] = 0
    if lib.llama_decode(context, batch):
        raise SystemExit("the pass failed")
    return np.stack([np.ctypeslib.as_array(lib.llama_get_logits_ith(context, k), (size,)) for k in range(len(row))])


if __name__ == "__main__":
    _run(json.load(sys.stdin))
