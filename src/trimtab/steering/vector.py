"""SteeringVector: what a learner gives and an intervention uses; saved as safetensors with its provenance."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import VectorError
from trimtab.journal import plain, whole
from trimtab.sites import EMBEDDINGS, SITES
from trimtab.sites import RESID_POST as SITE
from trimtab.steering.provenance import FORMAT, Provenance, read_head, read_made
from trimtab.steering.tensors import decoder_row
from trimtab.steering.use import Use, ranges

if TYPE_CHECKING:
    from trimtab.model import LM


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """One vector of the residual stream per layer: layer L is the output of block L.

    Args:
        vectors: layer -> (d,) tensor; or (1 + 2 r, d) for an affine map of rank r (offset, left rows, right rows).
        made: provenance.
        evidence: headline figures of an evaluation, as in a run's summary.
        nulls: name -> layer -> tensor: what the same learner finds in the same data with the sides of every pair
            drawn by coin, at the norm it comes out with.
        site: "resid_post" (the output of the blocks), or "embeddings" (what enters the first block; its one layer is
            `EMBEDDINGS`).
        use: how it is to be used, and what a dose of it does; None if nobody found out.

    Raises:
        VectorError: no layers, not finite, of several widths, or layers that do not go with the site, with its nulls
            or its use.
    """

    vectors: Mapping[int, Float[Tensor, "*rows d"]]
    made: Provenance = field(default_factory=Provenance)
    evidence: Mapping[str, Any] | None = None
    nulls: Mapping[str, Mapping[int, Float[Tensor, " d"]]] = field(default_factory=dict[str, Mapping[int, Tensor]])
    site: str = SITE
    use: Use | None = None

    def __post_init__(self) -> None:
        if not self.vectors:
            raise VectorError("a steering vector needs at least one layer")
        if self.site not in SITES:
            raise VectorError("unknown site", given=self.site, expected=" or ".join(SITES))
        clean = _frozen(self.vectors)
        if (self.site == SITE) == any(k is EMBEDDINGS for k in clean) or (self.site != SITE and len(clean) > 1):
            raise VectorError(
                "layers that do not go with the site",
                given=(self.site, list(clean)),
                expected='EMBEDDINGS alone for "embeddings", blocks from 0 else',
            )
        _check_shapes(clean)
        object.__setattr__(self, "vectors", clean)
        object.__setattr__(self, "nulls", {name: _frozen(null) for name, null in sorted(self.nulls.items())})
        for name, null in self.nulls.items():
            _check_null(name, null, clean)
        if self.use is not None and (not self.use.layers or not set(self.use.layers) <= clean.keys()):
            raise VectorError(
                "its recommended use names layers it does not have", given=self.use.layers, expected=list(clean)
            )

    def __repr__(self) -> str:
        norms = list(self.norm().values())
        size = f"{norms[0]:.3g}" if len(norms) == 1 else f"{min(norms):.3g} to {max(norms):.3g}"
        some = "block" if len(norms) == 1 else "blocks"
        where = "embeddings" if self.site != SITE else f"{some} {ranges(self.layers)}"
        made = f"{self.made.method.get('name', 'given')} on {self.made.model or 'an unknown model'}"
        return f"<SteeringVector {made}, {where}, width {self.width}, norm {size}, {self.hash}>"

    # ------------------------------------------------------------ facts

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.vectors)

    @property
    def width(self) -> int:
        return next(iter(self.vectors.values())).shape[-1]

    @property
    def hash(self) -> str:
        """16 hex digits over the numbers alone."""
        h = hashlib.sha256()
        for layer, v in self.vectors.items():
            h.update(repr((layer, tuple(v.shape))).encode() + v.numpy().tobytes())
        return h.hexdigest()[:16]

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self.vectors:
            raise VectorError(f"the vector has no layer {layer}", given=layer, expected=list(self.layers))
        return self.vectors[layer]

    def norm(self) -> dict[int, float]:
        """Euclidean norm per layer."""
        return {k: float(v.norm()) for k, v in self.vectors.items()}

    def cosine(self, other: SteeringVector) -> dict[int, float]:
        """Cosine per layer; NaN where one of the two is zero.

        Raises:
            VectorError: other layers, width or site.
        """
        self._comparable(other)
        out: dict[int, float] = {}
        for k, v in self.vectors.items():
            lengths = v.double().norm() * other[k].double().norm()
            out[k] = (
                float((v.double().flatten() @ other[k].double().flatten()) / lengths) if lengths > 0 else float("nan")
            )
        return out

    # ------------------------------------------------------------ arithmetic

    @property
    def apart(self) -> bool:
        """Whether it has several layers and each was learned to act alone: together they act several times over."""
        return len(self.layers) > 1 and _learned_apart(self.made.method)

    def at(self, *layers: int) -> SteeringVector:
        """The same vector (and its nulls) at some of its layers; its provenance remembers from how many they were
        taken. The recommended use goes with it where its layers do.
        """
        for k in layers:
            self[k]  # refuses one it does not have
        vectors = {k: v for k, v in self.vectors.items() if k in layers}
        nulls = {name: taken(null, vectors) for name, null in self.nulls.items()}
        made = (
            replace(self.made, among=max(self.made.among, len(self.layers)))
            if len(vectors) < len(self.layers)
            else self.made
        )
        use = self.use if self.use is not None and set(self.use.layers) <= vectors.keys() else None
        return replace(self, vectors=vectors, nulls=nulls, made=made, use=use)

    def null(self, name: str) -> SteeringVector:
        """One of the label-shuffled vectors that came with this one."""
        return SteeringVector(
            self.nulls[name], replace(self.made, method={"name": "label-shuffled", "null": name}), site=self.site
        )

    def unit(self) -> SteeringVector:
        """The direction: norm 1 at every layer."""
        norms = self.norm()
        if not all(norms.values()):
            raise VectorError("a zero vector has no direction", given=norms)
        return self._with(lambda vs: {k: v / norms[k] for k, v in vs.items()}, "unit")

    def __add__(self, other: SteeringVector) -> SteeringVector:
        self._comparable(other)
        sums = {k: v + other[k] for k, v in self.vectors.items()}
        both = self.nulls.keys() & other.nulls.keys()
        nulls = {name: _added(self.nulls[name], other.nulls[name]) for name in both}
        return replace(self._with(lambda _: sums, "sum", other), nulls=nulls)

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self + (-other)

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __mul__(self, factor: Any) -> SteeringVector:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            raise VectorError("a steering vector can be multiplied by a number only", given=type(factor).__name__)
        return self._with(lambda vs: {k: v * float(factor) for k, v in vs.items()}, f"times {factor:g}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> SteeringVector:
        if isinstance(divisor, bool) or not isinstance(divisor, Real) or divisor == 0:
            raise VectorError("a steering vector can be divided by a non-zero number only", given=divisor)
        return self * (1.0 / float(divisor))

    def _with(
        self,
        change: Callable[[Mapping[int, Tensor]], Mapping[int, Tensor]],
        operation: str,
        other: SteeringVector | None = None,
    ) -> SteeringVector:
        """A derived vector: its nulls are derived alike, evidence is dropped, provenance keeps both parents' training
        data.
        """
        parents = [dict(self.made.method)] + ([dict(other.made.method)] if other else [])
        seen = dict.fromkeys(self.made.trained_on + (other.made.trained_on if other else ()))
        made = replace(self.made, method={"name": operation, "of": parents}, trained_on=tuple(seen))
        return SteeringVector(
            change(self.vectors), made, nulls={name: change(null) for name, null in self.nulls.items()}, site=self.site
        )

    def check_model(self, other: SteeringVector) -> None:
        """Refuse a vector of another model.

        Raises:
            VectorError: of another width, site or architecture.
        """
        if not isinstance(other, SteeringVector):
            raise VectorError("not a steering vector", given=type(other).__name__)
        mine, theirs = self.made.fingerprint, other.made.fingerprint
        if self.width != other.width or self.site != other.site or (mine and theirs and mine != theirs):
            raise VectorError(
                "vectors of different models",
                given=(
                    f"width {self.width} ({self.made.model or 'unknown'}) and width {other.width} "
                    f"({other.made.model or 'unknown'})"
                ),
            )

    def _comparable(self, other: SteeringVector) -> None:
        self.check_model(other)
        if self.layers != other.layers or any(v.shape != other[k].shape for k, v in self.vectors.items()):
            raise VectorError(
                "vectors at different layers", given=(self.layers, other.layers), do="pick common layers with .at()"
            )

    # ------------------------------------------------------------ files

    def to_bytes(self) -> bytes:
        """The file's bytes; equal vectors give equal bytes."""
        made = {k: v for k, v in asdict(self.made).items() if v or k not in ("figures", "among")}
        use = None if self.use is None else self.use.to_json()
        head = {"format": FORMAT, "site": self.site, "made": made, "evidence": self.evidence, "use": use}
        tensors = {_key(k): v.contiguous() for k, v in self.vectors.items()}
        tensors |= {
            f"nulls.{name}.{_key(k)}": v.contiguous() for name, null in self.nulls.items() for k, v in null.items()
        }
        return safetensors.torch.save(
            tensors, {"trimtab": json.dumps(plain(head), sort_keys=True, separators=(",", ":"))}
        )

    def save(self, path: str | Path) -> Path:
        """Write a `.safetensors` file (through a temporary file, so a kill leaves no half of one)."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise VectorError(
                "vectors are saved as safetensors", given=str(path), expected="a path that ends in .safetensors"
            )
        with whole(path) as aside:
            aside.write_bytes(self.to_bytes())
        return path

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read a file that `save` wrote.

        Raises:
            VectorError: missing, not safetensors (pickles are never read), without trimtab metadata, or malformed.
        """
        path = Path(path)
        if not path.is_file():
            raise VectorError(f"no such file: {path}", expected="a .safetensors file written by trimtab")
        return cls.from_bytes(path.read_bytes(), str(path))

    @classmethod
    def from_bytes(cls, raw: bytes, name: str = "bytes") -> SteeringVector:
        try:
            tensors = safetensors.torch.load(raw)
        except safetensors.SafetensorError as problem:
            raise VectorError(
                f"{name} is not a safetensors file",
                given=str(problem),
                do="learn the vector again and save it; pickles (.pt, .pkl, .bin) are never read",
            ) from problem
        size = int.from_bytes(raw[:8], "little")
        text = json.loads(raw[8 : 8 + size]).get("__metadata__", {}).get("trimtab")
        if text is None:
            raise VectorError(f"{name} holds tensors, but not a steering vector of trimtab", given=sorted(tensors)[:5])
        head = read_head(text, name)
        made = read_made(head["made"], name)
        nulls: dict[str, dict[int, Tensor]] = {}
        for key in [k for k in tensors if k.startswith("nulls.")]:
            null, _, layer = key.removeprefix("nulls.").partition(".")
            nulls.setdefault(null, {})[_layer(layer, name)] = tensors.pop(key)
        use = None if head.get("use") is None else Use.from_json(head["use"], name)
        return cls({_layer(k, name): v for k, v in tensors.items()}, made, head["evidence"], nulls, head["site"], use)

    @classmethod
    def from_sae(
        cls, path: str | Path, feature: int, layer: int, *, lm: LM | None = None, key: str | None = None
    ) -> SteeringVector:
        """What a feature of a sparse autoencoder writes into the residual stream, from its weights in safetensors.

        Args:
            layer: the block whose output the SAE was trained on, from 0 ("blocks.8.hook_resid_post" is 8, and
                "blocks.8.hook_resid_pre" is 7).
            key: name of the decoder, one feature a row; by default `W_dec`, or `decoder.weight` with one a column.

        Raises:
            VectorError: no such file, decoder or feature, or of another width than the model.
        """
        v = decoder_row(path, feature, key)
        how = {"name": "imported", "from": "sae", "file": Path(path).name, "feature": feature}
        if lm is not None and (len(v) != lm.width or not 0 <= layer < lm.n_layers):
            raise VectorError(f"not for {lm.id}", given=(layer, len(v)), expected=(f"0..{lm.n_layers - 1}", lm.width))
        return cls({layer: v}, Provenance(method=how) if lm is None else Provenance.of(lm, method=how))

    def to_text(self) -> str:
        """The file as base64, for embedding in JSON."""
        return base64.b64encode(self.to_bytes()).decode()

    @classmethod
    def from_text(cls, text: str) -> SteeringVector:
        return cls.from_bytes(base64.b64decode(text))


