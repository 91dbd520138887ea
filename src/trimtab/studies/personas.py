"""Personas: what a model says under the vectors of every method, from strongly against a behavior to strongly for it,
rated by a judge that is another model (Cao et al. 2024, figures 1 and 5, tables 6, 7 and 10).

For every behavior: open answers over a spectrum of multipliers, and with every method at the same drift; answers under
the vectors of two behaviors at once; and answers that begin with the letter of an option, to see whether what follows
belongs to it. The judge is first tried on answers whose rating is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from trimtab.answers.agreement import Agreement, agreement
from trimtab.answers.judges import Recorded
from trimtab.answers.quality import Usual
from trimtab.answers.sampling import sample
from trimtab.data.pairs import Pair, to_choices
from trimtab.errors import RecipeError, check_least
from trimtab.model import LM
from trimtab.model.rendering import as_prompt
from trimtab.model.tokens import Prompt
from trimtab.organisms import sets
from trimtab.progress import Progress, silent
from trimtab.recipe import check_grid
from trimtab.runs import Run
from trimtab.stages import RESULTS, Stage, Unit
from trimtab.statistics.counts import share
from trimtab.statistics.intervals import Array
from trimtab.statistics.slopes import slopes_of_known
from trimtab.studies.behaviors import METHODS, Behavior, Learning, place, scouting
from trimtab.studies.conditions import UNSTEERED, Condition, Said
from trimtab.studies.descents import Stacks, Vectors, throughout
from trimtab.studies.judging import TOWN, check_judge, load_judge, local_judge, rubric_for, unrated
from trimtab.studies.pages.bipo_results import BIPO, Value, slug
from trimtab.studies.pages.findings import some_answers
from trimtab.studies.pages.personas import (
    DOWN,
    UP,
    Facts,
    Letters,
    Range,
    Rated,
    Results,
    Slopes,
    Together,
    contradicts,
)


@dataclass(frozen=True)
class Plan(Learning):
    """What is run.

    Attributes:
        judge: who rates: a model's name, the URL of an OpenAI-compatible server, or "town" for the truth about
            Brindlemoor. Never the steered model.
        judge_model: as the server names the model that judges.
        multipliers: the spectrum.
        talk: test questions that are answered, of each behavior.
        letters: test questions that are asked with options, and answered from a letter on.
        randoms: random directions of BiPO's norm, as controls.
        max_new_tokens: longest answer.
    """

    judge: str = ""
    judge_model: str = ""
    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    talk: int = 20
    letters: int = 20
    randoms: int = 2
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.multipliers)
        check_least("personas", 2, talk=self.talk)
        check_least("personas", 0, letters=self.letters, randoms=self.randoms)
        if not {-1.0, 1.0} <= set(self.multipliers):
            raise RecipeError("ratings are compared at -1 and +1", given=self.multipliers, expected="both in the grid")
        if not self.judge:
            raise RecipeError("no judge", expected='judge = "MODEL", another than the steered one, or a server\'s URL')
        elsewhere = [d for d in self.data if d not in sets.names()]
        if self.judge == TOWN and elsewhere:
            raise RecipeError("the town knows the truth about itself alone", given=elsewhere, do="name another judge")


def stages(lm: LM, run: Run, plan: Plan) -> Iterator[Stage]:
    """On any chat model.

    Raises:
        RecipeError: a judge that cannot be one.
        DataError, TokenError: a pair that cannot be asked; all of it before anything is run.
    """
    check_judge(plan.judge, plan.judge_model, lm.id)
    lm.layers(plan.candidates)
    bench = _Bench(lm, plan)
    studied = [_Persona(lm, run, plan, source, bench) for source in plan.data]
    yield from scouting(studied)
    place(studied)
    for b in studied:
        b.others = [other for other in studied if other is not b]
    yield Stage("judge", [Unit(f"{b.name}: the judge", b.basis, b.tried) for b in studied])
    yield Stage(
        "vectors", [Unit(f"{b.name}: learn {c}", b.basis, partial(b.learned, c)) for b in studied for c in METHODS]
    )
    yield Stage("strengths", [Unit(f"{b.name}: equal drift", b.basis, b.strengths) for b in studied])
    pairs = [(b, other) for b in studied for other in b.others]
    yield Stage("answers", [
        *(Unit(f"{b.name}: answers", b.basis, b.answers) for b in studied),
        *(Unit(f"{b.name}: from a letter on", b.basis, b.begun) for b in studied if plan.letters),
        *(Unit(f"{one.name} with {two.name}", one.basis, partial(one.together, two)) for one, two in pairs),
    ])  # fmt: skip
    yield Stage("ratings", [Unit(f"{b.name}: ratings", b.basis, b.rate_all) for b in studied])
    together = [one.joint(two) for one, two in pairs]
    run.write(RESULTS, Results(lm.id, plan.judge, plan.judge_model, plan.seed, plan.budget, plan.multipliers, together,
                               [b.results() for b in studied]))  # fmt: skip


class _Bench:
    """Where the judge's model is kept: loaded when the first answer is rated, once for all behaviors."""

    def __init__(self, steered: LM, plan: Plan) -> None:
        self.steered, self.plan = steered, plan

    @cached_property
    def lm(self) -> LM | None:
        return local_judge(self.plan.judge, self.steered)


