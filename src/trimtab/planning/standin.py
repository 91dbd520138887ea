"""A stand-in for a model: as many blocks, the same vocabulary and context, and next to no width. A recipe runs on it to
the end in a moment, and takes as many passes, over as many tokens, as on the model itself.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch

from trimtab.errors import ModelError, first_line
from trimtab.model.load import load, source
from trimtab.model.shrink import WIDTHS

HEAD = 8  # width of a head of a stand-in
SMALL = 30_000_000  # weights up to which a model stands for itself
WORD = re.compile(r" [a-z]{2,}")  # what it says
HEADS = re.compile(r"(num_\w*heads|n_heads?|head_dim)$")


class StandIn:
    """A model's shape without its weights.

    Attributes:
        name: of the model.
        config: its own configuration.
        model, tokenizer: what stands for it.
        narrower: by how much its stream is narrower than the model's own; 1 where that stands for itself.
    """

    def __init__(self, name: str) -> None:
        """Built from a model's configuration and tokenizer.

        Raises:
            ModelError: not found, or an architecture that cannot be built this narrow.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        path = source(name)
        try:
            self.config: Any = AutoConfig.from_pretrained(path, trust_remote_code=False)
            self.name, self.weights = name, _size(self.config)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError, KeyError, AttributeError) as problem:
            raise ModelError(f"cannot plan for {name!r}", given=first_line(problem)) from problem
        if self.weights <= SMALL:
            self.model, self.tokenizer = load(name, dtype="float32", device=None, device_map=None, revision=None)
            self.narrower = 1.0
            return
        narrow = _narrowed(self.config)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.model: Any = AutoModelForCausalLM.from_config(narrow, dtype=torch.float32).eval()
        except Exception as problem:  # whatever a foreign constructor raises at sizes it was not written for
            raise ModelError(
                f"cannot plan for {name!r}: its architecture cannot be built narrow", given=first_line(problem)
            ) from problem
        _speak(self.model, self.tokenizer)
        text, thin = (c.get_text_config(decoder=True) for c in (self.config, narrow))
        self.narrower = float(text.hidden_size / thin.hidden_size)


def _speak(model: Any, tokenizer: Any) -> None:
    """Let random weights say words, one after the other, and never come to an end: what a tokenizer does not read back
    as it was written would stop a recipe that a model does not stop.
    """
    head = model.get_output_embeddings()
    unlikely = torch.full((head.weight.shape[0],), -100.0)
    words = [k for k in range(min(len(tokenizer), len(unlikely))) if WORD.fullmatch(tokenizer.decode([k]))]
    unlikely[words] = 0.0
    if words:
        head.register_forward_hook(lambda module, args, out: out + unlikely)


def _size(config: Any) -> int:
    """How many weights a model of a configuration has."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def _narrowed(config: Any) -> Any:
    """The same configuration with heads of width HEAD, and every other width in proportion."""
    made = copy.deepcopy(config)
    text = made.get_text_config(decoder=True)
    heads = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    for name, value in list(vars(text).items()):
        if WIDTHS.match(name) and not HEADS.search(name) and isinstance(value, int):
            setattr(text, name, max(HEAD, round(value * HEAD / heads)))
    if getattr(text, "head_dim", None):
        text.head_dim = HEAD
    return made
