"""Vectors of others: read back exactly, or refused; files that mean harm end in one error each."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch

from pico import pico
from trimtab import SteeringVector
from trimtab.errors import TrimtabError, VectorError
from trimtab.exporters.control_vector import write_vectors
from trimtab.exporters.importers import from_gguf, from_peft, from_tensors
from trimtab.exporters.model_gguf import finish
from trimtab.steering import tensors

D = 32


def rows(n: int = 3) -> dict[int, np.ndarray]:
    g = np.random.default_rng(0)
    return {k: g.normal(size=D).astype(np.float32) for k in range(1, n + 1)}


def control(path: Path) -> Path:
    write_vectors(path, rows(), "llama", {"repeng.note": "another key"})
    return path


def test_a_control_vector_comes_back_bit_for_bit(tmp_path: Path) -> None:
    lm = pico("llama")
    v = from_gguf(control(tmp_path / "v.gguf"), lm)
    assert v.layers == (1, 2, 3) and v.made.fingerprint == lm.fingerprint
    assert all(np.array_equal(v[k].numpy(), row) for k, row in rows().items())
    again = SteeringVector.from_bytes(v.to_bytes())
    assert again.hash == v.hash and again.made.method["from"] == "gguf"


@pytest.mark.parametrize(("layers", "first"), [("outputs", 1), ("inputs", 0), ("hidden-states", 0)])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_plain_tensors_go_where_their_convention_says(layers: str, first: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    named = {f"layer_{k}": row for k, row in rows().items()}
    if suffix == ".npz":
        np.savez(path, **named)
    else:
        safetensors.torch.save_file({k: torch.from_numpy(v) for k, v in named.items()}, path)
    v = from_tensors(path, layers, pico("llama"))
    assert v.layers == (first, first + 1, first + 2)
    assert np.array_equal(v[first].numpy(), rows()[1])


def test_numbers_of_another_byte_order(tmp_path: Path) -> None:
    v = np.arange(1, D + 1, dtype=">f4")
    np.savez(tmp_path / "v.npz", **{"2": v})
    back = from_tensors(tmp_path / "v.npz", "outputs")
    assert back[2].tolist() == v.tolist()


@pytest.mark.parametrize("name", ["layer_-1", "layer_12_v2", "L2e1", "nothing"])
def test_a_name_has_one_number(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", **{name: np.ones(D, np.float32)})
    with pytest.raises(VectorError, match="which block"):
        from_tensors(tmp_path / "v.npz", "outputs")


def test_a_direction_is_there_once(tmp_path: Path) -> None:
    for names in (("direction.1", "direction.01"), ("direction.0",)):
        writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
        for name in names:
            writer.add_tensor(name, np.ones(D, np.float32))
        finish(writer)
        with pytest.raises(VectorError, match="none twice"):
            from_gguf(tmp_path / "v.gguf")


def test_the_last_hidden_state_is_behind_the_norm(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", **{"4": np.ones(D, np.float32)})
    with pytest.raises(VectorError, match="final norm"):
        from_tensors(tmp_path / "v.npz", "hidden-states", pico("llama"))
    np.savez(tmp_path / "w.npz", **{"0": np.ones(D, np.float32)})
    with pytest.raises(VectorError, match="which block"):
        from_tensors(tmp_path / "w.npz", "inputs", pico("llama"))


@pytest.mark.parametrize(("key", "shape"), [("W_dec", (7, D)), ("decoder.weight", (D, 7)), ("mine", (7, D))])
def test_a_feature_of_an_sae(key: str, shape: tuple[int, int], tmp_path: Path) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(torch.bfloat16)
    safetensors.torch.save_file({key: w, "b_dec": torch.zeros(D)}, tmp_path / "sae.safetensors")
    named = {"key": key} if key == "mine" else {}
    v = SteeringVector.from_sae(tmp_path / "sae.safetensors", 5, 2, lm=pico("llama"), **named)
    expected = (w[:, 5] if shape[0] == D else w[5]).float()
    assert v.layers == (2,) and torch.equal(v[2], expected)
    for feature in (7, -1, True):
        with pytest.raises(VectorError, match="no feature"):
            SteeringVector.from_sae(tmp_path / "sae.safetensors", feature, 2, **named)


def test_an_sae_without_a_known_decoder_names_what_it_has(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weights": torch.ones(3, D)}, tmp_path / "sae.safetensors")
    with pytest.raises(VectorError, match="weights"):
        SteeringVector.from_sae(tmp_path / "sae.safetensors", 0, 1)


class Witness:
    """Says that it was read."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (Path.touch, (Path("witness"),))  # type: ignore[return-value]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".bin", ".ckpt"])
