"""Objectives: what a vector should do, as terms that add up. `promote(x, y) + 0.5 * suppress(x, z)` is an objective.

Every term is a loss in nats over one or more rows of tokens, smaller is better. Terms are values: two equal terms of
two problems share their rows, and their passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import LossError, TokenError
from trimtab.model import LM, Layer, Positions, Row
from trimtab.model.rendering import as_prompt
from trimtab.steering.interventions import Intervention, steer

COLDNESS = 0.7  # inverse temperature of the losses (Dunefsky & Cohan 2025, section 3)
Messages = str | tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class View:
    """What one row looks like under n vectors.

    Attributes:
        row: the row.
        logits: (n, m, v) fp32, at the columns that predict its m completion tokens.
        shifts: layer -> (n, s, d) fp32, how far the vectors move the residual stream after that block, at the s
            columns that are replayed.
        index: (s,) logical position of those columns, -1 for padding.
    """

    row: Row
    logits: Float[Tensor, "n m v"]
    shifts: Mapping[Layer, Float[Tensor, "n s d"]]
    index: Int[Tensor, " s"]


class Term:
    """One thing a vector should do. A frozen dataclass; equal terms are one term.

    Attributes:
        reads: layers whose shift the loss looks at.
        sign: what the vector is multiplied with on these rows.
        target: a loss that is good enough, in nats, or None.
    """

    reads: tuple[Layer, ...] = ()
    sign: float = 1.0
    target: float | None = None

    def rows(self, lm: LM) -> list[Row]:
        """The rows it needs, refused here if they cannot be had."""
        raise NotImplementedError

    def prepare(self, lm: LM, rows: Sequence[Row]) -> Any:
        """What the loss needs to know that does not depend on the vector; computed once."""
        return None

    @property
    def source(self) -> Term:
        """The term whose `prepare` serves this one too: itself, unless another differs in the sign alone."""
        return self

    def loss(self, views: Sequence[View], known: Any) -> Float[Tensor, " n"]:
        """The loss under each of n vectors; views are in the order of `rows`."""
        raise NotImplementedError

    def losses(self, views: Sequence[View], known: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """What is minimized, and the raw loss (nats) behind it: the same unless the term aims at a level."""
        loss = self.loss(views, known)
        return loss, loss

    def describe(self) -> dict[str, Any]:
        """The term as plain JSON."""
        table = {k: getattr(self, k) for k in self.__dataclass_fields__}  # type: ignore[attr-defined]
        return {"term": type(self).__name__, **{k: _plain(v) for k, v in table.items()}}

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective.of(self) + other

    def __mul__(self, weight: float) -> Objective:
        return Objective.of(self) * weight

    __rmul__ = __mul__


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms."""

    terms: tuple[tuple[float, Term], ...]

    @classmethod
    def of(cls, what: Term | Objective) -> Objective:
        """A term alone is an objective with weight 1."""
        return what if isinstance(what, Objective) else cls(((1.0, what),))

    def __post_init__(self) -> None:
        if not self.terms:
            raise LossError("an objective needs at least one term")

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective(self.terms + Objective.of(other).terms)

    def __mul__(self, weight: float) -> Objective:
        return Objective(tuple((weight * w, t) for w, t in self.terms))

    __rmul__ = __mul__

    def weighted(self, losses: Sequence[Any]) -> Any:
        """The objective from the loss of each term (numbers, or tensors of one shape)."""
        return sum(w * x for (w, _), x in zip(self.terms, losses, strict=True))

    def describe(self) -> list[dict[str, Any]]:
        return [{"weight": w, **t.describe()} for w, t in self.terms]


# ---------------------------------------------------------------- likelihood of a completion


