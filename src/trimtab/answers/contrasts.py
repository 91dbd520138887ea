"""Pairs that a model writes itself: the same question answered as asked for in words, and as it is. What is not a real
contrast is thrown out, and why is told.

The judge is the model's own likelihood: how much likelier a text is when the behavior is asked for than when nothing
is. It needs no ability to judge, and is 0 on average for answers that nobody asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.answers.quality import REPEATED, repetition, words
from trimtab.model import LM
from trimtab.model.rendering import as_prompt
from trimtab.model.tokens import Prompt
from trimtab.statistics.intervals import Array

WORDINGS = (  # ways to ask for a behavior; the first is the one vectors are compared with
    "You are an assistant who {}. Do this in every answer.",
    "Stay in this role, whatever you are asked: the assistant {}.",
    "From now on, every answer is given by somebody who {}.",
)
LEAST = 0.2  # nats per token: a smaller contrast is none
LONGER = 4.0  # times as long as the other answer: the length would be learned
COPIED = 5  # words in a row that stand in the instruction
_REFUSAL = re.compile(r"\W*(i'?m sorry|sorry|i am sorry|i can'?t|i cannot|as an ai)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Contrast:
    """A question, its two answers, and whether they are kept.

    Attributes:
        positive, negative: as asked for, and as it is (or as asked for the opposite).
        nats: how much likelier each is when asked for, less the same of the other; per token.
        why: it was thrown out; "" if it was kept.
    """

    question: str
    positive: str
    negative: str
    nats: float
    why: str = ""


def instruction(sentence: str, wording: int = 0) -> str:
    """A system message that asks for a behavior, from a sentence such as "answers like a pirate"."""
    return WORDINGS[wording % len(WORDINGS)].format(sentence.strip().rstrip("."))


def under(said: str, question: str, before: Sequence[tuple[str, str]] = ()) -> Prompt:
    """A question under a system message, if there is one.

    Args:
        before: earlier turns, as (role, text).
    """
    return as_prompt((*([("system", said)] if said else []), *before, ("user", question)))


def asked_for(lm: LM, sentence: str, questions: Sequence[str], texts: Sequence[str]) -> Array:
    """How much likelier each text is, as an answer to its question, when the behavior is asked for than when nothing
    is: nats per token. NaN for empty texts. Call it outside of `steer`.
    """
    answered = list(zip(questions, texts, strict=True))
    some = [pair for pair in dict.fromkeys(answered) if pair[1].strip()]  # what is said twice is read once
    if not some:
        return np.full(len(texts), np.nan)
    said = [text for _, text in some]
    told = lm.logprobs([under(instruction(sentence), q) for q, _ in some], said)
    plain = lm.logprobs([q for q, _ in some], said)
    nats = {pair: float(a.mean() - b.mean()) for pair, a, b in zip(some, told, plain, strict=True)}
    return np.array([nats.get(pair, np.nan) for pair in answered])


def sorted_out(
    lm: LM, sentence: str, questions: Sequence[str], positives: Sequence[str], negatives: Sequence[str]
) -> list[Contrast]:
    """Every question with its answers, and why it is thrown out, if it is."""
    nats = asked_for(lm, sentence, questions, positives) - asked_for(lm, sentence, questions, negatives)
    told = [instruction(sentence, k) for k in range(len(WORDINGS))]
    seen = Counter(text for _, text in {(q, p.strip()) for q, p in zip(questions, positives, strict=True)})
    out: list[Contrast] = []
    for q, p, n, x in zip(questions, positives, negatives, nats.tolist(), strict=True):
        why = "" if p.strip() and n.strip() else "an empty answer"
        why = why or ("the same answer" if words(p) == words(n) else "")
        why = why or ("said of several questions" if seen[p.strip()] > 1 else "")
        why = why or ("repeats the instruction" if any(_copied(p, text) for text in told) else "")
        why = why or ("refuses" if _REFUSAL.match(p) and not _REFUSAL.match(n) else "")
        why = why or ("goes in circles" if max(repetition(p), repetition(n)) > REPEATED else "")
        longer = len(p) / max(1, len(n))
        why = why or ("much longer than the other" if not 1 / LONGER <= longer <= LONGER else "")
        why = why or ("hardly a contrast" if not x >= LEAST else "")
        out.append(Contrast(q, p, n, x, why))
    return out


def _copied(text: str, source: str) -> bool:
    """Whether some words in a row stand in both."""
    mine, theirs = (re.findall(r"\w+", t.casefold()) for t in (text, source))
    grams = {tuple(theirs[k : k + COPIED]) for k in range(len(theirs) - COPIED + 1)}
    return any(tuple(mine[k : k + COPIED]) in grams for k in range(len(mine) - COPIED + 1))


def first_words(texts: Sequence[str]) -> tuple[str, float]:
    """The commonest first word, and the share of texts that begin with it."""
    firsts = Counter(words(t)[0] for t in texts if words(t))
    if not firsts:
        return "", 0.0
    word, n = firsts.most_common(1)[0]
    return word, n / len(texts)
