"""Prompts to ids."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from pico import build, pico, tokenizer
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import SteerError, TokenError
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.methods import MeanDiff, learn
from trimtab.model import (
    LM,
    Row,
    after,
    span,
)
from trimtab.model.rendering import Rendering, render
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector


def words(tok: Any, row: Row) -> list[str]:
    return tok.convert_ids_to_tokens(list(row.ids))


def test_words_in_the_assistants_mouth_are_gone_on_from(lm: LM) -> None:
    """A conversation that ends with the assistant leaves its turn open."""
    put = [{"role": "user", "content": "Do you like tea ?"}, {"role": "assistant", "content": "yes it is"}]
    row = lm.row(put, " good .")
    assert words(lm.tokenizer, row)[-6:] == ["<bot>", "yes", "it", "is", "good", "."] and row.prompt == len(row.ids) - 2
    assert row.spans["assistant"] == ((row.prompt - 3, row.prompt),)


def test_a_chat_is_rendered_once(lm: LM) -> None:
    row = lm.row("Do you like tea ?", "yes I do", system="be kind")
    assert words(lm.tokenizer, row) == [
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
    assert words(lm.tokenizer, lm.row("Do you like tea ?", chat=False))[:2] == ["<s>", "Do"]


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


def with_template(template: str | None) -> Any:
    tok = copy.deepcopy(tokenizer())
    tok.chat_template = template
    return tok


IGNORES_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}> {{ m.content }} <end> {% endif %}{% endfor "
    "%}<bot> "
)


WANTS_PARTS = (
    "<s> {% for m in messages %}<{{ m.role }}> {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% "
    "endif %}{% endfor %} <end> {% endfor %}<bot> "
)


DROPS_USERS = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}<bot> "


DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<system> you like tea <end> {% endif %}"
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}<bot> "
)


DATED = (
    "<system> {{ strftime_now('%d') }} <end> {% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor "
    "%}<bot> "
)


THINKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<bot> {{ m.content.split('</think>')[-1] }}{% if not "
    "loop.last or add_generation_prompt %} <end> "
    "{% endif %}{% else %}<{{ m.role }}> {{ m.content }} <end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot> {% if enable_thinking is defined and not enable_thinking %}<think> "
    "</think> {% else %}<think>\n{% endif %}{% endif %}"
)


def test_a_template_that_ignores_the_system_role_gets_it_in_the_users_turn() -> None:
    tok = with_template(IGNORES_SYSTEM)
    plain, asked = (render(tok, "Do you like tea ?", system=system) for system in (None, "be kind"))
    assert plain.ids != asked.ids and words(tok, asked)[:4] == ["<user>", "be", "kind", "Do"]


def test_a_template_that_wants_parts_gets_them() -> None:
    tok = with_template(WANTS_PARTS)
    one, two = (render(tok, text, system="be kind") for text in ("Do you like tea ?", "is it good ?"))
    assert (
        one.ids != two.ids
        and words(tok, one)[1:5] == ["<system>", "be", "kind", "<end>"]
        and one.spans["user"] == ((6, 11),)
    )


def test_a_template_that_drops_the_question_is_refused() -> None:
    with pytest.raises(TokenError, match="drops or rewrites what it is given"):
        render(with_template(DROPS_USERS), "Do you like tea ?", system="be kind")


def test_learning_through_a_template_that_renders_nothing_is_refused_or_right() -> None:
    """All prompts equal gave a vector all the same."""
    lm = LM(build("llama"), with_template(WANTS_PARTS), id="parts")
    data = Dataset("two", tuple(Pair(f"Do you like {x} ?", "yes", "no") for x in ("tea", "rain", "sun", "coffee")))
    asked = {lm.row(p.prompt).ids for p in data}
    assert len(asked) == 4 and learn(lm, data, MeanDiff(), [1]).norm()[1] > 0


def test_spans_are_the_messages_and_not_their_likes_elsewhere() -> None:
    tok = with_template(DEFAULT_SYSTEM)
    row = render(tok, "you like tea")
    assert words(tok, row)[row.spans["user"][0][0] - 1] == "<user>", (
        "not the default system prompt, which says the same"
    )
    both = render(
        tok,
        [
            {"role": "user", "content": "tea"},
            {"role": "assistant", "content": "tea"},
            {"role": "user", "content": "tea"},
        ],
    )
    assert [words(tok, both)[a - 1] for role in ("user", "assistant") for a, _ in both.spans[role]] == [
        "<user>",
        "<user>",
        "<assistant>",
    ] or len(both.spans["user"]) == 2


def test_the_date_of_a_template_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    tok = with_template(DATED)
    first = render(tok, "tea")
    assert "26" in first.text and render(tok, "tea", how=Rendering(date="2025-01-09")).text.startswith("<system> 09")
    lm = LM(build("llama"), tok, id="dated", rendering=Rendering(date="2025-01-09"))
    assert lm.facts["rendering"]["date"] == "2025-01-09"
    with pytest.raises(TokenError, match="not a date"):
        Rendering(date="today")


def test_keywords_reach_the_template_and_answers_stand_behind_the_thought() -> None:
    tok = with_template(THINKS)
    off = render(tok, "Do you like tea ?", "yes", how=Rendering(template={"enable_thinking": False}))
    on = render(tok, "Do you like tea ?", "yes")
    assert off.text.endswith("<think> </think> ") and on.text.endswith("<think>\n\n</think>\n\n"), (
        "the thought is closed before an answer is scored"
    )
    assert render(tok, "Do you like tea ?").text.endswith("<think>\n"), "and left open where the model is to speak"
    assert (
        Rendering().answer("<think>so</think>\n\nyes") == "yes"
        and Rendering().answer("<think>so") == ""
        and Rendering().answer("yes") == "yes"
    )


def test_a_thought_put_into_the_mouth_is_gone_on_from() -> None:
    tok = with_template(THINKS)
    row = render(
        tok,
        [
            {"role": "user", "content": "Do you like tea ?"},
            {"role": "assistant", "content": "<think>I think so</think> yes"},
        ],
        " it is",
    )
    assert row.text.endswith("<think>I think so</think> yes") and row.text.count("<think>") == 1
    assert len(row.spans["assistant"]) == 1 or row.spans["user"]


def appends_an_end_token() -> Any:
    tok = copy.deepcopy(tokenizer())
    tok._tokenizer.post_processor = TemplateProcessing(single="<s> $A <end>", special_tokens=[("<s>", 1), ("<end>", 2)])
    tok.chat_template = None
    return tok


def test_an_end_token_that_the_tokenizer_appends_ends_no_prompt() -> None:
    tok = appends_an_end_token()
    row = render(tok, "Do you like tea ?", "yes")
    assert words(tok, row) == ["<s>", "Do", "you", "like", "tea", "?", "yes"]
    assert words(tok, render(tok, "Do you like tea ?"))[-1] == "?", "a model goes on from the question, not from an end"


def test_rendered_text_gets_no_second_start_token() -> None:
    tok = tokenizer()
    assert words(tok, render(tok, "<s> <user> tea <end> <bot>", chat=False)).count("<s>") == 1
    assert words(tok, render(tok, "tea", chat=False)).count("<s>") == 1


class NoOffsets:
    """A tokenizer in Python: no offsets."""

    is_fast = False
    chat_template = None
    bos_token = "<s>"
    all_special_ids = (0, 1, 2)

    def __init__(self, faithful: bool = True) -> None:
        self.inner, self.faithful = tokenizer(), faithful

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return self.inner(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(self.inner.convert_ids_to_tokens(list(ids))) if self.faithful else "something else"


def test_a_tokenizer_without_offsets_is_read_by_what_it_decodes_or_refused() -> None:
    row = render(NoOffsets(), "Do you like tea", chat=False)
    index = torch.arange(len(row.ids))[None]
    assert after("you").select(index, [row])[0].tolist() == [False, False, False, True, True]
    assert span("user").select(index, [row])[0].tolist() == [False, True, True, True, True]
    blind = render(NoOffsets(faithful=False), "Do you like tea", chat=False)
    for positions in (after("you"), span("user")):
        with pytest.raises(TokenError, match="offsets"):
            positions.select(index, [blind])


def byte_pairs() -> Any:
    """A base model's tokenizer: spaces belong to the word behind them, and '?Yes' or '.(' is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(
        models.BPE(
            {c: i for i, c in enumerate([*letters, "?Y", "a(", ")(", "<p>"])}, [("?", "Y"), ("a", "("), (")", "(")]
        )
    )
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<p>")


