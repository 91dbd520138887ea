"""Finding what to promote or suppress, so that nobody has to invent it: likely completions, contrastive ones, and
losses to aim at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import LossError
from trimtab.model import LM, Row
from trimtab.model.generate import steps
from trimtab.optimize.losses import losses_in_full
from trimtab.optimize.objectives import COLDNESS, Messages, Objective, Promote, Said, Suppress, Term, row_of
from trimtab.optimize.problems import Place, Problem
from trimtab.steering.interventions import Intervention, check_stack


@dataclass(frozen=True)
class Candidate:
    """A completion found by search.

    Attributes:
        text, ids: the completion.
        logp: its log-probability after the prompt, in nats.
        against: its log-probability after the other prompt, if there was one.
    """

    text: str
    ids: tuple[int, ...]
    logp: float
    against: float | None = None


@torch.no_grad()
def likely_completions(
    lm: LM,
    prompt: Messages,
    *,
    against: Messages | None = None,
    tokens: int = 5,
    width: int = 5,
    coldness: float = 1.0,
    least: bool = False,
    system: str | None = None,
    chat: bool | None = None,
) -> list[Candidate]:
    """The most likely openings of an answer, by beam search under a cache; inside `steer` those of the steered model.

    Args:
        against: rank by how much more likely a completion is after `prompt` than after this one (difference of
            probabilities).
        tokens: length of every completion; tokens that end the turn are left out.
        width: beams, and how many to return, best first.
        coldness: inverse temperature of the probabilities.
        least: the other end of the ranking.
        system, chat: as for `LM.row`.
    """
    if tokens < 1 or width < 1:
        raise LossError("not a search", given=(tokens, width), expected="at least one token and one beam")
    beams = _Beams(lm, row_of(lm, prompt, "", system=system, chat=chat, empty=True), coldness, tokens)
    other = (
        None
        if against is None
        else _Beams(lm, row_of(lm, against, "", system=system, chat=chat, empty=True), coldness, tokens)
    )
    ends = sorted(lm.end_tokens)
    for _ in range(tokens):
        logp = beams.scores()
        rank = logp if other is None else logp.exp() - other.scores().exp()
        rank = -rank if least else rank
        rank[:, ends] = -torch.inf
        best = rank.flatten().topk(min(width, int(rank.isfinite().sum()))).indices
        parent, chosen = best // rank.shape[1], best % rank.shape[1]
        beams.extend(parent, chosen)
        if other is not None:
            other.extend(parent, chosen)
    sums = None if other is None else other.total.tolist()
    candidates = [
        Candidate(lm.tokenizer.decode(ids), tuple(ids), logp)
        for ids, logp in zip(beams.ids.tolist(), beams.total.tolist(), strict=True)
    ]
    return candidates if sums is None else [replace(c, against=x) for c, x in zip(candidates, sums, strict=True)]


class _Beams:
    """Continuations of one prompt by at most `longest` tokens."""

    def __init__(self, lm: LM, row: Row, coldness: float, longest: int) -> None:
        self.lm, self.coldness = lm, coldness
        self.steps = steps(lm, lm.batch([row]), longest)
        self.logits = self.steps(None, torch.ones(1, dtype=torch.bool))
        self.ids: Int[Tensor, "b m"] = torch.zeros(1, 0, dtype=torch.long, device=lm.device)
        self.total: Float[Tensor, " b"] = torch.zeros(1, device=lm.device)

    def scores(self) -> Float[Tensor, "b v"]:
        """Log-probability of every beam with every next token."""
        return self.total[:, None] + (self.coldness * self.logits).log_softmax(-1)

    def extend(self, parent: Int[Tensor, " k"], chosen: Int[Tensor, " k"]) -> None:
        self.total = self.scores()[parent, chosen]
        self.ids = torch.cat([self.ids[parent], chosen[:, None]], -1)
        self.steps.pick(parent)
        self.logits = self.steps(chosen, torch.ones(len(chosen), dtype=torch.bool))


def losses_of(lm: LM, what: Term | Objective, *steered_by: Intervention) -> list[float]:
    """The losses (nats) of terms on the model as it is, or steered by some interventions. Terms about shifts are 0
    where nothing moves.
    """
    here = Problem(what, Place((0,), under=check_stack(lm, steered_by)))
    return [float(x) for x in losses_in_full(lm, here, None)]


def target_from(
    lm: LM, term: Said, twin: Messages, *steered_by: Intervention, system: str | None = None, share: float = 1.0
) -> float:
    """A loss to aim at: that of the same completion where the model already says it.

    The twin is a prompt after which the behavior shows by itself, or an explicit instruction. With `share` 0.75 the
    target probability is p^0.75, a little more likely than instructed (Dunefsky & Cohan 2025, appendix E). Measured
    at the term's coldness.
    """
    return share * losses_of(lm, replace(term, prompt=twin, system=system or term.system, target=None), *steered_by)[0]


def swapped_choice(
    lm: LM,
    prompt: Messages,
    swapped: Messages,
    letters: tuple[str, str],
    *,
    coldness: float = COLDNESS,
    system: str | None = None,
    chat: bool | None = None,
    separator: str | None = None,
) -> Objective:
    """Make the model take the other option of an A/B question, whichever letter it has (Dunefsky & Cohan 2025,
    alignment faking).

    Four terms: on the prompt the other letter is promoted and the chosen one suppressed; on the prompt with its
    options swapped the reverse. Each is good enough when the letters have traded places: `Target(each=True)` stops
    there.

    Args:
        prompt, swapped: the question, and the same with actions and labels swapped.
        letters: the two answers, such as ("A", "B").
        system, chat, separator: as for `LM.row`.
    """
    how: dict[str, Any] = {"coldness": coldness, "system": system, "chat": chat, "separator": separator}
    taken = [losses_of(lm, Promote(prompt, letter, **how))[0] for letter in letters]
    chosen, other = letters if taken[0] <= taken[1] else letters[::-1]
    terms: list[Term] = []
    for question, up, down in ((prompt, other, chosen), (swapped, chosen, other)):
        likely = losses_of(lm, Promote(question, down, **how))[0]
        unlikely = losses_of(lm, Suppress(question, up, **how))[0]
        terms += [Promote(question, up, target=likely, **how), Suppress(question, down, target=unlikely, **how)]
    return Objective(tuple((1.0, t) for t in terms))
