"""Where the decoder blocks of a model are: a rule, and TOML files for the models that break it."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

from torch import nn

from trimtab.errors import ModelError


def find_blocks(model: Any, path: str | None = None) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks: the shallowest ModuleList as long as the text config's layer count.

    Args:
        model: a Hugging Face causal language model.
        path: dotted path of the list, for models that fit no rule.

    Returns:
        The dotted path inside `model`, and the list.

    Raises:
        ModelError: nothing fits, or the architecture is one that cannot be steered (with the reason).
    """
    exception = _exception(model.config.model_type)
    if "refuse" in exception:
        raise ModelError(f"{model.config.model_type} cannot be steered: {exception['refuse']}")
    path = path or exception.get("blocks")
    if path:
        return path, _at(model, path)
    n = model.config.get_text_config(decoder=True).num_hidden_layers
    stacks: list[tuple[bool, int, str, nn.ModuleList]] = []
    # the whole model where what it calls its decoder is something else (ModernBERT's output head)
    for part in (model.get_decoder(), model):
        stacks = stacks or [
            (len(m) != n, name.count("."), name, m) for name, m in part.named_modules() if _is_stack(m, n)
        ]
    if not stacks:
        raise ModelError(
            f"no list of {n} blocks in {type(model).__name__}",
            given=[name for name, m in model.named_modules() if isinstance(m, nn.ModuleList)],
            do='name it: LM.load(..., blocks="path.to.layers")',
        )
    blocks = min(stacks, key=lambda f: f[:2])[3]
    return next(name for name, m in model.named_modules() if m is blocks), blocks


def _is_stack(module: nn.Module, n: int) -> bool:
    return isinstance(module, nn.ModuleList) and len(module) >= n and len({type(b) for b in module}) <= 3


def _exception(model_type: str) -> dict[str, str]:
    file = files("trimtab") / "model" / "architectures" / f"{model_type}.toml"
    return tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}


def _at(model: nn.Module, path: str) -> nn.ModuleList:
    try:
        module = model.get_submodule(path)
    except AttributeError as problem:
        raise ModelError(f"{type(model).__name__} has no module {path!r}") from problem
    if not isinstance(module, nn.ModuleList):
        raise ModelError(f"{path!r} is not a list of blocks", given=type(module).__name__, expected="ModuleList")
    return module
