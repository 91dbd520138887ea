"""Many samples of many prompts under many interventions: conditions x prompts x samples in mixed batches, seeded and
resumable.

said = sample(lm, {"steered": (iv,), "unsteered": ()}, {"wish": "I grant you a wish. What is it?"}, 20,
to="runs/said.jsonl") said["wish", "steered"][0]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from trimtab.answers.remote import Remote
from trimtab.data.pairs import digest
from trimtab.errors import RunError
from trimtab.journal import Journal
from trimtab.model import LM, Edit, Frame, Layer, Row
from trimtab.model.generate import Sampling, decode
from trimtab.model.tokens import Prompt
from trimtab.progress import Progress
from trimtab.steering.interventions import Intervention, check_stack

Stack = tuple[Intervention, ...]
C = TypeVar("C", bound=Hashable)  # what tells conditions apart: their names, or values whose str() is one


@torch.no_grad()
def sample(
    lm: LM,
    conditions: Mapping[C, Sequence[Intervention]],
    prompts: Mapping[str, Prompt],
    n: int,
    *,
    to: str | Path,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    batch: int = 64,
    progress: Progress | None = None,
) -> dict[tuple[str, C], list[str]]:
    """n samples of every prompt under every condition. A sample depends on the seed, its prompt, its condition and its
    number, on nothing else, and the samples of one number draw alike in all conditions. Rows of different conditions
    share batches; the samples of one prompt and condition share the pass over it.

    Args:
        conditions: condition -> interventions, in order; none for the unsteered model. In the file it has the name
            `str(condition)`.
        prompts: name -> prompt.
        n: samples of each; 1 is enough at temperature 0.
        to: a file of JSON lines, written as samples come; if it is there, what it holds is not sampled again.
        progress: called with (samples done, in all).

    Returns:
        (prompt's name, condition) -> texts; of a model that thinks first, what follows the thought (the file has it
        all).

    Raises:
        RunError: the file holds samples of other conditions or settings, or of another prompt of the same name; or the
            server does not answer, or does not steer.
    """
    stacks = {str(name): check_stack(lm, stack) for name, stack in conditions.items()}
    journal, settings = Journal(Path(to)), Sampling(max_new_tokens, temperature, top_p, seed)
    plan = _plan(lm, stacks, settings)
    rows = {name: lm.row(p) for name, p in prompts.items()}
    digests = {name: digest(*map(str, row.ids)) for name, row in rows.items()}
    known = _known(journal, digests, plan)
    wanted = [(p, c, k) for p in prompts for c in stacks for k in range(n)]
    order = {p: (len(rows[p].ids), number) for number, p in enumerate(prompts)}  # short prompts together: less padding
    missing = sorted((w for w in wanted if w not in known), key=lambda w: order[w[0]])
    away = _server(lm) if lm.sampler and missing else None
    for start in range(0, len(missing), batch):
        some = missing[start : start + batch]
        if away is not None:
            asked = [(prompts[p], tuple(iv for iv in stacks[c] if iv.multiplier), k) for p, c, k in some]
            texts = away.texts(asked, settings, chat=lm.rendering.chat and bool(lm.tokenizer.chat_template))
        else:
            texts = _batch(lm, [(rows[p], c, stacks[c], k) for p, c, k in some], settings)
        rows_of = zip(some, texts, strict=True)
        written = [_written(p, c, k, text, plan[c], digests[p]) for (p, c, k), text in rows_of]
        journal.append(hashlib.sha256(json.dumps(some).encode()).hexdigest()[:16], written)
        known |= dict(zip(some, texts, strict=True))
        if progress:
            progress(len(wanted) - len(missing) + start + len(some), len(wanted))
    say = lm.rendering.answer
    every = product(prompts, conditions)
    return {(p, c): [say(known[p, str(c), k], rows[p].text) for k in range(n)] for p, c in every}


def _written(prompt: str, condition: str, number: int, text: str, plan: str, asked: str) -> dict[str, object]:
    """A sample as it stands in the file."""
    return {"prompt": prompt, "condition": condition, "sample": number, "text": text, "plan": plan, "asked": asked}


def _known(journal: Journal, digests: Mapping[str, str], plan: Mapping[str, str]) -> dict[tuple[str, str, int], str]:
    """Samples that are there: (prompt, condition, number) -> text.

    Raises:
        RunError: of another prompt or condition of the same name.
    """
    known: dict[tuple[str, str, int], str] = {}
    for r in journal.rows():
        prompt, condition = r["prompt"], r["condition"]
        if prompt in digests and r["asked"] != digests[prompt]:
            raise RunError(
                f"{journal.path} holds samples of another prompt {prompt!r}",
                do="choose another file, or another name for the prompt",
            )
        if condition in plan and r["plan"] != plan[condition]:
            raise RunError(f"{journal.path} holds samples of another condition {condition!r}", do="choose another file")
        known[prompt, condition, r["sample"]] = r["text"]
    return known


def _plan(lm: LM, stacks: Mapping[str, Stack], settings: Sampling) -> dict[str, str]:
    """What the samples of each condition belong to, as a hash."""
    about = [lm.facts, repr(settings), *([lm.sampler] if lm.sampler else [])]
    plan: dict[str, str] = {}
    for name, stack in stacks.items():
        described = [iv.describe() for iv in stack]
        plan[name] = hashlib.sha256(json.dumps([about, described]).encode()).hexdigest()[:16]
    return plan


def _server(lm: LM) -> Remote:
    """The server that is sampled instead.

    Raises:
        RunError: prompts would be rendered otherwise there.
    """
    how = lm.rendering
    if how.template or (how.separator is not None and not how.chat):
        raise RunError(
            "a server renders prompts by its own template", given=how.describe(),
            do="leave out template and separator, or the sampler",
        )  # fmt: skip
    return Remote(lm.sampler, lm.id)


def _batch(lm: LM, wanted: Sequence[tuple[Row, str, Stack, int]], settings: Sampling) -> list[str]:
    """One text for each row, under its own stack.

    Args:
        wanted: a row, the name of its condition with its stack, the number of the sample.
    """
    rows = [row for row, _, _, _ in wanted]
    if len(rows) > 1 and not lm.together(rows, settings.max_new_tokens):  # side by side they would say something else
        return [text for one in wanted for text in _batch(lm, [one], settings)]
    groups: dict[tuple[object, ...], int] = {}
    place = [groups.setdefault((row.asked, name), len(groups)) for row, name, _, _ in wanted]
    by_row = [stack for _, _, stack, _ in wanted]
    with lm.edit(mixed(by_row, [by_row[place.index(g)] for g in range(len(groups))])):
        done = decode(lm, lm.batch(rows), settings, salts=[k for _, _, _, k in wanted], place=place)
    return [lm.text(row) for row in done]


def mixed(stacks: Sequence[Stack], prompts: Sequence[Stack]) -> dict[Layer, Edit]:
    """Edits of a batch in which every row has its own stack of interventions.

    Args:
        stacks: of each row.
        prompts: of each row of the first pass, in which rows may share their prompt.
    """

    def at(layer: Layer) -> Edit:
        def edit(h: Tensor, frame: Frame) -> Tensor:
            here = stacks if len(frame.rows) == len(stacks) else prompts
            groups: dict[tuple[int, ...], list[int]] = {}
            for k, stack in enumerate(here):
                groups.setdefault(tuple(id(iv) for iv in stack), []).append(k)
            for members in groups.values():
                acting = [iv for iv in here[members[0]] if layer in iv.vector.vectors]
                if acting:
                    where = torch.tensor(members, device=h.device)
                    part, inside = (
                        h[where],
                        Frame(frame.index[where.to(frame.index.device)], [frame.rows[k] for k in members]),
                    )
                    for iv in acting:
                        part, _ = iv.apply(part, layer, inside)
                    h = h.index_copy(0, where, part)
            return h

        return edit

    layers = sorted({layer for stack in stacks for iv in stack for layer in iv.vector.layers})
    return {layer: at(layer) for layer in layers}
