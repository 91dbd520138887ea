"""Vectors of others: control vectors of llama.cpp and repeng, PEFT adapters, plain tensors. (A feature of an SAE is
`SteeringVector.from_sae`.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from trimtab.errors import VectorError
from trimtab.exporters.peft import adapter_biases
from trimtab.exporters.writers import last_writer
from trimtab.model import LM, Layer
from trimtab.steering import tensors
from trimtab.steering.vector import Provenance, SteeringVector

Layers = Literal["outputs", "inputs", "hidden-states"]
# what N of a file means -> the block of ours, from 0, whose output is edited
BEHIND: Mapping[Layers, int] = {"outputs": 0, "inputs": -1, "hidden-states": -1}


def from_gguf(path: str | Path, lm: LM | None = None) -> SteeringVector:
    """A control vector of llama.cpp or repeng: `direction.N` is added to the output of block N, from 0, as here.

    Args:
        lm: the model it is for; without one the vector says no model, and fits any of its width.

    Raises:
        VectorError: not such a file, or not for this model.
    """
    found: dict[Layer, Tensor] = {}
    for name, v in tensors.read(_suffixed(path, ".gguf")).items():
        number = re.fullmatch(r"direction\.([0-9]{1,6})", name)
        if number is None or not int(number[1]) or int(number[1]) in found:
            raise VectorError(
                f"{Path(path).name}: not a direction", given=name[:80], expected="direction.N, N from 1, none twice"
            )
        found[int(number[1])] = v
    return _made(found, path, "gguf", lm)


def from_tensors(path: str | Path, layers: Layers, lm: LM | None = None) -> SteeringVector:
    """Plain tensors by layer (safetensors, .npz, .npy): the one number in a tensor's name is its N.

    Args:
        layers: what N means: "outputs" of block N, from 0; "inputs" of block N, which are the output of block N - 1;
            or entry N of transformers' `hidden_states`, the same, since entry 0 is the embeddings. Of these the last
            one is behind the final norm, and is no place to steer.

    Raises:
        VectorError: no such file, names without a number, or layers that the model does not have.
    """
    if layers not in BEHIND:
        raise VectorError("not a convention", given=layers, expected=", ".join(BEHIND))
    found: dict[Layer, Tensor] = {}
    for name, v in tensors.read(path).items():
        numbers = re.findall(r"-?[0-9]+", name)
        layer = int(numbers[0]) + BEHIND[layers] if len(numbers) == 1 and len(numbers[0]) < 7 else -1
        if layer < 0 or layer in found:
            raise VectorError(
                f"{Path(path).name}: which block is {name[:80]!r}?",
                given=f"layers are {layers}",
                expected="names with one number each, the layer, that of a block",
            )
        found[layer] = v
    if layers == "hidden-states" and lm is not None and lm.n_layers - 1 in found:
        raise VectorError(
            f"the last entry of hidden_states is behind the final norm of {lm.id}",
            given=lm.n_layers,
            expected=f"entries 1 to {lm.n_layers - 1}",
            do="leave it out",
        )
    return _made(found, path, "tensors", lm)


def from_peft(path: str | Path, lm: LM) -> SteeringVector:
    """A BEFT adapter whose biases stand behind the last linear maps of blocks: what each adds to the output of its
    block.

    Raises:
        ExportError, VectorError: another adapter, or a bias that does not reach the output of its block as it is.
    """
    found: dict[Layer, Tensor] = {}
    for layer, (module, v) in adapter_biases(Path(path), lm.blocks_path).items():
        writer = last_writer(lm, lm.layers(layer)[0])
        if writer is None or writer.path != module:
            raise VectorError(
                f"a bias at {module} is not a vector at the output of block {layer}",
                expected=None if writer is None else writer.path,
            )
        found[layer] = v * writer.scale
    return _made(found, path, "peft", lm)


def _suffixed(path: str | Path, suffix: str) -> Path:
    if Path(path).suffix != suffix:
        raise VectorError(f"{path} is not a {suffix} file", given=Path(path).suffix or "no suffix", expected=suffix)
    return Path(path)


def _made(found: Mapping[Layer, Tensor], path: str | Path, kind: str, lm: LM | None) -> SteeringVector:
    """The vector, with where it is from.

    Raises:
        VectorError: layers or a width that the model does not have; see `SteeringVector`.
    """
    path = Path(path)
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    how = {"name": "imported", "from": kind, "file": path.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    shapes = {tuple(v.shape) for v in found.values()}
    widths = {s[0] for s in shapes if len(s) == 1 and s[0] > 0}
    if len(shapes) != 1 or not widths:
        raise VectorError(
            f"{path.name} does not hold one vector a block",
            given=sorted(shapes)[:4] or "nothing",
            expected="shape (d,)",
        )
    if lm is not None:
        beyond = [k for k in found if k >= lm.n_layers]
        if beyond or widths - {lm.width}:
            raise VectorError(
                f"{path.name} is not for {lm.id}",
                given=f"blocks {sorted(found)}, width {sorted(widths)}",
                expected=f"blocks up to {lm.n_layers - 1}, width {lm.width}",
            )
    made = Provenance(method=how) if lm is None else Provenance.of(lm, method=how)
    return SteeringVector({k: found[k] for k in sorted(found)}, made)
