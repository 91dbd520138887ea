"""Commands that learn a vector and put it to use: learn, steer, chat."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from trimtab.cli.dosing import dosed, usage
from trimtab.cli.flags import (
    Common,
    ForOutput,
    ModelFlags,
    OfData,
    OnModel,
    PartFlags,
    UseFlags,
    in_short,
    parse,
    say,
    show,
    writable,
)
from trimtab.errors import RecipeError, UnknownName, VectorError

if TYPE_CHECKING:
    from trimtab.data.datasets import Dataset
    from trimtab.model import LM
    from trimtab.steering.interventions import Intervention
    from trimtab.steering.vector import SteeringVector


@dataclass(frozen=True)
class _LearnFlags:
    data: str | None = None
    """A built-in behavior, a .jsonl/.json/.csv file, or hf:owner/name/path; one-shot can do with a prompt instead."""
    which: OfData = field(default_factory=PartFlags)
    to: Path = Path("vector.safetensors")
    """File to write."""
    layers: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--layer"], metavar="N ...")] = ()
    """Block indices from 0; by default all, or three likely ones for a method that descends at each."""
    no_dose: bool = False
    """Do not measure which layer to use, how strongly, and what it costs."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)


def learn(args: Sequence[str]) -> None:
    """`trimtab learn METHOD ...`: the method's fields become flags."""
    from trimtab import registry
    from trimtab.steering.use import ranges

    methods = registry.leaves("method")
    if not args or args[0] in ("-h", "--help"):
        print("usage: trimtab learn METHOD --data DATA [--to FILE] [--layers N ...] ...\n\nmethods:")
        print("\n".join(f"  {name:18} {in_short(cls, 21)}" for name, cls in sorted(methods.items())))
        return
    if args[0] not in methods:
        raise UnknownName("method", args[0], methods)
    made: list[tuple[str, Any, Any]] = [("method", methods[args[0]], field(default_factory=methods[args[0]]))]
    flags: Any = parse(
        dataclasses.make_dataclass("Learn", made, bases=(_LearnFlags,), frozen=True),
        args[1:],
        f"trimtab learn {args[0]}",
    )
    if flags.data is None and not flags.method.alone:
        raise RecipeError(
            "nothing to learn from",
            expected="--data, a built-in behavior or a file",
            do="trimtab list shows the built-in behaviors",
        )
    flags.on.check()
    to = writable(flags.to, ".safetensors")
    data, val = _parts(flags)
    method, state = _resuming(flags.method, to)
    lm = flags.on.load(flags.common.json)
    vector = _learned(lm, data, method, flags)
    if not any(vector.norm().values()):
        raise VectorError(
            "nothing was learned: the vector is zero at every layer",
            given=vector.made.figures or None,
            do="the descent may have left the numbers a model can hold: try a smaller --rate, or more --steps",
        )
    vector = vector if flags.no_dose else dosed(lm, vector, method, val, flags.common.json)
    path = vector.save(to)
    if state is not None:
        shutil.rmtree(state, ignore_errors=True)
    pairs = len(method.used(data)) if data is not None else 0
    facts = {"path": str(path), "layers": list(vector.layers), "norm": vector.norm(), "pairs": pairs}
    facts |= {"figures": vector.made.figures, "use": None if vector.use is None else vector.use.to_json()}
    some = "embeddings" if vector.layers[0] < 0 else f"layers {ranges(vector.layers)}"
    lines = [f"{pairs} pairs, {some}" if pairs else some]
    lines += [
        f"  layer {k}: loss {f['loss']:.3f} nats after {f['steps']} steps, norm "
        f"{vector.norm()[-1 if k == 'embeddings' else int(k)]:.2f}"
        for k, f in vector.made.figures.items()
        if "loss" in f
    ]
    show(facts, flags.common.json, [*lines, *usage(vector), str(path)])


def _parts(flags: Any) -> tuple[Dataset | None, Dataset | None]:
    """What is learned from, and what is held out: of a whole data set nothing is."""
    if flags.data is None:
        return None, None
    data = flags.which.of(flags.data, "train")
    held = dataclasses.replace(flags.which, part="val") if flags.which.part in (None, "train") else None
    return data, None if held is None else held.of(flags.data, "val")


def _learned(lm: LM, data: Dataset | None, method: Any, flags: Any) -> SteeringVector:
    from trimtab.cli.bars import bars
    from trimtab.methods import learn as learn_vector

    layers = lm.layers(list(flags.layers) or method.likely_layers(lm.n_layers))
    with bars(not flags.common.json) as watch:
        return learn_vector(lm, data, method, layers, progress=watch("learn"))


def _resuming(method: Any, to: Path) -> tuple[Any, Path | None]:
    """A method that can go on where it was interrupted keeps its state beside the vector, until that is written."""
    if getattr(method, "resume", None) != "":
        return method, None
    state = to.with_suffix(".state")
    state.mkdir(exist_ok=True)
    return dataclasses.replace(method, resume=str(state)), state


