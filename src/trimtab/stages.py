"""What recipes and studies are: stages of units, in one process or in many, with the same code.

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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trimtab.data.pairs import digest
from trimtab.errors import RunError
from trimtab.journal import plain
from trimtab.progress import Progress, Watch
from trimtab.runs import Run

PLAN = "study"  # the part of the manifest with the plan
RESULTS = "results.json"  # what a study found, typed by its page


@dataclass(frozen=True)
class Unit:
    """A piece of work.

    Attributes:
        name: for people; unique in its stage.
        facts: what its result depends on beside the model and the plan, as plain JSON: data, context, conditions,
            items.
        work: does it, and leaves the result in the run's folder. Called again after an interruption.
        group: units of one group share a progress bar of that name.
    """

    name: str
    facts: Mapping[str, Any]
    work: Callable[[Progress], object]
    group: str = ""


@dataclass(frozen=True)
class Stage:
    """Units that do not wait for each other."""

    name: str
    units: Sequence[Unit]


class Share:
    """Which units of a stage a process does. This one does all of them, and stops at the first that fails."""

    patient = False  # waits at the end of a stage until others have done theirs

    def takes(self, number: int, key: str) -> bool:
        """Whether to do a unit that is not done, now."""
        return True

    def do(self, stage: str, unit: Unit, progress: Progress) -> None:
        """Do a unit."""
        unit.work(progress)

    def failed(self, stage: str, unit: Unit, key: str, problem: Exception) -> None:
        """What becomes of a failure."""
        raise problem

    def lost(self, stage: str) -> dict[str, str]:
        """Units that nobody tries any more, by name, and why."""
        return {}

    def wait(self) -> None:
        """A moment, until others have gone on."""


@dataclass(frozen=True)
class Every(Share):
    """Every `step`-th unit from `first` on. With more than one process a study then ends at a stage that others have to
    finish.
    """

    first: int = 0
    step: int = 1

    def takes(self, number: int, key: str) -> bool:
        return number % self.step == self.first


def carry_out(stages: Iterator[Stage], run: Run, watch: Watch, share: Share | None = None, *, plan: Any = None) -> bool:
    """Do what is not done yet, stage by stage.

    Args:
        stages: of a study; it is asked for the next stage when all units of the one before are finished, whoever did
            them.
        share: which units this process does; by default all of them.
        plan: what all results depend on; by default that of the study in the run's manifest.

    Returns:
        Whether the study is finished.

    Raises:
        RunError: a stage that cannot be finished, since units of it failed again and again.
    """
    share, bars = share or Share(), _Bars(watch)
    plan = run.manifest["parts"][PLAN] if plan is None else plan
    for stage in stages:
        keys = {unit.name: unit_hash(plan, stage, unit) for unit in stage.units}
        run.write(f"units/{stage.name}.json", keys)
        while True:
            worked = _pass(stage, keys, run, bars, share)
            missing = keys.keys() - done_units(run, stage.name, keys)
            if not missing:
                break
            lost = share.lost(stage.name)
            if missing <= lost.keys():
                first = sorted(missing)[0]
                raise RunError(
                    f"stage {stage.name} cannot be finished: {len(missing)} of its units failed again and again",
                    given=f"{first}: {lost[first]}",
                    expected="units that end",
                    do="mend what is said there; the same command goes on with what is missing",
                )
            if not share.patient:
                return False
            if not worked:
                share.wait()
    return True


class _Bars:
    """Progress bars: one for each unit, or for each group of units, which moves on as they are finished here."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.groups, self.done = watch, dict[str, Progress](), Counter[str]()

    def of(self, unit: Unit, stage: Stage, done: set[str]) -> Progress:
        """Of a unit that is begun.

        Args:
            done: names of those that were finished before.
        """
        if not unit.group:
            return self.watch(unit.name)
        members = [u.name for u in stage.units if u.group == unit.group]
        if unit.group not in self.groups:
            self.groups[unit.group] = self.watch(unit.group)
            self.done[unit.group] = len(done & {*members})
        return partial(self._moved, unit.group, len(members))

    def _moved(self, group: str, total: int, part: int, whole: int, words: str = "") -> None:
        self.done[group] += part == whole
        self.groups[group](self.done[group], total, words)


def _pass(stage: Stage, keys: Mapping[str, str], run: Run, bars: _Bars, share: Share) -> bool:
    """Once through a stage, whatever of it this process takes. Whether there was any."""
    journal, worked = run.journal(f"../units/{stage.name}"), False
    before = {name for name, key in keys.items() if key in journal.done}
    for number, unit in enumerate(stage.units):
        key = keys[unit.name]
        if key in journal.done or not share.takes(number, key):
            continue
        worked = True
        try:
            share.do(stage.name, unit, bars.of(unit, stage, before))
        except Exception as problem:
            share.failed(stage.name, unit, key, problem)
            continue
        journal.append(key, [{"stage": stage.name, "unit": unit.name, "number": number}])
    return worked


def done_units(run: Run, stage: str, keys: Mapping[str, str]) -> set[str]:
    """Names of the finished units of a stage.

    Args:
        keys: hashes of its units, by name.
    """
    done = run.journal(f"../units/{stage}").done
    return {name for name, key in keys.items() if key in done}


def unit_hash(plan: Any, stage: Stage, unit: Unit) -> str:
    """16 hex digits over the plan and model, and the unit's facts."""
    return digest(json.dumps(plain([plan, stage.name, unit.name, unit.facts], "kept"), sort_keys=True))
