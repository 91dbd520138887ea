"""Steering and threads, caches kept over turns, gradients through checkpoints."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from pico import build, pico, rows, tokenizer
from trimtab.errors import SteerError
from trimtab.model import LM
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH


def vector(layer: int = 1, seed: int = 0) -> SteeringVector:
    return SteeringVector({layer: 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))})


def in_thread(run: Any) -> Any:
    out: list[Any] = []

    def work() -> None:
        try:
            out.append(run())
        except Exception as problem:
            out.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return out[0]


def test_a_pass_of_a_thread_that_is_not_steered_is_refused() -> None:
    lm = pico("llama")
    plain = lm.generate(["Do you like tea ?"], max_new_tokens=6)
    with steer(lm, Intervention(vector())):
        other = in_thread(lambda: lm.generate(["Do you like tea ?"], max_new_tokens=6))
        captured = in_thread(lambda: lm.capture(lm.tokens(["Do you like tea ?"]), "last"))
        lm.generate(["Do you like tea ?"], max_new_tokens=6)
    assert isinstance(other, SteerError) and isinstance(captured, SteerError) and 'threads="all"' in str(other)
    assert in_thread(lambda: lm.generate(["Do you like tea ?"], max_new_tokens=6)) == plain


def test_all_threads_are_steered_where_that_is_asked() -> None:
    """The usual way to stream: `Thread(target=model.generate)`."""
    lm = LM(build("llama"), tokenizer(), id="streamed")
    tokens = lm.tokens(["Do you like tea ?"])
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def theirs() -> list[int]:
        return lm.model.generate(input_ids=tokens.ids, attention_mask=tokens.mask, **options)[0].tolist()

    plain = theirs()
    with steer(lm, Intervention(vector()), threads="all") as receipt:
        here, there = theirs(), in_thread(theirs)
    assert here == there != plain and receipt.edited[1] > 0


def test_each_thread_has_its_own_steering() -> None:
    lm = pico("llama")
    tokens = lm.batch(rows((6, 2)))
    expected = {}
    for seed in (1, 2):
        with steer(lm, Intervention(vector(seed=seed))):
            expected[seed] = lm.logits(tokens)
    inside, done = threading.Barrier(2), threading.Barrier(2)
    found: dict[int, torch.Tensor] = {}

    def work(seed: int) -> None:
        with steer(lm, Intervention(vector(seed=seed))):
            inside.wait()
            found[seed] = lm.logits(tokens)
            done.wait()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        torch.equal(found[1], expected[1])
        and torch.equal(found[2], expected[2])
        and not torch.equal(found[1], found[2])
    )


@pytest.mark.parametrize("positions", ["generated", "prompt", "everywhere"])
def test_a_cache_kept_over_two_turns_of_an_own_loop(positions: str) -> None:
    """Turn one: 6 tokens and 3 generated; turn two: 5 more tokens and 2 generated. The second question is prompt, not
    generated.
    """
    from transformers import DynamicCache

    lm = LM(build("llama"), tokenizer(), id="own loop")
    seen: list[int] = []
    iv = Intervention(vector(), positions=positions)
    cache = DynamicCache(config=lm.model.config)
    with steer(lm, iv) as receipt, torch.no_grad():
        for n, new in ((6, 3), (5, 2)):
            ids = torch.arange(10, 10 + n)[None]
            for _ in range(1 + new):
                before = receipt.edited.get(1, 0)
                lm.model(input_ids=ids, past_key_values=cache, use_cache=True)
                seen.append(receipt.edited.get(1, 0) - before)
                ids = torch.tensor([[20]])
    expected = {
        "generated": [0, 1, 1, 1, 0, 1, 1],
        "prompt": [6, 0, 0, 0, 5, 0, 0],
        "everywhere": [6, 1, 1, 1, 5, 1, 1],
    }
    assert seen == expected[positions]


def test_a_loop_that_takes_the_cache_from_the_first_pass() -> None:
    lm = LM(build("llama"), tokenizer(), id="own loop")
    seen: list[int] = []
    with steer(lm, Intervention(vector(), positions="generated")) as receipt, torch.no_grad():
        out = lm.model(input_ids=torch.arange(10, 16)[None], use_cache=True)
        for _ in range(3):
            before = receipt.edited.get(1, 0)
            out = lm.model(input_ids=torch.tensor([[20]]), past_key_values=out.past_key_values, use_cache=True)
            seen.append(receipt.edited.get(1, 0) - before)
    assert seen == [1, 1, 1]


def test_two_turns_of_generate_are_steered_where_they_generate() -> None:
    """The same tokens as each turn from scratch, where the whole conversation so far is prompt."""
    lm = LM(build("llama"), tokenizer(), id="turns")
    from transformers import DynamicCache

    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    iv = Intervention(vector(), positions="from_last_prompt_token")
    cache = DynamicCache(config=lm.model.config)
    first = torch.arange(10, 17)[None]
    with steer(lm, iv):
        one = lm.model.generate(
            input_ids=first, attention_mask=torch.ones_like(first), past_key_values=cache, **options
        )
        whole = torch.cat([one, torch.arange(30, 35)[None]], -1)
        with steer(lm, Intervention(vector(2, seed=3), positions="generated")) as second:
            lm.model.generate(input_ids=whole, attention_mask=torch.ones_like(whole), past_key_values=cache, **options)
    assert second.edited == {2: 3}, "four tokens are said, the last of which is never read"


def test_gradients_through_checkpointed_blocks_are_the_gradients() -> None:
    found: list[torch.Tensor] = []
    for checkpointed in (False, True):
        lm = LM(build("llama"), tokenizer(), id="checkpointed")
        v = torch.zeros(WIDTH, requires_grad=True)
        ids = torch.arange(10, 19)[None]
        if checkpointed:
            named = "activation" if hasattr(lm.model, "activation_checkpointing_enable") else "gradient"
            getattr(lm.model, f"{named}_checkpointing_enable")(
                **{f"{named}_checkpointing_kwargs": {"use_reentrant": False}}
            )
            lm.model.train()
            lm.model.enable_input_require_grads()
        with lm.edit({1: lambda h, frame, v=v: h + v}), steer(lm, Intervention(vector())):
            loss = lm.model(input_ids=ids).logits.log_softmax(-1)[0, :, 5].sum()
        loss.backward()  # behind the context, where blocks are run again
        assert v.grad is not None
        found.append(v.grad)
    assert torch.allclose(*found, rtol=1e-4, atol=1e-6) and float(found[0].norm()) > 0


# ------------------------------------------------------------ whose hooks, which columns


def test_who_leaves_first_takes_nothing_from_others() -> None:
    from contextlib import ExitStack

    lm = pico("llama")
    tokens = lm.batch(rows((6, 2)))
    plain, one, two = lm.logits(tokens), ExitStack(), ExitStack()
    one.enter_context(steer(lm, Intervention(vector())))
    two.enter_context(steer(lm, Intervention(vector(seed=3))))
    both = lm.logits(tokens)
    one.close()
    alone = lm.logits(tokens)
    two.close()
    with steer(lm, Intervention(vector(seed=3))):
        assert torch.equal(alone, lm.logits(tokens)) and not torch.equal(alone, both)
    assert torch.equal(lm.logits(tokens), plain) and "generate" not in vars(lm.model)


WAYS = {
    "plain": {},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "in pieces": {"prefill_chunk_size": 4},
    "no cache": {"use_cache": False},
    "static": {"cache_implementation": "static"},
}


@pytest.mark.parametrize("positions", ["from_last_prompt_token", "generated", "prompt", "span(0, 3)"])
@pytest.mark.parametrize("way", WAYS)
def test_generate_is_steered_alike_however_it_reads_its_prompt(way: str, positions: str) -> None:
    """Greedy, left-padded where the way allows it: the same tokens as plain generation, which are those of
    `lm.generate`.
    """
    lm = LM(build("llama"), tokenizer(), id="ways")
    tokens = lm.batch(rows((9, 0), (5, 0)) if way in ("plain", "no cache", "static") else rows((9, 0)))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    iv = Intervention(vector(), positions=positions)
    with steer(lm, iv):
        theirs = lm.model.generate(input_ids=tokens.ids, attention_mask=tokens.mask, **options, **WAYS[way])[
            :, tokens.pivot :
        ]
    lm.end_tokens = frozenset()
    from trimtab.model.generate import Sampling, decode
    from trimtab.steering.interventions import Receipt, edits

    with lm.edit(edits([iv], Receipt())):
        ours = decode(lm, tokens, Sampling(8))
    assert [tuple(x) for x in theirs.tolist()] == [row.ids[row.prompt :] for row in ours]


@pytest.mark.parametrize(
    "name", ["mamba2", pytest.param("mamba", marks=pytest.mark.zoo), pytest.param("rwkv", marks=pytest.mark.zoo)]
)
def test_recurrent_models_generate_by_themselves_under_steer(name: str) -> None:
    lm = LM(build(name), tokenizer(), id=name)
    ids = torch.arange(10, 19)[None]
    with steer(lm, Intervention(vector(), positions="generated")) as receipt:
        lm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    assert receipt.edited == {1: 4}


def test_the_decoder_called_alone_is_seen() -> None:
    lm = LM(build("llama"), tokenizer(), id="base")
    ids, base = torch.arange(10, 16)[None], lm.model.model
    plain = base(input_ids=ids).last_hidden_state
    with steer(lm, Intervention(vector())):
        lm.model(input_ids=ids)
        assert isinstance(in_thread(lambda: base(input_ids=ids).last_hidden_state), SteerError)
    with steer(lm, Intervention(vector(), positions="generated")):
        lm.model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert torch.equal(base(input_ids=ids).last_hidden_state, plain), "a first pass is all prompt"


def test_rows_of_equal_ids_and_other_texts_are_apart() -> None:
    from trimtab.model.rendering import Rendering

    lm = LM(build("llama"), tokenizer(), id="spans", rendering=Rendering(chat=False))
    asked = [
        "be kind\n\nDo you like tea ?",
        [{"role": "system", "content": "be kind"}, {"role": "user", "content": "Do you like tea ?"}],
    ]
    with steer(lm, Intervention(vector(), positions='span("user")')):
        together, alone = lm.logprobs(asked, ["yes"] * 2), [lm.logprobs([p], ["yes"])[0] for p in asked]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(together, alone, strict=True)) and not torch.allclose(
        *alone
    )
