"""Preferences: one of two answers more likely than before, the other less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import LossError, TokenError
from trimtab.model import LM, Row
from trimtab.optimize.objectives import Messages, Term, View, row_of


@dataclass(frozen=True)
class Prefer(Term):
    """One of two answers more likely than before, the other less: BiPO (Cao et al. 2024, equations 2 and 3), and its
    relatives.

    The margin is m = (l+ - l+ without v) - (l- - l- without v), with l the summed log-probability of an answer;
    negated, the vector is subtracted and the margin of the opposite counts, which is what makes the objective
    bi-directional.

    Args:
        form: "sigmoid" (-log sigmoid(beta m)), "hinge" (max(0, 1 - beta m)), "ipo" ((m / tokens - 1 / (2 beta))^2, of
            means over tokens), "free" (reference-free and per token: -log sigmoid(beta (l+/n+ - l-/n-)), as SimPO and
            RePS), "unpaired" (each answer by itself: the mean of 1 - sigmoid(beta (r+ - r0)) and 1 - sigmoid(beta (r0
            - r-)), r the change of l, as KTO), or "margin" (-m, to watch).
        end: score the token that ends the turn, too (as the published code does).
        other: an answer to another question, for "unpaired": r0 is the change of its l (no gradient, at least 0); 0
            without it.
    """

    prompt: Messages
    positive: str
    negative: str
    system: str | None = None
    beta: float = 0.1
    form: Literal["sigmoid", "hinge", "ipo", "free", "unpaired", "margin"] = "sigmoid"
    negated: bool = False
    target: float | None = None
    chat: bool | None = None
    separator: str | None = None
    other: str = ""
    end: bool = False

    def __post_init__(self) -> None:
        if self.form not in ("sigmoid", "hinge", "ipo", "free", "unpaired", "margin") or not self.beta > 0:
            raise LossError("not a preference", given=(self.form, self.beta), expected="a known form and beta > 0")

    @property
    def sign(self) -> float:  # type: ignore[override]
        return -1.0 if self.negated else 1.0

    @property
    def source(self) -> Term:
        return replace(self, negated=False, form="sigmoid", beta=0.1)

    def rows(self, lm: LM) -> list[Row]:
        texts = (self.positive, self.negative, *([self.other] if self.other else []))
        both = [
            row_of(lm, self.prompt, text, system=self.system, chat=self.chat, separator=self.separator)
            for text in texts
        ]
        if self.end:
            both = [row.extended((self._end(lm),)) for row in both]
        if both[0].ids == both[1].ids:
            raise TokenError(
                "both answers have the same tokens",
                given=(self.positive, self.negative),
                expected="two different answers",
            )
        return both

    @staticmethod
    def _end(lm: LM) -> int:
        token = getattr(lm.tokenizer, "eos_token_id", None)
        if token is None:
            raise TokenError("the tokenizer has no token that ends a turn", given=lm.id, do="leave end=False")
        return int(token)

    @torch.no_grad()
    def prepare(self, lm: LM, rows: Sequence[Row]) -> tuple[float, ...]:
        """The reference: what the model without a vector says of the answers."""
        return self.references(lm, [rows])[0]

    @staticmethod
    @torch.no_grad()
    def references(lm: LM, answers: Sequence[Sequence[Row]], batch: int = 4) -> list[tuple[float, ...]]:
        """The references of many preferences: summed log-probability of each of their answers, nats. The prompt of a
        preference is run once.
        """
        out: dict[int, tuple[float, ...]] = {}
        for chosen in lm.batches([rows[0] for rows in answers], batch):
            tokens = lm.batch([row for k in chosen for row in answers[k]])
            logits = lm.prefix(tokens, layers=[0], keep=range(tokens.pivot - 1, tokens.ids.shape[1] - 1)).logits
            sums = [
                float(_said(x[None, : len(r.ids) - r.prompt], r).sum())
                for x, r in zip(logits, tokens.rows, strict=True)
            ]
            for k in chosen:
                out[k], sums = tuple(sums[: len(answers[k])]), sums[len(answers[k]) :]
        return [out[k] for k in range(len(answers))]

    def loss(self, views: Sequence[View], known: tuple[float, ...]) -> Float[Tensor, " n"]:
        logps = [_said(view.logits, view.row) for view in views]
        sizes = [s.shape[-1] for s in logps]
        one, two = (s.sum(-1) for s in logps[:2])
        m = self.sign * ((one - known[0]) - (two - known[1]))
        if self.form == "margin":
            return -m
        if self.form == "hinge":
            return (1 - self.beta * m).clamp(min=0)
        if self.form == "ipo":
            per_token = self.sign * ((one - known[0]) / sizes[0] - (two - known[1]) / sizes[1])
            return (per_token - 1 / (2 * self.beta)) ** 2
        if self.form == "unpaired":
            zero = (logps[2].sum(-1) - known[2]).detach().clamp(min=0) if len(logps) > 2 else torch.zeros_like(one)
            changes = (one - known[0] - zero, zero - (two - known[1]))
            return torch.stack([torch.sigmoid(-self.beta * self.sign * c) for c in changes]).mean(0)
        if self.form == "free":
            m = self.sign * (one / sizes[0] - two / sizes[1])
        return torch.nn.functional.softplus(-self.beta * m)


def _said(logits: Float[Tensor, "n m v"], row: Row) -> Float[Tensor, "n m"]:
    """Log-probability of every completion token of a row."""
    ids = torch.tensor(row.ids[row.prompt :], device=logits.device)[None, :, None].expand(len(logits), -1, 1)
    return logits.log_softmax(-1).gather(-1, ids)[..., 0]  # the gradient of logsumexp takes twice as long
