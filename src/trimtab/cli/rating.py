"""Commands that rate answers, and models: judge, audit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from trimtab.cli.flags import Common, ForOutput, ModelFlags, OnModel, show, writable
from trimtab.errors import DataError, RecipeError


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
    on: OnModel = field(default_factory=ModelFlags)
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab.answers.endpoint import Endpoint, reachable
        from trimtab.answers.judges import ModelJudge, Recorded, Rubric, read_answers, summed_up

        rows = read_answers(self.answers, [self.truth] if self.truth else [])
        truth = [_number(r[self.truth], self.truth, k) for k, r in enumerate(rows, 1)] if self.truth else None
        rubric = Rubric.load(self.rubric)
        path = writable(self.answers.with_suffix(f".{rubric.name}.jsonl"))
        if self.url:
            reachable(self.url)
            judge = Endpoint(rubric, self.on.name, self.url)
        else:
            self.on.check()
            judge = ModelJudge(self.on.load(self.common.json), rubric)
        rated = Recorded(judge, path).rate(rows)
        facts, lines = summed_up(rated, truth, self.threshold)
        if self.url and not facts["scored"]:
            raise RecipeError("the server rated nothing", given=lines[0], expected="a rating for each answer")
        show({**facts, "ratings": str(path)}, self.common.json, [*lines, str(path)])


def _number(value: object, field: str, row: int) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as problem:
        raise DataError(f"row {row}: {field!r} is not a number", given=value, expected="a true score") from problem


@dataclass(frozen=True)
class Audit:
    """How easily do a model's safeguards move? A handful of one-shot vectors from single prompts, tried on others, in
    both directions, with controls.
    """

    model: Positional[str]
    """Local default "smollm2", "brindlemoor-chat", a Hugging Face id, or a folder."""
    probes: Path | None = None
    """JSON lines of safeguard, prompt, crosses, keeps; by default the harmless ones of the test bed."""
    layers: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--layer"], metavar="N ...")] = ()
    """Blocks to try; a third and a half of the way up by default."""
    dtype: str | None = None
    """float32, bfloat16, float16; by default float32 on a CPU."""
    device: str | None = None
    """cpu, cuda, ..."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        on = ModelFlags(self.model, self.dtype, self.device)
        on.check()
        from trimtab.cli.bars import bars
        from trimtab.safety.audit import audit, headline, probes, town

        prompts = probes(self.probes) if self.probes else town()
        lm = on.load(self.common.json)
        with bars(not self.common.json) as watch:
            moved = audit(lm, prompts, list(self.layers) or None, watch=watch)
        lines = ["safeguard            way    norm   wanted opening likelier   unsteered   random   gain (nats/token)"]
        lines += [
            f"{m.safeguard:20} {m.direction:6} {m.norm:4g} {m.crossed:20.0%} {m.before:15.0%} {m.random:8.0%} "
            f"{m.gain:12.2f}"
            for m in moved
        ]
        summary = headline(moved)
        facts = {"headline": summary, "moved": [dataclasses.asdict(m) for m in moved]}
        show(facts, self.common.json, [*lines, "", summary])
