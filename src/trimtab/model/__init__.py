"""The model layer: LM and the positions in its sequences. Import LM from here; the files inside are its parts."""

from trimtab.model.hooks import Edit, Frame, Layer
from trimtab.model.lm import LM
from trimtab.model.positions import (
    Positions,
    after,
    everywhere,
    from_last_prompt_token,
    generated,
    last,
    last_k,
    prompt,
    span,
)
from trimtab.model.replay import Prefix
from trimtab.model.tokens import Row, Tokens, in_pieces

__all__ = [
    "LM",
    "Edit",
    "Frame",
    "Layer",
    "Positions",
    "Prefix",
    "Row",
    "Tokens",
    "after",
    "everywhere",
    "from_last_prompt_token",
    "generated",
    "in_pieces",
    "last",
    "last_k",
    "prompt",
    "span",
]
