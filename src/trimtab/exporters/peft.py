"""A PEFT adapter: the vector as a trainable bias (BEFT) of the last linear map of a block, to train on, to switch, to
share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from trimtab.errors import ExportError
from trimtab.exporters.base import Exporter, Proof, compared, directions, logprobs, probes
from trimtab.exporters.writers import Writer, last_writer
from trimtab.model import LM, Layer
from trimtab.model.quiet import quiet
from trimtab.names import PUBLISHED
from trimtab.registry import register
from trimtab.steering import tensors
from trimtab.steering.interventions import Intervention, steer

OLDEST = (0, 21)  # with biases as adapters
KEY = "base_model.model.{}.beft_bias"  # of a tensor in the adapter's file


@register("exporter", "peft")
@dataclass(frozen=True)
class Peft(Exporter):
    """A PEFT adapter (BEFT: a bias behind the last linear map of a block), which `PeftModel.from_pretrained` loads onto
    the model. It steers every token.
    """

    def expressible(self, ivs: Sequence[Intervention]) -> None:
        _installed()
        directions(ivs, "peft")

    def check(self, lm: LM, ivs: Sequence[Intervention]) -> None:
        for layer in directions(ivs, "peft"):
            _target(lm, layer)

    def write(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> None:
        from peft import BeftConfig

        vectors = directions(ivs, "peft")
        targets = {layer: _target(lm, layer) for layer in vectors}
        paths = [re.escape(w.path) for w in targets.values()]
        config = BeftConfig(
            target_modules=rf"(?:{'|'.join(paths)})",
            base_model_name_or_path=PUBLISHED.get(lm.id, lm.id),
            task_type="CAUSAL_LM",
        )
        config.inference_mode = True
        config.save_pretrained(str(path))
        biases = {KEY.format(w.path): (vectors[k] / w.scale)[None].contiguous() for k, w in targets.items()}
        safetensors.torch.save_file(biases, path / "adapter_model.safetensors", {"format": "pt"})

    def verify(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> Proof:
        from peft import PeftModel

        steered = partial(steer, lm, *ivs)
        rows = probes(lm, steered)
        before = {w.path: w.module for w in (_target(lm, k) for k in directions(ivs, "peft"))}
        try:
            with quiet():
                PeftModel.from_pretrained(lm.inner, path)
            theirs = logprobs(lm, rows)  # the blocks of the model are the adapted ones now
        finally:
            for name, module in before.items():
                lm.inner.set_submodule(name, module)
        return compared(lm, steered, rows, theirs, f"peft {version('peft')}")


def adapter_biases(path: Path, blocks: str) -> dict[Layer, tuple[str, Tensor]]:
    """The biases of an adapter by block: the module each stands behind, and its values.

    Args:
        path: a folder, or its `adapter_model.safetensors`.
        blocks: path of the block list in the model, such as `model.layers`.

    Raises:
        ExportError, VectorError: not a BEFT adapter of these blocks.
    """
    pattern = re.compile(rf"base_model\.model\.({re.escape(blocks)}\.(\d{{1,6}})\..*)\.beft_bias")
    out: dict[Layer, tuple[str, Tensor]] = {}
    for key, tensor in tensors.read(path / "adapter_model.safetensors" if path.is_dir() else path).items():
        here = pattern.fullmatch(key)
        if here is None or tensor.ndim != 2 or len(tensor) != 1 or int(here[2]) in out:
            raise ExportError(
                f"{path} holds something else than one bias a block",
                given=f"{key[:120]}, {tuple(tensor.shape)}",
                expected=f"tensors {KEY.format(f'{blocks}.N.MODULE')} of shape (1, d)",
            )
        out[int(here[2])] = (here[1], tensor[0])
    return out


def _target(lm: LM, layer: Layer) -> Writer:
    """The map that carries the bias.

    Raises:
        ExportError: the block has none.
    """
    writer = last_writer(lm, layer)
    if writer is None or not isinstance(writer.module, nn.Linear):
        raise ExportError(
            f"block {layer} of {lm.id} has no Linear with nothing but a sum behind it",
            given=lm.model.config.model_type,
            do="export it as a hook",
        )
    return writer


def _installed() -> None:
    """Refuse to begin without a PEFT that has biases as adapters."""
    try:
        there = version("peft")
    except PackageNotFoundError:
        there = ""
    if not there or tuple(int(x) for x in there.split(".")[:2]) < OLDEST:
        raise ExportError(
            "this target needs peft",
            given=there or "not installed",
            expected=f"{OLDEST[0]}.{OLDEST[1]} or newer",
            do="pip install 'trimtab[peft]'",
        )