def test_pickles_are_named_and_not_read(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"v{suffix}"
    path.write_bytes(pickle.dumps(Witness()))
    with pytest.raises(VectorError, match=r"pickle(.|\n)*weights_only=True"):
        from_tensors(path, "outputs")
    array = np.empty(1, object)
    array[0] = Witness()
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(VectorError, match="cannot be read"):
        from_tensors(tmp_path / "v.npy", "outputs")
    assert not (tmp_path / "witness").exists()


def test_the_advice_for_pickles_works(tmp_path: Path) -> None:
    import shlex
    import subprocess
    import sys

    torch.save({1: torch.ones(D), 2: torch.zeros(D) + 2}, tmp_path / "v.pt")
    with pytest.raises(VectorError) as problem:
        from_tensors(tmp_path / "v.pt", "outputs")
    command = shlex.split(str(problem.value.do).partition(": ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert from_tensors(tmp_path / "v.safetensors", "outputs").layers == (1, 2)


# ------------------------------------------------------------ files that mean harm


def whole() -> dict[str, bytes]:
    """A sound file of each kind."""
    import tempfile

    made = {f"layer.{k}": torch.from_numpy(r) for k, r in rows().items()}
    with tempfile.TemporaryDirectory() as folder:
        gguf = control(Path(folder, "v.gguf")).read_bytes()
    npz = io.BytesIO()
    np.savez(npz, **{k: v.numpy() for k, v in made.items()})
    return {".gguf": gguf, ".safetensors": safetensors.torch.save(made), ".npz": npz.getvalue()}


def hostile() -> list[tuple[str, str, bytes]]:
    """Two hundred files: cut short, with bytes changed, with counts that are not theirs, of other types and names."""
    draw, out = random.Random(0), list[tuple[str, str, bytes]]()
    for suffix, raw in whole().items():
        for k in range(30):
            out.append((f"cut-{k}", suffix, raw[: draw.randrange(len(raw) - 4)]))
        for k in range(26):
            changed = bytearray(raw)
            for _ in range(8):
                changed[draw.randrange(min(len(raw), 400))] = draw.randrange(256)
            out.append((f"changed-{k}", suffix, bytes(changed)))
        out += [("empty", suffix, b""), ("other", suffix, b"GGUF"), ("text", suffix, b"{}" * 40)]
    gguf = whole()[".gguf"]
    for at in (8, 16):
        for n in (1 << 14, 1 << 31, (1 << 63) - 1, (1 << 64) - 1):
            out.append((f"count-{at}-{n}", ".gguf", gguf[:at] + struct.pack("<Q", n) + gguf[at + 8 :]))
    for n in (0, 1 << 20, 1 << 40, (1 << 64) - 1):
        out.append((f"head-{n}", ".safetensors", struct.pack("<Q", n) + whole()[".safetensors"][8:]))
    one = {"layer.1": torch.ones(D)}
    for name, values in {
        "nan": one["layer.1"] * float("nan"),
        "infinite": one["layer.1"] / 0,
        "whole": torch.ones(D, dtype=torch.int64),
        "matrix": torch.ones(4, 4, 4),
        "none": torch.ones(0),
        "scalar": torch.tensor(1.0),
    }.items():
        out.append((name, ".safetensors", safetensors.torch.save({"layer.1": values})))
        held = io.BytesIO()
        np.savez(held, **{"layer.1": values.numpy()})
        out.append((name, ".npz", held.getvalue()))
    for name in ("../../etc/passwd", "/layer", "layer.99999999999", "layer.\u0661", "no number", "1/../2", "\n1\n2"):
        out.append(
            (f"name-{name!r}", ".safetensors", safetensors.torch.save({name: torch.ones(D), "1": torch.ones(9)}))
        )
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as held_open:
        held_open.writestr("1.npy", b"\x93NUMPY" + b"\0" * 50_000_000)
    return [*out, ("bomb", ".npz", bomb.getvalue())]


HOSTILE = hostile()


def test_there_are_two_hundred_of_them() -> None:
    assert len(HOSTILE) >= 200


def test_hostile_files_end_in_an_error_or_in_a_vector(tmp_path: Path) -> None:
    """A changed byte may leave a sound file; what is read then is a vector with finite values and nothing else."""
    refused = 0
    for number, (name, suffix, raw) in enumerate(HOSTILE):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(raw)
        try:
            v = from_gguf(path) if suffix == ".gguf" else from_tensors(path, "outputs")
            assert all(v[k].isfinite().all() for k in v.layers), name
        except TrimtabError as problem:
            assert len(str(problem).splitlines()) < 12, name
            refused += 1
    assert refused > 0.7 * len(HOSTILE)
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)


def test_an_adapter_of_something_else_is_refused(tmp_path: Path) -> None:
    lm = pico("llama")
    for name in ("base_model.model.model.layers.1.self_attn.o_proj.beft_bias", "lora_A.weight"):
        safetensors.torch.save_file({name: torch.ones(1, D)}, tmp_path / "adapter_model.safetensors")
        with pytest.raises(TrimtabError):
            from_peft(tmp_path, lm)


def test_of_another_model(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.gguf", {9: np.ones(D, np.float32)}, "llama", {})
    with pytest.raises(VectorError, match="not for"):
        from_gguf(tmp_path / "v.gguf", pico("llama"))
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(VectorError, match="control vector"):
        tensors.read(tmp_path / "m.gguf")