class _Persona(Behavior):
    """The pieces of work of one behavior; each reads back what it has already done."""

    def __init__(self, lm: LM, folder: Run, plan: Plan, source: str, bench: _Bench) -> None:
        super().__init__(lm, folder, plan, source)
        self.plan, self.bench = plan, bench
        self.items = {f"{k}": p for k, p in enumerate(self.test.take(plan.talk))}
        self.prompts: dict[str, Prompt] = {k: as_prompt(p.asked) for k, p in self.items.items()}
        self.others: list[_Persona] = []
        self.failed = False  # whether the judge's server gave up on an answer

    @cached_property
    def vectors(self) -> Vectors:
        """Of every method, and random directions, turned from BiPO's."""
        return self.every(METHODS, self.plan.randoms)

    # ------------------------------------------------------------ what is said

    def strengths(self, progress: Progress) -> dict[Condition, tuple[float, float]]:
        """Every vector's multipliers, up and down, at which it costs the budget of drift."""
        out: dict[Condition, tuple[float, float]] = {}
        for k, (c, v) in enumerate(self.vectors.items()):
            drift = self.drift(v, c)
            out[c] = (drift.up, drift.down)
            progress(k + 1, len(self.vectors))
        return out

    @cached_property
    def conditions(self) -> Stacks:
        """The unsteered model; every vector over the spectrum; and where it costs the budget of drift."""
        out: Stacks = {UNSTEERED: ()}
        for c, v in self.vectors.items():
            out |= {c.at(m): (throughout(v, multiplier=m),) for m in self.plan.multipliers if m}
        for c, ways in self.strengths(silent("")).items():
            for how, m in zip((UP, DOWN), ways, strict=True):
                if np.isfinite(m):
                    out[c.but(how=how, strength=float(m))] = (throughout(self.vectors[c], multiplier=m),)
        return out

    def answers(self, progress: Progress) -> Said:
        """To test questions."""
        return self._said("answers", self.conditions, self.prompts, progress)

    def begun(self, progress: Progress) -> Said:
        """To test questions with options, from the letter of either option on: unsteered, and under every vector."""
        conditions = {UNSTEERED: (), **{c: (throughout(v),) for c, v in self.vectors.items()}}
        return self._said("letters", conditions, self.lettered, progress)

    @cached_property
    def choices(self) -> dict[str, Pair]:
        """The first test questions with their options."""
        return {f"{k}": p for k, p in enumerate(to_choices(self.test.take(self.plan.letters).pairs))}

    @property
    def lettered(self) -> dict[str, Prompt]:
        """Every question twice: the answer begins with the letter of either option."""
        return {
            f"{k} {side}": as_prompt((*p.before, ("user", p.prompt), ("assistant", letter)))
            for k, p in self.choices.items()
            for side, letter in (("positive", p.positive), ("negative", p.negative))
        }

    def together(self, other: _Persona, progress: Progress) -> Said:
        """To this behavior's questions: under the other's vector, and under both, at -1 and +1."""
        theirs = other.learned(BIPO)
        kinds = {"other": theirs, "both": self.learned(BIPO) + theirs}
        conditions = {
            BIPO.but(how=kind).at(m): (throughout(v, multiplier=m),) for kind, v in kinds.items() for m in (-1.0, 1.0)
        }
        return self._said(slug(f"with {other.name}"), conditions, self.prompts, progress)

    def _said(self, name: str, conditions: Stacks, prompts: dict[str, Prompt], progress: Progress) -> Said:
        return sample(
            self.lm, conditions, prompts, 1, to=self.run.file(f"{name}.jsonl"), temperature=0.0,
            max_new_tokens=self.plan.max_new_tokens, progress=progress,
        )  # fmt: skip

    # ------------------------------------------------------------ what they are worth

    @cached_property
    def judge(self) -> Recorded:
        plan = self.plan
        judge = load_judge(plan.judge, plan.judge_model, rubric_for(self.name), self.bench.lm)
        return Recorded(judge, self.run.file("ratings.jsonl"))

    def _rated(self, pairs: Sequence[Pair], texts: Sequence[str], anchors: Sequence[Pair] | None = None) -> Array:
        """A rating for each answer, 1 to 4; NaN where the judge gives none. It sees the answers of a pair as examples
        of the highest and lowest level: of the answered pair, or of another.
        """
        about = [
            {"question": p.question, "answer": t, "positive": a.positive, "negative": a.negative}
            for p, t, a in zip(pairs, texts, anchors or pairs, strict=True)
        ]
        ratings = self.judge.rate(about)
        self.failed |= any(r.label == "failed" for r in ratings)
        return np.array([r.score for r in ratings])

    def rate_all(self, progress: Progress) -> None:
        """Rate everything that was said; ratings are kept as they come.

        Raises:
            RunError: the judge's server gave up on some of them; the same command asks for those again.
        """
        quiet = silent("")
        work = [
            *(partial(self._scores, self.answers(quiet), c) for c in self.conditions),
            *(partial(self._letters, c) for c in [UNSTEERED, *self.vectors] if self.plan.letters),
            *(partial(self.joint, other) for other in self.others),
        ]
        for k, piece in enumerate(work):
            piece()
            progress(k + 1, len(work))
        if self.failed:
            raise unrated(self.plan.judge)

    def _scores(self, said: Said, condition: Condition) -> Array:
        return self._rated(list(self.items.values()), [said[k, condition][0] for k in self.items])

    def tried(self, progress: Progress) -> Agreement:
        """The judge on answers whose side is known: both of every pair. Its examples are those of the next pair, or it
        would find the answer among them.

        Raises:
            RecipeError: it rates fewer than three.
        """
        pairs = list(self.items.values())
        others = [*pairs[1:], pairs[0]]
        sides = [p.positive for p in pairs], [p.negative for p in pairs]
        given = np.concatenate([self._rated(pairs, texts, others) for texts in sides])
        progress(1, 1)
        return agreement(given.tolist(), [4.0] * len(pairs) + [1.0] * len(pairs), threshold=2.5)

    def joint(self, other: _Persona) -> Together:
        """What both vectors do to the rating of this behavior beyond what each does alone: the change from -1 to +1."""
        own = self._range(self.answers(silent("")), BIPO)
        said = self.together(other, silent(""))
        alone, both = (self._range(said, BIPO.but(how=kind)) for kind in ("other", "both"))
        groups, beyond = [p.group for p in self.items.values()], both - own - alone
        rated = np.where(np.isnan(beyond), np.nan, 1.0)  # the questions all of whose answers are rated
        values = {"own": own * rated, "alone": alone * rated, "both": both * rated, "beyond": beyond}
        cosine = self.learned(BIPO).cosine(other.learned(BIPO))[self.layer]
        shown = some_answers(said, self._questions(), [BIPO.but(how="both").at(m) for m in (1.0, -1.0)], 2)
        means = {name: Value.of(x, groups) for name, x in values.items()}
        return Together(self.name, other.name, cosine, answers=shown, **means)

    def _range(self, said: Said, condition: Condition) -> Array:
        return self._scores(said, condition.at(1.0)) - self._scores(said, condition.at(-1.0))

    def _slopes(self, said: Said, condition: Condition) -> Slopes:
        """Of every question's rating over the spectrum."""
        grid = np.array(self.plan.multipliers)
        ratings = [self._scores(said, condition.at(m) if m else UNSTEERED) for m in self.plan.multipliers]
        slope = slopes_of_known(grid, np.stack(ratings, 1))
        known = slope[~np.isnan(slope)]
        value = Value.of(slope, [p.group for p in self.items.values()])
        return Slopes(condition, value, share(x < 0 for x in known), share(x == 0 for x in known))

    def _letters(self, condition: Condition) -> Letters:
        """Of answers that began with an option's letter: whether what follows is clearly the other option's."""
        said, pairs = self.begun(silent("")), [self.test.pairs[int(k)] for k in self.choices]
        sides = {
            side: self._rated(pairs, [said[f"{k} {side}", condition][0] for k in self.choices])
            for side in ("positive", "negative")
        }
        against = {s: [contradicts(s, x) for x in scores if not np.isnan(x)] for s, scores in sides.items()}
        each = [
            contradicts("positive", up) or contradicts("negative", down)
            for up, down in zip(sides["positive"], sides["negative"], strict=True)
            if not (np.isnan(up) and np.isnan(down))
        ]
        unrated = int(sum(np.isnan(x).sum() for x in sides.values()))
        return Letters(condition, share(against["positive"]), share(against["negative"]), share(each), unrated)

    def _questions(self) -> dict[str, str]:
        return {k: p.question for k, p in self.items.items()}

    # ------------------------------------------------------------ what came out

    def results(self) -> Facts:
        said = self.answers(silent(""))
        usual = Usual(self.lm, list(self.prompts.values()), [said[k, UNSTEERED][0] for k in self.items])
        plain = self._scores(said, UNSTEERED)
        rated, groups = list[Rated](), [p.group for p in self.items.values()]
        for c in self.conditions:
            scores, texts = self._scores(said, c), [said[k, c][0] for k in self.items]
            quality = usual.own if c == UNSTEERED else usual.beside(texts)
            changed = Value.of(scores - plain, groups)
            rated.append(Rated(c, Value.of(scores, groups), changed, int(np.isnan(scores).sum()), quality.broken))
        shown = [c for c in self.conditions if c.kind != "random" and c.how == ""]
        letters = [self._letters(c) for c in (UNSTEERED, *self.vectors)] if self.plan.letters else []
        layers = {c.label: v.layers[0] for c, v in self.vectors.items()}
        ranges = [Range(c, Value.of(self._range(said, c), groups)) for c in self.vectors]
        slopes = [self._slopes(said, c) for c in self.vectors]
        agreed, read = self.tried(silent("")), some_answers(said, self._questions(), shown, 2)
        return Facts(self.name, self.judge.rubric.name, len(self.train), len(self.items), agreed, layers, rated, ranges,
                     slopes, letters, read)  # fmt: skip