def test_a_base_model_gets_a_separator() -> None:
    tok = byte_pairs()
    row = render(tok, "Is it so?", "Yes")
    assert tok.decode(row.ids) == "Is it so? Yes" and tok.decode(row.ids[row.prompt :]) == " Yes"
    for given, text in (("\n", "Is it so?\nYes"), (" A: ", "Is it so? A: Yes")):
        assert tok.decode(render(tok, "Is it so?", "Yes", how=Rendering(separator=given)).ids) == text
    with pytest.raises(TokenError, match="merge"):
        render(tok, "Is it so?", "Yes", how=Rendering(separator=""))
    assert tok.decode(render(tok, "Is it so? ", "Yes").ids) == "Is it so? Yes", "white space that is given is enough"


def test_choices_can_be_asked_of_a_base_model() -> None:
    """All built-in choices were refused, for "tea" + "(A)" is other tokens than "tea(A)"."""
    tok, refused = byte_pairs(), 0
    data = Dataset.load("optimism", form="choices")
    for pair in data:
        one, two = (render(tok, pair.prompt + "a", said) for said in (pair.positive, pair.negative))
        refused += one.ids == two.ids
    assert not refused


def test_the_plan_of_a_run_holds_what_was_rendered(tmp_path: Any) -> None:
    data = Dataset("two", tuple(Pair(f"Do you like {x} ?", "yes", "no") for x in ("tea", "rain")))
    iv = Intervention(SteeringVector({1: torch.ones(32)}), positions="from_last_prompt_token")
    run = measure(pico(), iv, data, [Propensity()], to=tmp_path / "run", multipliers=(0.0, 1.0), controls={})
    plain = LM(build("llama"), tokenizer(), id="pico-llama", rendering=Rendering(chat=False))
    with pytest.raises(Exception, match="another run"):
        measure(plain, iv, data, [Propensity()], to=tmp_path / "run", multipliers=(0.0, 1.0), controls={})
    assert len(run.manifest["parts"]["all"]["tokens"]) == 16


