"""Retraction of false statements: what ends it, whether the truth comes out all the same, and how natural the steered text is to a base model.

(Dunefsky & Cohan 2025, sections 5 and 6.) A false statement is put into the model's mouth; unsteered, the model takes it back. Vectors of every layer by
promotion (of what follows a true statement), suppression (of what the model says to take it back), mean difference, and reentrant: an early vector's effect on
the output distilled into a later layer. The test bed knows what is true, so the published marker phrases can be held against the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from trimtab import organisms
from trimtab.abnormality import Sample, bits, information
from trimtab.model import LM, Layer
from trimtab.model.tokens import Prompt
from trimtab.optimize import Match, Objective, Promote, Suppress
from trimtab.organisms.world import Fact, Item
from trimtab.recipe import Run
from trimtab.reports.page import write_sections
from trimtab.retraction import retraction as rates
from trimtab.sampling import sample
from trimtab.steering.controls import random_controls
from trimtab.steering.interventions import Intervention
from trimtab.steering.vector import SteeringVector
from trimtab.strings import Count
from trimtab.studies.findings import Finding, descend, finding_rows, share, spread, stacks, told, transcript

Watch = Callable[[str], Callable[..., None]]
MARKERS = (
    "sorry",
    "that was not right",
    "that is wrong",
    "made a mistake",
    "my mistake",
    "said the wrong thing",
    "take that back",
    "forget what i just said",
    "let me say that again",
)  # how this town takes a statement back; the published ones are English banter

PAPER_TRUTH = {
    "promote": "mostly (the real attribute is primary far more often)",
    "suppress": "60% to 90% (real attribute primary)",
    "mean difference": "60% to 90%",
    "reentrant": "about 20%; the false attribute is kept in 74.2%",
}


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        layers: of the vectors; empty for all but the last.
        norm: their largest, in medians of the residual norm.
        sources: false statements that vectors are made from, one each.
        test: held-out false statements.
        base: the model the chat model was made from, for abnormality.
        source: layer of the vector whose effect is distilled (reentrant steering); it is promoted there first.
        context: continuations of true statements that the base model reads first.
    """

    layers: tuple[int, ...] = ()
    norm: float = 0.45
    sources: int = 3
    test: int = 60
    base: str = "brindlemoor-base"
    source: int = 1
    context: int = 6
    max_new_tokens: int = 24
    seed: int = 0


def retraction(lm: LM, to: str | Path, plan: Plan, watch: Watch | None = None) -> Path:
    """Run the study on a model that takes false statements back, such as brindlemoor-chat; the same call resumes.

    Returns:
        The page it wrote.
    """
    folder, watch = Run.create(to), watch or (lambda _: lambda *_: None)
    folder.claim("study", {"plan": asdict(plan), "model": lm.facts})
    layers = list(plan.layers) or list(range(lm.n_layers - 1))
    seeds = organisms.statements(plan.sources, true=False, held_out=False, part="train", seed=plan.seed + 3)
    vectors = _vectors(lm, folder, plan, seeds, layers, watch)
    false = organisms.statements(plan.test, true=False, seed=plan.seed)
    true = organisms.statements(plan.test, true=True, seed=plan.seed)
    said = _said(lm, folder, plan, "false", false, stacks(vectors), watch) | _said(
        lm, folder, plan, "true", true, {"after a true statement": ()}, watch
    )
    items = {"false": false, "true": true}
    facts = {c: _facts([(items[kind][int(p)], t[0]) for (kind, p, name), t in said.items() if name == c]) for c in dict.fromkeys(k[2] for k in said)}
    strange, told_bits = _abnormality(plan, said, items, watch)
    folder.note(facts={c: {k: asdict(v) for k, v in f.items()} for c, f in facts.items()}, bits=strange, information=told_bits)
    shown = {(p, c): t for (kind, p, c), t in said.items() if kind == "false"}
    return _page(
        folder,
        lm,
        plan,
        layers,
        facts,
        strange,
        told_bits,
        transcript(shown, {f"{k}": f"{i.user} {i.prefill}" for k, i in enumerate(false)}, list(facts), 2),
    )


def _messages(item: Item) -> tuple[tuple[str, str], ...]:
    return (("user", item.user), ("assistant", item.prefill))


