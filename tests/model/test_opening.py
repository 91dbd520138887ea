"""Prompts that begin alike share the pass over their beginning: the same cache, logits and gradients as each row
alone.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pico import architectures, pico
from trimtab.model import LM, Frame, Row, Tokens
from trimtab.model.opening import Opening
from trimtab.model.trials import relative
from zoo import FAST

ALIKE = tuple(range(5, 14))
PLAIN = ("llama", "qwen2", "qwen3", "gpt_neox", "phi", "gemma", "olmo2", "granite", "stablelm", "cohere")


def batch(lm: LM) -> Tokens:
    """Four rows, two with the same prompt, that begin with nine tokens; what follows has different lengths."""
    ends = ((20, 21, 22, 23), (24, 25), (20, 21, 22, 23), (26, 27, 28))
    return lm.batch([Row((*ALIKE, *end, 3, 4, 7)[: 12 + len(end) - k % 2], 9 + len(end)) for k, end in enumerate(ends)])


@pytest.mark.parametrize("name", FAST)
def test_a_shared_opening_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pico(name)
    tokens = batch(lm)
    layer = min(1, lm.n_layers - 2)
    found: list[torch.Tensor] = []
    for openable in (lm.exact.openable, False):
        monkeypatch.setattr(lm, "exact", replace(lm.exact, openable=openable))
        prefix = lm.prefix(tokens, layers=[layer])
        h = torch.stack([prefix.residual[layer], 1.3 * prefix.residual[layer]])
        found.append(
            torch.cat([prefix.logits[None], lm.replay(prefix, layer, h)])[:, tokens.mask[:, prefix.start :].bool()]
        )
    assert relative(*found) <= 1e-5


@pytest.mark.parametrize("name", architectures(*PLAIN))
def test_plain_architectures_share_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pico(name)
    assert lm.exact.openable
    columns: list[int] = []
    forward = lm.forward

    def counted(ids: torch.Tensor, *args: object, **more: object) -> torch.Tensor:
        columns.append(ids.numel())
        return forward(ids, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(lm, "forward", counted)
    tokens = batch(lm)
    lm.prefix(tokens)
    assert columns[:2] == [9, 3 * (tokens.pivot - 1 - 9)], (
        "nine tokens once, then what is left of three different prompts"
    )


def test_not_where_it_would_not_pay_nor_under_edits() -> None:
    lm = pico("llama")
    tokens = batch(lm)
    assert Opening.of(tokens, [0], 8) is None and Opening.of(tokens, [0, 2], 9) is not None
    other = lm.batch([Row((1, 2, 3, 4, 5, 6), 6), Row((2, 2, 3, 4, 5, 6), 6)])
    assert Opening.of(other, [0, 1], 5) is None, "nothing in common"

    def nudge(h: torch.Tensor, frame: Frame) -> torch.Tensor:
        """Not the same in all rows."""
        return h + torch.arange(len(frame.rows))[:, None, None] * (frame.index >= 0)[..., None]

    with lm.edit({0: nudge}):
        prefix, whole = lm.prefix(lm.batch(tokens.rows[:2])), lm.logits(lm.batch(tokens.rows[:2]))
    real = prefix.tokens.mask[:, prefix.start :].bool()
    assert relative(prefix.logits[real], whole[:, prefix.start :][real]) <= 1e-5


def test_columns_are_settled_where_whole_rows_leave_them() -> None:
    lm = pico("llama")
    tokens = batch(lm)
    start = tokens.pivot - 1
    opening = Opening.of(tokens, [0, 1, 3], start)
    assert opening is not None and opening.length == 9
    shared = lm._before(tokens, start)
    with torch.no_grad():
        from trimtab.model import replay as engine

        cache = engine.new_cache(lm.model.config)
        lm.forward(tokens.ids[:, :start], Frame(tokens.index[:, :start], tokens.rows), tokens.mask[:, :start], cache)
    real = tokens.mask[:, :start].bool()
    for mine, whole in zip(shared.layers, cache.layers, strict=True):
        for name in ("keys", "values"):
            one, two = (getattr(x, name).transpose(1, 2)[real] for x in (mine, whole))
            assert relative(one, two) <= 1e-5
