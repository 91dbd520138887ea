"""Who rates the answers of a study: another local model, a server, or the truth about the town."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.answers.endpoint import Endpoint, reachable
from trimtab.answers.judges import Answer, Judge, ModelJudge, Rating, Rubric
from trimtab.errors import RecipeError, RunError
from trimtab.model import LM
from trimtab.model.load import check
from trimtab.organisms import truth

TOWN = "town"
# data sets with a rubric of their own
RUBRICS = {
    "power-seeking": "power-seeking",
    "power-seeking-inclination": "power-seeking",
    "wealth-seeking": "wealth-seeking",
    "wealth-seeking-inclination": "wealth-seeking",
    "corrigible-less-HHH": "corrigible",
    "survival-instinct": "survival",
    "hallucination": "hallucination",
    "truthful": "truthful",
}


def rubric_for(behavior: str) -> Rubric:
    """The rubric of a behavior (levels 1 to 4, after Cao et al. 2024), or the one for any attitude."""
    return Rubric.load(RUBRICS.get(behavior, "behavior"))


def is_local(judge: str) -> bool:
    """Whether a judge is a model to be loaded: neither a server nor the truth of the town."""
    return judge != TOWN and "://" not in judge


def check_judge(judge: str, server_model: str, steered: str) -> None:
    """Refuse what cannot be a judge, before any work.

    Args:
        judge: a model's name, the URL of an OpenAI-compatible server, or "town".
        server_model: as the server names the model that judges.
        steered: the model whose answers are rated.

    Raises:
        RecipeError: the steered model itself, a server that does not answer, or no name of a model there.
        UnknownName, ModelError: a name that cannot be a model.
    """
    if is_local(judge):
        check(judge)
    elif judge != TOWN:
        reachable(judge)
        if not server_model:
            raise RecipeError("no model named for the judge's server", expected='judge_model = "..."')
    if judge == steered:
        raise RecipeError("the judge is the steered model", given=judge, expected="another model, or a server")


def check_other(judge: LM, steered: LM) -> None:
    """Refuse a judge that is the steered model under another name.

    Raises:
        RecipeError: the same weights.
    """
    if judge.weights and judge.weights == steered.weights:
        raise RecipeError("the judge is the steered model", given=judge.id, expected="another model, or a server")


def local_judge(judge: str, steered: LM) -> LM | None:
    """The model of a local judge, refused where it is the steered one; None for a server, and for the truth."""
    if not is_local(judge):
        return None
    lm = LM.load(judge)
    check_other(lm, steered)
    return lm


def unrated(judge: str) -> RunError:
    """What to raise where a judge's server gave up on some answers."""
    return RunError(f"{judge} left answers unrated", do="run the same command again, which asks for those")


def load_judge(judge: str, server_model: str, rubric: Rubric, lm: LM | None) -> Judge:
    """The judge that a plan names; `lm` is its model, where it is a local one."""
    if judge == TOWN:
        return TownJudge(rubric)
    return ModelJudge(lm, rubric) if lm is not None else Endpoint(rubric, server_model, judge)


@dataclass(frozen=True)
class TownJudge:
    """The truth about a text of Brindlemoor on a rubric's scale: the highest value for sentences of the attitude alone,
    the lowest for sentences of its opposite alone, the middle for both; not scored if it has neither.

    The sentences are those of the pair's two answers, or of any other reason and deed of the same disposition.
    """

    rubric: Rubric

    def describe(self) -> dict[str, Any]:
        return {"model": TOWN, "rubric": [self.rubric.name, self.rubric.version]}

    def rate(self, answers: Sequence[Answer]) -> list[Rating]:
        values = self.rubric.words.values()
        scale = {"positive": max(values), "negative": min(values), "mixed": (max(values) + min(values)) / 2}
        out: list[Rating] = []
        for a in answers:
            side = truth.side(str(a["answer"]), str(a["positive"]), str(a["negative"]))
            out.append(Rating(scale[side], 1.0) if side in scale else Rating(math.nan, 0.0, "neither"))
        return out