@dataclass(frozen=True)
class Steer:
    """Generate with a vector switched on; without it beside, for comparison."""

    vector: Positional[Path]
    """A vector's file; with --vectors, a line such as "0.6 pirate + formal @ answer"."""
    prompt: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-p"]), tyro.conf.UseAppendAction]
    """What to say to the model; given several times, each is answered."""
    vectors: Path | None = None
    """Folder of vectors, which a line calls by the names of their files."""
    use: UseFlags = field(default_factory=UseFlags)
    max_new_tokens: int = 60
    """Longest answer."""
    temperature: float = 0.0
    """Of sampling; 0 takes the likeliest token each time."""
    seed: int = 0
    """Of sampling."""
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        self.on.check()
        from trimtab.model.generate import Sampling
        from trimtab.steering.interventions import check_stack, steer

        Sampling(self.max_new_tokens, self.temperature)
        if not self.prompt or not all(p.strip() for p in self.prompt):
            raise RecipeError("nothing to say to the model", given=list(self.prompt), expected='-p "some text"')
        ivs = self._stack()
        lm = self.on.of(ivs[0].vector).load(self.common.json)
        check_stack(lm, ivs)
        options = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}
        plain = lm.generate(self.prompt, **options)  # type: ignore[arg-type]
        with steer(lm, *ivs) as receipt:
            steered = lm.generate(self.prompt, **options)  # type: ignore[arg-type]
        rows = [
            {"prompt": p, "unsteered": a, "steered": b} for p, a, b in zip(self.prompt, plain, steered, strict=True)
        ]
        lines = [f"{r['prompt']}\n  unsteered: {r['unsteered']}\n  steered:   {r['steered']}" for r in rows]
        show(
            {"generations": rows, "edited": receipt.edited},
            self.common.json,
            [*lines, f"tokens steered per layer: {receipt.edited}"],
        )

    def _stack(self) -> tuple[Intervention, ...]:
        """The vector as its file and the flags say, or those of a line."""
        if self.vectors is None:
            return (self.use.load(self.vector),)
        return of_line(str(self.vector), self.vectors, self.use)


def of_line(line: str, folder: Path, use: UseFlags) -> tuple[Intervention, ...]:
    """The interventions of a line, which leaves no place for the flags of use.

    Raises:
        RecipeError: flags of use; else as `stack_of`.
    """
    if use != UseFlags():
        raise RecipeError("a line says how its vectors are used", given=use, do="leave out the flags of use")
    from trimtab.steering.notation import stack_of

    return stack_of(line, folder)


@dataclass(frozen=True)
class Chat:
    """Talk to a model, steered or not. /help shows the commands; ctrl-C ends an answer, not the conversation."""

    vector: Positional[Path | None] = None
    """A vector's file; with --vectors, a line such as "0.6 pirate + formal @ answer"."""
    vectors: Path | None = None
    """Folder of vectors, which a line calls by the names of their files; /steer changes the line."""
    use: UseFlags = field(default_factory=UseFlags)
    system: str | None = None
    """What the model is told before the conversation."""
    max_new_tokens: int = 200
    """Longest answer."""
    temperature: float = 0.7
    """Of sampling; 0 takes the likeliest token each time."""
    seed: int = 0
    """Of sampling."""
    on: OnModel = field(default_factory=ModelFlags)

    def __call__(self) -> None:
        self.on.check()
        from trimtab.cli.chat import Talk
        from trimtab.model.generate import Sampling
        from trimtab.steering.notation import shelved
        from trimtab.steering.vector import SteeringVector

        Sampling(self.max_new_tokens, self.temperature)
        how = (self.max_new_tokens, self.temperature, self.seed)
        if self.vectors is not None:
            shelf = self.vectors
            read = partial(of_line, folder=shelf, use=self.use)
            ivs = read(str(self.vector)) if self.vector else ()
            known = ivs or (Intervention.recommended(SteeringVector.load(f)) for f in shelved(shelf).values())
            on = self.on.of(next(iter(known)).vector)
            Talk(on.load(), ivs, heard(), say, *how, line=read, system=self.system).run()
            return
        vector = None if self.vector is None else SteeringVector.load(self.vector)
        ivs = () if vector is None else (self.use.of(vector),)
        at = None if vector is None else lambda k: dataclasses.replace(self.use, layers=(k,)).of(vector)
        on = self.on if vector is None else self.on.of(vector)
        Talk(on.load(), ivs, heard(), say, *how, vector=at, system=self.system).run()


def heard() -> Callable[[], str]:
    """Lines from the keyboard, with editing and history where there is a terminal; "" at the end."""
    if not sys.stdin.isatty():
        return sys.stdin.readline
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # gives input() its editing and history

    def line() -> str:
        try:
            return input() + "\n"
        except EOFError:
            return ""

    return line
