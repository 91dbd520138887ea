"""Commands that learn a vector and put it to use: learn, steer, chat."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from trimtab.cli.flags import Common, ModelFlags, PartFlags, first_line, intervention, parse, say, show, writable
from trimtab.errors import RecipeError, UnknownName


@dataclass(frozen=True)
class _LearnFlags:
    data: str | None = None
    """A built-in behavior, a .jsonl/.json/.csv file, or hf:owner/name/path; one-shot can do with a prompt instead."""
    which: PartFlags = field(default_factory=PartFlags)
    to: Path = Path("vector.safetensors")
    """File to write."""
    layers: tuple[int, ...] = ()
    """Block indices from 0; all by default."""
    on: ModelFlags = field(default_factory=ModelFlags)
    common: Common = field(default_factory=Common)


def learn(args: Sequence[str]) -> None:
    """`trimtab learn METHOD ...`: the method's fields become flags."""
    from trimtab import registry

    methods = registry.leaves("method")
    if not args or args[0] in ("-h", "--help"):
        print("usage: trimtab learn METHOD --data DATA [--to FILE] [--layers N ...] ...\n\nmethods:")
        print("\n".join(f"  {name:18} {first_line(cls)}" for name, cls in sorted(methods.items())))
        return
    if args[0] not in methods:
        raise UnknownName("method", args[0], methods)
    made: list[tuple[str, Any, Any]] = [("method", methods[args[0]], field(default_factory=methods[args[0]]))]
    flags: Any = parse(
        dataclasses.make_dataclass("Learn", made, bases=(_LearnFlags,), frozen=True),
        args[1:],
        f"trimtab learn {args[0]}",
    )

    from trimtab.cli.bars import bars
    from trimtab.methods import learn as learn_vector

    if flags.data is None and not flags.method.alone:
        raise RecipeError(
            "nothing to learn from",
            expected="--data, a built-in behavior or a file",
            do="trimtab list shows the built-in behaviors",
        )
    to = writable(flags.to, ".safetensors")
    data = None if flags.data is None else flags.which.of(flags.data, "train")
    method, state = _resuming(flags.method, to)
    lm = flags.on.load()
    layers = lm.layers(list(flags.layers) or None)
    with bars(not flags.common.json) as watch:
        vector = learn_vector(lm, data, method, layers, progress=watch("learn"))
    path = vector.save(to)
    if state is not None:
        shutil.rmtree(state, ignore_errors=True)
    norms = {k: round(n, 4) for k, n in vector.norm().items()}
    pairs, figures = len(flags.method.used(data)) if data is not None else 0, vector.made.figures
    lines = [f"{pairs} pairs, layers {list(vector.layers)}" if pairs else f"layers {list(vector.layers)}"]
    lines += [
        f"  layer {k}: loss {f['loss']:.3f} nats after {f['steps']} steps, norm "
        f"{norms[-1 if k == 'embeddings' else int(k)]:.2f}"
        for k, f in figures.items()
        if "loss" in f
    ]
    show(
        {"path": str(path), "layers": list(vector.layers), "norm": norms, "pairs": pairs, "figures": figures},
        flags.common.json,
        [*lines, str(path)],
    )


def _resuming(method: Any, to: Path) -> tuple[Any, Path | None]:
    """A method that can go on where it was interrupted keeps its state beside the vector, until that is written."""
    if getattr(method, "resume", None) != "":
        return method, None
    state = to.with_suffix(".state")
    return dataclasses.replace(method, resume=str(state)), state


@dataclass(frozen=True)
class Steer:
    """Generate with a vector switched on; without it beside, for comparison."""

    vector: Positional[Path]
    prompt: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-p"])]
    multiplier: float = 1.0
    operator: str = "add"
    positions: str = "everywhere"
    layers: tuple[int, ...] = ()
    """Layers of the vector to use; all by default."""
    max_new_tokens: int = 60
    temperature: float = 0.0
    seed: int = 0
    on: ModelFlags = field(default_factory=ModelFlags)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.model.generate import Sampling
        from trimtab.steering.interventions import check_stack, steer

        Sampling(self.max_new_tokens, self.temperature)
        iv = intervention(self.vector, self.operator, self.multiplier, self.positions, self.layers)
        lm = self.on.load()
        check_stack(lm, iv)
        options = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}
        plain = lm.generate(self.prompt, **options)  # type: ignore[arg-type]
        with steer(lm, iv) as receipt:
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


@dataclass(frozen=True)
class Chat:
    """Talk to a model, steered or not. /m NUMBER sets the multiplier, /clear forgets the conversation, /quit ends."""

    vector: Positional[Path | None] = None
    multiplier: float = 1.0
    positions: str = "everywhere"
    max_new_tokens: int = 200
    temperature: float = 0.7
    seed: int = 0
    on: ModelFlags = field(default_factory=ModelFlags)

    def __call__(self) -> None:
        from trimtab.cli.chat import converse
        from trimtab.model.generate import Sampling

        Sampling(self.max_new_tokens, self.temperature)
        iv = intervention(self.vector, "add", self.multiplier, self.positions) if self.vector else None
        converse(
            self.on.load(),
            iv,
            sys.stdin.readline,
            say,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
