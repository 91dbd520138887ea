"""Generation."""

from __future__ import annotations

import pytest

from trimtab.errors import TokenError
from trimtab.model import (
    LM,
)


def test_generation_streams_what_it_returns(lm: LM) -> None:
    heard: dict[int, str] = {}
    said = lm.generate(
        ["Do you like tea ?", "is it good ?"], max_new_tokens=5, on_text=lambda k, text: heard.update({k: text})
    )
    assert [heard.get(k, "") for k in range(2)] == said


def test_sampling_is_seeded(lm: LM) -> None:
    one, two = (lm.generate(["Do you like tea ?"], max_new_tokens=8, temperature=1.0, seed=s) for s in (1, 2))
    assert one == lm.generate(["Do you like tea ?"], max_new_tokens=8, temperature=1.0, seed=1) and one != two
    with pytest.raises(TokenError, match="out of range"):
        lm.generate(["tea"], temperature=-1.0)