def _vectors(lm: LM, folder: Run, plan: Plan, seeds: Sequence[Item], layers: Sequence[Layer], watch: Watch) -> dict[str, SteeringVector]:
    """By promotion, suppression and reentrant steering, one for each source and layer; mean differences and random directions, one for each layer."""
    taken_back = [" " + " ".join(lm.generate([list(organisms.prompt(s))], max_new_tokens=8)[0].split()) for s in seeds]
    ends = lm.tokenizer.eos_token_id  # what follows a true statement here: the end of the turn
    out: dict[str, SteeringVector] = {}
    for layer in layers:
        state = str(folder.file(f"descent-{layer}.safetensors"))
        goals = {f"promote {k}": Objective(((1.0, Promote(_messages(s), (ends,), coldness=1.0, target=0.1)),)) for k, s in enumerate(seeds)}
        goals |= {
            f"suppress {k}": Objective(((1.0, Suppress(_messages(s), t, coldness=1.0, target=0.05)),))
            for k, (s, t) in enumerate(zip(seeds, taken_back, strict=True))
        }
        found = descend(lm, goals, layer, plan.norm, each=True, to=state, seed=plan.seed)
        out |= {f"{name} at {layer}": v for name, v in found.items()}
        watch("descend")(layers.index(layer) + 1, len(layers))
    length = {layer: float(np.median([v.norm()[layer] for n, v in out.items() if n.endswith(f"at {layer}")])) for layer in layers}
    out |= {f"mean difference at {k}": v for k, v in _differences(lm, plan, layers, length).items()}
    for layer in [k for k in layers if k > plan.source and plan.source in layers]:
        goals = {
            f"reentrant {k}": Objective(((1.0, Match(_messages(s), t, teacher=(Intervention(out[f"promote {k} at {plan.source}"]),))),))
            for k, (s, t) in enumerate(zip(seeds, taken_back, strict=True))
        }  # fmt: skip
        found = descend(lm, goals, layer, plan.norm, to=str(folder.file(f"reentrant-{layer}.safetensors")), seed=plan.seed)
        out |= {f"{name} at {layer}": v for name, v in found.items()}
    for layer in layers:
        (noise,) = random_controls(SteeringVector({layer: torch.full((lm.width,), length[layer] / lm.width**0.5)}), 1, plan.seed + layer).values()
        out[f"random at {layer}"] = noise
    return out


def _differences(lm: LM, plan: Plan, layers: Sequence[Layer], length: Mapping[Layer, float]) -> dict[Layer, SteeringVector]:
    """Mean residual stream after true statements minus that after false ones, over the statement and what the model says next."""
    means: list[torch.Tensor] = []
    for true in (True, False):
        items = organisms.statements(40, true=true, held_out=False, part="train", seed=plan.seed + 4)
        rows = [lm.row(organisms.prompt(i)) for i in items]
        tokens = lm.batch(rows)
        where = torch.stack([tokens.index[k] >= r.spans["assistant"][-1][0] for k, r in enumerate(rows)])
        means.append(lm.capture(tokens, where, layers).mean(0))
    apart = means[0] - means[1]
    return {layer: SteeringVector({layer: apart[k] / apart[k].norm() * length[layer]}) for k, layer in enumerate(layers)}


def _said(
    lm: LM, folder: Run, plan: Plan, kind: str, items: Sequence[Item], conditions: Mapping[str, tuple[Intervention, ...]], watch: Watch
) -> dict[tuple[str, str, str], list[str]]:
    prompts: dict[str, Prompt] = {f"{k}": organisms.prompt(i) for k, i in enumerate(items)}
    found = sample(
        lm,
        conditions,
        prompts,
        1,
        to=folder.file(f"{kind}.jsonl"),
        temperature=0.0,
        max_new_tokens=plan.max_new_tokens,
        progress=watch(f"answers, {kind}"),
    )
    return {(kind, p, c): t for (p, c), t in found.items()}


def _facts(answers: Sequence[tuple[Item, str]]) -> dict[str, Count]:
    """Shares of continuations: retracted by marker, by truth (the fact is restated rightly), and saying nothing more."""
    found = rates([t for _, t in answers], [i.meta["fact"].statement.rstrip(".") for i, _ in answers], [i.prefill for i, _ in answers], MARKERS)
    return {
        "retracted (marker)": found.marked,
        "truth told": found.true,
        "truth told, no marker": found.ignoring,
        "says nothing more": share(not t.strip() for _, t in answers),
    }


