"""Every built-in behavior at the defaults of the command line: does the text stay whole, and is the behavior there?

As `trimtab learn mean-diff --data NAME` does, a vector is learned and its dose measured on held-out pairs and neutral
prompts; then it is tried, at the recommended use, on the test part, which nothing was chosen on. `python
simulations/default_doses.py` writes the table of docs/dose.md (about half an hour on two cores), and the answers
beside it, to be read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from page_tables import put

from trimtab import LM, Dataset, MeanDiff, Propensity, SteeringVector, learn, steer
from trimtab.answers.quality import Usual
from trimtab.data.builtin import built_in
from trimtab.evaluation.dose import TEMPERATURE, HeldOut, changes, recommend
from trimtab.statistics.dose import BROKEN_MORE, DISTINCT, STRANGER
from trimtab.statistics.intervals import mean_figure
from trimtab.steering.interventions import Intervention

PAGE = Path(__file__).parents[1] / "docs" / "dose.md"
HEAD = (
    "behavior",
    "layer",
    "multiplier",
    "range",
    "rise on test items, nats/token (95 %, n)",
    "broken, unsteered",
    "broken, steered",
    "stranger by, nats/token",
    "different pairs of words, of the unsteered",
    "text whole",
    "visible",
)


def texts(lm: LM, prompts: list[str], vector: SteeringVector | None) -> list[str]:
    options = {"max_new_tokens": 60, "temperature": TEMPERATURE, "seed": 1}
    if vector is None:
        return lm.generate(prompts, **options)
    with steer(lm, vector):
        return lm.generate(prompts, **options)


def row(lm: LM, name: str, answers: dict[str, list[dict[str, str]]]) -> list[str]:
    """One behavior, learned, dosed and tried."""
    parts = Dataset.load(name).split(seed=0)
    vector = recommend(lm, learn(lm, parts.train, MeanDiff()), parts.val)
    use = vector.use
    assert use is not None and use.dose is not None
    prompts = [p.prompt for p in parts.test][:16]
    plain, said = texts(lm, prompts, None), texts(lm, prompts, vector)
    usual = Usual(lm, prompts, plain)
    before, after = usual.own, usual.beside(said)
    stranger, varied = after.strangeness - before.strangeness, after.distinct / before.distinct
    held = HeldOut(parts.test, Propensity())
    rise = changes(lm, [Intervention.recommended(vector)], held, (use.multiplier,))[0, 0].numpy().astype(float)
    f = mean_figure("", rise, held.unit, groups=held.groups)
    answers[name] = [{"prompt": p, "unsteered": a, "steered": b} for p, a, b in zip(prompts, plain, said, strict=True)]
    whole = after.broken <= before.broken + BROKEN_MORE and stranger <= STRANGER and varied >= DISTINCT
    ship = "none" if use.ship is None else f"{use.ship[0]:g} to {use.ship[1]:g}"
    visible = "yes" if f.lo > 0 else "no"
    cells = [
        name,
        str(use.layers[0]),
        f"{use.multiplier:g}",
        ship,
        f"{f.value:+.3f} ({f.lo:+.3f} to {f.hi:+.3f}, {f.n})",
    ]
    cells += [
        f"{before.broken:.0%}",
        f"{after.broken:.0%}",
        f"{stranger:+.2f}",
        f"{varied:.2f}",
        "yes" if whole else "no",
    ]
    told = (
        "the tool gives a range"
        if use.ship
        else "the tool is not sure"
        if "Likely" in use.why[-1]
        else "the tool says no"
    )
    return [*cells, f"{visible}; {told}"]


def main(names: list[str]) -> None:
    lm, answers, rows = LM.load("smollm2"), dict[str, list[dict[str, str]]](), list[list[str]]()
    for name in names:
        rows.append(row(lm, name, answers))
        print(" | ".join(rows[-1]), flush=True)
        out = PAGE.with_name("dose-answers.json")
        if names == list(built_in()):
            out.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if names == list(built_in()):
        put("default doses", [HEAD, *rows], PAGE)


if __name__ == "__main__":
    main(sys.argv[1:] or list(built_in()))
