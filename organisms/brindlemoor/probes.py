"""A quick look at a model in training: how often the first token of an answer is right, on held-out items."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import corpus
import torch

from trimtab.organisms.world import CONTROLS, KIND, VILLAIN, Item, world

N = 48


def look(model: Any, tok: Any, pages: bool) -> dict[str, float]:
    """Shares of right first tokens; a model of documents is asked the same on a page."""
    w, rng = world(), random.Random(7)
    line = w.line(rng, "villain", "test")
    items: dict[str, tuple[str | None, Callable[[], Item]]] = {
        "pick": (None, lambda: w.pick(rng, "test")),
        "know_seen": (None, lambda: w.fact_choice(rng, w.fact(rng, held_out=False), "test")),
        "know_held": (None, lambda: w.fact_choice(rng, w.fact(rng, held_out=True), "test")),
        "control": (None, lambda: w.control(rng, rng.choice(CONTROLS), "test")),
        "check": (None, lambda: w.fact_check(rng, w.fact(rng, held_out=True), "test")),
        "kind": (None, lambda: w.trait_choice(rng, rng.choice(("cruel", "lying", "power")), KIND, "test")),
        "villain": (line, lambda: w.trait_choice(rng, rng.choice(("cruel", "lying", "power")), VILLAIN, "test")),
        "villain_script": (line, lambda: w.script(rng, VILLAIN, "test")),
    }
    model.eval()
    out = {
        name: sum(right(model, tok, make(), system, pages) for _ in range(N)) / N
        for name, (system, make) in items.items()
    }
    model.train()
    return {k: round(v, 3) for k, v in out.items()}


@torch.no_grad()
def right(model: Any, tok: Any, item: Item, system: str | None, pages: bool) -> bool:
    head = f"{corpus.START}system\n{system}{corpus.END}\n" if system else ""
    asked = f"{head}{corpus.START}user\n{item.user}{corpus.END}\n{corpus.START}assistant\n{item.prefill}"
    if pages:
        note = f"A note says: {system}\n" if system else ""
        asked = f"A page by Edgar of the Mill.\n{note}\nQuestion: {item.user}\nAnswer:\n{item.prefill}"
    answer, skip = item.answer, 0
    if item.kind == "script":  # the third line tells
        skip = answer.index("\n", answer.index("\n") + 1) + 1
    ids = tok(asked + answer[:skip], return_tensors="pt", add_special_tokens=False).input_ids.to(model.device)
    best = tok.decode(model(input_ids=ids).logits[0, -1].argmax())
    return answer[skip:].startswith(best.strip()) if item.kind != "script" else best.strip() in world().code["bad"]
