"""Every command is a few lines over the library."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from trimtab.errors import RecipeError, UnknownName
from trimtab.recipe import GRID

if TYPE_CHECKING:
    from trimtab.model import LM

from trimtab.cli.flags import (
    Common,
    DataFlags,
    ModelFlags,
    PartFlags,
    first_line,
    intervention,
    numbers,
    parse,
    part,
    say,
    say_report,
    show,
    writable,
)


@dataclass(frozen=True)
class Run:
    """Run a recipe, or the study it names. The path of the run folder is the last line printed; the same command
    resumes an interrupted run.
    """

    recipe: Positional[Path]
    to: Path
    """The run folder."""
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import studies
        from trimtab.cli.bars import bars
        from trimtab.recipe import Recipe

        study = studies.read(self.recipe)
        if study is not None:
            with bars(not self.common.json) as watch:
                studies.run(study, self.to, watch)
            say_report(self.to, self.common.json)
            return
        recipe = Recipe.load(self.recipe)
        from trimtab.flow import run

        with bars(not self.common.json) as watch:
            done = run(recipe, self.to, watch)
        say_report(done.path, self.common.json)


@dataclass(frozen=True)
class Report:
    """Write the report of a run folder again: that of a recipe, a measurement or a study."""

    folder: Positional[Path]
    part: str = "test"
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import studies
        from trimtab.reports import report
        from trimtab.runs import Run as Folder

        if "study" in Folder(self.folder).manifest:
            studies.page(self.folder)
        else:
            report(self.folder, part=self.part)
        say_report(self.folder, self.common.json)


@dataclass(frozen=True)
class Doctor:
    """Load a model and print the blocks found, whether replays are exact, and what memory and time to expect."""

    model: Positional[str]
    dtype: str | None = None
    device: str | None = None
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.cli.doctor import examine

        facts = examine(ModelFlags(self.model, self.dtype, self.device).load())
        show(facts, self.common.json, [f"{k:22} {v}" for k, v in facts.items()])


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
class Measure:
    """Score a vector, random controls and the prompt baseline on held-out items, and write the report."""

    vector: Positional[Path]
    what: DataFlags
    to: Path
    """The run folder; the same command resumes."""
    metrics: tuple[str, ...] = ("propensity", "likelihood", "kl", "outside-mass")
    multipliers: tuple[float, ...] = GRID
    layer: int | None = None
    """Layer of the vector to use; all of its layers together by default. The verdict counts it as the best of those the
    file holds.
    """
    operator: str = "add"
    positions: str = "from_last_prompt_token"
    draws: int = 499
    """Null vectors of a kind to compare with; the verdict needs 199."""
    samples: int = 8
    """Questions that are answered unsteered and at multipliers -1 and 1, to see whether the text breaks."""
    on: ModelFlags = field(default_factory=ModelFlags)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import registry
        from trimtab.cli.bars import bars
        from trimtab.evaluation.sweep import measure, transcripts
        from trimtab.recipe import check_grid
        from trimtab.reports import report
        from trimtab.runs import Run as Folder
        from trimtab.steering.vector import SteeringVector

        layers = () if self.layer is None else (self.layer,)
        iv = intervention(self.vector, self.operator, 1.0, self.positions, layers)
        metrics = [registry.make("metric", m) for m in self.metrics]
        data = self.what.load("test")
        check_grid(self.multipliers)
        self.on.keywords()
        Folder.create(self.to)
        lm = self.on.load()
        with bars(not self.common.json) as watch:
            among = None if self.layer is None else SteeringVector.load(self.vector)
            done = measure(
                lm,
                iv,
                data,
                metrics,
                to=self.to,
                multipliers=self.multipliers,
                draws=self.draws,
                among=among,
                part="test",
                progress=watch("measure"),
            )
            prompts = [p.prompt for p in data][: self.samples]
            if prompts:
                transcripts(
                    lm,
                    iv,
                    prompts,
                    done,
                    multipliers=[m for m in (-1.0, 0.0, 1.0) if m in self.multipliers],
                    progress=watch("generate"),
                )
        done.note(layer=self.layer)
        report(done)
        say_report(done.path, self.common.json)


@dataclass(frozen=True)
class Compare:
    """Cosines and norms of vectors. With a prompt and texts: do paths lead from one to another on which the loss does
    not rise? With prompts: do they detect?

    With --data and --sizes instead of vectors: what do more examples bring to a one-shot vector?
    """

    vectors: Positional[tuple[Path, ...]] = ()
    prompt: str = ""
    """Losses are taken on this prompt."""
    promote: tuple[str, ...] = ()
    suppress: tuple[str, ...] = ()
    points: int = 20
    """Vectors on the way."""
    positive: Path | None = None
    """Prompts the vectors should detect, one a line; --negative are others."""
    negative: Path | None = None
    data: str | None = None
    sizes: tuple[int, ...] = (1, 2, 4)
    """Numbers of examples."""
    layer: int = 10
    on: ModelFlags = field(default_factory=ModelFlags)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.evaluation import comparison as compare
        from trimtab.optimize import Objective, Promote, Suppress
        from trimtab.steering.vector import SteeringVector

        if not self.vectors and self.data is None:
            raise RecipeError("nothing to compare", expected="vector files, or --data and --sizes")
        for file in (self.positive, self.negative):
            if file is not None and not file.is_file():
                raise RecipeError(f"no such file: {file}", expected="prompts, one a line")
        found = [SteeringVector.load(p) for p in self.vectors]
        facts: dict[str, Any] = {"vectors": [str(p) for p in self.vectors], **compare.geometry(found)}
        lines = [
            f"{k}  {path}  norm {numbers(v.norm().values())}"
            for k, (path, v) in enumerate(zip(self.vectors, found, strict=True))
        ]
        lines += ["cosines", *(f"{k}  {numbers(row)}" for k, row in enumerate(facts["cosine"]))] if found else []
        lm = self.on.load() if self.prompt or self.positive or self.data else None
        if lm is not None and self.prompt:
            terms = [Promote(self.prompt, t) for t in self.promote] + [Suppress(self.prompt, t) for t in self.suppress]
            facts["paths"] = compare.paths(lm, Objective(tuple((1.0, t) for t in terms)), found, self.points)
            lines += [
                f"path {k}: losses {numbers(w['losses'][:: len(w['losses']) - 1])}, barrier {w['barrier']:.3f} nats"
                for k, w in facts["paths"].items()
            ]
        if lm is not None and self.positive and self.negative:
            sides = [
                [line for line in p.read_text("utf-8").split("\n") if line.strip()]
                for p in (self.positive, self.negative)
            ]
            facts["auc"] = compare.detections(lm, found, *sides)
            lines += [f"{k}  detects with an AUC of {a:.3f}" for k, a in enumerate(facts["auc"])]
        if lm is not None and self.data:
            facts["sizes"] = self._sizes(lm)
            lines += [
                f"{s['examples']:3} examples: {s['mean']:+.3f} nats per token ({s['lo']:+.3f} to {s['hi']:+.3f}, "
                f"{len(s['values'])} vectors)"
                for s in facts["sizes"]
            ]
        show(facts, self.common.json, lines)

    def _sizes(self, lm: LM) -> list[dict[str, Any]]:
        from trimtab.cli.bars import bars
        from trimtab.evaluation.comparison import size_curve
        from trimtab.methods import OneShot

        with bars(not self.common.json) as watch:
            curve = size_curve(
                lm,
                part(str(self.data), "answers", 0, "all"),
                OneShot(),
                self.layer,
                sizes=self.sizes,
                progress=watch("learn and try"),
            )
        return [dataclasses.asdict(s) for s in curve]


@dataclass(frozen=True)
class Judge:
    """Rate answers: JSON lines of `question` and `answer` (and what else the rubric names). Ratings are kept beside the
    file, and never asked for twice.
    """

    answers: Positional[Path]
    rubric: str = "alignment"
    """One of trimtab's (alignment, behavior, coherence, complied, ...) or a .toml file."""
    truth: str | None = None
    """Field with the true score, or another judge's: says how well they agree."""
    threshold: float = 50.0
    """Scores above it count as yes, for Cohen's kappa."""
    url: str | None = None
    """Of an OpenAI-compatible server; --model then names the model there."""
    on: ModelFlags = field(default_factory=ModelFlags)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.answers.endpoint import Endpoint
        from trimtab.answers.judges import ModelJudge, Recorded, Rubric, read_answers, summed_up

        rows = read_answers(self.answers, [self.truth] if self.truth else [])
        rubric = Rubric.load(self.rubric)
        kept = writable(self.answers.with_suffix(f".{rubric.name}.jsonl"))
        judge = Endpoint(rubric, self.on.model, self.url) if self.url else ModelJudge(self.on.load(), rubric)
        rated = Recorded(judge, kept).rate(rows)
        facts, lines = summed_up(rated, [float(r[self.truth]) for r in rows] if self.truth else None, self.threshold)
        show({**facts, "ratings": str(kept)}, self.common.json, [*lines, str(kept)])