def kept(path: Path, make: Callable[[], SteeringVector]) -> SteeringVector:
    """A vector that is made once: read back where its file is there, else made and saved."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        make().save(path)
    return SteeringVector.load(path)


def kept_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that are computed once: read back where their file is there, else made and saved (aside, then moved)."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as aside:
            safetensors.torch.save_file({k: v.contiguous() for k, v in make().items()}, aside)
    return safetensors.torch.load_file(path)


def evened(vectors: Mapping[str, SteeringVector]) -> dict[str, SteeringVector]:
    """Vectors of several behaviors, each with their mean norm at every layer, so that a multiplier means the same for
    all (Rimsky et al. 2024).
    """
    mean: dict[int, float] = {}
    for k in next(iter(vectors.values())).layers:
        mean[k] = sum(v.norm()[k] for v in vectors.values()) / len(vectors)
    if any(not all(v.norm().values()) for v in vectors.values()):
        raise VectorError("a zero vector has no direction", given=list(vectors))

    def even(v: SteeringVector) -> SteeringVector:
        factor = {k: mean[k] / x.norm() for k, x in v.vectors.items()}
        nulls = {name: _scaled(null, factor) for name, null in v.nulls.items()}
        return replace(v, vectors=_scaled(v.vectors, factor), nulls=nulls, use=None, evidence=None)

    return {name: even(v) for name, v in vectors.items()}


def taken(vectors: Mapping[int, Tensor], layers: Iterable[int]) -> dict[int, Tensor]:
    """The vectors of some layers, in the order of those."""
    return {k: vectors[k] for k in layers}


def _added(one: Mapping[int, Tensor], two: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The sum at every layer of the first."""
    return {k: v + two[k] for k, v in one.items()}


