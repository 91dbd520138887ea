"""Prompts to token ids, once: through the chat template or as plain text, with nothing that was given lost on the way.

A template is a program of the checkpoint's and may drop what it is given: the system message, the text of messages it
wants in another form, a thought. So it is asked where it puts each text (by words that stand for them), and what was
rendered is searched for all of them. For `system="be kind"` and the question "tea?":

    with stand-ins   <|system|>xyzzy0<|end|><|user|>xyzzy1<|end|><|bot|>     before, between, behind: 3 segments
    for real         <|system|>be kind<|end|><|user|>tea?<|end|><|bot|>      the same segments: nothing was lost
"""

from __future__ import annotations

import datetime
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from trimtab.errors import TokenError
from trimtab.model.tokens import Prompt, Row, Said, Span

log = logging.getLogger("trimtab")
STAND_IN = "xyzzy{}plugh"
DATE = "2024-07-26"
SEPARATORS = (" ", "\n", "")  # tried in this order between a plain prompt and its completion


@dataclass(frozen=True)
class Rendering:
    """How prompts become text. Part of the plan of every run.

    Attributes:
        chat: through the tokenizer's chat template, where it has one.
        separator: between a plain prompt and its completion, if neither brings white space; by default the first of a
            space, a line break and nothing that falls between tokens.
        template: keywords for the chat template, such as `{"enable_thinking": False}`.
        date: what a template that writes today's date is told, as YYYY-MM-DD: fixed, or a run would be another one
            tomorrow.
        thought: how a thought begins and ends, for models that think before they answer.
    """

    chat: bool = True
    separator: str | None = None
    template: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    date: str = DATE
    thought: tuple[str, str] = ("<think>", "</think>")

    def __post_init__(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError as problem:
            raise TokenError("not a date", given=self.date, expected="YYYY-MM-DD") from problem

    @classmethod
    def of(
        cls,
        chat: bool = True,
        separator: str | None = None,
        template: Mapping[str, Any] | None = None,
        date: str | None = None,
    ) -> Rendering:
        """From what a recipe or a command line says."""
        return cls(chat, separator, dict(template or {}), date or DATE)

    def describe(self) -> dict[str, Any]:
        """As plain JSON."""
        return json.loads(json.dumps(asdict(self)))

    def answer(self, text: str, prompt: str = "") -> str:
        """What follows the thought of a generated text; nothing if it never came to an end. A template may have opened
        the thought in the rendered prompt.
        """
        begin, end = self.thought
        if end in text:
            return text.rpartition(end)[2].lstrip()
        return "" if text.lstrip().startswith(begin) or prompt.rstrip().endswith(begin) else text


def render(
    tokenizer: Any,
    prompt: Prompt,
    completion: str = "",
    *,
    system: str | None = None,
    chat: bool | None = None,
    how: Rendering | None = None,
) -> Row:
    """One prompt (a user turn, or messages) and its completion as ids, in one tokenization.

    The completion's ids are what follows the prompt's ids when both are tokenized together, so they are what the model
    would read; if a token straddles the boundary the text is refused.

    Args:
        prompt: the text of a user turn, or a list of messages with `role` and `content`. If the last message is the
            assistant's, its turn stays open: the text has been put into its mouth, and the completion goes on from
            there.
        completion: what the assistant goes on to say; where the template has opened a thought, the thought is closed
            before it.
        system: a system message to put first; a template without a system role gets it in front of the user's text.
        chat: render through the tokenizer's chat template, if it has one; instead of `how.chat`.
        how: the rest.

    Raises:
        TokenError: the last prompt token and the first completion token merge, the prompt has no tokens, or the
            template drops what it was given.
    """
    how = how or Rendering()
    messages = as_messages(prompt)
    if not system and len(messages) > 1 and messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
    if (how.chat if chat is None else chat) and tokenizer.chat_template:
        conversation = ([{"role": "system", "content": system}] if system else []) + messages
        text, places = _templated(tokenizer, conversation, how)
        if completion:
            text += _closing(text, how.thought)
        return _row(tokenizer, text, [completion], places, special=False)
    texts = [*([("system", system)] if system else []), *((m["role"], m["content"]) for m in messages)]
    text, places = _joined(texts)
    return _row(
        tokenizer, text, _separated(text, completion, how.separator), places, special=not _begun(tokenizer, text)
    )


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as messages.

    Raises:
        TokenError: no messages, or something else.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    given: list[Any] = list(prompt)
    right = bool(given) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in given
    )
    if not right:
        raise TokenError(
            "not a conversation",
            given=given,
            expected='messages such as {"role": "user", "content": "Hello"}, at least one',
        )
    return [dict(m) for m in given]