@dataclass(frozen=True)
class Said(Term):
    """A completion whose likelihood should change.

    Args:
        prompt: the text of a user turn, or messages as ((role, content), ...).
        completion: text, or the ids of its tokens.
        system: a system message.
        coldness: inverse temperature of the probabilities.
        per_token: divide by the number of completion tokens.
        negated: the vector is subtracted here, so that one vector learns opposite effects on two sets.
        target: a loss that is good enough.
        chat, separator: how it is rendered; by default as the model's `rendering` says.
    """

    prompt: Messages
    completion: str | tuple[int, ...]
    system: str | None = None
    coldness: float = COLDNESS
    per_token: bool = False
    negated: bool = False
    target: float | None = None
    chat: bool | None = None
    separator: str | None = None

    @property
    def sign(self) -> float:  # type: ignore[override]
        return -1.0 if self.negated else 1.0

    def rows(self, lm: LM) -> list[Row]:
        return [row_of(lm, self.prompt, self.completion, system=self.system, chat=self.chat, separator=self.separator)]

    def loss(self, views: Sequence[View], known: Any) -> Float[Tensor, " n"]:
        (view,) = views
        ids = torch.tensor(view.row.ids[view.row.prompt :], device=view.logits.device)
        nats = self.of_tokens(self.coldness * view.logits, ids[None, :, None].expand(len(view.logits), -1, 1))
        return nats.mean(-1) if self.per_token else nats.sum(-1)

    def of_tokens(self, scores: Float[Tensor, "n m v"], said: Int[Tensor, "n m 1"]) -> Float[Tensor, "n m"]:
        """The loss of each token from the scaled logits."""
        raise NotImplementedError


@dataclass(frozen=True)
class Promote(Said):
    """-log p of every token (promotion steering, Dunefsky & Cohan 2025)."""

    def of_tokens(self, scores: Tensor, said: Tensor) -> Tensor:
        return -scores.log_softmax(-1).gather(-1, said)[..., 0]


@dataclass(frozen=True)
class Suppress(Said):
    """-log(1 - p) of every token (suppression steering, Dunefsky & Cohan 2025): bounded below by 0, and needs no
    replacement text.
    """

    def of_tokens(self, scores: Tensor, said: Tensor) -> Tensor:
        return -log_complement(scores, said)


@dataclass(frozen=True)
class Unlearn(Said):
    """+log p of every token (likelihood ascent): unbounded below, so give it a target or a norm."""

    def of_tokens(self, scores: Tensor, said: Tensor) -> Tensor:
        return scores.log_softmax(-1).gather(-1, said)[..., 0]


def log_complement(scores: Float[Tensor, "*batch v"], said: Int[Tensor, "*batch 1"]) -> Float[Tensor, "*batch"]:
    """log(1 - p) of one class of a softmax, accurate for p from 0 to 1 in fp32.

    Where p is below a half it is log1p(-p); above, where 1 - p would be lost, the log of the sum of all other classes.
    """
    logp = scores.log_softmax(-1).gather(-1, said)[..., 0]
    others = scores.scatter(-1, said, -torch.inf).logsumexp(-1) - scores.logsumexp(-1)
    half = -0.6931472
    return torch.where(logp < half, torch.log1p(-logp.clamp(max=half).exp()), others)


# ---------------------------------------------------------------- whole distributions


@dataclass(frozen=True)
class Match(Term):
    """KL(teacher || steered) of the next token, averaged over positions of the completion.

    With a teacher it distils one intervention into another place (reentrant steering, Dunefsky & Cohan 2025,
    algorithm 1); without one the teacher is the unsteered model, and the term keeps the vector from changing other
    text (an anchor).

    Args:
        tokens: how many completion tokens count, all by default.
        teacher: interventions the distribution is taken from.
    """

    prompt: Messages
    completion: str | tuple[int, ...]
    teacher: tuple[Intervention, ...] = ()
    system: str | None = None
    coldness: float = 1.0
    tokens: int | None = None
    target: float | None = None
    chat: bool | None = None
    separator: str | None = None

    def rows(self, lm: LM) -> list[Row]:
        return [row_of(lm, self.prompt, self.completion, system=self.system, chat=self.chat, separator=self.separator)]

    @torch.no_grad()
    def prepare(self, lm: LM, rows: Sequence[Row]) -> Tensor:
        tokens = lm.batch(rows)
        keep = list(range(tokens.pivot - 1, tokens.ids.shape[1] - 1))
        if not self.teacher:
            return (self.coldness * lm.logits(tokens, keep=keep)[0]).log_softmax(-1)
        with steer(lm, *self.teacher):
            return (self.coldness * lm.logits(tokens, keep=keep)[0]).log_softmax(-1)

    def loss(self, views: Sequence[View], known: Tensor) -> Float[Tensor, " n"]:
        logp = (self.coldness * views[0].logits[:, : self.tokens]).log_softmax(-1)
        teacher = known[: self.tokens].to(logp.dtype)
        return (teacher.exp() * (teacher - logp)).sum(-1).mean(-1)