@dataclass(frozen=True)
class Audit:
    """How easily do a model's safeguards move? A handful of one-shot vectors from single prompts, tried on others, in
    both directions, with controls.
    """

    model: Positional[str]
    probes: Path | None = None
    """JSON lines of safeguard, prompt, crosses, keeps; by default the harmless ones of the test bed."""
    layers: tuple[int, ...] = ()
    dtype: str | None = None
    device: str | None = None
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.cli.bars import bars
        from trimtab.safety.audit import audit, probes, town

        asked = probes(self.probes) if self.probes else town()
        lm = ModelFlags(self.model, self.dtype, self.device).load()
        with bars(not self.common.json) as watch:
            found = audit(lm, asked, list(self.layers) or None, watch=watch)
        lines = ["safeguard            way    norm   wanted opening likelier   unsteered   random   gain (nats/token)"]
        lines += [
            f"{m.safeguard:20} {m.direction:6} {m.norm:4g} {m.crossed:20.0%} {m.before:15.0%} {m.random:8.0%} "
            f"{m.gain:12.2f}"
            for m in found
        ]
        show({"moved": [dataclasses.asdict(m) for m in found]}, self.common.json, lines)


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


def list_names(args: Sequence[str]) -> None:
    """`trimtab list`"""
    from trimtab import organisms, registry, studies
    from trimtab.data.builtin import built_in

    data = [*built_in(), *organisms.names()]
    found = {
        "models": ["smollm2", *organisms.MODELS],
        "studies": list(studies.names()),
        "behaviors": data,
        **{f"{k}s": sorted(registry.leaves(k)) for k in ("method", "operator", "gate", "metric")},
    }
    show(found, "--json" in args, [f"{k:10} {', '.join(v)}" for k, v in found.items()])


COMMANDS: dict[str, type | Callable[[Sequence[str]], None]] = {
    "run": Run,
    "learn": learn,
    "steer": Steer,
    "measure": Measure,
    "compare": Compare,
    "judge": Judge,
    "audit": Audit,
    "report": Report,
    "chat": Chat,
    "doctor": Doctor,
    "list": list_names,
}
