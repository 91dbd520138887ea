"""steer(): stacks, receipts, gates, and passes that others start."""

from __future__ import annotations

import pytest
import torch

from pico import build, pico, rows, tokenizer
from trimtab.errors import SteerError, UnknownName, VectorError
from trimtab.model import LM, Frame
from trimtab.registry import make
from trimtab.steering.gates import Always, CosineAbove, Schedule
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.operators import Ablate, Add
from trimtab.steering.vector import Provenance, SteeringVector
from zoo import WIDTH


def vector(*layers: int, size: float = 3.0) -> SteeringVector:
    g = torch.Generator().manual_seed(0)
    return SteeringVector({k: size * torch.randn(WIDTH, generator=g) for k in layers})


def test_the_receipt_counts_tokens(lm: LM) -> None:
    tokens = lm.batch(rows((5, 2), (3, 1)))
    for positions, n in (("everywhere", 11), ("generated", 3), ("last", 2), ("last_k(4)", 7)):
        with steer(lm, Intervention(vector(1, 2), positions=positions)) as receipt:
            lm.logits(tokens)
        assert receipt.edited == {1: n, 2: n}


def test_steering_nothing_is_an_error(lm: LM) -> None:
    with (
        pytest.raises(SteerError, match="selected no token"),
        steer(lm, Intervention(vector(1), positions="generated")),
    ):
        lm.logits(lm.batch(rows((4, 0))))
    with pytest.raises(SteerError, match="no forward pass"), steer(lm, Intervention(vector(1))):
        pass
    with pytest.raises(SteerError, match="at least one"), steer(lm):
        pass


def test_an_error_inside_is_not_hidden(lm: LM) -> None:
    with pytest.raises(ZeroDivisionError), steer(lm, Intervention(vector(1))):
        _ = 1 / 0


def test_stacks_apply_in_order(lm: LM) -> None:
    tokens, v, w = lm.batch(rows((5, 1))), vector(1), vector(1, size=-2.0)
    with steer(lm, Intervention(v, Add()), Intervention(v, Ablate())):
        one = lm.logits(tokens)
    with steer(lm, Intervention(v, Ablate()), Intervention(v, Add())):
        two = lm.logits(tokens)
    assert not torch.allclose(one, two)
    with steer(lm, Intervention(v), Intervention(w)):
        both = lm.logits(tokens)
    with steer(lm, Intervention(v)), steer(lm, Intervention(w)):
        nested = lm.logits(tokens)
    with steer(lm, Intervention(v + w)):
        together = lm.logits(tokens)
    assert torch.equal(both, nested) and torch.allclose(both, together, atol=1e-5)


def test_vectors_for_other_models_are_refused_before_anything_runs(lm: LM) -> None:
    for v in (
        SteeringVector({0: torch.zeros(WIDTH + 1)}),
        vector(99),
        SteeringVector({0: torch.ones(WIDTH)}, Provenance(fingerprint="other")),
    ):
        with pytest.raises(VectorError), steer(lm, Intervention(v)):
            raise AssertionError("must not be reached")


def test_cosine_gate_decides_token_by_token(lm: LM) -> None:
    tokens, v = lm.batch(rows((6, 3), (4, 2))), vector(2)
    seen: list[torch.Tensor] = []

    def look(h: torch.Tensor, frame: Frame) -> torch.Tensor:
        seen.append(h)
        return h

    lm.logits(tokens, {2: look})
    u = v[2] / v[2].norm()
    cosine = (seen[0] / seen[0].norm(dim=-1, keepdim=True)) @ u
    threshold = float(cosine.median()) + 1e-3
    gated = Intervention(v, positions="everywhere", gate=CosineAbove(threshold))
    lm.logits(tokens, {2: lambda h, f: gated.apply(h, 2, f)[0]})
    moved = gated.apply(seen[0], 2, Frame(tokens.index, tokens.rows))[0]
    changed = (moved != seen[0]).any(-1)
    assert changed.equal((cosine > threshold) & (tokens.index >= 0)) and changed.any() and not changed.all()


@pytest.mark.parametrize(
    "gate", [CosineAbove(0.05), Schedule("until", 2), Schedule("linear", 4), Schedule("half-life", 2), Always()]
)
def test_gates_do_the_same_with_and_without_a_cache(gate: object) -> None:
    from trimtab.model.generate import Sampling, decode
    from trimtab.steering.interventions import Receipt, edits

    lm = pico("llama")
    tokens = lm.batch(rows((9, 0), (5, 0)))
    with lm.edit(edits([Intervention(vector(1), gate=gate, multiplier=2.0)], Receipt())):  # type: ignore[arg-type]
        assert decode(lm, tokens, Sampling(8)) == decode(lm, tokens, Sampling(8), cached=False)


def test_a_schedule_fades() -> None:
    lm = pico("llama")
    tokens = lm.batch(rows((3, 5)))
    frame, v = Frame(tokens.index, tokens.rows), vector(1)[1]
    h = torch.zeros(1, 8, WIDTH)
    assert Schedule("until", 2).weight(h, v, frame)[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert Schedule("linear", 4).weight(h, v, frame)[0].tolist() == [1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    with pytest.raises((SteerError, TypeError)):
        Schedule("sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_passes_that_others_start_are_steered_too(name: str) -> None:
    """`model.generate` of transformers: the first pass is the prompt, what follows is generated."""
    lm = LM(build(name), tokenizer(), id=name)
    row = rows((7, 0))[0]
    ids = torch.tensor([row.ids])
    for positions in ("everywhere", "generated", "from_last_prompt_token", "last"):
        iv = Intervention(vector(1), positions=positions)
        with steer(lm, iv):
            theirs = lm.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=5,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[0, 7:]
        lm.end_tokens = frozenset()
        from trimtab.model.generate import Sampling, decode
        from trimtab.steering.interventions import Receipt, edits

        with lm.edit(edits([iv], Receipt())):
            ours = decode(lm, lm.batch([row]), Sampling(5))[0].ids[7:]
        assert tuple(theirs.tolist()) == ours, positions


def test_bad_values() -> None:
    with pytest.raises(SteerError, match="not a multiplier"):
        Intervention(vector(1), multiplier=float("nan"))
    with pytest.raises((SteerError, TypeError)):
        Intervention(vector(1), Always())  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'ablate'"):
        make("operator", "abblate")
    with pytest.raises(UnknownName, match="did you mean 'threshold'"):
        make("gate", {"name": "cosine-above", "treshold": 0.1})