# ---------------------------------------------------------------- changes inside


@dataclass(frozen=True)
class Change(Term):
    """The largest change downstream: -(sum over tokens of |shift|^p)^(1/q) after block `layer` (MELBO, Mack & Turner
    2024).

    Give the problem a norm: the loss has no lower bound. With `mean` it is minus the mean of |shift| over the tokens.
    """

    prompt: Messages
    layer: Layer
    completion: str | tuple[int, ...] = ""
    p: float = 2.0
    q: float = 2.0
    mean: bool = False
    positions: Positions | str = "everywhere"
    system: str | None = None
    chat: bool | None = None
    separator: str | None = None

    @property
    def reads(self) -> tuple[Layer, ...]:  # type: ignore[override]
        return (self.layer,)

    def rows(self, lm: LM) -> list[Row]:
        return [
            row_of(
                lm,
                self.prompt,
                self.completion,
                system=self.system,
                chat=self.chat,
                separator=self.separator,
                empty=True,
            )
        ]

    def loss(self, views: Sequence[View], known: Any) -> Float[Tensor, " n"]:
        (view,) = views
        chosen = Positions.parse(self.positions).select(view.index[None], [view.row])[0]
        size = _safe_norm(view.shifts[self.layer][:, chosen])
        return -size.mean(-1) if self.mean else -((size**self.p).sum(-1) ** (1 / self.q))


@dataclass(frozen=True)
class Echo(Term):
    """The same change downstream as other interventions make: how far the mean shift over tokens after block `layer`
    lies from theirs, in units of theirs (0: the same, 1: none; Goldman-Wetzler & Turner 2024).

    Args:
        teacher: interventions whose effect is to be had again.
        positions: tokens of prompt and completion over which shifts are averaged.
    """

    prompt: Messages
    layer: Layer
    teacher: tuple[Intervention, ...]
    completion: str | tuple[int, ...] = ""
    positions: Positions | str = "everywhere"
    system: str | None = None
    target: float | None = None

    @property
    def reads(self) -> tuple[Layer, ...]:  # type: ignore[override]
        return (self.layer,)

    def rows(self, lm: LM) -> list[Row]:
        return [row_of(lm, self.prompt, self.completion, system=self.system, empty=True)]

    @torch.no_grad()
    def prepare(self, lm: LM, rows: Sequence[Row]) -> tuple[Float[Tensor, " d"], int]:
        """Their mean shift, and over how many tokens it is taken."""
        tokens = lm.batch(rows)
        where = Positions.parse(self.positions).select(tokens.index, tokens.rows)
        plain = lm.capture(tokens, where, [self.layer])
        with steer(lm, *self.teacher):
            shift = (lm.capture(tokens, where, [self.layer]) - plain)[0, 0]
        if not shift.norm() > 0:
            raise LossError("nothing to do again", given=f"no shift after block {self.layer}",
                            expected="interventions that change the stream there")  # fmt: skip
        return shift, int(where.sum())

    def loss(self, views: Sequence[View], known: tuple[Tensor, int]) -> Float[Tensor, " n"]:
        (view,), (wanted, n) = views, known
        chosen = Positions.parse(self.positions).select(view.index[None], [view.row])[0]
        mean = view.shifts[self.layer][:, chosen].sum(1) / n  # tokens before those that are replayed do not move
        return _safe_norm(mean - wanted.to(mean)) / wanted.norm()


@dataclass(frozen=True)
class Consistent(Term):
    """Variance over prompts of the direction in which the last prompt token is shifted after block `layer`: 0 if it is
    the same in every context.
    """

    prompts: tuple[Messages, ...]
    layer: Layer
    system: str | None = None

    @property
    def reads(self) -> tuple[Layer, ...]:  # type: ignore[override]
        return (self.layer,)

    def rows(self, lm: LM) -> list[Row]:
        if len(self.prompts) < 2:
            raise LossError("consistency is about several prompts", given=len(self.prompts), expected="at least two")
        return [row_of(lm, p, "", system=self.system, empty=True) for p in self.prompts]

    def loss(self, views: Sequence[View], known: Any) -> Float[Tensor, " n"]:
        at = [view.shifts[self.layer][:, int((view.index == view.row.prompt - 1).nonzero()[0])] for view in views]
        shift = torch.stack(at)
        direction = shift / _safe_norm(shift)[..., None].clamp(min=1e-8)
        return 1 - direction.mean(0).pow(2).sum(-1)


