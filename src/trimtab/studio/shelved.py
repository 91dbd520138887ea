"""The vectors the studio begins with: files, folders of them, run folders, or those that come with trimtab."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from trimtab.data.builtin import asking, built_in
from trimtab.errors import VectorError
from trimtab.names import LOCAL
from trimtab.serving.shelf import listed
from trimtab.statistics.dose import BROKEN_MORE, kept_whole, whole
from trimtab.steering.use import Use
from trimtab.steering.vector import SteeringVector

SHIPPED = Path(str(files("trimtab") / "studio" / "shipped"))
RUN = "vector.safetensors"  # what a run folder calls its vector


@dataclass(frozen=True)
class Shelved:
    """A vector and where it lies.

    Attributes:
        name: by which lines and requests call it.
        label: what people are shown: the name of its file as it is.
        ask: the behavior asked for in words, where somebody knows how.
        prompts: what it is shown on.
        about: one sentence.
    """

    name: str
    label: str
    file: Path
    vector: SteeringVector
    ask: str = ""
    prompts: tuple[str, ...] = ()
    about: str = ""

    @cached_property
    def norms(self) -> dict[int, float]:
        """Of the vector, by layer."""
        return self.vector.norm()

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the page is told of it, whatever the model: asked for every second, and worked out once."""
        v = self.vector
        words = {"label": self.label, "file": str(self.file.absolute()), "ask": self.ask, "about": self.about}
        use = {"held": list(v.layers), "zones": zones(v.use), "red": why_broken(v.use), "measurable": measurable(v)}
        return {**listed(self.name, v), **words, "prompts": self.prompts, **use}


def chosen(paths: Sequence[Path], model: str | None) -> list[Shelved]:
    """The vectors of some paths; without any, those that come with trimtab, if they are for the model.

    Raises:
        VectorError: a path that holds no vector.
    """
    out: dict[str, Shelved] = {}
    if not paths and model in (None, LOCAL[0]):
        about = tomllib.loads((SHIPPED / "shipped.toml").read_text("utf-8"))
        return [_shelved(SHIPPED / f"{name}.safetensors", name, out, **words) for name, words in about.items()]
    for path in paths:
        for label, file in _files(path).items():
            shelved = _shelved(file, label, out)
            out[shelved.name] = shelved
    return list(out.values())


def _files(path: Path) -> dict[str, Path]:
    """The vectors of a path, by what people call them."""
    if path.is_file():
        return {path.stem if path.name != RUN else path.absolute().parent.name: path}
    if (path / RUN).is_file():
        return {path.absolute().name: path / RUN}
    found = {file.stem: file for file in sorted(path.glob("*.safetensors"))}
    if not found:
        raise VectorError(f"no vector at {path}", expected="a .safetensors file, a folder of them, or a run folder")
    return found


def _shelved(file: Path, label: str, taken: Mapping[str, Any], **words: Any) -> Shelved:
    vector = SteeringVector.load(file)
    words = {k: tuple(v) if isinstance(v, list) else v for k, v in words.items()}
    words.setdefault("ask", in_words(vector))
    return Shelved(free_name(label, taken), label, file, vector, **words)


def free_name(label: str, taken: Mapping[str, Any]) -> str:
    """A name that a line can hold, and nobody has."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", label).strip("_.-")[:56]
    name = plain if re.match(r"[A-Za-z_]", plain) else f"v_{plain}".rstrip("_")
    numbered = (f"{name}_{k}" for k in range(2, 1 << 16))
    return name if name not in taken else next(n for n in numbered if n not in taken)


def in_words(vector: SteeringVector) -> str:
    """How to ask a model for the behavior of a vector, where its file or its data set says; "" if nobody knows."""
    sentence = (vector.evidence or {}).get("sentence")
    if isinstance(sentence, str) and sentence:
        return f"Answer as somebody who {sentence}."
    known = asking(str(vector.made.data.get("name", "")))
    return known["positive"] if known else ""


def measurable(vector: SteeringVector) -> str:
    """The built-in behavior a vector was learned on, whose other items it can be measured on; "" if there is none."""
    name = str(vector.made.data.get("name", ""))
    return name if name in built_in() else ""


def zones(use: Use | None) -> list[dict[str, Any]]:
    """What the multipliers above 0 are good for, by the dose that was measured: pieces from `lo` to `hi` (None: without
    end) of a `kind`: "weak" (no more than controls do), "ship", "unsure" (between the last whole text and the first
    broken one), "broken".
    """
    if use is None or use.dose is None or not use.dose.points:
        return []
    dose = use.dose
    fine = kept_whole(dose)
    last = fine[-1].multiplier if fine else 0.0
    first = next((p.multiplier for p in dose.points if not whole(p, dose)), None)
    start, end = use.ship or (last, last)
    pieces: list[tuple[float, float | None, str]] = [(0.0, start, "weak"), (start, end, "ship")]
    pieces += [] if first is None else [(end, first, "unsure"), (first, None, "broken")]
    return [{"lo": lo, "hi": hi, "kind": kind} for lo, hi, kind in pieces if hi is None or hi > lo]


def why_broken(use: Use | None) -> str:
    """What counts as broken text, in a sentence."""
    more = f"{BROKEN_MORE:.0%} more of the answers are no text than without the vector, or they repeat themselves"
    return "" if use is None or use.dose is None else f"Red: {more}, in {use.dose.prompts} answers a dose."
