"""export(): a vector leaves for another engine, and is proved equal there. One file for each target."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from trimtab import registry
from trimtab.errors import ExportError
from trimtab.exporters.base import SEEN, Exporter, Proof, statement
from trimtab.exporters.control_vector import Gguf
from trimtab.exporters.hook import Hook
from trimtab.exporters.peft import Peft
from trimtab.exporters.weights import Weights
from trimtab.model import LM
from trimtab.steering.interventions import Stack, check_stack

__all__ = ["Exporter", "Gguf", "Hook", "Peft", "Proof", "Weights", "export", "verify"]


def export(what: Stack, lm: LM, path: str | Path, *, to: str | Exporter) -> Proof:
    """Write a vector, an intervention or a stack of them for another engine, and prove that it does the same there.

    Args:
        what: a vector alone is exported as its file says it is to be used.
        path: the file or the folder; it is there once the proof holds, and not before.
        to: a target by name ("gguf", "hf", "peft", "hook"), or with settings, such as `Weights(every_write=True)`.

    Raises:
        ExportError: the target cannot express it (before anything is written), or computes something else.
        VectorError: a vector of another model.
    """
    exporter: Exporter = registry.make("exporter", to) if isinstance(to, str) else to
    target = str(registry.describe(exporter)["name"])
    ivs = check_stack(lm, what)
    exporter.expressible(ivs)
    check_place(Path(path), exporter, target)
    if lm.model is not lm.inner:
        raise ExportError(f"{lm.id} is under an adapter", do="merge the adapter first (merge_and_unload)")
    exporter.check(lm, ivs)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    aside = folder / path.name
    try:
        if not exporter.suffix:
            aside.mkdir()
        exporter.write(lm, ivs, aside)
        proof = exporter.verify(lm, ivs, aside)
        if not proof.holds:
            raise _unequal(target, proof)
        exporter.sign(aside, statement(lm, ivs, target, proof))
        if path.is_dir():
            path.rmdir()
        aside.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return proof


def verify(what: Stack, lm: LM, path: str | Path, *, to: str | Exporter) -> Proof:
    """Load an export with its target's own code and compare it with `steer` again.

    Raises:
        ExportError: it computes something else.
    """
    exporter: Exporter = registry.make("exporter", to) if isinstance(to, str) else to
    proof = exporter.verify(lm, check_stack(lm, what), Path(path))
    if not proof.holds:
        raise _unequal(str(registry.describe(exporter)["name"]), proof)
    return proof


def check_place(path: Path, exporter: Exporter, target: str) -> None:
    """Refuse a place that an export cannot go to.

    Raises:
        ExportError: another suffix, or a place that is taken.
    """
    if exporter.suffix and path.suffix != exporter.suffix:
        raise ExportError(
            f"{target} is written as one file", given=str(path), expected=f"a path that ends in {exporter.suffix}"
        )
    taken = path.is_dir() if exporter.suffix else path.is_file() or (path.is_dir() and any(path.iterdir()))
    if taken:
        kind = "a file" if exporter.suffix else "a new or empty folder"
        raise ExportError(f"{path} is taken", expected=kind, do="choose another path")
    above = next(p for p in path.absolute().parents if p.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=above))
    except OSError as problem:
        raise ExportError(f"cannot write to {path}", given=problem.strerror, do="choose another path") from problem


def _unequal(target: str, proof: Proof) -> ExportError:
    if proof.error > proof.tolerance or proof.effect > SEEN * proof.error:
        return ExportError(
            f"{target} does not compute what trimtab computes; nothing was written",
            given=str(proof),
            expected=f"a difference of at most {proof.tolerance:.1e} nats, and all of the vector's effect",
            do="this model has something there that the export does not carry over: use a hook, or trimtab itself",
        )
    return ExportError(
        f"the vector does too little for {target} to be proved equal; nothing was written",
        given=str(proof),
        expected="an effect well above the difference",
        do="use a larger multiplier",
    )