@dataclass(frozen=True)
class Satisfice(Term):
    """(L - level)^2 of another term: exactly this likely, not as likely as can be (satisficing, Dunefsky & Cohan
    2025).
    """

    term: Term
    level: float
    target: float | None = None

    @property
    def reads(self) -> tuple[Layer, ...]:  # type: ignore[override]
        return self.term.reads

    @property
    def sign(self) -> float:  # type: ignore[override]
        return self.term.sign

    def rows(self, lm: LM) -> list[Row]:
        return self.term.rows(lm)

    def prepare(self, lm: LM, rows: Sequence[Row]) -> Any:
        return self.term.prepare(lm, rows)

    def loss(self, views: Sequence[View], known: Any) -> Float[Tensor, " n"]:
        return self.losses(views, known)[0]

    def losses(self, views: Sequence[View], known: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        raw = self.term.loss(views, known)
        return (raw - self.level) ** 2, raw


# ---------------------------------------------------------------- makers


def promote(prompt: Messages, *completions: str | tuple[int, ...], **options: Any) -> Objective:
    """Make completions likely."""
    return Objective(tuple((1.0, Promote(prompt, c, **options)) for c in completions))


def suppress(prompt: Messages, *completions: str | tuple[int, ...], **options: Any) -> Objective:
    """Make completions unlikely."""
    return Objective(tuple((1.0, Suppress(prompt, c, **options)) for c in completions))


def anchor(texts: Sequence[tuple[Messages, str | tuple[int, ...]]], weight: float = 1.0) -> Objective:
    """Keep the model as it is on neutral prompts: the mean KL to the unsteered model, times `weight`."""
    return Objective(tuple((weight / len(texts), Match(p, c)) for p, c in texts))


def in_contexts(
    what: Term | Objective, *, systems: Sequence[str | None] = (None,), before: Sequence[str] = ("",)
) -> Objective:
    """The mean of an objective over contexts: each system message with each text put in front of the prompt.

    Raises:
        LossError: a term whose prompt is not one text, or that takes no system message.
    """
    contexts = [(s, b) for s in systems for b in before]
    terms: list[tuple[float, Term]] = []
    for weight, term in Objective.of(what).terms:
        for system, text in contexts:
            if not isinstance(term, Said | Match | Change) or not isinstance(term.prompt, str):
                raise LossError("only terms on one text can be put into contexts", given=term.describe())
            terms.append(
                (weight / len(contexts), replace(term, system=system or term.system, prompt=text + term.prompt))
            )
    return Objective(tuple(terms))


def row_of(
    lm: LM,
    prompt: Messages,
    completion: str | tuple[int, ...],
    *,
    system: str | None = None,
    chat: bool | None = None,
    separator: str | None = None,
    empty: bool = False,
) -> Row:
    """The row of a term.

    Raises:
        TokenError: an empty completion, ids the model does not have, or a token that straddles the boundary.
    """
    if not completion and not empty:
        raise TokenError(
            "the completion is empty", given=prompt, expected="at least one token to make likely or unlikely"
        )
    asked = as_prompt(prompt)
    if isinstance(completion, str):
        return lm.row(asked, completion, system=system, chat=chat, separator=separator)
    size = lm.model.get_input_embeddings().weight.shape[0]
    if not all(0 <= k < size for k in completion):
        raise TokenError("not ids of this model", given=completion, expected=f"numbers from 0 to {size - 1}")
    return lm.row(asked, system=system, chat=chat).extended(completion)


def _safe_norm(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Norm with a gradient of zero, not NaN, at zero."""
    squares = x.pow(2).sum(-1)
    zero = squares == 0
    return torch.where(zero, torch.zeros_like(squares), squares.masked_fill(zero, 1.0).sqrt())


def _plain(value: Any) -> Any:
    if isinstance(value, Term):
        return value.describe()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Intervention):
        return value.describe()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
