"""The vectors a server has, by name. Bytes come from a folder of its own or from an administrator; a client names, and
never says where.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimtab import registry
from trimtab.errors import SteerError, UnknownName, VectorError
from trimtab.serving.asked import Part
from trimtab.steering.controls import null_controls, random_stack
from trimtab.steering.fits import check_fits
from trimtab.steering.interventions import Intervention
from trimtab.steering.notation import ANSWER, Notation, beyond_range
from trimtab.steering.operators import Ablate
from trimtab.steering.vector import SteeringVector

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
LARGEST = 64 << 20  # bytes of a vector's file
CONTROLS = 64  # random directions that can be asked for


@dataclass(frozen=True)
class Facts:
    """What the engine says of its model.

    Attributes:
        norms: median norm of the residual stream at every layer, on everyday prompts.
    """

    model: str
    fingerprint: str
    weights: str
    width: int
    n_layers: int
    context: int
    norms: Mapping[int, float] = field(default_factory=dict[int, float])


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        vectors: on the shelf.
        relative: |m v| over the median norm of the residual stream, at any layer, summed over the vectors of a line.
        prompt, new: tokens.
        queue: requests that wait.
        body: bytes of a request.
    """

    vectors: int = 256
    relative: float = 3.0
    prompt: int = 8192
    new: int = 2048
    queue: int = 256
    body: int = 1 << 20


