"""Provenance: where a vector comes from; and what stands in the head of its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.errors import VectorError

if TYPE_CHECKING:
    from trimtab.model import LM

FORMAT = 2
READABLE = (1, FORMAT)  # version 1 had no recommended use, and no hash of weights


@dataclass(frozen=True)
class Provenance:
    """Where a vector comes from.

    Attributes:
        model, revision: the name it was learned on.
        fingerprint: hash of the model's shape; a vector is refused by a model with another one.
        weights: hash of the model's weights; of a model with other ones a vector is used with a warning.
        method: the learner with its parameters, as a table.
        data: name, part, form, hash and number of pairs.
        trained_on: group hashes of the training questions, so that an evaluation on them is refused.
        version: of trimtab.
        figures: how the fit went, by layer: losses in nats, steps, why it ended.
        among: how many layers there were to choose from when the vector was cut down to some of them; 0 if it never
            was.
    """

    model: str = ""
    revision: str = ""
    fingerprint: str = ""
    method: Mapping[str, Any] = field(default_factory=dict[str, Any])
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trained_on: tuple[str, ...] = ()
    version: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    among: int = 0
    weights: str = ""

    @classmethod
    def of(cls, lm: LM, **facts: Any) -> Provenance:
        """Of a vector that belongs to a model."""
        return cls(model=lm.id, revision=lm.revision, fingerprint=lm.fingerprint, weights=lm.weights, **facts)


def read_head(text: str, name: str) -> dict[str, Any]:
    """The metadata of a file.

    Raises:
        VectorError: of another format, or malformed.
    """
    try:
        head = json.loads(text)
        known = head.get("format")
    except (ValueError, AttributeError) as problem:
        raise VectorError(f"{name}: its metadata is not a JSON object", given=text[:80]) from problem
    if known not in READABLE:
        raise VectorError(
            f"{name} has another format", given=known, expected=" or ".join(map(str, READABLE)), do="upgrade trimtab"
        )
    lacking = [k for k in ("site", "made", "evidence") if k not in head]
    if not lacking and not (isinstance(head["made"], dict) and isinstance(head["evidence"], dict | None)):
        raise VectorError(f"{name}: malformed metadata", given=text[:80], expected="the keys of docs/format.md")
    unknown = head.get("made", {}).keys() - Provenance.__dataclass_fields__.keys() if not lacking else ()
    if lacking or unknown or "trained_on" not in head["made"]:
        raise VectorError(
            f"{name}: malformed metadata",
            given=f"lacks {lacking[0]!r}" if lacking else sorted(unknown) or "made lacks 'trained_on'",
            expected="the keys of docs/format.md",
        )
    return head


def read_made(table: Any, name: str) -> Provenance:
    """The provenance of a file.

    Raises:
        VectorError: of another shape.
    """
    try:
        return msgspec.convert(table, Provenance)
    except msgspec.ValidationError as problem:
        raise VectorError(
            f"{name}: its provenance cannot be read", given=str(problem), expected="the keys of docs/format.md"
        ) from problem
