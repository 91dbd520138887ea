"""Commands that look: doctor, list."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from tyro.conf import Positional

from trimtab.cli.flags import Common, ForOutput, ModelFlags, show


@dataclass(frozen=True)
class Doctor:
    """Load a model and print the blocks found, whether replays are exact, and what memory and time to expect."""

    model: Positional[str]
    """Local default "smollm2", a Hugging Face id, a folder, or a GGUF file."""
    dtype: str | None = None
    """float32, bfloat16, float16; by default float32 on a CPU."""
    device: str | None = None
    """cpu, cuda, ..."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        on = ModelFlags(self.model, self.dtype, self.device)
        on.check()
        from trimtab.cli.bars import bars
        from trimtab.cli.doctor import examine, told

        with bars(not self.common.json) as watch:
            facts = examine(partial(on.load, True), watch("doctor"))
        show(facts, self.common.json, [f"{k:22} {v}" for k, v in told(facts).items()])


@dataclass(frozen=True)
class List:
    """Name what there is: models, recipes, studies, behaviors, methods, operators, gates, metrics."""

    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        from trimtab import organisms, registry, studies
        from trimtab.data import truthful
        from trimtab.data.builtin import built_in
        from trimtab.names import LOCAL
        from trimtab.recipe import shipped

        names = {
            "models": list(LOCAL),
            "recipes": list(shipped()),
            "studies": list(studies.names()),
            "behaviors": [*built_in(), truthful.NAME, *organisms.names()],
            **{f"{k}s": registry.named(k) for k in registry.HOMES},
        }
        show(names, self.common.json, [f"{k:10} {', '.join(v)}" for k, v in names.items()])