class Shelf:
    """Vectors by name; what is replaced while it is in use stays what it was for those who use it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._vectors: dict[str, SteeringVector] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, folder: Path | None, limits: Limits) -> Shelf:
        """The vectors of a folder, by the names of their files.

        Raises:
            VectorError: no such folder, or a file that is no vector.
        """
        shelf = cls(limits)
        if folder is not None and not folder.is_dir():
            raise VectorError(f"no such folder: {folder}", expected="a folder of .safetensors files")
        for file in sorted(folder.glob("*.safetensors")) if folder is not None else ():
            shelf.put(file.stem, file.read_bytes())
        return shelf

    @property
    def vectors(self) -> dict[str, SteeringVector]:
        """As they are now."""
        with self._lock:
            return dict(self._vectors)

    def put(self, name: str, raw: bytes, facts: Facts | None = None) -> SteeringVector:
        """Take a vector, or put it in the place of the one that has its name.

        Raises:
            VectorError: a name that is none, too many, too large, not a vector, or another model's.
        """
        if NAME.fullmatch(name) is None:
            raise VectorError("not a name of a vector", given=name[:80], expected="letters, digits, _ . -, up to 64")
        if len(raw) > LARGEST:
            raise VectorError("too large for a vector", given=f"{len(raw)} bytes", expected=f"at most {LARGEST}")
        vector = SteeringVector.from_bytes(raw, name)
        if facts is not None:
            fits(vector, facts)
        with self._lock:
            if name not in self._vectors and len(self._vectors) >= self.limits.vectors:
                raise VectorError("the shelf is full", given=len(self._vectors), do="free a vector first")
            self._vectors[name] = vector
        return vector

    def free(self, name: str) -> None:
        """Take a vector away.

        Raises:
            UnknownName: no such vector.
        """
        with self._lock:
            if name not in self._vectors:
                raise UnknownName("vector", name, self._vectors)
            del self._vectors[name]

    def stack(
        self, steer: str | Sequence[Part], facts: Facts, *, force: bool, control: str = ""
    ) -> list[tuple[str, Intervention]]:
        """The interventions of a line, or of parts said in full, by the names of their vectors, within what is allowed.

        Args:
            control: what stands in the place of every vector; see `Steered`.

        Raises:
            UnknownName: no such vector.
            VectorError: another model's, or one that has no such control.
            SteerError: a dose outside the range of its vector without `force`, or too much of it.
        """
        known = self.vectors
        named = _line(steer, known) if isinstance(steer, str) else [_in_full(part, known) for part in steer]
        outside = beyond_range(((name, iv.multiplier) for name, iv in named), known)
        outside += [name for name, iv in named if _used_otherwise(iv, known[name])]
        if outside and not force:
            raise SteerError("a dose outside the range measured", given=outside, do="say force: true to ask for it")
        ivs = [iv for _, iv in named]
        for iv in ivs:
            fits(iv.vector, facts)
        for layer, share in _relative(ivs, facts).items():
            if not share <= self.limits.relative:
                raise SteerError(
                    f"too much at layer {layer}",
                    given=f"|m v| is {share:.1f} times the median norm of the residual stream",
                    expected=f"at most {self.limits.relative:g}",
                )
        if named and not any(iv.multiplier for iv in ivs):
            raise SteerError("nothing would be steered: every multiplier is 0", given=steer, do="leave out steer")
        beside = controls_of([iv.vector for iv in ivs], control) if named else []
        return [(name, replace(iv, vector=v)) for (name, iv), v in zip(named, beside, strict=True)]

    def listed(self) -> list[dict[str, Any]]:
        """Every vector with what its file says of it."""
        return [listed(name, v) for name, v in sorted(self.vectors.items())]


def fits(vector: SteeringVector, facts: Facts) -> None:
    """Refuse a vector of another model.

    Raises:
        VectorError: see `check_fits`.
    """
    check_fits(vector, width=facts.width, n_layers=facts.n_layers, fingerprint=facts.fingerprint, model=facts.model)


def _line(line: str, known: Mapping[str, SteeringVector]) -> list[tuple[str, Intervention]]:
    """The interventions of a line; none of an empty one."""
    if not line.strip():
        return []
    notation = Notation.parse(line)
    return [(t.name, iv) for t, iv in zip(notation.terms, notation.stack(known), strict=True)]


def _in_full(part: Part, known: Mapping[str, SteeringVector]) -> tuple[str, Intervention]:
    """The intervention of a part."""
    if part.vector not in known:
        raise UnknownName("vector", part.vector, known)
    where = None if part.positions is None else ANSWER.get(part.positions, part.positions)
    iv = Intervention.recommended(
        known[part.vector],
        layers=part.layers or (),
        multiplier=part.multiplier,
        positions=where,
        operator=part.operator,
    )
    return part.vector, iv if part.gate is None else replace(iv, gate=registry.make("gate", part.gate))


def _used_otherwise(iv: Intervention, vector: SteeringVector) -> bool:
    """Whether a vector with a range is used at other layers, by another operator or gate than that was measured for."""
    if vector.use is None or vector.use.ship is None:
        return False
    usual = Intervention.recommended(vector)
    return (iv.vector.layers, iv.operator, iv.gate) != (usual.vector.layers, usual.operator, usual.gate)


def controls_of(vectors: Sequence[SteeringVector], control: str) -> list[SteeringVector]:
    """What stands in the place of the vectors of a request: "random-K", "shuffled-K", or they themselves.

    Raises:
        VectorError: not a control, or none that came with one of them.
    """
    if not control:
        return list(vectors)
    kind, _, number = control.partition("-")
    if kind not in ("random", "shuffled") or not re.fullmatch("[0-9]{1,2}", number) or int(number) >= CONTROLS:
        expected = f'"random-0" to "random-{CONTROLS - 1}", or "shuffled-0" and on'
        raise VectorError("not a control", given=control[:80], expected=expected)
    if kind == "random":
        return random_stack(vectors, int(number))
    beside = [list(null_controls(v).values()) for v in vectors]
    fewest = min(map(len, beside))
    if int(number) >= fewest:
        raise VectorError(f"no {control} came with the vectors", given=f"{fewest} of them", do="random-0")
    return [some[int(number)] for some in beside]


def _relative(ivs: Sequence[Intervention], facts: Facts) -> dict[int, float]:
    """|m v| over the median |h|, by layer, for operators that add."""
    out: dict[int, float] = {}
    for iv in (iv for iv in ivs if not isinstance(iv.operator, Ablate)):
        for layer, norm in iv.vector.norm().items():
            usual = facts.norms.get(layer, float("inf"))
            out[layer] = out.get(layer, 0.0) + abs(iv.multiplier) * norm / usual
    return out


def listed(name: str, v: SteeringVector) -> dict[str, Any]:
    """What a vector's file says of it, as plain JSON."""
    use, evidence = v.use, v.evidence or {}
    return {
        "name": name,
        "hash": v.hash,
        "layers": list(v.layers if use is None else use.layers),
        "positions": None if use is None else use.positions,
        "multiplier": None if use is None else use.multiplier,
        "ship": None if use is None or use.ship is None else list(use.ship),
        "model": v.made.model,
        "method": v.made.method.get("name"),
        "data": v.made.data.get("name"),
        "verdict": evidence.get("verdict"),
        "use": None if use is None else use.to_json(),
    }
