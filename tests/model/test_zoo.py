"""Every public verb of LM on every architecture of the zoo, against full passes over single, unpadded, uncached rows
with hooks of this file's own.

Rows are short (one and two tokens), around and beyond the lengths at which an architecture changes (windows, chunks,
rotary embeddings), mixed and padded, and share prompts and their beginnings. What the model cannot take in one batch
must be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from pico import ARCHITECTURES, pico, rows
from trimtab.errors import ModelError
from trimtab.model import LM, Positions, Row, Tokens
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector
from zoo import FAST, WIDTH

EXACT = {
    "qwen3_next": 5e-5,
    "qwen3_5": 5e-5,
    "qwen3_5_moe": 5e-5,
    "olmo_hybrid": 5e-5,
    "zamba2": 5e-5,
    "nemotron_h": 5e-5,
}  # rounding of their recurrences
ALIKE = tuple(range(20, 33))
SETS: dict[str, list[Row]] = {
    "short": rows((2, 2), (1, 1), (1, 3), seed=1),
    "mixed": rows((9, 3), (5, 1), (17, 2), seed=2),
    "long": rows((30, 5), (26, 9), (34, 1), seed=3),
    "one prompt": [Row((*ALIKE[:9], *end), 9) for end in ((7, 8, 9), (8,), (9, 7))],
    "one beginning": [Row((*ALIKE, *end, 8, 9), 13 + len(end)) for end in ((40, 41, 42, 43), (44,), (45, 46))],
}
PUSH = 3 * torch.nn.functional.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)), dim=0)

Change = Callable[[Tensor], Tensor]


@pytest.fixture(params=ARCHITECTURES, scope="module")
def lm(request: pytest.FixtureRequest) -> Iterator[LM]:
    yield pico(request.param)
    if request.param not in FAST:
        truth.cache_clear()


def close(lm: LM, mine: Tensor, true: Tensor, what: object) -> None:
    assert mine.shape == true.shape, what
    error = float((mine - true).abs().max() / true.abs().max().clamp(min=1e-9))
    assert error <= EXACT.get(lm.id.removeprefix("pico-"), 1e-5), f"{what}: off by {error:.1e}"


def passed(lm: LM, ids: Sequence[int], change: dict[int, Change] | None = None) -> tuple[Tensor, list[Tensor]]:
    """Logits (n, v) and the stream (n, d) after every block: one row, no cache, no padding, hooks of our own."""
    streams: list[Tensor] = [torch.empty(0)] * len(lm.blocks)
    handles = []

    def hook(layer: int) -> Callable[..., object]:
        def see(module: object, args: object, output: object) -> object:
            h = output[0] if isinstance(output, tuple | list) else output
            assert isinstance(h, Tensor)
            new = change[layer](h[0])[None] if change and layer in change else h
            streams[layer] = new[0]
            if not isinstance(output, tuple | list):
                return new
            return type(output)((new, *output[1:]))

        return see

    for rotary in lm.model.modules():  # embeddings that remember the longest row seen begin anew
        if "dynamic" in str(getattr(rotary, "rope_type", "")):
            rotary.max_seq_len_cached = rotary.original_max_seq_len
            rotary.inv_freq = rotary.original_inv_freq
    for layer, block in enumerate(lm.blocks):
        handles.append(block.register_forward_hook(hook(layer)))
    try:
        logits = lm.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits.float(), streams


@lru_cache(maxsize=256)
@torch.no_grad()
def truth(lm: LM, ids: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    return passed(lm, ids)


def batches(lm: LM, some: list[Row], new: int = 0) -> list[Tokens]:
    return [lm.batch([some[k] for k in chosen]) for chosen in lm.batches(some, len(some), new=new)]


def columns(tokens: Tokens, k: int, start: int) -> tuple[Tensor, int]:
    """Which columns from `start` on hold tokens of row k, and the first of those tokens."""
    real = tokens.mask[k, start:].bool()
    return real, int(tokens.index[k, start:][real].min()) if real.any() else len(tokens.rows[k].ids)


@pytest.mark.parametrize("name", list(SETS))
def test_what_may_not_share_a_batch_is_refused(lm: LM, name: str) -> None:
    some = SETS[name]
    if lm.together(some):
        assert len(lm.batches(some, len(some))) == 1
    else:
        with pytest.raises(ModelError, match="cannot share a batch"):
            lm.batch(some)
    assert sorted(k for chosen in lm.batches(some, 2) for k in chosen) == list(range(len(some)))


@pytest.mark.parametrize("name", list(SETS))
def test_logits_edits_and_capture(lm: LM, name: str) -> None:
    for tokens in batches(lm, SETS[name]):
        plain = lm.logits(tokens)
        every = torch.ones_like(tokens.mask).bool() & tokens.mask.bool()
        means = lm.capture(tokens, every)
        last = lm.capture(tokens, "last", [1])
        iv = Intervention(SteeringVector({1: PUSH}), positions="from_last_prompt_token")
        with steer(lm, iv):
            steered = lm.logits(tokens)
        for k, row in enumerate(tokens.rows):
            real, _ = columns(tokens, k, 0)
            logits, streams = truth(lm, row.ids)
            close(lm, plain[k, real], logits, "logits")
            close(lm, means[k], torch.stack([h.mean(0) for h in streams]), "capture")
            close(lm, last[k, 0], streams[1][row.prompt - 1], "capture, one layer")
            with torch.no_grad():
                pushed = passed(lm, row.ids, {1: lambda h, p=row.prompt: torch.cat([h[: p - 1], h[p - 1 :] + PUSH])})[0]
            close(lm, steered[k, real], pushed, "steer")


@pytest.mark.parametrize("name", list(SETS))
def test_prefixes_and_replays(lm: LM, name: str) -> None:
    for tokens in batches(lm, SETS[name]):
        last = tokens.pivot - 1
        for start in sorted({0, min(1, last), last // 2, last, tokens.pivot}):
            prefix = lm.prefix(tokens, start)
            layer = 1 if start % 2 else lm.n_layers - 2
            h = prefix.residual[layer]
            fast = {
                share: lm.replay(prefix, layer, torch.stack([h + PUSH, h, h - PUSH]), share=share)
                for share in (False, True)
            }
            for k, row in enumerate(tokens.rows):
                real, first = columns(tokens, k, start)
                logits, streams = truth(lm, row.ids)
                close(lm, prefix.logits[k, real], logits[first:], f"prefix from {start}")
                for at, recorded in prefix.residual.items():
                    close(lm, recorded[k, real], streams[at][first:], f"residual of {at} from {start}")
                for c, sign in enumerate((1, 0, -1)):
                    with torch.no_grad():
                        full = passed(
                            lm, row.ids, {layer: lambda h, s=sign, f=first: torch.cat([h[:f], h[f:] + s * PUSH])}
                        )[0]
                    for share in (False, True):
                        close(
                            lm, fast[share][c, k, real], full[first:], f"replay of {layer} from {start}, share={share}"
                        )


@pytest.mark.parametrize("name", ["short", "mixed", "one prompt"])
def test_gradients(lm: LM, name: str) -> None:
    weight = torch.linspace(-1, 1, lm.logits(batches(lm, SETS["short"])[0]).shape[-1])

    def score(logits: Tensor) -> Tensor:
        return (logits.log_softmax(-1) * weight).sum(-1)

    for tokens in batches(lm, SETS[name]):
        start = tokens.pivot - 1
        mask = tokens.mask[:, start:]
        found = lm.gradient(tokens, lambda logits, m=mask: (score(logits) * m).sum())
        for k, row in enumerate(tokens.rows):
            real, first = columns(tokens, k, start)
            zeros = {layer: torch.zeros(len(row.ids), WIDTH, requires_grad=True) for layer in range(lm.n_layers)}
            logits = passed(lm, row.ids, {layer: lambda h, z=z: h + z for layer, z in zeros.items()})[0]
            expected = torch.autograd.grad(score(logits[first:]).sum(), list(zeros.values()))
            for layer, g in enumerate(expected):
                error = float((found[layer][k, real] - g[first:]).abs().max() / g.abs().max().clamp(min=1e-9))
                assert error <= 2e-4, f"gradient at {layer}: off by {error:.1e}"


def test_norms(lm: LM) -> None:
    some = SETS["mixed"]
    lengths = torch.cat([torch.stack(truth(lm, row.ids)[1]).norm(dim=-1) for row in some], -1)  # (l, all tokens)
    for layer, found in lm.norms(some).items():
        assert found == pytest.approx(float(lengths[layer].median()), rel=1e-4)


PROMPTS = ("tea", "Do you like rain ?", "I think so , it is good , and you ? " + "tea coffee rain sun " * 4, "is it")
ANSWERS = ("yes", "no never think so", "good", "I like the red one")


def test_log_probabilities_of_text(lm: LM) -> None:
    for chat in (True, False):
        found = lm.logprobs(PROMPTS, ANSWERS, chat=chat)
        for k, row in enumerate(lm.rows(PROMPTS, ANSWERS, chat=chat)):
            logp = truth(lm, row.ids)[0].log_softmax(-1)[row.prompt - 1 : -1]
            close(
                lm,
                found[k],
                logp.gather(-1, torch.tensor(row.ids[row.prompt :])[:, None])[:, 0],
                f"log-probabilities, chat={chat}",
            )


@pytest.mark.parametrize("steered", [False, True])
def test_generation(lm: LM, steered: bool) -> None:
    """Greedy; where two tokens are all but equally likely either will do, and the rest of the text is its own."""
    iv = Intervention(SteeringVector({1: PUSH}), positions="generated")
    if steered:
        with steer(lm, iv):
            said = {chat: lm.generate(PROMPTS, max_new_tokens=6, chat=chat) for chat in (True, False)}
    else:
        said = {chat: lm.generate(PROMPTS, max_new_tokens=6, chat=chat) for chat in (True, False)}
    where = Positions.parse("generated")
    for chat in (True, False):
        for k, row in enumerate(lm.rows(PROMPTS, chat=chat)):
            ids = list(row.ids)
            for _ in range(6):

                def push(h: Tensor, row: Row = row) -> Tensor:
                    chosen = where.select(torch.arange(len(h))[None], [row])[0]
                    return torch.where(chosen[:, None], h + PUSH, h)

                with torch.no_grad():
                    logits = passed(lm, ids, {1: push} if steered else None)[0][-1]
                if int(logits.argmax()) in lm.end_tokens:
                    break
                ids.append(int(logits.argmax()))
            assert said[chat][k] == lm.tokenizer.decode(ids[row.prompt :], skip_special_tokens=True), (
                f"chat={chat}, {PROMPTS[k]!r}"
            )
