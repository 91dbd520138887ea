"""A file of Python that needs torch, transformers and safetensors alone: hooks for those who want no library."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers

from trimtab.errors import ExportError
from trimtab.exporters.base import Exporter, Logprobs, Proof, compared, not_one_row, plainly, probes
from trimtab.model import LM, Row
from trimtab.model.replay import new_cache
from trimtab.registry import describe, register
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.operators import Affine

FILE, TENSORS = "steer.py", "vectors.safetensors"

# operators as lines over x (b, s, d) in fp32, a vector v and a multiplier m
OPERATORS = {
    "add": "x + m * v",
    "ablate": "x - m * (x @ v / (v @ v).clamp(min=1e-30))[..., None] * v",
    "clamp": "x - (x @ v / (v @ v).clamp(min=1e-30))[..., None] * v + m * v",
    "rotate": "(x + m * v) * (x.norm(dim=-1, keepdim=True) / (x + m * v).norm(dim=-1, keepdim=True))",
    "affine": "x + m * (v[0] + x @ v[1 + len(v) // 2 :].T @ v[1 : 1 + len(v) // 2])",
}
# positions as columns of a pass over s tokens: the prompt comes in one pass, what is generated token by token
POSITIONS = {
    "everywhere": "slice(None)",
    "from_last_prompt_token": "slice(-1, None)",
    "generated": "slice(None) if s == 1 else slice(0)",
    "prompt": "slice(0) if s == 1 else slice(None)",
    "last": "slice(0) if s == 1 else slice(-1, None)",
}
HEAD = '''"""Steers {model} as trimtab does. In Python: attach(model), then model.generate with its cache; prompts
of more than one token, padded on the left. From a shell: python {file} MODEL "A question".
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

VECTORS = load_file(Path(__file__).with_name("{tensors}"))
EDITS = [  # block, vector, multiplier, what becomes of the stream x (b, s, d) and of which of its s tokens
'''
LINE = '    ("{path}", "{name}", {m!r}, lambda x, v, m: {change}, lambda s: {where}),\n'
TAIL = """

def edit(name, m, change, where):
    def hook(block, args, output):
        h = (output[0] if isinstance(output, (tuple, list)) else output).clone()
        at, v = where(h.shape[1]), VECTORS[name].to(h.device)
        h[:, at] = change(h[:, at].float(), v, m).to(h.dtype)
        return type(output)((h, *output[1:])) if isinstance(output, (tuple, list)) else h

    return hook


def attach(model):
    return [model.get_submodule(path).register_forward_hook(edit(*rest)) for path, *rest in EDITS]


if __name__ == "__main__":
    tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForCausalLM.from_pretrained(sys.argv[1])
    attach(model)
    text, asked = sys.argv[2], [{"role": "user", "content": sys.argv[2]}]
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=60, do_sample=False)
    print(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
"""


@register("exporter", "hook")
@dataclass(frozen=True)
class Hook(Exporter):
    """A folder with one short file of Python, for any model and every operator, that needs torch, transformers and
    safetensors alone. It steers the tokens that trimtab steers, if the model generates with its cache.
    """

    def expressible(self, ivs: Sequence[Intervention]) -> None:
        for iv in ivs:
            plainly(iv, "hook")
            if not_one_row(iv) and not isinstance(iv.operator, Affine):
                raise ExportError("a map of several rows is for operator affine", given=describe(iv.operator))
            if str(iv.where) not in POSITIONS:
                raise ExportError(
                    "a hook sees passes, not texts",
                    given=f"positions {iv.where}",
                    expected=f"one of {', '.join(POSITIONS)}",
                    do="use trimtab itself for other positions",
                )

    def write(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> None:
        tensors = {f"{n}.layers.{k}": v.clone() for n, iv in enumerate(ivs) for k, v in iv.vector.vectors.items()}
        safetensors.torch.save_file(tensors, path / TENSORS)
        lines = [
            LINE.format(
                path=f"{lm.blocks_path}.{layer}",
                name=f"{n}.layers.{layer}",
                m=float(iv.multiplier),
                change=OPERATORS["add" if isinstance(iv.operator, Affine) and not not_one_row(iv) else name],
                where=POSITIONS[str(iv.where)],
            )
            for n, iv in enumerate(ivs)
            for name in [describe(iv.operator)["name"]]
            for layer in iv.vector.layers
        ]
        plain = re.sub(r"[^\w./ -]", "?", lm.id, flags=re.ASCII)  # it stands in a docstring
        head = HEAD.format(model=plain, file=FILE, tensors=TENSORS)
        (path / FILE).write_text(head + "".join(lines) + "]\n" + TAIL, "utf-8")

    def verify(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> Proof:
        steered = partial(steer, lm, *ivs)
        rows = probes(lm, steered)
        plain = [_steps(lm, row) for row in rows]
        with _attached(path / FILE, lm.inner):
            theirs = [_steps(lm, row) for row in rows]
        return compared(
            lm, steered, rows, theirs, f"transformers {transformers.__version__}", unsteered=plain, exact=False
        )


@contextmanager
def _attached(file: Path, model: Any) -> Generator[None]:
    """Within the context, a model under the hooks of a file that was written."""
    spec = importlib.util.spec_from_file_location("written_by_trimtab", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    attach: Callable[[Any], list[Any]] = module.attach
    handles = attach(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _steps(lm: LM, row: Row) -> Logprobs:
    """As a model generates: the prompt in one pass, then token by token on its cache; of every token but the prompt's
    earlier ones.
    """
    ids = torch.tensor([row.ids], device=lm.device)
    cache = new_cache(lm.inner.config)
    pieces = [ids[:, : row.prompt], *ids[:, row.prompt :].split(1, dim=1)]
    last = [lm.inner(input_ids=p, past_key_values=cache, use_cache=True).logits[0, -1] for p in pieces]
    return torch.stack(last).float().log_softmax(-1).cpu()