def _row(tokenizer: Any, text: str, completions: Sequence[str], places: Sequence[Place], special: bool) -> Row:
    """The row of the first of some forms of a completion that falls between tokens."""
    ids, offsets = encode(tokenizer, text, special)
    if not ids:
        raise TokenError("the prompt has no tokens", given=text)
    spans = _spans(offsets, places)
    for completion in completions:
        whole = encode(tokenizer, text + completion, special)[0] if completion else ids
        if whole[: len(ids)] == ids and (len(whole) > len(ids) or not completion):
            return Row(tuple(whole), len(ids), spans, text, offsets)
    completion = completions[0]
    whole = encode(tokenizer, text + completion, special)[0]
    k = next((i for i, (a, b) in enumerate(zip([*ids, -1], [*whole, -2], strict=False)) if a != b), len(ids) - 1)
    raise TokenError(
        "prompt and completion merge into one token at their boundary",
        given=(
            f"...{tokenizer.decode(ids[k:])!r} + {completion[:20]!r}... becomes {tokenizer.decode(whole[k : k + 1])!r}"
        ),
        expected="a boundary that falls between tokens",
        do="move the space or line break to the other side of the boundary, or set a separator",
    )


# ------------------------------------------------------------ plain text

Place = tuple[str, int, int]  # role, first character and end of a message's text


def _joined(texts: Sequence[tuple[str, str]]) -> tuple[str, list[Place]]:
    """Messages as paragraphs."""
    text, places = "", list[Place]()
    for role, content in texts:
        text += "\n\n" if text else ""
        places.append((role, len(text), len(text) + len(content)))
        text += content
    return text, places


def _separated(text: str, completion: str, separator: str | None) -> list[str]:
    """The completion with what stands before it: as given, or the forms to try."""
    if not completion or separator is not None:
        return [(separator or "") + completion if completion else ""]
    if text[-1:].isspace() or completion[0].isspace():
        return [completion]
    return [s + completion for s in SEPARATORS]


def _begun(tokenizer: Any, text: str) -> bool:
    """Whether the text brings the token that begins a sequence, so that no second one may be added."""
    first = getattr(tokenizer, "bos_token", None)
    return bool(first) and text.startswith(str(first))


# ------------------------------------------------------------ chat templates


def _templated(tokenizer: Any, messages: list[dict[str, str]], how: Rendering) -> tuple[str, list[Place]]:
    """The rendered conversation, and where each message's text is in it."""
    problem = ""
    for form in (as_text, _as_parts):
        for folded, conversation in enumerate(_foldings(messages)):
            try:
                text = apply(tokenizer, form(conversation), how)
                places = _places(tokenizer, text, conversation, form, how)
            except TokenError as refusal:
                problem = problem or str(refusal)
                continue
            if places is not None:
                if folded:
                    _tell_folded(str(getattr(tokenizer, "name_or_path", "")))
                    places = _unfolded(text, places, messages)
                return text, places
            if not folded and len(conversation) > 1 and _takes_systems(tokenizer, conversation, form, how):
                break  # it has a place for a system message, and rewrites what is put there
    raise TokenError(
        f"the chat template of {getattr(tokenizer, 'name_or_path', '') or 'this tokenizer'} drops or rewrites what "
        "it is given",
        given=messages if not problem else f"{messages}: {problem}",
        expected="every message's text, as it is, in what is rendered",
        do=(
            "render without it (chat=False), say what it reads out of messages by template={...}, or give the "
            "tokenizer another template"
        ),
    )


def _takes_systems(tokenizer: Any, messages: Sequence[Mapping[str, str]], form: Any, how: Rendering) -> bool:
    """Whether a template shows a system message at all."""
    if messages[0]["role"] != "system":
        return False
    try:
        return STAND_IN.format(0) in apply(tokenizer, form(stand_ins([m["role"] for m in messages])), how)
    except TokenError:
        return False


def _unfolded(text: str, places: list[Place], messages: Sequence[Mapping[str, str]]) -> list[Place]:
    """Places of the system message and of the user's text it was put in front of."""
    (_, begin, end), *rest = places
    system, user = messages[0]["content"].strip(), messages[1]["content"].strip()
    return [
        ("system", text.index(system, begin), text.index(system, begin) + len(system)),
        (messages[1]["role"], text.rindex(user, begin, end), end),
        *rest,
    ]


