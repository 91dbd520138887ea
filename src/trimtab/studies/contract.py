"""What every study is: stages of units, in one process today and on many machines tomorrow, with the same code.

    def stages(lm, run, plan):                      # of a study: a generator
        yield Stage("vectors", [Unit("descent", facts, work), ...])
        layer = ...                                 # a choice, from what the units wrote into the folder
        yield Stage("answers", [...])
        run.write(RESULTS, Results(...))            # what its page reads

A unit does one piece of work and leaves its result in the run's folder; what it leaves depends on its facts and on
nothing else, so a finished one is passed over. A stage is finished when all of its units are; only then does the
study go on, and read what they wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.data.pairs import digest
from trimtab.journal import plain
from trimtab.progress import Progress, Watch
from trimtab.runs import Run

RESULTS = "results.json"  # what a study found, typed by its page


@dataclass(frozen=True)
class Unit:
    """A piece of work.

    Attributes:
        name: for people; unique in its stage.
        facts: what its result depends on beside the model and the plan, as plain JSON: data, context, conditions,
            items.
        work: does it, and leaves the result in the run's folder. Called again after an interruption.
    """

    name: str
    facts: Mapping[str, Any]
    work: Callable[[Progress], object]


@dataclass(frozen=True)
class Stage:
    """Units that do not wait for each other."""

    name: str
    units: Sequence[Unit]


def carry_out(stages: Iterator[Stage], run: Run, watch: Watch, *, shard: tuple[int, int] = (0, 1)) -> bool:
    """Do what is not done yet, stage by stage.

    Args:
        stages: of a study; it is asked for the next stage when all units of the one before are finished, whoever did
            them.
        shard: (k, n): do every n-th unit of a stage, from the k-th on. With n > 1 it ends at the first stage that
            others have to finish.

    Returns:
        Whether the study is finished.
    """
    plan = run.manifest["parts"]["study"]
    for stage in stages:
        journal, (first, step) = run.journal(f"../units/{stage.name}"), shard
        keys = {unit.name: unit_hash(plan, stage, unit) for unit in stage.units}
        for unit in stage.units[first::step]:
            if keys[unit.name] not in journal.done:
                unit.work(watch(unit.name))
                journal.append(keys[unit.name], [{"stage": stage.name, "unit": unit.name}])
        if not set(keys.values()) <= run.journal(f"../units/{stage.name}").done:
            return False
    return True


def unit_hash(plan: Mapping[str, Any], stage: Stage, unit: Unit) -> str:
    """16 hex digits over the study's plan and model, and the unit's facts."""
    return digest(json.dumps(plain([plan, stage.name, unit.name, unit.facts], "kept"), sort_keys=True))
