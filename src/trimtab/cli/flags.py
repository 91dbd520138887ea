"""Flags that commands share, and what is done with them: loading a model, reading data, refusing a place that cannot be
written to, printing.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from trimtab.errors import ModelError, RecipeError, RunError
from trimtab.journal import plain
from trimtab.names import DTYPES, LOCAL, check_name
from trimtab.registry import check_numbers
from trimtab.runs import check_held

if TYPE_CHECKING:
    from trimtab.data.datasets import Dataset
    from trimtab.model import LM
    from trimtab.steering.interventions import Intervention
    from trimtab.steering.vector import SteeringVector


@dataclass(frozen=True)
class ModelFlags:
    model: str | None = None
    """A Hugging Face id, a folder, a GGUF file, or "smollm2"; by default the model a vector was learned on, else
    smollm2."""
    dtype: str | None = None
    """float32, bfloat16, float16; by default float32 on a CPU."""
    device: str | None = None
    """cpu, cuda, ..., or "auto": spread over what there is."""
    bits: int | None = None
    """8 or 4: keep the weights of the blocks in so few bits (extra `bits`)."""
    no_chat: bool = False
    """Do not use the chat template: prompt and completion as plain text."""
    between: str | None = None
    """Between a plain prompt and its completion; by default what falls between tokens."""
    template: tuple[str, ...] = ()
    """Keywords for the chat template, such as enable_thinking=false."""

    def keywords(self) -> dict[str, Any]:
        """Keywords for the chat template."""
        return dict(keyword(text) for text in self.template)

    @property
    def name(self) -> str:
        return LOCAL[0] if self.model is None else self.model

    def of(self, vector: SteeringVector) -> ModelFlags:
        """The same, with the model the vector was learned on if none was named."""
        return self if self.model is not None else replace(self, model=vector.made.model or None)

    def check(self) -> None:
        """Refuse what cannot be a model, or keywords that are none, before anything heavy is imported.

        Raises:
            UnknownName, ModelError: see `check_name`.
            RecipeError: not keywords.
        """
        if self.dtype is not None and self.dtype.removeprefix("torch.") not in DTYPES:
            raise ModelError("unknown dtype", given=self.dtype, expected=", ".join(DTYPES))
        check_name(self.name)
        self.keywords()

    def load(self, quiet: bool = False) -> LM:
        """The model, on its device, and how it is spoken to; says that it is loading, unless `quiet`."""
        if not quiet:
            once = "an architecture that is new here is checked first: up to a minute"
            print(f"loading {self.name} ({once})", file=sys.stderr, flush=True)
        from trimtab.model import LM

        keywords = self.keywords()
        return LM.load(
            self.name,
            dtype=self.dtype,
            device=self.device,
            bits=self.bits,
            chat=not self.no_chat,
            separator=self.between,
            template=keywords,
        )


@dataclass(frozen=True)
class PartFlags:
    form: Literal["answers", "choices"] | None = None
    """Free-form completions or A/B questions; by default what the file holds."""
    split_seed: int = 0
    """Seed of the split."""
    part: Literal["train", "val", "test", "all"] | None = None
    """Which part of the split; learn uses train, measure uses test."""

    def of(self, data: str, default: str) -> Dataset:
        return part(data, self.form, self.split_seed, self.part or default)


@dataclass(frozen=True, kw_only=True)
class DataFlags(PartFlags):
    data: str
    """A built-in behavior, a .jsonl/.json/.csv file, or hf:owner/name/path."""

    def load(self, default: str) -> Dataset:
        return self.of(self.data, default)


@dataclass(frozen=True)
class Common:
    json: bool = False
    """Print one JSON object instead of text and progress bars."""


# the names of their groups in the help
OnModel = Annotated[ModelFlags, tyro.conf.arg(name="model")]
OfData = Annotated[PartFlags, tyro.conf.arg(name="data")]
OnData = Annotated[DataFlags, tyro.conf.arg(name="data")]
ForOutput = Annotated[Common, tyro.conf.arg(name="output")]


def keyword(text: str) -> tuple[str, Any]:
    """name=value, the value as JSON or as a plain word."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise RecipeError(
            "not a keyword of the chat template", given=text, expected="name=value, such as enable_thinking=false"
        )
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def writable(path: Path, suffix: str = "") -> Path:
    """The file a command will write, with its folder made, refused before any work if it cannot be.

    Raises:
        RunError: another suffix, a folder, or a place that cannot be written to.
    """
    if suffix and path.suffix != suffix:
        raise RunError(
            f"cannot write to {path}", given=path.suffix or "no suffix", expected=f"a path that ends in {suffix}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.{os.getpid()}.writable")
        probe.write_bytes(b"")
        probe.unlink()
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder")
    except OSError as problem:
        raise RunError(f"cannot write to {path}", given=problem.strerror, do="choose another path") from problem
    return path


_KINDS: dict[type, tuple[str, str]] = {
    str: ("TEXT", "a text"),
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    Path: ("PATH", "a path"),
}


