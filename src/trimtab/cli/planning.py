"""The command that says what a recipe will cost."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from trimtab.cli.flags import Common, ForOutput, show, writable
from trimtab.errors import RecipeError

if TYPE_CHECKING:
    from trimtab.planning import Plan as Planned


@dataclass(frozen=True)
class Plan:
    """What a recipe will cost, before it runs: units, passes, tokens, hours and memory, on one worker or many. It is
    carried out on a stand-in of the model, as deep and with next to no width, and what its blocks take is measured
    here in some twenty seconds, or read from a file that was written where it will run.
    """

    recipe: Positional[Path]
    size: str | None = None
    """A table [size.NAME] of the recipe, such as full."""
    workers: int = 1
    """Processes that share it."""
    threads: int | None = None
    """Of each; by default all cores, shared by the workers."""
    device: str | None = None
    """Instead of the recipe's."""
    dtype: str | None = None
    """Instead of the recipe's."""
    hardware: Path | None = None
    """A file that --save wrote on the machine it will run on, for the same model."""
    save: Path | None = None
    """Write down how fast this machine is with this recipe's models."""
    common: ForOutput = field(default_factory=Common)

    def __call__(self) -> None:
        if self.workers < 1 or (self.threads is not None and self.threads < 1):
            raise RecipeError("--workers and --threads", given=(self.workers, self.threads), expected="1 or more")
        if self.save is not None:
            writable(self.save, ".json")
        from trimtab.recipe import located

        recipe = located(self.recipe)
        import torch

        from trimtab.cli.bars import bars
        from trimtab.planning import plan
        from trimtab.planning.clock import Clock

        torch.set_num_threads(self.threads or max(1, (os.cpu_count() or 1) // self.workers))
        clocks = None
        if self.hardware is not None:
            clocks = Clock.read(self.hardware)
        with bars(not self.common.json) as watch:
            made, used = plan(
                recipe, size=self.size, workers=self.workers, device=self.device, dtype=self.dtype, clocks=clocks,
                watch=watch,
            )  # fmt: skip
        if self.save is not None:
            Clock.write(self.save, used)
        show(asdict(made), self.common.json, lines(made))


def lines(made: Planned) -> list[str]:
    """A plan as a table."""
    out = [f"{'stage':24} {'units':>6} {'passes':>8} {'tokens':>12} {'time':>10} {'memory':>8}"]
    for s in made.stages:
        time, memory = told(sum(s.seconds)), f"{s.memory / 1e9:.1f} GB"
        out.append(f"{s.name[:24]:24} {s.units:6,} {s.passes:8,} {s.tokens:12,} {time:>10} {memory:>8}")
    weights = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in made.models.items())
    many = "one worker" if made.workers == 1 else f"{made.workers} workers"
    out += [
        f"all of it: {told(made.seconds)} on {many} ({made.machine}), {made.memory / 1e9:.1f} GB in each",
        f"each loads {weights}: {told(made.load)} until it begins; {told(made.between)} between stages",
    ]
    if made.workers > 1:
        longest = max((max(s.seconds, default=0.0), s.name) for s in made.stages)
        out.append(f"the longest unit takes {told(longest[0])} (stage {longest[1]}): no number of workers is faster")
    if made.stopped:
        out.append(f"not all of it: on a stand-in it ends with {made.stopped!r}")
    return out


def told(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