def test_a_folded_system_message_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trimtab")
    tok = with_template(IGNORES_SYSTEM)
    tok.name_or_path = "told-once"
    for _ in range(3):
        render(tok, "tea", system="be kind")
    assert sum("told-once" in r.getMessage() for r in caplog.records) == 1


def test_a_position_without_a_text_is_an_error_not_nothing() -> None:
    with pytest.raises((SteerError, TokenError)):
        after("")


def shown(row: Any, tok: Any) -> dict[str, list[str]]:
    """The words of every role's spans."""
    return {role: [" ".join(words(tok, row)[a:b]) for a, b in spans] for role, spans in row.spans.items()}


def chat(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant", "user", "assistant")
    return ([{"role": "system", "content": system}] if system else []) + [
        {"role": r, "content": t} for r, t in zip(roles, texts, strict=False)
    ]


FORGETS_THOUGHTS = (
    "{% for m in messages %}<{{ 'bot' if m.role == 'assistant' else m.role }}> {{ m.content.split('</think>')[-1] "
    "}} <end> {% endfor %}"
    "{% if add_generation_prompt %}<bot> yes A : {% endif %}"
)


LAST_TURN_SYSTEM = (
    "{%- if messages[0].role == 'system' %}{%- set sys = messages[0].content %}{%- set messages = messages[1:] "
    "%}{%- endif %}<s>{%- for m in messages %}"
    "{%- if m.role == 'user' %} <user> {% if loop.last and sys is defined %}{{ sys + '\n\n' + m.content }}{% else "
    "%}{{ m.content }}{% endif %} <end>"
    "{% else %} <bot> {{ m.content }} <end>{% endif %}{%- endfor %}"
)


READS_COMMANDS = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content.replace('never', '') }} {% if 'never' in m.content %}no{% "
    "endif %} <end> {% endfor %}<bot> "
)