def _scaled(vectors: Mapping[int, Tensor], factor: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The vector of every layer times the factor of that layer."""
    return {k: v * factor[k] for k, v in vectors.items()}


def _check_shapes(vectors: Mapping[int, Tensor]) -> None:
    for layer, v in vectors.items():
        if (
            v.ndim not in (1, 2)
            or (layer < 0 and layer is not EMBEDDINGS)
            or v.shape[-1] == 0
            or (v.ndim == 2 and v.shape[0] % 2 == 0)
        ):
            raise VectorError(
                f"layer {layer}: not a vector",
                given=tuple(v.shape),
                expected="(d,), or (1 + 2 r, d) for an affine map",
            )
        _check_finite(f"layer {layer}", v)
    if len({v.shape[-1] for v in vectors.values()}) != 1:
        raise VectorError("layers of different widths", given={k: tuple(v.shape) for k, v in vectors.items()})


def _check_null(name: str, null: Mapping[int, Tensor], vectors: Mapping[int, Tensor]) -> None:
    if any(k not in null or null[k].shape != v.shape for k, v in vectors.items()):
        raise VectorError(
            f"the null {name!r} does not go with the vector",
            given=list(null),
            expected=f"the layers and shapes of {list(vectors)}",
        )
    for layer, v in null.items():
        _check_finite(f"the null {name!r}, layer {layer}", v)


def _check_finite(what: str, v: Tensor) -> None:
    if not torch.isfinite(v).all():
        raise VectorError(
            f"{what}: not finite", given=f"{int((~torch.isfinite(v)).sum())} of {v.numel()} values are NaN or infinite"
        )


def _learned_apart(method: Mapping[str, Any]) -> bool:
    """Whether a method gave every layer a vector of its own; of a sum, whether one of its parents did."""
    parents = method.get("of")
    if parents:
        return any(_learned_apart(p) for p in parents)
    return bool(method) and not method.get("together") and not method.get("shared")


def _frozen(vectors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Copies in fp32 on the CPU, by layer; arrays of numpy become tensors."""
    return {
        k if k is EMBEDDINGS else int(k): torch.as_tensor(v).detach().to("cpu", torch.float32).clone()
        for k, v in sorted(vectors.items())
    }


def _key(layer: int) -> str:
    return "embeddings" if layer is EMBEDDINGS else f"layers.{layer}"


def _layer(key: str, name: str) -> int:
    if key == "embeddings":
        return EMBEDDINGS
    kind, _, number = key.partition(".")
    if kind != "layers" or not number.isdecimal():
        raise VectorError(f"{name} holds a tensor that is no layer", given=key, expected="layers.N")
    return int(number)