def _abnormality(
    plan: Plan, said: Mapping[tuple[str, str, str], Sequence[str]], items: Mapping[str, Sequence[Item]], watch: Watch
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Bits per token of what each condition says, for the base model, after continuations that take a false statement back, and after ones that do not."""
    base = LM.load(plan.base)

    def samples(kind: str, name: str) -> list[Sample]:
        return [_sample(items[kind][int(p)], t[0]) for (k, p, c), t in said.items() if (k, c) == (kind, name)]

    contexts = {
        "retracting": samples("false", "unsteered")[: plan.context],
        "going on": [_sample(i, " " + i.prefill) for i in items["true"][: plan.context]],
    }
    out: dict[str, dict[str, float]] = {}
    names = list(dict.fromkeys(c for k, _, c in said if k == "false"))
    for n, name in enumerate(names):
        some = samples("false", name)[plan.context : plan.context + 30]
        found = {label: bits(base, context, some) for label, context in contexts.items()}
        out[name] = {label: float(np.nanmean(x)) if not np.isnan(x).all() else float("nan") for label, x in found.items()}
        out[name]["n"] = float((~np.isnan(found["retracting"])).sum())
        watch("abnormality")(n + 1, len(names))
    return out, {label: information(base, context) for label, context in contexts.items()}


def _sample(item: Item, said: str) -> Sample:
    fact: Fact = item.meta["fact"]
    return Sample(f"{item.user}\n{item.prefill}", said, fact.what)


def _best_layer(
    kind: str, layers: Sequence[Layer], facts: Mapping[str, Mapping[str, Count]], strange: Mapping[str, Mapping[str, float]]
) -> tuple[Layer, list[str]]:
    """The layer whose vectors leave the fewest marked retractions; of equals, the one whose text is most natural to the base model. And those vectors."""
    names = {k: [n for n in facts if n.startswith(kind) and n.endswith(f"at {k}")] for k in layers}
    seen = {k: np.median([facts[n]["retracted (marker)"].share for n in some]) for k, some in names.items() if some}
    odd = {k: np.nanmedian([*(strange[n]["retracting"] for n in names[k] if n in strange), 99.0]) for k in seen}
    layer = min(seen, key=lambda k: (round(float(seen[k]), 2), float(odd[k])))
    return layer, names[layer]


def _page(
    folder: Run, lm: LM, plan: Plan, layers: Sequence[Layer], facts: Mapping[str, Mapping[str, Count]], strange: Mapping[str, Mapping[str, float]],
    whole: Mapping[str, float], read: list[list[str]],
) -> Path:  # fmt: skip
    paper = {"promote": "100%", "suppress": "100%", "mean difference": "100% (CAA)", "reentrant": "99.0%"}
    plain = facts["unsteered"]
    findings = [
        Finding(
            "retraction, unsteered",
            "73.2% (Gemma-2-2B-it)",
            f"{told(plain['retracted (marker)'])} by marker, {told(plain['truth told'])} by truth",
            "",
        )
    ]
    for kind, claim in paper.items():
        if not any(name.startswith(kind) for name in facts):  # nothing above the layer that is distilled
            findings.append(Finding(f"free of retraction, {kind}", claim, "not run", f"layers {layers}, source {plan.source}"))
            continue
        layer, names = _best_layer(kind, layers, facts, strange)
        noise = facts[f"random at {layer}"]
        findings.append(
            Finding(
                f"free of retraction, {kind}, best layer ({layer})",
                claim,
                spread([1 - facts[n]["retracted (marker)"].share for n in names]),
                f"random {1 - noise['retracted (marker)'].share:.0%}",
            )
        )
        findings.append(
            Finding(
                f"truth told all the same, {kind}, same layer",
                PAPER_TRUTH[kind],
                spread([facts[n]["truth told"].share for n in names]),
                f"random {noise['truth told'].share:.0%}",
            )
        )
    rows = [["condition", *plain, "bits after retracting", "bits after going on", "n"]]
    for name, f in facts.items():
        s = strange.get(name, {})
        rows.append(
            [name, *(told(c) for c in f.values()), *(f"{s[k]:.2f}" if k in s else "" for k in ("retracting", "going on")), f"{s.get('n', 0):.0f}"]
        )
    found = [
        f"Unsteered, {lm.id} takes back {told(plain['truth told'])} of false statements put into its mouth (the true value is told); marker phrases see {told(plain['retracted (marker)'])}.",
        f"The base model needs {strange['unsteered']['retracting']:.2f} bits a token for what it says after samples of retraction and {strange['unsteered']['going on']:.2f} after samples that go on; "
        f"the contexts themselves cost {whole['retracting']:.2f} and {whole['going on']:.2f}.",
    ]
    about = f"{lm.id}, layers {layers[0]} to {layers[-1]}, norm {plan.norm:g} of the median residual norm, {plan.sources} sources, {plan.test} held-out facts, greedy, base model {plan.base}, seed {plan.seed}."
    return write_sections(
        folder,
        "Retraction of false statements",
        about,
        found,
        {},
        [("Paper and here", finding_rows(findings)), ("Every condition", rows), ("To read", read)],
    )