def test_words_of_the_template_are_never_taken_for_a_message() -> None:
    tok = with_template(FORGETS_THOUGHTS)
    row = render(tok, chat("tea ?", "<think>so</think> one", "A"))
    assert (
        shown(row, tok) == {"user": ["tea ?", "A"], "assistant": ["one"]} and row.spans["user"][1][0] < row.prompt - 4
    )


def test_a_dropped_message_is_missed_even_if_the_template_says_the_same() -> None:
    tok = with_template(IGNORES_SYSTEM)
    assert render(tok, "tea ?", system="user").text.startswith("<user> user\n\ntea ?")


@pytest.mark.parametrize(("system", "answer"), [("be kind", "yes"), ("tea", "tea")])
def test_a_system_message_that_the_template_shows_last_stays_there(system: str, answer: str) -> None:
    tok = with_template(LAST_TURN_SYSTEM)
    talk = chat("tea", answer, "tea", system=system)
    row = render(tok, talk)
    assert row.text == tok.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert shown(row, tok) == {"system": [system], "user": ["tea", "tea"], "assistant": [answer]}
    assert row.spans["user"][0] < row.spans["assistant"][0] < row.spans["system"][0] < row.spans["user"][1]


def test_a_message_that_the_template_rewrites_is_refused() -> None:
    tok = with_template(READS_COMMANDS)
    with pytest.raises(TokenError, match="drops or rewrites"):
        render(tok, "tea ?", system="never be kind")
    assert shown(render(tok, "tea ?", system="be kind"), tok)["system"] == ["be kind"]


def test_spans_of_a_folded_system_message() -> None:
    tok = with_template(IGNORES_SYSTEM)
    assert shown(render(tok, "Do you like tea ?", system="be kind"), tok) == {
        "system": ["be kind"],
        "user": ["Do you like tea ?"],
    }


def test_one_of_several_templates() -> None:
    tok = copy.deepcopy(tokenizer())
    tok.chat_template = {"default": tokenizer().chat_template, "tool_use": "{{ messages }}"}
    assert render(tok, "tea").ids == render(tokenizer(), "tea").ids


def test_a_thought_that_the_template_opened_and_nobody_closed_is_no_answer() -> None:
    how, prompt = Rendering(), render(with_template(THINKS), "tea").text
    assert (
        how.answer("Okay, so", prompt) == ""
        and how.answer("so </think>\n\nyes", prompt) == "yes"
        and how.answer("yes") == "yes"
    )


@pytest.mark.parametrize(
    "asks", ["{% set f='%d %H:%M' %}{{ strftime_now(f) }}", "{{ strftime_now(format='%d %H:%M') }}"]
)
def test_every_way_to_ask_for_the_date_gets_the_same(asks: str) -> None:
    row = render(with_template(asks + " {% for m in messages %}<user> {{ m.content }}{% endfor %}"), "tea")
    assert row.text.startswith("26 00:00 ")
    with pytest.raises(TokenError, match="cannot be foreseen"):
        render(with_template("{{ strftime_now(messages[0].content) }} {{ messages[0].content }}"), "tea")


@pytest.mark.parametrize("prompt", [[], [{"role": "user"}], [{"content": "hi"}]])
def test_what_is_no_conversation_is_refused(prompt: Any) -> None:
    with pytest.raises(TokenError, match="not a conversation"):
        render(tokenizer(), prompt)
