"""SteeringVector."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pico import pico
from trimtab import LM
from trimtab.errors import VectorError
from trimtab.steering.fits import check_fits
from trimtab.steering.vector import Provenance, SteeringVector, evened


def vector(lm: LM, layer: int = 1, size: float = 3.0, seed: int = 0) -> SteeringVector:
    v = torch.randn(lm.width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({layer: size * v / v.norm()})


def test_vectors_of_several_behaviors_get_one_norm() -> None:
    lm = pico()
    even = evened({"a": vector(lm, size=1.0), "b": vector(lm, size=3.0, seed=1)})
    assert even["a"].norm()[1] == pytest.approx(2.0) and even["b"].norm()[1] == pytest.approx(2.0)
    assert even["a"].cosine(vector(lm))[1] == pytest.approx(1.0)


def make(seed: int = 0, layers: tuple[int, ...] = (1, 3), width: int = 8, **made: str) -> SteeringVector:
    g = torch.Generator().manual_seed(seed)
    return SteeringVector(
        {k: torch.randn(width, generator=g) for k in layers},
        Provenance(model="m", fingerprint=made.get("fingerprint", "f")),
    )


def test_arithmetic() -> None:
    v, w = make(0), make(1)
    assert torch.allclose((v + w)[1], v[1] + w[1]) and torch.allclose((v - w)[3], v[3] - w[3])
    assert torch.equal((2 * v)[1], v[1] * 2) and torch.equal((-v)[1], -v[1]) and torch.allclose((v / 2)[1], v[1] / 2)
    assert v.unit().norm() == pytest.approx({1: 1.0, 3: 1.0})
    assert v.cosine(v) == pytest.approx({1: 1.0, 3: 1.0}) and v.cosine(-v)[1] == pytest.approx(-1.0)
    assert v.at(3).layers == (3,)


def test_derived_vectors_keep_the_training_data_and_drop_the_evidence() -> None:
    v = SteeringVector({0: torch.ones(4)}, Provenance(trained_on=("a",)), evidence={"x": 1})
    w = SteeringVector({0: torch.ones(4)}, Provenance(trained_on=("b",)))
    assert (v + w).made.trained_on == ("a", "b") and (v + w).evidence is None


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: make() + make(width=4), "different models"),
        (lambda: make() + make(layers=(1,)), "different layers"),
        (lambda: make() + make(fingerprint="g"), "different models"),
        (lambda: make() * True, "number only"),
        (lambda: make() * make(), "number only"),
        (lambda: make() / 0, "non-zero"),
        (lambda: make()[2], "no layer 2"),
        (lambda: SteeringVector({}), "at least one layer"),
        (lambda: SteeringVector({0: torch.tensor([1.0, float("nan")])}), "not finite"),
        (lambda: SteeringVector({0: torch.zeros(3), 1: torch.zeros(4)}), "different widths"),
        (lambda: SteeringVector({0: torch.zeros(2, 3)}), "not a vector"),
        (lambda: SteeringVector({-1: torch.zeros(3)}), "not a vector"),
        (lambda: SteeringVector({0: torch.zeros(3)}).unit(), "no direction"),
        (lambda: SteeringVector({0: torch.zeros(3)}, site="attn"), "unknown site"),
        (lambda: make().save("x.pt"), "saved as safetensors"),
        (lambda: SteeringVector.load("nowhere.safetensors"), "no such file"),
    ],
)
def test_nonsense_is_refused(what: object, message: str) -> None:
    with pytest.raises(VectorError, match=message):
        what()  # type: ignore[operator]


def test_frozen() -> None:
    tensor = torch.ones(4)
    v = SteeringVector({0: tensor})
    tensor += 1
    assert torch.equal(v[0], torch.ones(4))
    with pytest.raises(AttributeError):
        v.site = "x"  # type: ignore[misc]


def test_save_and_load(tmp_path: Path) -> None:
    v = make()
    path = v.save(tmp_path / "v.safetensors")
    back = SteeringVector.load(path)
    assert back.hash == v.hash and back.made == v.made and back.to_bytes() == v.to_bytes() == path.read_bytes()
    assert SteeringVector.from_text(v.to_text()).hash == v.hash


def test_nulls_travel_with_the_vector(tmp_path: Path) -> None:
    v = SteeringVector(
        {1: torch.ones(4), 2: torch.ones(4)}, nulls={"shuffled-0": {1: torch.zeros(4), 2: -torch.ones(4)}}
    )
    back = SteeringVector.load(v.save(tmp_path / "v.safetensors"))
    assert torch.equal(back.at(2).null("shuffled-0")[2], -torch.ones(4)) and back.at(2).null("shuffled-0").layers == (
        2,
    )
    assert back.hash == v.hash and torch.equal((2 * v).null("shuffled-0")[2], -2 * torch.ones(4))


def test_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(VectorError, match="never read"):
        SteeringVector.load(tmp_path / "v.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "v.pt")
    with pytest.raises(VectorError, match="not a safetensors file"):
        SteeringVector.load(tmp_path / "v.pt")
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(VectorError, match="not a steering vector"):
        SteeringVector.load(tmp_path / "w.safetensors")
    head = json.dumps({"format": 99})
    safetensors.torch.save_file({"layers.0": torch.ones(2)}, tmp_path / "x.safetensors", {"trimtab": head})
    with pytest.raises(VectorError, match="another format"):
        SteeringVector.load(tmp_path / "x.safetensors")


def test_vectors_of_other_models_are_refused() -> None:
    v = make()
    check_fits(v, width=8, n_layers=4, fingerprint="f", model="m")
    for change, message in (
        ({"width": 9}, "does not fit"),
        ({"n_layers": 3}, "out of range"),
        ({"fingerprint": "g"}, "another model"),
    ):
        with pytest.raises(VectorError, match=message):
            check_fits(v, **{"width": 8, "n_layers": 4, "fingerprint": "f", "model": "m", **change})


GOLDEN = "e32cd03d5db53fe58a10392a8af89ace3c2f455293914be7a3145de25faf71b7"


def test_golden_bytes() -> None:
    """The format of docs/format.md. If this fails, it has moved: raise FORMAT and keep reading the old one."""
    v = SteeringVector(
        {2: torch.arange(4.0), 10: -torch.arange(4.0)},
        Provenance("m", "r", "f", {"name": "mean-diff"}, {"pairs": 3}, ("aa", "bb"), "0.1.0"),
        {"k": 1},
    )
    raw = v.to_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + size])
    assert head["layers.2"] == {"dtype": "F32", "shape": [4], "data_offsets": head["layers.2"]["data_offsets"]}
    assert hashlib.sha256(raw).hexdigest() == GOLDEN


def test_version_1_is_read() -> None:
    """A file without recommended use and without a hash of weights, as version 1 wrote it."""
    made = {"model": "m", "revision": "", "fingerprint": "f", "method": {"name": "mean-diff"}, "data": {}}
    made |= {"trained_on": ["aa"], "version": "0.1.0"}
    head = {"format": 1, "site": "resid_post", "made": made, "evidence": None}
    raw = safetensors.torch.save({"layers.1": torch.ones(4), "layers.2": torch.ones(4)}, {"trimtab": json.dumps(head)})
    v = SteeringVector.from_bytes(raw)
    assert v.use is None and v.made.weights == "" and v.made.trained_on == ("aa",) and v.apart


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": None}, "malformed metadata"),
        ({"made": {"trained_on": [], "nonsense": 1}}, "nonsense"),
        ({"made": {}}, "trained_on"),
        ({"use": {"layers": "all"}}, "recommended use cannot be read"),
        ({"use": {"layers": [7]}}, "layers it does not have"),
        ({"format": 3}, "another format"),
    ],
)
def test_malformed_metadata_is_refused(change: dict[str, object], message: str) -> None:
    head = {"format": 2, "site": "resid_post", "made": {"trained_on": []}, "evidence": None, "use": None} | change
    head = {k: v for k, v in head.items() if v is not None or k in ("evidence", "use")}
    with pytest.raises(VectorError, match=message):
        SteeringVector.from_bytes(safetensors.torch.save({"layers.1": torch.ones(4)}, {"trimtab": json.dumps(head)}))


def test_nulls_must_be_finite() -> None:
    with pytest.raises(VectorError, match="null 'shuffled-0', layer 1: not finite"):
        SteeringVector({1: torch.ones(2)}, nulls={"shuffled-0": {1: torch.tensor([1.0, float("nan")])}})


def test_one_line_says_what_it_is() -> None:
    assert repr(make()).startswith("<SteeringVector given on m, blocks 1, 3, width 8, norm ")
    many = SteeringVector({k: torch.ones(4) for k in (0, 1, 2, 5)})
    assert "blocks 0-2, 5" in repr(many) and "\n" not in repr(many)


def test_layers_learned_apart_are_known() -> None:
    def learned(**method: object) -> SteeringVector:
        return SteeringVector({1: torch.ones(2), 2: torch.ones(2)}, Provenance(method=method))

    apart = learned(name="mean-diff")
    assert apart.apart and (2 * apart).apart and not apart.at(1).apart
    assert not learned(name="one-shot", together=True).apart and not learned().apart
