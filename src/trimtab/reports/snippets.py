"""Lines to copy: how a vector is used from Python, from the command line, and without trimtab."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.names import PUBLISHED
from trimtab.steering.use import POSITIONS, Use


def dose_rows(use: Use) -> list[Sequence[str]]:
    """The price of each multiplier as a table, head first; the head alone, where no dose was measured."""
    rows: list[Sequence[str]] = [
        ("multiplier", "|m v|/|h|", "drift, nats/token", "text broken", "behavior", "controls")
    ]
    for p in use.dose.points if use.dose else ():
        rise = "" if p.propensity is None else f"{p.propensity:+.3f}"
        beside = "" if p.control is None else f"{p.control:.3f}"
        rows.append((f"{p.multiplier:g}", f"{p.relative:.2f}", f"{p.drift:.3f}", f"{p.broken:.0%}", rise, beside))
    return rows


def snippets(use: Use, model: str, blocks: str, file: str = "vector.safetensors") -> dict[str, str]:
    """By name: Python, command line, and plain transformers where the use is one that a few lines can say."""
    out = {
        "Python": f'''from trimtab import LM, SteeringVector, steer

lm, v = LM.load("{model}"), SteeringVector.load("{file}")
with steer(lm, v):
    print(lm.generate(["How was your week?"])[0])
''',
        "Command line": f"trimtab chat {file} --model {model}\n",
    }
    plain = use.positions == POSITIONS and use.operator == {"name": "add"} and use.gate == {"name": "always"}
    if plain and len(use.layers) == 1 and use.layers[0] >= 0:
        out["Without trimtab"] = plain_transformers(use, model, blocks, file)
    return out


def plain_transformers(use: Use, model: str, blocks: str, file: str = "vector.safetensors") -> str:
    """A vector in plain transformers: a hook on one block, on the last token of the prompt and all that follow."""
    return f'''from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

name, v = "{PUBLISHED.get(model, model)}", load_file("{file}")["layers.{use.layers[0]}"]
tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)

def add(block, args, output):  # in the pass over the prompt its last token, then each new one
    h = (output[0] if isinstance(output, tuple) else output).clone()
    h[:, -1] += {use.multiplier:g} * v.to(h)
    return (h, *output[1:]) if isinstance(output, tuple) else h

model.{blocks}[{use.layers[0]}].register_forward_hook(add)
asked = tokenizer.apply_chat_template([{{"role": "user", "content": "How was your week?"}}],
                                      add_generation_prompt=True, return_tensors="pt", return_dict=True)
said = model.generate(**asked, max_new_tokens=60, do_sample=False)
print(tokenizer.decode(said[0, asked["input_ids"].shape[1]:], skip_special_tokens=True))
'''
