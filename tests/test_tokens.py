"""Rendering to ids, spans and positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pico import pico, rows, tokenizer
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import SteerError, TokenError, UnknownName
from trimtab.methods.contrast import activations
from trimtab.model import (
    LM,
    Positions,
    Row,
    after,
    everywhere,
    from_last_prompt_token,
    generated,
    last,
    last_k,
    prompt,
    span,
)
from trimtab.model.rendering import render
from trimtab.model.tokens import Tokens, grouped
from trimtab.model.turns import turn_end


def words(lm: LM, row: Row) -> list[str]:
    return lm.tokenizer.convert_ids_to_tokens(list(row.ids))


def test_words_in_the_assistants_mouth_are_gone_on_from(lm: LM) -> None:
    """A conversation that ends with the assistant leaves its turn open."""
    put = [{"role": "user", "content": "Do you like tea ?"}, {"role": "assistant", "content": "yes it is"}]
    row = lm.row(put, " good .")
    assert words(lm, row)[-6:] == ["<bot>", "yes", "it", "is", "good", "."] and row.prompt == len(row.ids) - 2
    assert row.spans["assistant"] == ((row.prompt - 3, row.prompt),)


def test_what_follows_an_answer_and_which_token_names_the_next_speaker(lm: LM) -> None:
    ids, named = turn_end(lm.tokenizer)
    assert lm.tokenizer.convert_ids_to_tokens(list(ids)) == ["<end>", "<user>"] and named == 1
    pair = Pair("Do you like tea ?", "yes", "no")
    other = Pair("is it rain ?", "good .", "bad .")
    acts = activations(lm, Dataset("two", (pair, other)), [1], read="role")
    for k, p in enumerate((pair, other)):
        row = lm.row(p.prompt, p.positive).extended(ids)
        tokens = lm.batch([row])
        assert torch.allclose(acts.positive[k], lm.capture(tokens, tokens.index == len(row.ids) - 1, [1])[0], atol=1e-5)


def test_a_chat_is_rendered_once(lm: LM) -> None:
    row = lm.row("Do you like tea ?", "yes I do", system="be kind")
    assert words(lm, row) == [
        "<s>",
        "<system>",
        "be",
        "kind",
        "<end>",
        "<user>",
        "Do",
        "you",
        "like",
        "tea",
        "?",
        "<end>",
        "<bot>",
        "yes",
        "I",
        "<unk>",
    ]
    assert row.prompt == 13
    assert row.spans == {"system": ((2, 4),), "user": ((6, 11),)}
    assert row.ids.count(lm.tokenizer.bos_token_id) == 1


def test_without_a_template_the_tokenizers_own_special_tokens_are_added_once(lm: LM) -> None:
    assert words(lm, lm.row("Do you like tea ?", chat=False))[:2] == ["<s>", "Do"]


def test_messages_and_several_spans(lm: LM) -> None:
    chat = [
        {"role": "user", "content": "Do you ?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "like tea ?"},
    ]
    row = lm.row(chat, "no")
    assert len(row.spans["user"]) == 2 and len(row.spans["assistant"]) == 1


def test_a_token_that_straddles_the_boundary_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "<p>": 3}, [("a", "b")]))
    tok = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<p>")
    with pytest.raises(TokenError, match="merge into one token"):
        render(tok, "aa", "ba")
    assert render(tok, "ab", "ab").prompt == 1


def test_a_template_without_a_system_role_gets_it_in_the_user_turn() -> None:
    import copy

    tok = copy.copy(tokenizer())
    tok.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}<user> {{ "
        "m.content }} {% endfor %}<bot> "
    )
    row = render(tok, "Do you ?", "yes", system="be kind")
    assert tok.convert_ids_to_tokens(list(row.ids))[:4] == ["<user>", "be", "kind", "Do"]


def test_too_long_a_prompt_is_refused(lm: LM) -> None:
    with pytest.raises(TokenError, match="longer than the model's context"):
        lm.row("tea " * 200)
    with pytest.raises(TokenError, match="do not fit the context"):
        lm.generate(["tea"], max_new_tokens=1000)


def test_batches_end_their_prompts_in_one_column(lm: LM) -> None:
    tokens = lm.batch(rows((5, 2), (3, 4)))
    assert tokens.pivot == 5 and tokens.ids.shape == (2, 9)
    assert tokens.index.tolist() == [[0, 1, 2, 3, 4, 5, 6, -1, -1], [-1, -1, 0, 1, 2, 3, 4, 5, 6]]


WORDS = {
    "everywhere": range(9),
    "prompt": range(6),
    "generated": range(6, 9),
    "last": [5],
    "from_last_prompt_token": range(5, 9),
    "last_k(2)": [4, 5],
    "span(1, 3)": [1, 2],
    "generated | last": range(5, 9),
    "prompt & ~last_k(4)": [0, 1],
    "~prompt": range(6, 9),
}


@pytest.mark.parametrize("text", WORDS)
@given(left=st.integers(0, 3), right=st.integers(0, 3), cut=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_positions_mean_the_same_padded_cut_and_written_down(text: str, left: int, right: int, cut: int) -> None:
    row = Row(tuple(range(9)), 6)
    index = torch.tensor([[-1] * left + list(range(9)) + [-1] * right])
    positions = Positions.parse(text)
    assert Positions.parse(str(positions)).select(index, [row]).equal(positions.select(index, [row]))
    chosen = positions.select(index, [row])[0]
    assert (chosen.nonzero()[:, 0] - left).tolist() == list(WORDS[text])
    assert not chosen[:left].any() and not chosen[left + 9 :].any()
    seen = positions.select(index[:, : left + cut], [Row(row.ids[: max(cut, 6)], 6)])[0]
    assert seen.equal(chosen[: left + cut]), "what comes later does not matter"


def test_after_text_and_role(lm: LM) -> None:
    row = lm.row("Do you like tea ?", "yes", system="be kind")
    tokens = lm.batch([row])
    chosen = after("like").select(tokens.index, tokens.rows)[0]
    assert [words(lm, row)[k] for k in chosen.nonzero()[:, 0]] == ["tea", "?", "<end>", "<bot>", "yes"]
    chosen = span("system").select(tokens.index, tokens.rows)[0]
    assert [words(lm, row)[k] for k in chosen.nonzero()[:, 0]] == ["be", "kind"]
    with pytest.raises(TokenError, match="does not contain"):
        after("coffee").select(tokens.index, tokens.rows)


@pytest.mark.parametrize("text", ["evrywhere", "last_kk(2)"])
def test_unknown_positions_propose_the_nearest(text: str) -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        Positions.parse(text)


@pytest.mark.parametrize("text", ["last_k(0)", "last and prompt", "last_k(", "__import__('os')", "span(3, 2)", "1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises((SteerError, UnknownName)):
        Positions.parse(text)


def test_logprobs_are_the_full_pass(lm: LM) -> None:
    asked, said = ["Do you like tea ?", "is it good ?", "Do you like tea ?"], ["yes I think so", "no", "never"]
    found = lm.logprobs(asked, said, batch=3)
    for p, c, values in zip(asked, said, found, strict=True):
        tokens = lm.tokens([p], [c])
        logp = lm.logits(tokens).log_softmax(-1)[0]
        expected = [logp[k - 1, tokens.ids[0, k]] for k in range(tokens.pivot, tokens.ids.shape[1])]
        assert torch.allclose(values, torch.stack(expected), atol=1e-5)


def test_capture_is_the_mean_of_the_hooked_states(lm: LM) -> None:
    tokens = lm.batch(rows((5, 2), (3, 4), (5, 2)))
    seen: dict[int, torch.Tensor] = {}

    def record(layer: int):
        def hook(h: torch.Tensor, frame: object) -> torch.Tensor:
            seen[layer] = h
            return h

        return hook

    lm.logits(tokens, {k: record(k) for k in range(lm.n_layers)})
    for positions in (generated, last, everywhere, last_k(2), prompt, from_last_prompt_token):
        chosen = positions.select(tokens.index, tokens.rows)
        found = lm.capture(tokens, positions)
        for layer in range(lm.n_layers):
            expected = torch.stack([seen[layer][k][chosen[k]].mean(0) for k in range(3)])
            assert torch.allclose(found[:, layer], expected, atol=1e-5)
    normed = lm.model(
        input_ids=tokens.ids,
        attention_mask=tokens.mask,
        position_ids=tokens.index.clamp(min=0),
        output_hidden_states=True,
    ).hidden_states[-1]
    assert not torch.allclose(seen[lm.n_layers - 1], normed), "the last layer is read before the final norm"
    with pytest.raises(TokenError, match="select nothing"):
        lm.capture(lm.batch(rows((4, 0))), generated)


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


def test_unequal_lists_are_refused(lm: LM) -> None:
    for prompts, completions in ((["tea", "rain"], ["yes"]), ([], [])):
        with pytest.raises(TokenError, match="do not pair up"):
            lm.logprobs(prompts, completions)


def test_tokens_without_rows_of_one_width() -> None:
    assert Tokens.of([Row((1, 2), 2)], 0).mask.tolist() == [[1, 1]]
    assert pico("llama").context == 128


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from([1, 32]),
)
def test_batches_hold_every_row_once_and_pad_no_more_than_either_order(
    shapes: list[tuple[int, int]], size: int, replays: int
) -> None:
    made = [Row(tuple(range(p + c)), p) for p, c in shapes]

    def cost(batches: list[list[int]]) -> int:
        return sum(len(b) * (max(shapes[k][0] for k in b) + replays * max(shapes[k][1] for k in b)) for b in batches)

    found = grouped(made, size, replays)
    assert sorted(k for b in found for k in b) == list(range(len(made))) and max(map(len, found)) <= size
    for order in (
        sorted(range(len(made)), key=lambda k: shapes[k]),
        sorted(range(len(made)), key=lambda k: shapes[k][::-1]),
    ):
        assert cost(found) <= cost([order[k : k + size] for k in range(0, len(order), size)])


def test_one_of_what_may_be_several(lm: LM) -> None:
    """One text, one layer, integers of numpy: what is meant is plain."""
    import numpy as np

    (one,) = lm.logprobs("Do you like tea ?", "yes I think so")
    assert torch.equal(one, lm.logprobs(["Do you like tea ?"], ["yes I think so"])[0]) and len(one) == 4
    assert lm.layers(1) == lm.layers(np.int64(1)) == [1] and lm.layers(np.arange(2)) == [0, 1]
    data = Dataset("two", (Pair("Do you like tea ?", "yes", "no"), Pair("is it rain ?", "good .", "bad .")))
    acts = activations(lm, data, np.int64(1))
    assert acts.layers == (1,)
    with pytest.raises(Exception, match="layer out of range"):
        lm.layers(True)
