"""train(): one vector from many terms, against the full graph and the published code."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pico import crossed, pico
from trimtab import LM, Preference, learn
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import DataError, LossError, RecipeError, TokenError
from trimtab.optimize import Place, Prefer, Problem, Training, losses_in_full, train
from trimtab.optimize.losses import Losses

ONE = Prefer("Do you like tea ?", "yes I think so", "no never")


TWO = Prefer("Do you like rain ?", "no never", "yes I think so")


FORMS = ("sigmoid", "hinge", "ipo", "free", "unpaired")


def at(lm: LM, term: Prefer, v: torch.Tensor, place: Place) -> tuple[float, torch.Tensor]:
    found = Losses(lm, [Problem(term, place)], 8).at({0: v[None]}, gradients={0})
    return float(found.terms[0][0][0]), found.gradients[0][0]


@pytest.mark.parametrize(
    ("name", "place"),
    crossed(
        ("llama", "gemma2", "gpt2", "qwen3", "mistral", "phi"),
        (Place((1,)), Place((0, 2), shared=False), Place((1,), positions="generated | last")),
        fast=lambda name, place: name == "llama" or (name == "gpt2" and place.layers == (0, 2)),
    ),
    ids=str,
)
def test_replays_give_the_losses_and_gradients_of_the_full_graph(name: str, place: Place) -> None:
    lm = pico(name)
    v = torch.randn(len(place.first), 1, lm.width, generator=torch.Generator().manual_seed(0))
    for term in (
        ONE,
        replace(ONE, negated=True),
        *(replace(TWO, form=f) for f in FORMS[1:]),
        replace(ONE, form="unpaired", other="yes I do"),
    ):
        loss, gradient = at(lm, term, v, place)
        leaf = v.clone().requires_grad_()
        (slow,) = losses_in_full(lm, Problem(term, place), leaf)
        (there,) = torch.autograd.grad(slow, leaf)
        assert loss == pytest.approx(float(slow.detach()), rel=1e-4, abs=1e-5)
        assert float((gradient - there).norm()) <= 1e-4 * float(there.norm()) + 1e-7


def test_identities_of_the_objective() -> None:
    lm, place = pico(), Place((1,))
    zero, v = torch.zeros(1, 1, lm.width), torch.randn(1, 1, lm.width, generator=torch.Generator().manual_seed(1))
    for term in (ONE, TWO):
        up, down = (at(lm, replace(term, negated=d), zero, place) for d in (False, True))
        assert up[0] == pytest.approx(math.log(2), abs=1e-5) and down[0] == pytest.approx(math.log(2), abs=1e-5)
        assert torch.allclose(up[1], down[1], atol=1e-6), "the first gradient does not depend on the direction"
    swapped = replace(ONE, positive=ONE.negative, negative=ONE.positive)
    assert at(lm, replace(ONE, negated=True), v, place)[0] == pytest.approx(at(lm, swapped, -v, place)[0], rel=1e-5)
    up, down = (at(lm, replace(ONE, form="margin", negated=d), v, place)[0] for d in (False, True))
    odd, even = (up + down) / 2, (up - down) / 2
    mean = sum(at(lm, replace(ONE, negated=d), v, place)[0] for d in (False, True)) / 2
    assert mean >= math.log1p(math.exp(0.1 * odd)) - 1e-6, (
        "the bi-directional loss is that of the odd part, and a penalty on the even one"
    )
    assert abs(even) > 1e-6
    assert at(lm, replace(ONE, form="hinge"), zero, place)[0] == pytest.approx(1.0, abs=1e-4)
    assert at(lm, replace(ONE, form="ipo"), zero, place)[0] == pytest.approx(25.0, abs=1e-2)
    assert at(lm, replace(ONE, form="unpaired", other="yes I do"), zero, place)[0] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("signs", ["one", "batch", "example", "both"])
def test_a_trained_vector_raises_the_margin_both_ways(signs: str) -> None:
    lm = pico()
    found = train(lm, [ONE, TWO] * 3, Place((1,)), Training(0.05, batch=2, epochs=12, warm=2, signs=signs, patience=20))  # type: ignore[arg-type]
    assert found.epochs[found.best].up > 0.05 and found.epochs[found.best].down > 0.05
    assert found.epochs[found.best].margin == max(e.margin for e in found.epochs)
    assert found.steps[0].loss == pytest.approx(math.log(2), abs=1e-4) and found.steps[0].weight == pytest.approx(
        1.0, abs=1e-4
    )
    assert len(found.steps) == 36 and found.steps[-1].right == 1.0 and found.steps[-1].weight < 1.0
    again = train(lm, [ONE, TWO] * 3, Place((1,)), Training(0.05, batch=2, epochs=12, warm=2, signs=signs, patience=20))  # type: ignore[arg-type]
    assert torch.equal(again.vector[1], found.vector[1]), "seeded"
    assert all(p.grad is None for p in lm.model.parameters())


@pytest.mark.parametrize("how", [{"strength": True}, {"signs": "example"}, {"decay": 0.05}], ids=str)
def test_a_stopped_training_goes_on(how: dict[str, object], tmp_path: Path) -> None:
    lm, training = pico(), Training(0.05, batch=2, epochs=6, warm=2, patience=20, **how)  # type: ignore[arg-type]
    whole = train(lm, [ONE, TWO] * 3, Place((1,)), training)

    def stop(done: int, steps: int, words: str) -> None:
        if done == 10:
            raise KeyboardInterrupt

    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(lm, [ONE, TWO] * 3, Place((1,)), training, to=file, progress=stop, save_every=0.0)
    counted: list[int] = []
    again = train(
        lm,
        [ONE, TWO] * 3,
        Place((1,)),
        training,
        to=file,
        progress=lambda done, *_: counted.append(done),
        save_every=0.0,
    )
    assert (
        counted[0] == 10
        and again.vector.hash == whole.vector.hash
        and again.steps == whole.steps
        and repr(again.epochs) == repr(whole.epochs)
    )
    with pytest.raises(LossError, match="other problems"):
        train(lm, [TWO, ONE], Place((1,)), training, to=file)
    assert whole.epochs[whole.best].margin > 0


def test_several_layers_train_one_vector_together() -> None:
    lm = pico()
    found = train(lm, [ONE, TWO], Place((0, 2)), Training(0.05, batch=2, epochs=4, warm=1))
    assert torch.equal(found.vector[0], found.vector[2]) and found.epochs[found.best].margin > 0


def test_passes_below_the_vector_are_run_once() -> None:
    lm = pico()
    calls: list[int] = []
    handle = lm.blocks[0].register_forward_hook(lambda m, a, o: calls.append(1))
    try:
        train(lm, [ONE, TWO], Place((1,)), Training(0.01, batch=1, epochs=5, warm=1, patience=9))
    finally:
        handle.remove()
    few = len(calls)
    calls.clear()
    handle = lm.blocks[0].register_forward_hook(lambda m, a, o: calls.append(1))
    try:
        train(lm, [ONE, TWO], Place((1,)), Training(0.01, batch=1, epochs=10, warm=1, patience=19))
    finally:
        handle.remove()
    assert len(calls) == few, "more epochs, no more passes"


def test_schedule_spans_its_own_epochs() -> None:
    how = Training(1.0, epochs=20, schedule_epochs=100, warm=100)
    assert how.rate_at(0, 161) == pytest.approx(0.01) and how.rate_at(100, 161) == 1.0
    assert how.rate_at(20 * 161, 161) == pytest.approx(0.91, abs=0.01), (
        "the published run of 20 epochs ends at 0.91 of its rate"
    )
    assert Training(1.0, epochs=20, warm=0).rate_at(20 * 161, 161) == pytest.approx(0.0)


def test_bad_input() -> None:
    lm = pico()
    with pytest.raises(TokenError, match="empty"):
        train(lm, [Prefer("Do you like tea ?", "", "no")], Place((1,)), Training(0.1))
    with pytest.raises(TokenError, match="same tokens"):
        train(lm, [Prefer("Do you like tea ?", "yes", "yes")], Place((1,)), Training(0.1))
    with pytest.raises(LossError):
        train(lm, [], Place((1,)), Training(0.1))
    with pytest.raises(LossError):
        Training(0.0)
    with pytest.raises(LossError):
        Prefer("a", "b", "c", beta=0.0)
    with pytest.raises(RecipeError):
        Preference(validation=1.0)
    one = Dataset("one", (Pair("Do you like tea ?", "yes", "no"),))
    with pytest.raises(DataError, match="too few"):
        learn(lm, one, Preference(), layers=[1])
    with pytest.raises(LossError, match="not a number"):
        train(lm, [ONE], Place((1,)), Training(1e39, epochs=3, warm=0))


def published(lm: LM, terms: list[Prefer], layer: int, school: object, steps: int) -> list[float]:
    """The published trainer, written down: whole passes of two models over padded rows with an end token, torch's
    AdamW, transformers' schedule, clipped gradients.
    """
    import copy

    from transformers import get_cosine_schedule_with_warmup

    reference, v = copy.deepcopy(lm.model), torch.nn.Parameter(torch.zeros(lm.width))
    optimizer = torch.optim.AdamW([v], lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    per_epoch = len(school.batches)  # type: ignore[attr-defined]
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, 100 * per_epoch)
    blocks, end = dict(lm.model.named_modules())[lm.blocks_path], lm.tokenizer.eos_token_id

    def answers(model: torch.nn.Module, some: list[Prefer]) -> torch.Tensor:
        rows = [
            lm.row(t.prompt, text).extended((end,))
            for side in ("positive", "negative")
            for t in some
            for text in (getattr(t, side),)
        ]
        width = max(len(r.ids) for r in rows)
        ids = torch.tensor([[*r.ids, *[0] * (width - len(r.ids))] for r in rows])
        mask = torch.tensor([[1] * len(r.ids) + [0] * (width - len(r.ids)) for r in rows])
        said = torch.tensor([[r.prompt <= j < len(r.ids) for j in range(width)] for r in rows])
        logp = (
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            .logits[:, :-1]
            .log_softmax(-1)
            .gather(-1, ids[:, 1:, None])[..., 0]
        )
        return (logp * said[:, 1:]).sum(-1).unflatten(0, (2, -1))

    out: list[float] = []
    for t in range(steps):
        drawn = school._drawn(*divmod(t, per_epoch))  # type: ignore[attr-defined]
        sign = -1.0 if drawn[0] >= len(terms) else 1.0
        some = [terms[k % len(terms)] for k in drawn]
        handle = blocks[layer].register_forward_hook(lambda m, a, o, s=sign: o + s * v)
        mine = answers(lm.model, some)
        handle.remove()
        with torch.no_grad():
            plain = answers(reference, some)
        loss = torch.nn.functional.softplus(-sign * 0.1 * ((mine[0] - plain[0]) - (mine[1] - plain[1]))).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([v], 1.0)
        optimizer.step()
        schedule.step()
        out.append(float(loss.detach()))
    return out


def first_losses(lm: LM, terms: list[Prefer], layer: int, n: int, batch: int = 4) -> None:
    from trimtab.optimize.minibatch import _School

    lm.model.requires_grad_(False)
    school = _School(lm, terms, Place((layer,)), Training.published(epochs=9, batch=batch))
    while len(school.steps) < n:
        school.step()
    expected = published(lm, terms, layer, school, n)
    assert [s.loss for s in school.steps] == pytest.approx(expected, abs=1e-5)
    assert school.steps[0].loss == school.steps[1].loss or len({s.loss for s in school.steps}) > 0.7 * n, (
        "the first update moves nothing"
    )


def test_the_first_twenty_losses_are_the_published_ones() -> None:
    first_losses(
        pico(),
        [
            replace(t, end=True)
            for t in (ONE, TWO, replace(ONE, prompt="is it good ?"), replace(TWO, prompt="Do you like sun ?"))
        ]
        * 2,
        1,
        20,
    )


@pytest.mark.slow
def test_the_first_losses_are_the_published_ones_on_a_real_model() -> None:
    data = Dataset.load("wealth-seeking").take(6)
    terms = [Prefer(p.prompt, p.positive, p.negative, end=True) for p in data]
    first_losses(LM.load("smollm2"), terms, 14, 8, batch=2)


def test_texts_are_promoted_and_suppressed_a_few_at_a_time() -> None:
    from trimtab.optimize import Promote, Suppress

    lm = pico()
    terms = [Promote(f"Do you like {x} ?", "yes I think so") for x in ("tea", "rain", "sun")] + [
        Suppress("is it good ?", "no never")
    ]
    found = train(
        lm,
        terms,
        Place((1,)),
        Training(0.05, batch=2, epochs=15, warm=0, signs="one", schedule="constant", patience=99),
    )
    assert found.epochs[-1].loss < 0.8 * found.epochs[0].loss and found.epochs[-1].up == found.epochs[-1].down
    assert -found.epochs[-1].up == pytest.approx(
        sum(float(x) for t in terms for x in losses_in_full(lm, Problem(t, Place((1,))), found.vector[1][None, None]))
        / 4,
        rel=0.1,
    )
    with pytest.raises(LossError, match="only preferences have an opposite"):
        train(lm, terms, Place((1,)), Training(0.05))


def test_watching_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at every so many steps, on a sample, with answers that are read and references that are taken once."""
    from trimtab.optimize import minibatch

    lm, looked, made = pico(), list[int](), list[int]()
    margins = minibatch._School._margins
    monkeypatch.setattr(minibatch._School, "_margins", lambda self: (looked.append(len(self.steps)), margins(self))[1])
    built = minibatch.Losses.__init__
    monkeypatch.setattr(minibatch.Losses, "__init__", lambda self, *a, **k: (made.append(1), built(self, *a, **k))[1])
    terms = [
        replace(ONE, prompt=f"Do you like {x} {y} ?") for x in ("tea", "rain") for y in ("one", "two", "three", "four")
    ]
    found = train(lm, terms, Place((1,)), Training(0.05, batch=4, epochs=25, warm=0, every=20, sample=3, patience=99))
    assert made == [1] and looked == [0, 2, 22, 42, 50]
    assert [k for k, e in enumerate(found.epochs) if e.up == e.up] == [0, 10, 20, 24]
    assert found.epochs[found.best].margin == max(e.margin for e in found.epochs if e.up == e.up)