def _one_value(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """How a single value is read, and named in the help: N instead of {None}|INT. What is not given is None already, so
    nobody has to be able to say so.
    """
    options = {t for t in get_args(info.type) if t is not type(None)} or {info.type}
    kind = options.pop()
    if options or kind not in _KINDS:
        return None
    name, wanted = _KINDS[kind]

    def read(args: list[str]) -> Any:
        try:
            return kind(args[0])
        except ValueError as problem:
            raise ValueError(f"{args[0]!r} is not {wanted}") from problem

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=name,
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, (int, float) if kind is float else kind),
        str_from_instance=lambda value: [str(value)],
    )


def parse(cls: Any, args: Sequence[str], prog: str) -> Any:
    """A command's dataclass from its arguments."""
    _check_once(args)
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    names = tyro.constructors.ConstructorRegistry()
    names.primitive_rule(_one_value)
    command = tyro.cli(cls, args=list(args), prog=prog, config=config, registry=names)
    check_numbers(command, prog)
    return command


def _check_once(args: Sequence[str]) -> None:
    """Refuse a flag that is given twice: only the last would count, and nobody would know."""
    flags = [a.partition("=")[0] for a in args if a.startswith("--") and a not in ("--", "--prompt")]
    twice = sorted({f for f in flags if flags.count(f) > 1})
    if twice:
        raise RecipeError(f"{twice[0]} is given twice", expected=f"all of its values after one: {twice[0]} A B")


def run_folder(path: Path) -> Path:
    """A folder that a run may be written to: none yet, an empty one, or that of a run.

    Raises:
        RunError: it holds something else.
    """
    if path.is_dir():
        held = [p.name for p in path.iterdir() if not p.name.startswith(".")]
        check_held(str(path), held, ("run.json", "recipe.toml", "work"))
    elif path.exists():
        raise RunError(f"{path} is a file", expected="a folder")
    return path


def part(source: str, form: str | None, seed: int, part: str) -> Dataset:
    """A part of a data set: train, val, test, or all of it."""
    from trimtab.data.datasets import Dataset

    data = Dataset.load(source, form=form)
    return data if part == "all" else getattr(data.split(seed=seed), part)


@dataclass(frozen=True)
class PlaceFlags:
    """Where and how a vector acts; what is not said is as its file says."""

    layers: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--layer"], metavar="N ...")] = ()
    """Layers of the vector to use, from 0; by default the one its file recommends."""
    positions: str | None = None
    """Which tokens are steered, such as everywhere or last_k(3); by default as the file says, or from the last token
    of the prompt on."""
    operator: str | None = None
    """add, ablate, clamp, affine or rotate; by default as the file says, or add."""

    def of(self, vector: SteeringVector) -> Intervention:
        """The intervention; several layers that were learned apart are used together with a warning.

        Raises:
            VectorError: a layer the vector does not have.
            SteerError: positions that are none; a vector of many layers that does not say which to use.
        """
        from trimtab.steering.interventions import Intervention

        settings = {k: v for k, v in vars(self).items() if v is not None and k != "layers"}
        iv = Intervention.recommended(vector, layers=self.layers, **settings)
        if len(self.layers) > 1 and vector.apart:
            warn(
                f"{len(self.layers)} layers that were each learned to act alone are used together: "
                "the text may break; use one, or a smaller --multiplier"
            )
        return iv

    def load(self, path: Path) -> Intervention:
        from trimtab.steering.vector import SteeringVector

        return self.of(SteeringVector.load(path))


@dataclass(frozen=True)
class UseFlags(PlaceFlags):
    """Where, how and how strongly a vector acts; what is not said is as its file says."""

    multiplier: float | None = None
    """Times the stored vector; by default the dose its file recommends."""


def warn(text: str) -> None:
    """A line on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def say_report(folder: Path, as_json: bool, called: str = "") -> None:
    """The verdict of a run, or the findings of a study, and where its report is.

    Args:
        called: what the folder is called, where it is a copy.
    """
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    lines = summary.get("findings")
    lines = lines or [summary["verdict"], f"  {summary['next']}", *(f"  - {r}" for r in summary["reasons"])]
    name = called or str(folder)
    page = f"{name}/report.html"
    show({**summary, "folder": name, "report": page}, as_json, [*lines, f"report: {page}", name])


def show(facts: Any, as_json: bool, lines: Sequence[str]) -> None:
    """Facts as JSON, or lines."""
    print(json.dumps(plain(facts), allow_nan=False) if as_json else "\n".join(lines))


def numbers(values: Iterable[float]) -> str:
    """Numbers in columns."""
    return " ".join(f"{x:8.3f}" for x in values)


def say(text: str) -> None:
    """Text as it comes."""
    print(text, end="", flush=True)


def in_short(cls: type, indent: int) -> str:
    """What a class is: the first paragraph of its docstring, wrapped behind an indent."""
    words = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
    return textwrap.fill(words, 110, initial_indent=" " * indent, subsequent_indent=" " * indent)[indent:]
