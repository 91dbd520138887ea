"""The process that carries out a job of the studio: `python -m trimtab.studio.learning RUNS NAME`. It works through
files alone: what is asked stands there, and how far it is, and what came of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.errors import TrimtabError
from trimtab.progress import Progress
from trimtab.studio.jobs import Files, Job, read_json, write_json
from trimtab.studio.shelved import RUN

if TYPE_CHECKING:
    from trimtab.data.datasets import Dataset
    from trimtab.model import LM
    from trimtab.steering.vector import SteeringVector

OFTEN = 0.3  # seconds between two reports
POLITE = 10  # how much less of a shared processor it takes than those who talk
FEWEST = 9  # questions from which some are held out
STEPS = {"sentence": 6, "pairs": 4, "example": 4, "measure": 3}  # stages, by kind of job
SHOWN = 3  # everyday prompts that a new vector is shown on


@dataclass
class Told:
    """Progress, written where the studio reads it. It is the `Watch` of what works."""

    file: Path
    steps: int
    step: int = 0
    began: float = field(default_factory=time.time)
    last: float = 0.0

    def __call__(self, stage: str) -> Progress:
        self.step += 1
        number, began = min(self.step, self.steps), time.time()
        self._say(stage, number, 0, 0, began)

        def update(done: int, total: int, words: str = "") -> None:
            if time.time() - self.last > OFTEN or done == total:
                self._say(f"{stage}, {words}" if words else stage, number, done, total, began)

        return update

    def _say(self, stage: str, number: int, done: int, total: int, began: float) -> None:
        self.last = time.time()
        left = (self.last - began) / done * (total - done) if done else None
        facts = {"stage": stage, "step": number, "steps": self.steps, "done": done, "total": total, "left": left}
        write_json(self.file, {**facts, "seconds": self.last - self.began})


def main(files: Files) -> int:
    """Do what a job asks.

    Returns:
        The code to exit with: 0 if it came to an end, whatever that is.
    """
    job = msgspec.convert(read_json(files.asked), Job)
    folder, watch = files.folder, Told(files.progress, STEPS[job.kind])
    try:
        work = {"sentence": _sentence, "measure": _measured}.get(job.kind, _learned)
        told = work(job, folder, watch)
    except TrimtabError as problem:
        write_json(files.progress, {"told": [str(problem)]})
        return 2
    write_json(files.progress, {"told": told})
    return 0


def _sentence(job: Job, folder: Path, watch: Told) -> list[str]:
    """`trimtab auto`, in the folder of the job."""
    from trimtab import studies

    loading = dict(job.loading)
    recipe = studies.StudyRecipe("auto", str(loading.pop("model")), loading, dict(job.asked))
    studies.run(recipe, folder, watch)
    return list(json.loads((folder / "summary.json").read_text("utf-8"))["findings"])


def _learned(job: Job, folder: Path, watch: Told) -> list[str]:
    """A vector of pairs or of one example, with its dose."""
    from trimtab.data.datasets import Dataset
    from trimtab.evaluation.dose import held_out, recommend
    from trimtab.methods import MeanDiff, OneShot, learn
    from trimtab.model import LM

    loading = dict(job.loading)
    stage = watch("load the model")
    lm = LM.load(str(loading.pop("model")), **loading)
    stage(1, 1)
    data = val = None
    if job.kind == "pairs":
        file = _pairs(job.asked, folder)
        data, val = _parts(Dataset.load(str(file)))
        method: Any = MeanDiff()
    else:
        method = OneShot(prompt=job.asked["prompt"], promote=(job.asked["answer"],))
    layers = lm.layers(method.likely_layers(lm.n_layers))
    vector = learn(lm, data, method, layers, progress=watch("learn"))
    stage = watch("measure the dose")
    stage(0, 1)
    vector = recommend(lm, vector, held_out(lm, method, val), progress=stage)
    vector.save(folder / RUN)
    return [*_verdict(vector), *_shown(lm, vector, watch("say something"))]


def _measured(job: Job, folder: Path, watch: Told) -> list[str]:
    """A vector on held-out items of the behavior it was learned on, beside controls: what `trimtab measure` does."""
    from trimtab.data.datasets import Dataset
    from trimtab.evaluation.metrics import Propensity
    from trimtab.flow import measured
    from trimtab.model import LM
    from trimtab.recipe import GRID
    from trimtab.steering.interventions import Intervention
    from trimtab.steering.vector import SteeringVector

    loading = dict(job.loading)
    stage = watch("load the model")
    lm = LM.load(str(loading.pop("model")), **loading)
    stage(1, 1)
    vector = SteeringVector.load(job.asked["file"])
    data = Dataset.load(job.asked["data"], form="answers").split(seed=0).test
    iv = Intervention.recommended(vector)
    grid = (vector.use.grid if vector.use else ()) or GRID
    how: Any = {"multipliers": grid, "spoken": grid, "file": job.asked["file"], "watch": watch}
    measured(lm, vector, iv, data, [Propensity()], folder, **how)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    return [summary["verdict"], summary["next"]]


def _shown(lm: LM, vector: SteeringVector, progress: Progress) -> list[str]:
    """What is said at the recommended dose: a verdict is about likelihoods, and people read."""
    from trimtab.data.builtin import neutral
    from trimtab.steering.interventions import steer

    prompts = list(neutral())[:SHOWN]
    with steer(lm, vector):
        said = lm.generate(prompts, max_new_tokens=40)
    progress(1, 1)
    return [f"{q} — {' '.join(text.split())} …" for q, text in zip(prompts, said, strict=True)]


def _pairs(asked: Mapping[str, Any], folder: Path) -> Path:
    """The pairs of a form as a file."""
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in asked["pairs"]), "utf-8")
    return file


def _parts(data: Dataset) -> tuple[Dataset, Dataset | None]:
    """What is learned from, and a quarter that is held out; all of it, where there are too few questions for that."""
    questions = sorted({pair.group for pair in data})  # hashes: an order of chance, and always the same
    if len(questions) < FEWEST:
        return data, None
    held = {*questions[: len(questions) // 4]}
    parts = [tuple(p for p in data if (p.group in held) == wanted) for wanted in (False, True)]
    return replace(data, pairs=parts[0], part="train"), replace(data, pairs=parts[1], part="val")


def _verdict(vector: SteeringVector) -> list[str]:
    """How to use a vector, and what is known of it."""
    use = vector.use
    assert use is not None
    fit = "No dose of it is known to be fit for use." if use.ship is None else (
        f"Fit for use from {use.ship[0]:g} to {use.ship[1]:g}; {use.multiplier:g} is recommended."
    )  # fmt: skip
    return [fit, *use.why]


if __name__ == "__main__":
    os.nice(POLITE)
    sys.exit(main(Files(Path(sys.argv[-2]), sys.argv[-1])))
