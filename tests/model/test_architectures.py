"""Exactness of the model layer on models of many architectures, random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pico import build, pico, rows
from trimtab.errors import ModelError
from trimtab.model import (
    LM,
    Frame,
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
from trimtab.model.generate import Sampling, decode
from trimtab.model.trials import relative
from trimtab.steering.interventions import Intervention, Receipt, edits, steer
from trimtab.steering.vector import SteeringVector
from zoo import FAST, LAYERS, REFUSED, WIDTH, ZOO

EXACT = 1e-5
KINDS = [
    everywhere,
    prompt,
    generated,
    last,
    from_last_prompt_token,
    last_k(3),
    span(2, 6),
    generated & ~last_k(2),
    last | span(0, 2),
]


def vector(lm: LM, layer: int, size: float = 4.0, seed: int = 0) -> SteeringVector:
    v = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({layer: size * v / v.norm()})


def hooked(lm: LM, tokens: object, iv: Intervention) -> Tensor:
    return lm.logits(tokens, edits([iv], Receipt()))  # type: ignore[arg-type]


@pytest.fixture(params=FAST, scope="module")
def model(request: pytest.FixtureRequest) -> LM:
    return pico(request.param)


def test_block_rule(model: LM) -> None:
    assert model.n_layers == LAYERS
    assert model.width == WIDTH
    assert len({id(b) for b in model.blocks}) == LAYERS


def test_checks_at_load_pass(model: LM) -> None:
    assert model.exact.replayable == ("mamba" not in model.id) and model.exact.batchable


def test_replay_is_the_hooked_pass(model: LM) -> None:
    """Every layer, several conditions, prompts and completions of different lengths."""
    tokens = model.batch(rows((9, 3), (5, 2), (12, 1)))
    prefix = model.prefix(tokens)
    real = tokens.mask[:, prefix.start :].bool()
    for layer in range(model.n_layers):
        iv = Intervention(vector(model, layer), positions=from_last_prompt_token)
        frame = Frame(tokens.index[:, prefix.start :], tokens.rows)
        h = [iv.apply(prefix.residual[layer], layer, frame, m)[0] for m in (1.0, -2.0)]
        fast = model.replay(prefix, layer, torch.stack(h))
        for k, m in enumerate((1.0, -2.0)):
            slow = hooked(model, tokens, iv.times(m))[:, prefix.start :]
            assert relative(fast[k][real], slow[real]) <= EXACT
        assert relative(fast[0][real], prefix.logits[real]) > 100 * EXACT, "the edit must do something"


@pytest.mark.parametrize("conditions", [1, 3])
def test_replay_inside_steer_keeps_what_steers(conditions: int) -> None:
    """A stack beneath: replays run under interventions that are already on, below, at and above their layer."""
    lm = pico("llama")
    tokens = lm.batch(rows((9, 3), (5, 2)))
    beneath = [Intervention(vector(lm, k, seed=k), positions=from_last_prompt_token) for k in (0, 2, 3)]
    iv = Intervention(vector(lm, 2, seed=9), positions=from_last_prompt_token)
    with steer(lm, *beneath):
        prefix = lm.prefix(tokens)
        h, _ = iv.apply(prefix.residual[2], 2, Frame(tokens.index[:, prefix.start :], tokens.rows))
        fast = lm.replay(prefix, 2, torch.stack([h] * conditions))
    slow = lm.logits(tokens, edits([*beneath, iv], Receipt()))[:, prefix.start :]
    real = tokens.mask[:, prefix.start :].bool()
    for k in range(conditions):
        assert relative(fast[k][real], slow[real]) <= EXACT


def test_replay_from_the_first_column(model: LM) -> None:
    tokens = model.batch(rows((6, 2), (4, 2)))
    iv = Intervention(vector(model, 1), positions=everywhere)
    prefix = model.prefix(tokens, 0)
    h, _ = iv.apply(prefix.residual[1], 1, Frame(tokens.index, tokens.rows))
    real = tokens.mask.bool()
    assert relative(model.replay(prefix, 1, h[None])[0][real], hooked(model, tokens, iv)[real]) <= EXACT


def test_gradient_of_a_replay_is_that_of_the_full_pass(model: LM) -> None:
    tokens = model.batch(rows((9, 3), (5, 3)))
    prefix = model.prefix(tokens)
    layer, slow = 1, []
    weight = (
        torch.randn(prefix.logits.shape, generator=torch.Generator().manual_seed(1))
        * tokens.mask[:, prefix.start :, None]
    )
    v = torch.zeros(WIDTH, requires_grad=True)
    fast = torch.autograd.grad((model.replay(prefix, layer, (prefix.residual[layer] + v)[None])[0] * weight).sum(), v)[
        0
    ]
    with model.edit({layer: lambda h, f: torch.cat([h[:, : prefix.start], h[:, prefix.start :] + v], 1)}):
        full = model.forward(tokens.ids, Frame(tokens.index, tokens.rows), tokens.mask)
    slow = torch.autograd.grad((full[:, prefix.start :] * weight).sum(), v)[0]
    assert relative(fast, slow) <= 10 * EXACT
    every = model.gradient(tokens, lambda logits: (logits * weight).sum())
    assert relative(every[layer].sum((0, 1)), slow) <= 10 * EXACT
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())


def test_generation_under_a_cache_is_generation_without(model: LM) -> None:
    tokens = model.batch(rows((9, 0), (5, 0)))
    for positions in KINDS:
        iv = Intervention(vector(model, 1, 3.0), positions=positions)
        with model.edit(edits([iv], Receipt())):
            assert decode(model, tokens, Sampling(5)) == decode(model, tokens, Sampling(5), cached=False), str(
                positions
            )


def test_a_padded_row_is_the_row_alone(model: LM) -> None:
    tokens = model.batch(rows((9, 2), (4, 2), (6, 1)))
    iv = Intervention(vector(model, 2), positions=from_last_prompt_token)
    together = hooked(model, tokens, iv)
    for k, row in enumerate(tokens.rows):
        alone = hooked(model, model.batch([row]), iv)[0]
        assert relative(together[k][tokens.mask[k].bool()], alone) <= EXACT


def test_batched_generation_is_one_by_one(model: LM) -> None:
    tokens = model.batch(rows((9, 0), (5, 0), (7, 0)))
    iv = Intervention(vector(model, 1, 2.0), positions=generated)
    for sampling in (Sampling(6), Sampling(6, temperature=1.0, top_p=0.9, seed=3)):
        with model.edit(edits([iv], Receipt())):
            together = decode(model, tokens, sampling)
            assert together == [decode(model, model.batch([r]), sampling)[0] for r in tokens.rows]


def test_multiplier_zero_is_the_model_itself(model: LM) -> None:
    tokens = model.batch(rows((9, 2), (5, 1)))
    plain = model.logits(tokens)
    assert torch.equal(hooked(model, tokens, Intervention(vector(model, 1), multiplier=0.0)), plain)


def test_capture_runs_no_block_above_the_highest_layer_it_reads(model: LM) -> None:
    tokens = model.batch(rows((5, 2), (5, 2)) if not model.exact.batchable else rows((5, 2), (3, 4), (5, 2)))
    every, ran = model.capture(tokens, "generated"), list[int]()
    handles = [block.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, block in enumerate(model.blocks)]
    for layer in range(model.n_layers):
        ran.clear()
        assert torch.allclose(model.capture(tokens, "generated", [layer])[:, 0], every[:, layer], atol=1e-6)
        assert set(ran) == set(range(layer + 1))
    for handle in handles:
        handle.remove()
    assert torch.equal(model.capture(tokens, "generated"), every)


def test_hooks_are_gone_afterwards(model: LM) -> None:
    tokens = model.batch(rows((6, 1)))
    plain = model.logits(tokens)
    with steer(model, Intervention(vector(model, 0))):
        assert not torch.equal(model.logits(tokens), plain)
    assert torch.equal(model.logits(tokens), plain)


WHY = {"hrm_text": "no list of 32 blocks", "qwen4_exp": "another width than the model"}


@pytest.mark.parametrize("name", list(REFUSED))
def test_models_with_several_streams_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match=WHY.get(name, "several streams|is not \\(batch, sequence, width\\)")):
        LM(build(name), None, id=name)


def test_a_block_that_runs_several_times_in_a_pass_is_refused() -> None:
    with pytest.raises(ModelError, match="does not run once in a pass"):
        LM(build("hrm_text"), None, id="hrm_text", blocks="model.L_module.layers")


def test_the_zoo_is_large_enough() -> None:
    asked = (
        "llama qwen2 qwen3 mistral gemma2 gemma3 phi3 olmo2 gpt2 gpt_neox opt bloom falcon mixtral qwen3_moe "
        "gpt_oss cohere granite stablelm smollm3 glm4 deepseek_v3"
    )
    assert set(asked.split()) <= set(ZOO)
    assert len({prefix for prefix, _ in ZOO.values()}) >= 100 and len(FAST) == 8


def test_positions_kinds_cover_the_vocabulary() -> None:
    assert isinstance(after("x"), Positions)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2"])
def test_replay_in_double_precision(name: str) -> None:
    lm = LM(build(name, dtype=torch.float64), None, id=name)
    tokens = lm.batch(rows((9, 2), (5, 2)) if lm.exact.batchable else rows((9, 2), (9, 2)))
    prefix = lm.prefix(tokens)
    real = tokens.mask[:, prefix.start :].bool()
    for layer in range(lm.n_layers):
        iv = Intervention(vector(lm, layer), positions=from_last_prompt_token)
        frame = Frame(tokens.index[:, prefix.start :], tokens.rows)
        for m in (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5):
            h, _ = iv.apply(prefix.residual[layer], layer, frame, m)
            fast = lm.replay(prefix, layer, h[None])[0]
            assert (fast - hooked(lm, tokens, iv.times(m))[:, prefix.start :])[real].abs().max() <= 1e-6


def test_a_model_that_cannot_be_resumed_falls_back_to_full_passes() -> None:
    lm = LM(build("llama"), None, id="llama")
    tokens = lm.batch(rows((9, 2), (5, 2)))
    prefix = lm.prefix(tokens)
    h = torch.stack([prefix.residual[1] + 1, prefix.residual[1] - 1])
    fast = lm.replay(prefix, 1, h)
    lm.exact = replace(lm.exact, replayable=False)
    real = tokens.mask[:, prefix.start :].bool()
    assert relative(lm.replay(prefix, 1, h)[:, real], fast[:, real]) <= EXACT


def test_bfloat16_replay_is_close_and_its_logits_are_fp32() -> None:
    lm = LM(build("llama", dtype=torch.bfloat16), None, id="llama")
    tokens = lm.batch(rows((9, 2)))
    logits = lm.logits(tokens)
    assert lm.exact.replayable and logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float()), "the last product is taken in fp32"


def test_the_output_embedding_is_converted_once_and_again_when_it_changes() -> None:
    from trimtab.model.replay import Head

    lm = LM(build("llama", dtype=torch.bfloat16), None, id="bf16")
    inner = lm.model.get_output_embeddings()
    assert Head.of(inner) is Head.of(inner)
    tokens = lm.batch(rows((5, 2)))
    before = lm.logits(tokens)
    with torch.no_grad():
        inner.weight.mul_(2.0)
    assert torch.allclose(lm.logits(tokens), 2 * before, rtol=1e-2, atol=1e-2), "the kept copy follows its weights"
    assert inner.weight.grad is None
