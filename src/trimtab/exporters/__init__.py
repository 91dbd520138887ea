"""export(): a vector leaves for another engine, and is proved equal there. One file for each target."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab import registry
from trimtab.errors import ExportError, TrimtabError, first_line
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
        ExportError: the target cannot express it (before anything is written), computes something else, or cannot be
            run on this model.
        VectorError: a vector of another model.
    """
    exporter, path = _exporter(to), Path(path)
    ivs = check_stack(lm, what)
    exporter.expressible(ivs)
    check_place(path, exporter)
    _check_model(lm)
    exporter.check(lm, ivs)
    new = [p for p in path.absolute().parents if not p.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    aside = folder / path.name
    try:
        if not exporter.suffix:
            aside.mkdir()
        with _told(exporter, lm):
            exporter.write(lm, ivs, aside)
            proof = exporter.verify(lm, ivs, aside)
        if not proof.holds:
            raise _unequal(exporter, proof, "; nothing was written")
        exporter.sign(aside, statement(lm, ivs, exporter, proof))
        _move(aside, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the first that holds something stays, and all above it
            for parent in new:
                parent.rmdir()
    return proof


def verify(what: Stack, lm: LM, path: str | Path, *, to: str | Exporter) -> Proof:
    """Load an export with its target's own code and compare it with `steer` again. Of a hook that runs the file.

    Raises:
        ExportError: there is none, or it computes something else.
    """
    exporter, path = _exporter(to), Path(path)
    ivs = check_stack(lm, what)
    exporter.expressible(ivs)
    if not (path.is_file() if exporter.suffix else path.is_dir()):
        raise ExportError(f"no such export: {path}", expected="what `export` wrote")
    _check_model(lm)
    with _told(exporter, lm):
        proof = exporter.verify(lm, ivs, path)
    if not proof.holds:
        raise _unequal(exporter, proof, "")
    return proof


def check_place(path: Path, exporter: Exporter) -> None:
    """Refuse a place that an export cannot go to.

    Raises:
        ExportError: another suffix, a place that is taken, or one that cannot be written to.
    """
    if exporter.suffix and path.suffix != exporter.suffix:
        raise ExportError(
            f"{exporter.name} is written as one file",
            given=str(path),
            expected=f"a path that ends in {exporter.suffix}",
        )
    try:
        empty = not exporter.suffix and path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        if (
            path.name in ("", "..")
            or path.is_symlink()
            or (path.exists() and not empty)
            or path.resolve() == Path.cwd()
        ):
            kind = "a new file" if exporter.suffix else "a new or an empty folder"
            raise ExportError(f"{path} is taken", expected=kind, do="choose another path")
        above = next(p for p in path.absolute().parents if p.exists())
        os.rmdir(tempfile.mkdtemp(dir=above, prefix=path.name))
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise ExportError(f"cannot write to {path}", given=reason, do="choose another path") from problem


def _exporter(to: str | Exporter) -> Exporter:
    made = registry.make("exporter", to) if isinstance(to, str) else to
    if not isinstance(made, Exporter):
        raise ExportError("not a target", given=made, expected="a name, or a value such as Weights(every_write=True)")
    return made


def _check_model(lm: LM) -> None:
    if lm.model is not lm.inner:
        raise ExportError(f"{lm.id} is under an adapter", do="merge the adapter first (merge_and_unload)")


@contextmanager
def _told(exporter: Exporter, lm: LM) -> Generator[None]:
    """What goes wrong in the code of others is one error of ours."""
    try:
        yield
    except TrimtabError:
        raise
    except Exception as problem:
        raise ExportError(
            f"{exporter.name} cannot be written or run for {lm.id} ({lm.model.config.model_type})",
            given=f"{type(problem).__name__}: {first_line(problem)[:200]}",
            do="choose another target",
        ) from problem


def _move(aside: Path, path: Path) -> None:
    """To its place, unless somebody has taken that meanwhile."""
    try:
        if path.is_dir():
            path.rmdir()
        elif path.exists():
            raise FileExistsError(0, "it is there")
        aside.replace(path)
    except OSError as problem:
        raise ExportError(f"{path} was taken meanwhile", given=problem.strerror, do="export again") from problem


def _unequal(exporter: Exporter, proof: Proof, done: str) -> ExportError:
    name, given = exporter.name, str(proof)
    if not math.isfinite(proof.error) or not math.isfinite(proof.effect):
        return ExportError(f"{name} computes what is no number{done}", given=given, do="look at the vector's values")
    if proof.noise > proof.effect / 2:
        return ExportError(
            f"{name} differs from trimtab without any vector by as much as the vector does{done}",
            given=given,
            do="choose another target, or a larger multiplier",
        )
    if proof.error > proof.tolerance or proof.effect > SEEN * proof.error:
        return ExportError(
            f"{name} does not compute what trimtab computes{done}",
            given=given,
            expected=f"a difference of at most {proof.tolerance:.1e} nats, and all of the vector's effect",
            do="this model has something there that the export does not carry over: use a hook, or trimtab itself",
        )
    return ExportError(
        f"the vector does too little for {name} to be proved equal{done}",
        given=given,
        expected="an effect well above the difference",
        do="use a larger multiplier",
    )