def _foldings(messages: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The messages as they are; and with the system message in front of the first user's text."""
    if messages[0]["role"] != "system" or len(messages) < 2:
        return [messages]
    system, first, *rest = messages
    return [messages, [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]]


@lru_cache(maxsize=64)
def _tell_folded(name: str) -> None:
    log.info(
        "the chat template of %s has no system role: the system message is put in front of the user's text",
        name or "this tokenizer",
    )


def as_text(messages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Messages as most templates want them."""
    return [dict(m) for m in messages]


def _as_parts(messages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Contents as lists of parts, as templates of multimodal models want them."""
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def apply(tokenizer: Any, messages: list[dict[str, Any]], how: Rendering) -> str:
    """The template's text. The last turn stays open: for an answer, or behind the words put into the assistant's
    mouth.
    """
    from jinja2 import TemplateError

    given = {"chat_template": _dated(_template_of(tokenizer), how.date), **how.template}
    try:
        if messages[-1]["role"] != "assistant":
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **given))
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True, **given))
        # the template writes the last answer in another way (without its thought), and it cannot be gone on from
        # there
        except ValueError:
            if len(messages) < 2:
                raise
            content = messages[-1]["content"]
            words = content if isinstance(content, str) else content[0]["text"]
            opened, begin = apply(tokenizer, messages[:-1], how), how.thought[0]
            twice = opened.rstrip().endswith(begin) and words.lstrip().startswith(begin)
            return opened.rstrip().removesuffix(begin) + words.lstrip() if twice else opened + words
    except (TemplateError, TypeError, ValueError, KeyError) as problem:
        raise TokenError(f"the chat template refuses these messages: {problem}", given=messages) from problem


def _template_of(tokenizer: Any) -> str:
    """The template's text; of several, the one for chats."""
    given = tokenizer.chat_template
    return str(given if isinstance(given, str) else tokenizer.get_chat_template())


@lru_cache(maxsize=64)
def _dated(template: str, date: str) -> str:
    """A template whose clock stands still: a macro in the place of `strftime_now` knows the date in every format the
    template writes down.
    """
    if "strftime_now" not in template:
        return template
    now = datetime.datetime.fromisoformat(date)
    formats = dict.fromkeys(text for _, text in re.findall(r"(['\"])((?:(?!\1).)*%[a-zA-Z-](?:(?!\1).)*)\1", template))
    cases = "".join(
        f"{{%- {'elif' if n else 'if'} format == {f!r} -%}}{now.strftime(f)}" for n, f in enumerate(formats)
    )
    unknown = "{{- raise_exception('this template asks for the date in a format that cannot be foreseen') -}}"
    body = f"{cases}{{%- else -%}}{unknown}{{%- endif -%}}" if formats else unknown
    return f"{{%- macro strftime_now(format) -%}}{body}{{%- endmacro -%}}{template}"


def _places(
    tokenizer: Any, text: str, messages: Sequence[Mapping[str, str]], form: Any, how: Rendering
) -> list[Place] | None:
    """Where each message's text stands, in the order of the messages; None if one of them does not."""
    segments = _segments(tokenizer, _template_of(tokenizer), tuple(m["role"] for m in messages), form, how)
    if segments is None:
        return None
    places = _by_segments(text, segments, messages, how)
    return places if places is not None else _one_by_one(tokenizer, text, messages, form, how)


def stand_ins(roles: Sequence[str]) -> list[dict[str, str]]:
    """Messages of words that stand for texts: where they come out, a template puts what it is given."""
    return [{"role": role, "content": STAND_IN.format(k)} for k, role in enumerate(roles)]


@lru_cache(maxsize=256)
def _segments(
    tokenizer: Any, template: str, roles: tuple[str, ...], form: Any, how: Rendering
) -> tuple[tuple[str, int], ...] | None:
    """What the template writes before the text of each message, in the order they are shown in, and (behind a -1) at
    the end; None if it leaves one out.
    """
    stood = stand_ins(roles)
    text = apply(tokenizer, form(stood), how)
    if any(m["content"] not in text for m in stood):
        return None
    segments: list[tuple[str, int]] = []
    for k in sorted(range(len(roles)), key=lambda k: text.index(stood[k]["content"])):
        before, _, text = text.partition(stood[k]["content"])
        segments.append((before, k))
    return (*segments, (text, -1))


def _forms(content: str, how: Rendering) -> list[str]:
    """A text as templates show it: as it is, without white space around it, and of an earlier answer without its
    thought.
    """
    every = [content, content.strip(), content.rstrip(), content.lstrip(), content.replace("\r\n", "\n")]
    if how.thought[1] in content:
        behind = content.rpartition(how.thought[1])[2]
        every += [behind, behind.lstrip("\n"), behind.strip()]
    return sorted(dict.fromkeys(every), key=len, reverse=True)


