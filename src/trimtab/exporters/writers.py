"""Which modules of a model write into its residual stream: found by asking the model, not by the names of its family.

A vector that is added to the output of a linear map reaches the stream as it is exactly where nothing stands behind
that map but the sum: true of pre-norm families (Llama, Qwen, Mistral, GPT-NeoX, GPT-2), not where a norm follows the
projection (Gemma 2, OLMo 2), nor where only some tokens pass through a map (experts).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import ExportError
from trimtab.model import LM, Layer, Row
from trimtab.model.hooks import stream

FINAL = ("o_proj", "down_proj", "dense", "dense_4h_to_h", "c_proj", "out_proj", "fc2")  # how families call it
ROUNDED = 4.0  # times the eps of a dtype
CLOSE = 1e-3  # of the size of the nudge: rounding is below, another computation far above


@dataclass(frozen=True)
class Writer:
    """A linear map that writes into the stream.

    Attributes:
        path: of the module in the model.
        module: a Linear, or the transposed one of GPT-2.
        scale: how much of what is added to its output reaches the stream (1, but for families that scale it).
    """

    path: str
    module: nn.Module
    scale: float

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.module, "bias", None)


@torch.no_grad()
def last_writer(lm: LM, layer: Layer) -> Writer | None:
    """The linear map of a block whose output goes into the block's output with nothing but a sum (and a constant
    factor) behind it; None where the block has none.
    """
    block, inside = lm.blocks[layer], lm.blocks_path + f".{layer}."
    maps = [(name, m) for name, m in block.named_modules() if _writes_width(m, lm.width)]
    tokens = lm.batch([Row(tuple(5 + k for k in range(7)), 6)])
    nudge = torch.randn(lm.width, generator=torch.Generator().manual_seed(0)).to(lm.device, lm.dtype)
    before = _output(lm, block, tokens)
    size, eps = float(before.norm(dim=-1).mean()), torch.finfo(lm.dtype).eps
    nudge *= size / nudge.norm()
    # the last registered is the likeliest
    for name, module in reversed(maps):
        with _added(module, nudge):
            moved = _output(lm, block, tokens) - before
        scale = float((moved @ nudge.float() / nudge.float().square().sum()).mean())
        off = float((moved - scale * nudge.float()).norm(dim=-1).max()) / size
        # sums of this size are rounded by up to eps of it
        if abs(scale) > ROUNDED * eps and off <= max(CLOSE * abs(scale), ROUNDED * eps):
            return Writer(inside + name, module, 1.0 if abs(scale - 1) < max(CLOSE, eps) else scale)
    return None


def writers(lm: LM) -> dict[str, bool]:
    """Every module that writes into the stream: embeddings, and in each block what attention and MLP end with; and
    whether its matrix is (d, n), a Linear's, and not (n, d).

    Raises:
        ExportError: a block without two such maps, or with a norm behind one of them.
    """
    modules = dict(lm.model.named_modules())
    embeddings = [
        name
        for name, m in modules.items()
        if isinstance(m, nn.Embedding) and m.embedding_dim == lm.width and not name.startswith(lm.blocks_path)
    ]
    out = dict.fromkeys(embeddings, False)
    for layer, block in enumerate(lm.blocks):
        maps = [(name, m) for name, m in block.named_modules() if _writes_width(m, lm.width) and _final(name)]
        kinds = {name.split(".")[0] for name, _ in maps}
        if len(maps) != 2 or len(kinds) != 2 or last_writer(lm, layer) is None:
            raise ExportError(
                f"block {layer} of {lm.id} does not write into the stream by two plain maps",
                given=f"{lm.model.config.model_type}: {[name for name, _ in maps]}",
                expected="attention and MLP, with nothing but a sum behind each",
                do="export it as a hook, which ablates at the outputs of blocks",
            )
        out |= {f"{lm.blocks_path}.{layer}.{name}": isinstance(m, nn.Linear) for name, m in maps}
    return out


def _final(name: str) -> bool:
    """Whether a linear map is the last of attention or MLP: not one of those that ask and look up."""
    return name.split(".")[-1] in FINAL


def _writes_width(module: nn.Module, width: int) -> bool:
    """Whether a module is a linear map into a space as wide as the stream."""
    if isinstance(module, nn.Linear):
        return module.out_features == width
    return type(module).__name__ == "Conv1D" and getattr(module, "nf", 0) == width


def _output(lm: LM, block: nn.Module, tokens: Any) -> Float[Tensor, "s d"]:
    """What a block returns for a row, in fp32."""
    kept: list[Tensor] = []
    handle = block.register_forward_hook(lambda m, a, out: kept.append(stream(out)[0].float()))
    try:
        lm.logits(tokens, keep=[6])
    finally:
        handle.remove()
    return kept[0]


@contextmanager
def _added(module: nn.Module, v: Tensor) -> Generator[None]:
    """Within the context, `v` is added to what a module returns."""
    handle = module.register_forward_hook(partial(_plus, v))
    try:
        yield
    finally:
        handle.remove()


def _plus(v: Tensor, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output + v
