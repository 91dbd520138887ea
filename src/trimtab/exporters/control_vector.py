"""A control vector of llama.cpp: one GGUF file, added to the output of blocks from 1 on, at every token."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trimtab.errors import ExportError
from trimtab.exporters import llama_cpp
from trimtab.exporters.base import Exporter, Proof, compared, directions, probes
from trimtab.exporters.model_gguf import architecture, finish, write_model
from trimtab.model import LM
from trimtab.model.gguf import header
from trimtab.model.load import gguf_of
from trimtab.names import EXTRA
from trimtab.registry import register
from trimtab.steering.interventions import Intervention, steer

ARCHITECTURE = "controlvector"
CARD = "trimtab.card"  # the key of our own; llama.cpp passes over what it does not know


@register("exporter", "gguf")
@dataclass(frozen=True)
class Gguf(Exporter):
    """A control vector for llama.cpp (`--control-vector FILE`) and all that is built on it. It steers every token, at
    blocks from 1 on. Proved in llama.cpp itself, on the model's own GGUF file where one is known: there the difference
    is held to the noise of its quantized arithmetic.

    Attributes:
        model_file: GGUF file of the model; by default the one it was loaded from, or its weights in float32, written
            for the proof alone.
    """

    suffix = ".gguf"
    model_file: str | None = None

    def expressible(self, ivs: Sequence[Intervention]) -> None:
        if find_spec("gguf") is None:
            raise ExportError("this target needs the package gguf", do=EXTRA)
        if 0 in directions(ivs, "gguf"):
            raise ExportError(
                "llama.cpp cannot steer the output of block 0",
                given=sorted(directions(ivs, "gguf")),
                expected="blocks from 1 on",
            )
        llama_cpp.installed()
        if self.model_file is not None and not Path(self.model_file).expanduser().is_file():
            raise ExportError(f"no such file: {self.model_file}", expected="the GGUF file of the model")

    def check(self, lm: LM, ivs: Sequence[Intervention]) -> None:
        self._file(lm)

    def write(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> None:
        vectors = {k: v.numpy() for k, v in directions(ivs, "gguf").items()}
        write_vectors(path, vectors, str(lm.model.config.model_type), {})

    def verify(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> Proof:
        steered = partial(steer, lm, *ivs)
        rows = probes(lm, steered)
        ids = [r.ids for r in rows]
        engine = f"llama.cpp ({llama_cpp.PACKAGE} {llama_cpp.installed()})"
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            file = self._file(lm)
            exact = file is None
            model = write_model(lm, Path(folder, "model.gguf")) if file is None else file
            plain = [torch.from_numpy(x) for x in llama_cpp.logprobs(model, ids)]
            theirs = [torch.from_numpy(x) for x in llama_cpp.logprobs(model, ids, path)]
        kind = "float32" if file is None else header(file).quantization
        return compared(lm, steered, rows, theirs, f"{engine}, {kind}", unsteered=plain, exact=exact)

    def sign(self, path: Path, card: Mapping[str, Any]) -> None:
        from gguf import GGUFReader

        reader: Any = GGUFReader(path)
        vectors = {int(t.name.split(".")[1]): np.array(t.data) for t in reader.tensors}
        hint = reader.fields["controlvector.model_hint"].contents()
        write_vectors(path, vectors, hint, {CARD: dumps(card, sort_keys=True)})

    def _file(self, lm: LM) -> Path | None:
        """The GGUF file of the model that the proof is made on; None for its weights in float32.

        Raises:
            ExportError: there is none, and none can be written.
        """
        if self.model_file is not None:
            return Path(self.model_file).expanduser()
        known = gguf_of(lm.id)
        if known is None:
            architecture(lm)  # refuses what cannot be written
        return known


def write_vectors(path: Path, vectors: Mapping[int, np.ndarray], hint: str, more: Mapping[str, str]) -> None:
    """A control vector file.

    Args:
        vectors: block -> (d,) fp32.
        hint: of the family of the model.
        more: further keys.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_string("controlvector.model_hint", hint)
    writer.add_int32("controlvector.layer_count", len(vectors))
    for key, text in more.items():
        writer.add_string(key, text)
    for layer, v in sorted(vectors.items()):
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(v, np.float32))
    finish(writer)
