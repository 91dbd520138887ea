"""GGUF files as models: dequantized once into a folder of float32 safetensors in the cache, and read from there."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ModelError
from trimtab.model.quiet import quiet

log = logging.getLogger("trimtab")
SPARE = 1.02  # of the weights: tokenizer and configuration beside them


def cache_folder() -> Path:
    """`$TRIMTAB_CACHE`, or `trimtab` in the user's cache folder."""
    root = os.environ.get("TRIMTAB_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Attributes:
        name, architecture: as its maker wrote them.
        quantization: such as Q4_K_M; "" if it does not say.
        values: how many numbers its tensors hold.
        parts: of how many files it is one.
        vocabulary: number of tokens.
        begin, end: ids of the tokens that begin a text and end a turn; None if it does not say.
        begins: whether a text begins with `begin`; None if it does not say.
        template: the chat template; None without one.
    """

    name: str
    architecture: str
    quantization: str
    values: int
    parts: int
    vocabulary: int
    begin: int | None
    end: int | None
    begins: bool | None
    template: str | None

    @property
    def bytes(self) -> int:
        """Of its tensors in float32."""
        return 4 * self.values


def header(file: Path) -> Header:
    """The header of a GGUF file.

    Raises:
        ModelError: not a GGUF file that can be read.
    """
    from gguf import GGUFReader, LlamaFileType

    try:
        reader: Any = GGUFReader(file)
        fields = {key: field.contents for key, field in reader.fields.items() if len(field.data) == 1}
        facts = {key: read() for key, read in fields.items()}
        tokens = reader.fields.get("tokenizer.ggml.tokens")
        kind = facts.get("general.file_type")
        return Header(
            name=facts.get("general.name") or file.stem,
            architecture=facts["general.architecture"],
            quantization="" if kind is None else LlamaFileType(kind).name.removeprefix("MOSTLY_"),
            values=sum(int(tensor.n_elements) for tensor in reader.tensors),
            parts=facts.get("split.count", 1) or 1,
            vocabulary=0 if tokens is None else len(tokens.data),
            begin=facts.get("tokenizer.ggml.bos_token_id"),
            end=facts.get("tokenizer.ggml.eos_token_id"),
            begins=facts.get("tokenizer.ggml.add_bos_token"),
            template=facts.get("tokenizer.chat_template"),
        )
    except (KeyError, ValueError, IndexError, OSError, OverflowError, MemoryError, UnicodeDecodeError) as problem:
        raise ModelError(
            f"cannot read {file}: it is damaged, or of a version of GGUF that is not known here",
            given=f"{type(problem).__name__}: {problem}",
            do="fetch the file again",
        ) from problem


def folder(file: Path, name: str = "") -> Path:
    """The folder in the cache that holds a GGUF file's model in float32; written at the first call.

    Args:
        name: of the folder; by default the file's own, with a hash of its bytes.

    Raises:
        ModelError: damaged, one of several parts, no room for it in the cache, or of an architecture or quantization
            that transformers does not read.
    """
    target = cache_folder() / (name or f"{file.stem}-{_digest(file)}")
    if (target / "config.json").is_file():
        return target
    head = header(file)
    if head.parts > 1:
        raise ModelError(
            f"{file.name} is one of {head.parts} parts", expected="a model in one file", do="llama-gguf-split --merge"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < head.bytes * SPARE:
        raise ModelError(
            f"no room for the model of {file.name} in {target.parent}",
            given=f"{free / 1e9:.1f} GB free",
            expected=f"{head.bytes * SPARE / 1e9:.1f} GB, its weights in float32",
            do="set TRIMTAB_CACHE to a folder with more room",
        )
    log.warning("%s is dequantized once, %.1f GB into %s", file.name, head.bytes / 1e9, target)
    _convert(file, head, target)
    return target


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _convert(file: Path, head: Header, target: Path) -> None:
    """Read the file with transformers and leave a folder; written aside and moved, so that a killed conversion leaves
    nothing half done.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    aside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            for difference in differences(head, tokenizer):
                log.warning("%s: %s", file.name, difference)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            model.config.dequantized_from = head.quantization or "GGUF"
            tokenizer.save_pretrained(aside)
            model.save_pretrained(aside)
        if not target.exists():
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def differences(head: Header, tokenizer: Any) -> list[str]:
    """Where a tokenizer is not the one the file describes, in words."""
    told: list[str] = []
    if head.vocabulary and len(tokenizer) != head.vocabulary:
        told.append(f"the tokenizer has {len(tokenizer)} tokens, the file {head.vocabulary}")
    if head.end is not None and tokenizer.eos_token_id != head.end:
        told.append(f"a turn ends with token {tokenizer.eos_token_id}, in the file with {head.end}")
    if head.template is not None and tokenizer.chat_template != head.template:
        told.append("the chat template is not the file's")
    ids = tokenizer("a").input_ids
    if head.begins is not None and head.begin is not None and (ids[:1] == [head.begin]) != head.begins:
        told.append(
            f"a text {'does not begin' if head.begins else 'begins'} with token {head.begin}, unlike in the file"
        )
    return told
