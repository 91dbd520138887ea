"""The steering card: what a vector is, how to use it, what it was measured to do and to break, in one Markdown page."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.names import PUBLISHED
from trimtab.reports.snippets import dose_rows, snippets
from trimtab.steering.use import UNMEASURED, ranges
from trimtab.steering.vector import SteeringVector

FILE = "vector.safetensors"
SHOWN = ("steerability", "median slope", "anti-steerable share")


def card(vector: SteeringVector, raw: bytes, name: str = "") -> str:
    """The card of a vector's file, with the front matter that the hub reads.

    Args:
        raw: the file's bytes, whose hash the card states.
        name: of the repository.
    """
    made = vector.made
    behavior = str(made.data.get("name") or made.method.get("name") or "a vector")
    sections = [
        _front(vector, raw),
        _line(f"# {behavior}: a steering vector for {made.model or 'an unnamed model'}"),
        _facts(vector),
        "## Use it",
        *_use(vector, name),
        "## What it was measured to do, and what it breaks",
        *_evidence(vector),
    ]
    return "\n\n".join(sections) + "\n"


def stated(text: str) -> str:
    """The hash that a card states; "" if it states none."""
    found = re.search(r"^\s*sha256: ([0-9a-f]{64})$", text, re.MULTILINE)
    return found[1] if found else ""


def _front(vector: SteeringVector, raw: bytes) -> str:
    made = vector.made
    published = PUBLISHED.get(made.model, made.model)
    base = [f"base_model: {published}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", published) else []
    lines = [
        "---",
        "library_name: trimtab",
        *base,
        "tags:",
        "- steering-vector",
        "- trimtab",
        "trimtab:",
        f"  sha256: {hashlib.sha256(raw).hexdigest()}",
        f"  vector: {json.dumps(vector.hash)}",
        f"  weights: {json.dumps(made.weights)}",
        "---",
    ]
    return "\n".join(lines)


def _facts(vector: SteeringVector) -> str:
    made = vector.made
    where = "the embeddings" if vector.layers[0] < 0 else f"the output of block {ranges(vector.layers)}, from 0"
    method = ", ".join(f"{k} {v}" for k, v in made.method.items() if k != "name" and v not in (None, "", [], ()))
    data = ", ".join(f"{k} {v}" for k, v in made.data.items())
    norms = vector.norm().values()
    rows = [
        ("model", f"{made.model or 'not named'} {made.revision}".strip()),
        ("hash of its weights", made.weights or "not known"),
        ("where", where),
        ("norm", f"{min(norms):.3g}" if len(vector.layers) == 1 else f"{min(norms):.3g} to {max(norms):.3g}"),
        ("learned by", f"{made.method.get('name', 'not known')}{f' ({method})' if method else ''}"),
        ("learned from", data or "no data set"),
        ("controls in the file", f"{len(vector.nulls)} label-shuffled vectors" if vector.nulls else "none"),
    ]
    return _table(("", ""), rows)


def _use(vector: SteeringVector, name: str) -> Iterator[str]:
    use = vector.use
    if use is None:
        yield "Nobody measured how it is to be used: `trimtab dose FILE` does."
        return
    operator = str(use.operator.get("name", "add"))
    where = "embeddings" if use.layers[0] < 0 else f"block {ranges(use.layers)}"
    told = f"{where}, multiplier {use.multiplier:g}, operator {operator}, positions {use.positions}"
    yield "\n".join(f"- {_line(w)}" for w in (f"Use it at {told}.", *(use.why or (UNMEASURED,))))
    if name:
        yield f"```sh\ntrimtab pull {name} --to {FILE}\n```"
    for title, code in snippets(use, vector.made.model, "", FILE).items():
        if title == "Without trimtab":  # where the blocks of a model are does not stand in the file
            continue
        yield f"{title}:\n\n```{'sh' if title == 'Command line' else 'python'}\n{code.strip()}\n```"


def _evidence(vector: SteeringVector) -> Iterator[str]:
    use, evidence = vector.use, vector.evidence
    if use is not None and use.dose is not None:
        head, *rows = dose_rows(use)
        yield _table(head, rows)
        yield (
            "Drift is how far the model moves from itself, on everyday prompts; text broken is the share of answers "
            f"that are no longer text ({use.dose.broken:.0%} unsteered, {use.dose.prompts} prompts); controls are the "
            "largest change that a vector without the behavior in it makes."
        )
    if not evidence:
        yield "It has not been evaluated on held-out items: `trimtab measure FILE --data DATA --to DIR` does."
        return
    yield f"**{evidence.get('verdict', '')}**"
    yield "\n".join(f"- {_line(r)}" for r in evidence.get("reasons", ()))
    figures = [f for f in evidence.get("figures", ()) if f.get("name") in SHOWN]
    yield _table(("figure", "value", "95 %", "n", "control"), [_row(f) for f in figures])


def _row(f: Mapping[str, Any]) -> Sequence[str]:
    known = [f.get(k) for k in ("value", "lo", "hi", "control")]
    value, lo, hi, control = ("" if x is None else f"{x:.3g}" for x in known)
    return (f["name"], f"{value} {f.get('unit', '')}", f"{lo} to {hi}" if lo else "", str(f.get("n", "")), control)


def _line(text: str) -> str:
    """A text without line breaks: it stands in a cell, a heading or an item."""
    return " ".join(str(text).split())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_line(c).replace("|", "\\|") for c in cells] for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
