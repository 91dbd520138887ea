"""Loading without chatter."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from logging import ERROR
from logging import getLogger as logging_of

for _name in ("torchao", "torch.utils._pytree"):  # what transformers imports if it is there, and what that says
    logging_of(_name).setLevel(ERROR)


@contextmanager
def quiet() -> Generator[None]:
    """No progress bars or advice from transformers inside the context."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
