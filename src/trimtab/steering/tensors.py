"""Tensors from files of others: safetensors, NumPy and GGUF. Nothing in them is run, and what cannot be a vector is
refused.
"""

from __future__ import annotations

import shlex
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import VectorError

PICKLED = (".pt", ".pth", ".pkl", ".bin", ".ckpt")
LARGEST = 1 << 14  # tensors and keys that a file of vectors may claim to have
DECODERS = {"W_dec": 0, "decoder.weight": 1}  # of an SAE, by name: the axis of its features


def read(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a file, in fp32 on the CPU.

    Raises:
        VectorError: not there, pickled, damaged, of another kind, or with values that are not finite.
    """
    path = _there(path)
    readers = {".safetensors": _safetensors, ".npz": _npz, ".npy": _npz, ".gguf": _gguf}
    if path.suffix not in readers:
        raise VectorError(f"{path.name} is not a file of tensors", expected=", ".join(readers))
    try:
        tensors = readers[path.suffix](path)
    except VectorError:
        raise
    except Exception as problem:  # damaged in one of many ways, of files that nobody vouches for
        raise VectorError(
            f"{path.name} cannot be read",
            given=f"{type(problem).__name__}: {str(problem)[:200]}",
            expected=f"a whole {path.suffix} file",
        ) from problem
    return {name: _clean(name, t, path) for name, t in tensors.items()}


def decoder_row(path: str | Path, feature: int, key: str | None = None) -> Float[Tensor, " d"]:
    """What a feature of a sparse autoencoder writes: a row of `W_dec` (features, d), or a column of `decoder.weight`
    (d, features).

    Args:
        key: name of the decoder in the file, one feature a row; by default one of the two.

    Raises:
        VectorError: no such file, decoder or feature.
    """
    path = _there(path)
    if path.suffix != ".safetensors":
        raise VectorError(f"{path.name} is not a safetensors file", expected="the SAE's weights as safetensors")
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = sorted(file.keys())
            name = key or next((k for k in DECODERS if k in names), None)
            if name is None or name not in names:
                raise VectorError(
                    f"{path.name} has no decoder", given=key or names[:8], expected=" or ".join(DECODERS), do="name it"
                )
            some, axis = file.get_slice(name), DECODERS.get(name, 0)
            n = some.get_shape()[axis] if len(some.get_shape()) == 2 else 0
            if isinstance(feature, bool) or not 0 <= feature < n:
                raise VectorError(f"{name} has no feature {feature}", given=feature, expected=f"0..{n - 1}")
            row = some[feature] if axis == 0 else some[:, feature]
    except safetensors.SafetensorError as problem:
        raise VectorError(f"{path.name} is not a safetensors file", given=str(problem)) from problem
    return _clean(name, row, path)


def _there(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise VectorError(f"no such file: {path}")
    if path.suffix in PICKLED:
        target = path.with_suffix(".safetensors")
        convert = (
            "import sys, safetensors.torch as s; from torch import load; d = load(sys.argv[1], weights_only=True); "
            "d = d if isinstance(d, dict) else {'0': d}; "
            "s.save_file({str(k): v.contiguous() for k, v in d.items()}, sys.argv[2])"
        )
        raise VectorError(
            f"{path.name} is a pickle, which can run code when it is read: it is never read here",
            do=f"where you trust it: {shlex.join(['python', '-c', convert, str(path), str(target)])}",
        )
    return path


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _npz(path: Path) -> Mapping[str, Tensor]:
    """Arrays of NumPy; those of Python objects, which are pickles, are refused by NumPy itself."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as held:
            if sum(i.file_size for i in held.infolist()) > 64 * max(1, path.stat().st_size) + (1 << 20):
                raise VectorError(f"{path.name} unpacks into far more than it holds", do="save it uncompressed")
    loaded: Any = np.load(path, allow_pickle=False)
    arrays = {"0": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    # in the byte order of this machine, which files of others may not have
    return {name: torch.from_numpy(np.ascontiguousarray(a, a.dtype.newbyteorder("="))) for name, a in arrays.items()}


def _gguf(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a control vector file."""
    with path.open("rb") as file:
        head = file.read(24)
    magic, _version, tensors, keys = struct.unpack("<4sIQQ", head)
    if magic != b"GGUF" or tensors > LARGEST or keys > LARGEST:
        raise VectorError(f"{path.name} is not a GGUF file of vectors", given=(magic, tensors, keys))
    from gguf import GGMLQuantizationType, GGUFReader

    reader: Any = GGUFReader(path)
    kind = reader.fields["general.architecture"].contents()
    if kind != "controlvector":
        raise VectorError(f"{path.name} holds a model, not a control vector", given=kind, expected="controlvector")
    out: dict[str, Tensor] = {}
    for t in reader.tensors:
        if t.tensor_type != GGMLQuantizationType.F32:
            raise VectorError(f"{path.name}: {t.name} is not in float32", given=t.tensor_type.name)
        out[t.name] = torch.from_numpy(np.array(t.data, np.float32))
    return out


def _clean(name: str, tensor: Tensor, path: Path) -> Tensor:
    """A tensor in fp32, whose values are numbers."""
    if not tensor.is_floating_point():
        raise VectorError(f"{path.name}: {name} holds no real numbers", given=str(tensor.dtype))
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise VectorError(f"{path.name}: {name} is not finite")
    return tensor