def _by_segments(
    text: str, segments: Sequence[tuple[str, int]], messages: Sequence[Mapping[str, str]], how: Rendering
) -> list[Place] | None:
    """Places of texts between the template's own words, if these are as they were around the stand-ins."""
    places: dict[int, Place] = {}
    at = 0
    for n, (before, k) in enumerate(segments):
        if not text.startswith(before, at):
            return None
        at += len(before)
        if k < 0:
            break
        behind = segments[n + 1][0]
        words = next((w for w in _forms(messages[k]["content"], how) if text.startswith(w + behind, at)), None)
        if words is None:
            return None
        places[k] = (messages[k]["role"], at, at + len(words))
        at += len(words)
    return [places[k] for k in range(len(messages))] if at == len(text) else None


def _one_by_one(
    tokenizer: Any, text: str, messages: Sequence[Mapping[str, str]], form: Any, how: Rendering
) -> list[Place] | None:
    """Places found by putting the stand-in for one message after the other: what is rendered must be the same around
    it.
    """
    places: list[Place] = []
    for k, message in enumerate(messages):
        word = STAND_IN.format(k)
        while word in text:
            word += "x"
        other = apply(
            tokenizer, form([{**m, "content": word} if j == k else dict(m) for j, m in enumerate(messages)]), how
        )
        before, middle, behind = other.partition(word)
        if (
            not middle
            or not text.startswith(before)
            or not text.endswith(behind)
            or len(before) + len(behind) > len(text)
        ):
            return None
        end = len(text) - len(behind)
        if text[len(before) : end] not in _forms(message["content"], how):
            return None
        places.append((message["role"], len(before), end))
    return places


def _closing(text: str, thought: tuple[str, str]) -> str:
    """What ends a thought that the template has opened: an answer is scored behind it, not as a part of it."""
    begin, end = thought
    return f"\n{end}\n\n" if text.rstrip().endswith(begin) else ""


# ------------------------------------------------------------ ids


def encode(tokenizer: Any, text: str, special: bool) -> tuple[list[int], tuple[Span, ...]]:
    """Ids and character offsets. A chat template writes its own special tokens, so none are added to it (no double
    BOS); and none are added at the end, ever.
    """
    inner, offsets = _encoded(tokenizer, text, False)
    if not special:
        return inner, offsets
    ids, around = _encoded(tokenizer, text, True)
    for k in range(len(ids) - len(inner) + 1):  # what is added in front; an end token behind would end the prompt
        if ids[k : k + len(inner)] == inner:
            return ids[: k + len(inner)], around[: k + len(inner)]
    return ids, around


def _encoded(tokenizer: Any, text: str, special: bool) -> tuple[list[int], tuple[Span, ...]]:
    if tokenizer.is_fast:
        out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return list(out["input_ids"]), tuple((int(a), int(b)) for a, b in out["offset_mapping"])
    ids = list(tokenizer(text, add_special_tokens=special).input_ids)
    return ids, _decoded_offsets(tokenizer, text, ids)


def _decoded_offsets(tokenizer: Any, text: str, ids: Sequence[int]) -> tuple[Span, ...]:
    """Offsets of a tokenizer that gives none: what each beginning of the ids decodes to, if that is the beginning of
    the text; else nothing.
    """
    special = set(tokenizer.all_special_ids)
    ends: list[int] = []
    for k in range(len(ids)):
        begun = tokenizer.decode([i for i in ids[: k + 1] if i not in special], clean_up_tokenization_spaces=False)
        if not text.startswith(begun):
            return ()
        ends.append(len(begun))
    return tuple(zip([0, *ends], ends, strict=False)) if ends and ends[-1] == len(text) else ()


def _spans(offsets: Sequence[Span], places: Sequence[Place]) -> dict[str, tuple[Span, ...]]:
    """Token ranges of each message's text, by role."""
    spans: dict[str, list[Span]] = {}
    for role, begin, end in places:
        inside = [i for i, (a, b) in enumerate(offsets) if b > begin and a < end and b > a]
        if inside:
            spans.setdefault(role, []).append((inside[0], inside[-1] + 1))
    return {role: tuple(ranges) for role, ranges in spans.items()}


def as_prompt(asked: str | Sequence[Said]) -> Prompt:
    """Messages given as (role, content) pairs, the way they are kept in values that can be hashed."""
    return asked if isinstance(asked, str) else [{"role": role, "content": content} for role, content in asked]
