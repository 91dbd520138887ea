"""The optimizer: exact losses and gradients, composable parts, and a batch of problems that is each problem alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pico import architectures, pico
from trimtab.errors import LossError, ModelError, TokenError, VectorError
from trimtab.methods import OneShot
from trimtab.model import LM, everywhere, from_last_prompt_token, last_k, span
from trimtab.optimize import (
    AntiCorrelated,
    Ascent,
    Ball,
    Change,
    Consistent,
    Descent,
    Factors,
    Gaussian,
    Match,
    MaxSteps,
    Objective,
    Orthogonal,
    Place,
    Plateau,
    Problem,
    Promote,
    Satisfice,
    Sphere,
    Start,
    Suppress,
    Tangent,
    Target,
    Unlearn,
    anchor,
    in_contexts,
    likely_completions,
    losses_in_full,
    losses_of,
    optimize,
    promote,
    shorten,
    suppress,
    swapped_choice,
    target_from,
)
from trimtab.optimize.losses import Losses
from trimtab.optimize.objectives import log_complement
from trimtab.optimize.stopping import History
from trimtab.sites import EMBEDDINGS
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.operators import Ablate, Add, Affine, Clamp
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH

ASK, SAID, OTHER = "Do you like tea ?", "Yes I like tea .", "No , never ."
FAMILIES = [
    "llama",
    "qwen2",
    "qwen3_next",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "opt",
    "bloom",
    "falcon",
    "gpt_oss",
    "olmo2",
]


def vector(layer: int, size: float = 3.0, seed: int = 0) -> SteeringVector:
    v = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({layer: size * v / v.norm()})


def start(problem: Problem, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(len(problem.place.first), 1 + 2 * problem.place.rank, WIDTH, generator=g)


MIXED = (
    promote(ASK, SAID)
    + 2.0 * suppress(ASK, OTHER, coldness=1.0)
    + promote("say something kind", "tea is good .", negated=True, per_token=True)
)
PLACES = {
    "add": Place((1,)),
    "clamp": Place((1,), Clamp(), last_k(3)),
    "ablate": Place((0,), Ablate()),
    "affine": Place((1,), Affine(), rank=2),
    "shared": Place((0, 2)),
    "each": Place((0, 1, 2), shared=False, positions=from_last_prompt_token),
    "tandem": Place(
        (1,), under=(Intervention(vector(0)), Intervention(vector(2, seed=1)), Intervention(vector(1, seed=2)))
    ),
}


@pytest.mark.parametrize("name", architectures(*FAMILIES))
@pytest.mark.parametrize("kind", ["add", "each"])
def test_replayed_losses_and_gradients_are_those_of_full_passes(name: str, kind: str) -> None:
    exact(pico(name), Problem(MIXED, PLACES[kind]))


@pytest.mark.parametrize("kind", list(PLACES))
def test_every_operator_and_layer_set_is_exact(kind: str) -> None:
    exact(pico("llama"), Problem(MIXED, PLACES[kind]))


OBJECTIVES = {
    "ascent": Objective.of(Unlearn(ASK, SAID)),
    "satisficing": Objective.of(Satisfice(Promote(ASK, SAID), 3.0)),
    "distillation": Objective.of(Match(ASK, SAID, (Intervention(vector(0)),), tokens=3)),
    "anchor": anchor([(ASK, SAID), ("I like the sun .", "so I think .")], 0.5),
    "melbo": Objective.of(Change(ASK, 3)) + Change(ASK, 2, SAID, mean=True, positions="from_last_prompt_token"),
    "consistent": promote(ASK, SAID) + Consistent((ASK, "is it rain ?"), 3),
    "contexts": in_contexts(promote(ASK, SAID), systems=(None, "be kind"), before=("", "so , ")),
}


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_every_objective_is_exact(kind: str) -> None:
    exact(pico("qwen2"), Problem(OBJECTIVES[kind], Place((1,))))


def exact(lm: LM, problem: Problem) -> None:
    """Loss and gradient of the replays equal those of full passes."""
    problem.check(lm)
    v = start(problem)
    fast = Losses(lm, [problem], 32).at({0: v[None]}, gradients={0})
    leaf = v.clone().requires_grad_()
    slow = losses_in_full(lm, problem, leaf)
    total = sum((w * x for (w, _), x in zip(problem.goal.terms, slow, strict=True)), torch.zeros(()))
    (gradient,) = torch.autograd.grad(total, leaf)
    for a, b in zip(fast.terms[0], slow, strict=True):
        assert float(a[0]) == pytest.approx(float(b.detach()), rel=1e-5, abs=1e-5)
    assert gradient.norm() > 0
    assert float((fast.gradients[0][0] - gradient).norm() / gradient.norm()) <= 1e-5


@pytest.mark.parametrize("kind", list(PLACES))
def test_gradients_are_finite_differences(kind: str) -> None:
    """The slope along random directions, in both ways."""
    lm, problem = pico("llama"), Problem(MIXED, PLACES[kind])
    losses, v = Losses(lm, [problem], 32), start(problem)
    gradient = losses.at({0: v[None]}, gradients={0}).gradients[0][0]
    step = 3e-3
    for seed in range(3):
        u = start(problem, seed + 1) + gradient / gradient.norm()
        u /= u.norm()
        found = losses.at({0: torch.stack([v + step * u, v - step * u])}, gradients=set()).terms[0]
        total = sum((w * x for (w, _), x in zip(problem.goal.terms, found, strict=True)), torch.zeros(2))
        assert float(total[0] - total[1]) / (2 * step) == pytest.approx(float((gradient * u).sum()), rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("p", [1e-9, 1e-6, 1e-3, 0.3, 0.49, 0.51, 0.9, 1 - 1e-6, 1 - 1e-9])
def test_the_complement_is_accurate_for_every_probability(p: float) -> None:
    """In fp32, against double precision; with the gradient p / (1 - p) (up to sign) of the said class."""
    margin = math.log(p) - math.log1p(-p) + math.log(3)
    scores = torch.tensor([margin, 0.0, 0.0, 0.0], requires_grad=True)
    found = log_complement(scores, torch.tensor([0]))
    exact = torch.tensor([margin, 0.0, 0.0, 0.0], dtype=torch.float64)
    rest = exact[1:].logsumexp(0) - exact.logsumexp(0) if p >= 0.5 else torch.log1p(-exact.softmax(0)[0])
    assert float(found.detach()) == pytest.approx(float(rest), rel=1e-5, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, scores)
    assert float(gradient[0]) == pytest.approx(-float(exact.softmax(0)[0]), rel=1e-5)


# ---------------------------------------------------------------- the descent


def many() -> list[Problem]:
    """Runs that differ in everything a batch may mix."""
    descent = Descent(0.1, (MaxSteps(6),))
    base = Problem(promote(ASK, SAID), Place((1,)), (Ball(4.0),), descent)
    return [
        base,
        replace(base, start=Start(seed=1), descent=Descent(0.3, (MaxSteps(3),))),
        replace(base, objective=suppress("is it rain ?", OTHER) + promote(ASK, SAID)),
        replace(base, place=Place((2,)), constraints=(Sphere(2.0),)),
        replace(base, place=Place((1,), Clamp())),
        replace(base, place=Place((1,), positions=last_k(2)), descent=Descent(0.1, (MaxSteps(6),), Gaussian(0.1, 3))),
        replace(base, place=Place((0, 2), shared=False), descent=Descent(0.1, (MaxSteps(4),), Tangent(0.1, 2))),
        replace(base, descent=Descent(0.2, (Target(1e9), MaxSteps(6)))),
        replace(base, place=Place((1,), Affine(), rank=1), constraints=(Ball(0.0), Factors(1.0, equal=True))),
        replace(base, objective=promote(ASK, SAID) + promote(ASK, SAID, negated=True)),
    ]


def test_a_batch_of_runs_is_every_run_alone() -> None:
    lm, problems = pico("llama"), many()
    together = optimize(lm, problems)
    for problem, found in zip(problems, together, strict=True):
        (alone,) = optimize(lm, [problem])
        assert alone.steps == found.steps and alone.reason == found.reason
        assert alone.history.totals == pytest.approx(found.history.totals, rel=1e-4, abs=1e-4)
        for layer, v in alone.vector.vectors.items():
            assert float((v - found.vector[layer]).norm() / v.norm()) < 2e-3


def test_the_returned_loss_is_that_of_the_returned_vector() -> None:
    lm = pico("llama")
    for problem, found in zip(many(), optimize(lm, many()), strict=True):
        v = torch.stack([found.vector[layer].reshape(-1, WIDTH) for layer in problem.place.first])
        again = losses_in_full(lm, problem, v)
        assert [float(x) for x in again] == pytest.approx(list(found.losses), rel=1e-4, abs=1e-4)
        assert found.loss <= min(found.history.totals) + 1e-9 or found.reached


def test_no_parameter_ever_holds_a_gradient() -> None:
    lm = pico("llama")
    before = [p.requires_grad for p in lm.model.parameters()]
    lm.model.requires_grad_(True)
    try:
        optimize(lm, many()[:2])
        assert all(p.grad is None for p in lm.model.parameters())
        assert all(p.requires_grad for p in lm.model.parameters())
    finally:
        for p, was in zip(lm.model.parameters(), before, strict=True):
            p.requires_grad_(was)


def test_a_descent_goes_down_and_steers() -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (Ball(20.0),), Descent(0.5, (MaxSteps(40),)))
    (found,) = optimize(lm, [problem])
    assert found.loss < 0.8 * found.history.totals[0]
    (plain,) = lm.logprobs([ASK], [SAID])
    with steer(lm, found.intervention(problem.place)):
        (steered,) = lm.logprobs([ASK], [SAID])
    assert steered.sum() > plain.sum()
    assert found.vector.norm()[1] <= 20.001 and found.vector.made.fingerprint == lm.fingerprint


def test_negated_examples_learn_opposite_effects() -> None:
    lm = pico("llama")
    both = promote(ASK, SAID) + promote("is it rain ?", OTHER, negated=True)
    (found,) = optimize(lm, [Problem(both, Place((1,)), (), Descent(0.5, (MaxSteps(40),)))])
    with steer(lm, Intervention(found.vector, multiplier=-1.0)):
        away = lm.logprobs(["is it rain ?"], [OTHER])[0].sum()
    assert away > lm.logprobs(["is it rain ?"], [OTHER])[0].sum()


def test_a_stopped_descent_goes_on_where_it_was(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def stop(done: int, total: int, words: str) -> None:
        if done >= 14:
            raise Killed

    lm, file = pico("llama"), tmp_path / "state.safetensors"
    undisturbed = optimize(lm, many())
    with pytest.raises(Killed):
        optimize(lm, many(), to=file, progress=stop, save_every=0.0)
    assert file.is_file()
    steps: list[int] = []
    resumed = optimize(lm, many(), to=file, progress=lambda done, total, words: steps.append(done))
    assert min(steps) > 5
    for a, b in zip(undisturbed, resumed, strict=True):
        assert a.history.totals == pytest.approx(b.history.totals, rel=1e-5, abs=1e-6)
    assert [r.history.totals for r in optimize(lm, many(), to=file)] == [r.history.totals for r in resumed]
    with pytest.raises(LossError, match="other problems"):
        optimize(lm, many()[:2], to=file)


# ---------------------------------------------------------------- constraints, noise, stopping


def test_constraints_hold_after_every_step() -> None:
    v = 5 * torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    assert Ball(2.0).project(v, (0, 1))[:, 0].norm(dim=-1).tolist() == pytest.approx([2.0, 2.0])
    assert torch.equal(Ball(2.0).project(0.01 * v, (0, 1)), 0.01 * v)
    assert Sphere(2.0).project(0.01 * v, (0, 1))[:, 0].norm(dim=-1).tolist() == pytest.approx([2.0, 2.0])
    assert Factors(1.5).project(v, (0, 1))[:, 1:].norm(dim=-1).max() <= 1.5 + 1e-5
    taken = SteeringVector({0: torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))})
    free = Orthogonal((taken, vector(0))).project(v, (0, 1))
    assert float(free[0, 0] @ taken[0]) == pytest.approx(0, abs=1e-4) and float(
        free[0, 0] @ vector(0)[0]
    ) == pytest.approx(0, abs=1e-4)
    assert torch.equal(free[1], v[1])


def test_a_family_of_orthogonal_solutions() -> None:
    lm, found = pico("llama"), []
    for seed in range(3):
        rules = (Orthogonal(tuple(found)), Ball(10.0))
        found.append(
            optimize(
                lm, [Problem(promote(ASK, SAID), Place((1,)), rules, Descent(0.5, (MaxSteps(20),)), Start(seed=seed))]
            )[0].vector
        )
    for k, one in enumerate(found):
        for two in found[k + 1 :]:
            assert abs(one.cosine(two)[1]) < 1e-4


def test_tangent_noise_is_orthogonal_to_the_gradient() -> None:
    v, g = torch.zeros(2, 1, WIDTH), torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(3))
    for seed in range(5):
        for one in Tangent(1.0, 4).draw(v, g, seed, 7):
            assert float((one * g).sum()) == pytest.approx(0, abs=1e-4)
        for one in Tangent(1.0, 4, downhill_only=True).draw(v, g, seed, 7):
            assert float((one * g).sum()) >= -1e-4
    assert Gaussian(0.5, 2000).draw(v, None, 0, 0).std().item() == pytest.approx(0.5, rel=0.02)
    assert float((Ascent(2.0).draw(v, g, 0, 0) * g).sum()) == pytest.approx(2 * float(g.norm()), rel=1e-5)
    anti = AntiCorrelated(1.0)
    summed = sum((anti.draw(v, None, 0, k) for k in range(9)), torch.zeros_like(v)[None])
    assert torch.allclose(summed, Gaussian(1.0).draw(v, None, 0, 8), atol=1e-5), "the differences telescope"


@pytest.mark.parametrize(
    "noise", [Gaussian(0.3, 2), Tangent(0.3, 2), Tangent(0.3, downhill_only=True), AntiCorrelated(0.3), Ascent(0.3)]
)
def test_noisy_descents_are_seeded_and_report_the_clean_loss(noise: object) -> None:
    lm, problem = pico("llama"), Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.2, (MaxSteps(5),), noise))  # type: ignore[arg-type]
    (one,), (two,) = optimize(lm, [problem]), optimize(lm, [problem])
    (other,) = optimize(lm, [replace(problem, start=Start(seed=1))])
    assert one.vector.hash == two.vector.hash != other.vector.hash
    assert one.loss == pytest.approx(float(losses_in_full(lm, problem, one.vector[1][None, None])[0]), rel=1e-5)


def history(*totals: float, targets: tuple[float | None, ...] = (None,)) -> History:
    return History(targets, list(totals), [[t] for t in totals], [0.0] * len(totals))


def test_stoppers() -> None:
    assert not MaxSteps(2).done(history(3, 2)) and MaxSteps(2).done(history(3, 2, 1))
    assert Target(1.0).done(history(3, 1)) and not Target(1.0, patience=2).done(history(3, 1))
    assert Target(1.0, patience=2).done(history(3, 1, 0.5)) and not Target(1.0, patience=2).done(history(1, 2, 1))
    assert Target(each=True).done(history(3, 0.4, targets=(0.5,))) and not Target(each=True).done(
        history(3, 0.6, targets=(0.5,))
    )
    assert not Target(each=True).done(history(0.0))
    assert Plateau(0.1).done(history(3, 1, 1.05)) and not Plateau(0.1, 2).done(history(3, 2.95, 1, 1.05)), (
        "a counter starts again"
    )


def test_the_vector_that_reached_the_target_is_returned() -> None:
    lm = pico("llama")
    free = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.3, (MaxSteps(30),)))])[0]
    level = 0.5 * (free.history.totals[0] + free.loss)
    found = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.3, (Target(level), MaxSteps(30))))])[0]
    assert found.reached and found.reason == "Target" and found.loss <= level and found.steps < 30
    missed = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.3, (Target(-1.0), MaxSteps(5))))])[0]
    assert missed.reached is False and missed.reason == "MaxSteps" and missed.loss == min(missed.history.totals)


# ---------------------------------------------------------------- refusals


def test_bad_input_is_refused_before_any_work() -> None:
    lm = pico("llama")

    def refused(problem: Problem, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            optimize(lm, [problem])

    good = promote(ASK, SAID)
    refused(Problem(promote(ASK, ""), Place((1,))), TokenError, "empty")
    refused(Problem(promote(ASK, (5, 10_000)), Place((1,))), TokenError, "not ids")
    refused(Problem(good, Place((9,))), ModelError, "out of range")
    refused(Problem(good + Change(ASK, 1), Place((2,))), LossError, "does not change")
    refused(Problem(good, Place((1,), positions=span(100, 120))), LossError, "no token")
    refused(
        Problem(good, Place((1,)), start=Start(vector=SteeringVector({1: torch.ones(3, WIDTH)}))), LossError, "shape"
    )
    refused(Problem(good, Place((1,)), start=Start(norm=float("nan"))), LossError, "not a number")
    for make in (
        lambda: Place(()),
        lambda: Place((1, 1)),
        lambda: Place((1,), Add(), rank=2),
        lambda: Ball(-1.0),
        lambda: Sphere(0.0),
        lambda: Descent(0.0),
        lambda: Descent(stop=(Plateau(),)),
        lambda: Target(),
        lambda: Gaussian(-1.0),
        lambda: Objective(()),
        lambda: in_contexts(Objective.of(Consistent((ASK, SAID), 2))),
    ):
        with pytest.raises(LossError):
            make()
    with pytest.raises(LossError, match="no problems"):
        optimize(lm, [])


def test_a_loss_that_stops_being_a_number_names_the_step_and_keeps_the_best() -> None:
    lm = pico("llama")
    (found,) = optimize(lm, [Problem(promote(ASK, SAID), Place((1,)), (), Descent(1e38, (MaxSteps(9),)))])
    assert "not a number after step" in found.reason
    assert math.isfinite(found.loss) and found.reached is None


def test_a_descent_that_blows_up_leaves_its_neighbors_alone() -> None:
    lm = pico("llama")
    good = Problem(promote(ASK, SAID), Place((1,), positions=from_last_prompt_token), (), Descent(0.3, (MaxSteps(6),)))
    bad = replace(good, descent=Descent(1e38, (MaxSteps(6),)))
    alone, (one, lost, two) = optimize(lm, [good])[0], optimize(lm, [good, bad, replace(good, start=Start(seed=1))])
    assert "not a number" in lost.reason and one.reason == two.reason == "MaxSteps"
    assert one.history.totals == pytest.approx(alone.history.totals, rel=1e-4)


def test_everywhere_is_the_default_place() -> None:
    assert Place((1,)).where == everywhere
    assert Suppress(ASK, SAID).describe()["term"] == "Suppress"


# ---------------------------------------------------------------- shorter vectors, targets and what to promote


def test_a_shorter_vector_does_no_worse_and_says_so() -> None:
    lm = pico("llama")
    problem = Problem(
        promote(ASK, SAID) + suppress("is it rain ?", OTHER),
        Place((1,)),
        (),
        Descent(0.5, (MaxSteps(40),), None),
        Start(norm=8.0),
    )
    (found,) = optimize(lm, [problem])
    level = max(found.losses) * 1.3
    short = shorten(lm, problem, found, target=None, slack=level - max(found.losses), steps=150, rate=0.05)
    assert short.holds and "every output constraint holds" in short.reason
    assert short.vector.norm()[1] < 0.97 * found.vector.norm()[1]
    again = [float(x) for x in losses_in_full(lm, problem, short.vector[1][None, None])]
    assert again == pytest.approx(list(short.losses), rel=1e-4) and all(x <= level + 1e-3 for x in again)
    impossible = shorten(lm, problem, found, target=-1.0, steps=3)
    assert impossible.holds is False and "do not hold" in impossible.reason


def test_another_aim_under_output_constraints_does_not_grow() -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.5, (MaxSteps(20),)))
    (found,) = optimize(lm, [problem])
    moved = shorten(lm, problem, found, instead=Change(ASK, 3), steps=40, slack=2.0)
    assert moved.holds and moved.vector.norm()[1] <= found.vector.norm()[1] * 1.0001
    assert min(moved.history.totals) < moved.history.totals[0]


def test_targets_come_from_where_the_model_says_it_already() -> None:
    lm = pico("llama")
    term = Promote(ASK, SAID)
    assert losses_of(lm, term)[0] == pytest.approx(
        float(losses_in_full(lm, Problem(term, Place((1,))), torch.zeros(1, 1, WIDTH))[0]), rel=1e-5
    )
    twin = losses_of(lm, Promote("say something kind", SAID))[0]
    assert target_from(lm, term, "say something kind", share=0.75) == pytest.approx(0.75 * twin)
    iv = Intervention(vector(1))
    row = lm.row(ASK, SAID)
    with steer(lm, iv):
        logp = (0.7 * lm.logits(lm.batch([row]))[0]).log_softmax(-1)
    steered = -sum(float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids)))
    assert losses_of(lm, term, iv)[0] == pytest.approx(steered, rel=1e-4)


def test_the_swap_rule_aims_at_traded_places() -> None:
    lm = pico("llama")
    goal = swapped_choice(lm, "A good B bad ?", "A bad B good ?", ("A", "B"))
    kinds = [(type(t).__name__, t.prompt, t.completion) for _, t in goal.terms]  # type: ignore[attr-defined]
    assert [k for k, _, _ in kinds] == ["Promote", "Suppress"] * 2 and kinds[0][2] == kinds[3][2] != kinds[1][
        2
    ] == kinds[2][2]
    first = goal.terms[0][1]
    assert first.target == pytest.approx(losses_of(lm, replace(first, completion=kinds[1][2]))[0])  # type: ignore[type-var]


def test_beam_search_finds_the_most_likely_of_all_completions() -> None:
    """Against every completion there is, for two tokens and a beam as wide as the vocabulary."""
    lm = pico("llama")
    row = lm.row(ASK)
    found = likely_completions(lm, ASK, tokens=2, width=96)
    every: dict[tuple[int, int], float] = {}
    first = lm.logits(lm.batch([row]))[0, -1].log_softmax(-1)
    for a in range(96):
        second = lm.logits(lm.batch([row.extended((a,))]))[0, -1].log_softmax(-1)
        every |= {(a, b): float(first[a] + second[b]) for b in range(96) if not {a, b} & lm.end_tokens}
    best = sorted(every, key=every.__getitem__, reverse=True)[:20]
    assert [c.ids for c in found[:20]] == best
    assert [c.logp for c in found[:20]] == pytest.approx([every[k] for k in best], abs=1e-4)
    apart = likely_completions(lm, ASK, against="is it rain ?", tokens=3, width=4)
    assert all(math.exp(c.logp) - math.exp(c.against or 0) > 0 for c in apart) and len({c.ids for c in apart}) == 4
    last = likely_completions(lm, ASK, tokens=2, width=3, least=True)
    assert last[0].logp < found[0].logp
    with pytest.raises(LossError):
        likely_completions(lm, ASK, tokens=0)


# ---------------------------------------------------------------- for those who come from the published code


@pytest.mark.parametrize("name", architectures("llama", "gpt2", "bloom", "gemma2", "qwen3_next", "mamba2"))
def test_the_embeddings_are_a_place_to_steer(name: str, tmp_path: Path) -> None:
    """What enters block 0: losses by replays, in full, and with a hook of the test's own are the same; blocks are
    counted from 0 all the same.
    """
    lm = pico(name)
    problem = Problem(MIXED, Place(site="embeddings"))
    v = 0.5 * start(problem)
    found = Losses(lm, [problem], 8).at({0: v[None]}, gradients={0})
    leaf = v.clone().requires_grad_()
    full = losses_in_full(lm, problem, leaf)
    (gradient,) = torch.autograd.grad(problem.goal.weighted(full), leaf)
    assert [float(x[0]) for x in found.terms[0]] == pytest.approx([float(x.detach()) for x in full], rel=1e-4)
    assert float((found.gradients[0][0] - gradient).norm()) <= 1e-3 * float(gradient.norm())
    row = lm.row(ASK, SAID)

    def push(module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> object:
        return (
            ((args[0] + v[0, 0], *args[1:]), kwargs)
            if args
            else (args, {**kwargs, "hidden_states": kwargs["hidden_states"] + v[0, 0]})
        )

    handle = lm.blocks[0].register_forward_pre_hook(push, with_kwargs=True)
    with torch.no_grad():
        logp = (0.7 * lm.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float()).log_softmax(-1)
    handle.remove()
    own = -sum(float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids)))
    assert float(full[0].detach()) == pytest.approx(own, rel=1e-4)
    (result,) = optimize(lm, [Problem(promote(ASK, SAID), Place(site="embeddings"), (), Descent(0.2, (MaxSteps(8),)))])
    assert result.vector.site == "embeddings" and result.loss < result.history.totals[0]
    kept = SteeringVector.load(result.vector.save(tmp_path / "v.safetensors"))
    assert kept.site == "embeddings" and kept.layers == (EMBEDDINGS,) and kept.hash == result.vector.hash
    with steer(lm, Intervention(kept)) as receipt:
        lm.logits(lm.batch([row]))
    assert receipt.edited == {EMBEDDINGS: len(row.ids)}
    with pytest.raises(ModelError, match="layer out of range"):
        lm.layers(-1)


def test_a_site_and_its_layers_go_together() -> None:
    for bad in (
        lambda: SteeringVector({0: torch.ones(4)}, site="embeddings"),
        lambda: SteeringVector({EMBEDDINGS: torch.ones(4)}),
        lambda: SteeringVector({-1: torch.ones(4)}),
    ):
        with pytest.raises(VectorError):
            bad()
    with pytest.raises(LossError, match="not a site"):
        Place((0,), site="embeddings")


def test_satisficing_tells_the_raw_loss_too() -> None:
    lm = pico("llama")
    problem = Problem(Satisfice(Promote(ASK, SAID), 2.0), Place((1,)), (), Descent(0.3, (MaxSteps(25),)))
    (found,) = optimize(lm, [problem])
    assert found.losses[0] == pytest.approx((found.raw[0] - 2.0) ** 2, rel=1e-4) and found.describe()["raw"] == list(
        found.raw
    )
    plain = losses_in_full(lm, Problem(Promote(ASK, SAID), Place((1,))), found.vector[1][None, None])
    assert found.raw[0] == pytest.approx(float(plain[0]), rel=1e-4)


def test_a_gain_is_what_the_vector_acts_with_while_it_is_trained() -> None:
    """The published clamp factor: h - (u.h) u + c v."""
    lm = pico("llama")
    place = Place((1,), Clamp(), gain=2.5)
    problem = Problem(promote(ASK, SAID), place)
    v = start(problem)
    row, u = lm.row(ASK, SAID), v[0, 0] / v[0, 0].norm()
    logits = lm.logits(lm.batch([row]), {1: lambda h, f: h - (h @ u)[..., None] * u + 2.5 * v[0, 0]})[0]
    logp = (0.7 * logits).log_softmax(-1)
    own = -sum(float(logp[k - 1, row.ids[k]]) for k in range(row.prompt, len(row.ids)))
    assert float(Losses(lm, [problem], 8).at({0: v[None]}, gradients=set()).terms[0][0][0]) == pytest.approx(
        own, rel=1e-4
    )
    (found,) = optimize(lm, [replace(problem, descent=Descent(0.2, (MaxSteps(3),)))])
    assert found.intervention(place).multiplier == 2.5 and found.intervention(place, -1.0).multiplier == -2.5
    assert losses_of(lm, Promote(ASK, SAID), found.intervention(place))[0] == pytest.approx(found.loss, rel=1e-4)
    with pytest.raises(LossError, match="not a gain"):
        Place((1,), gain=0.0)


def test_the_history_of_vectors_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.2, (MaxSteps(6),)))
    (plain,), (found,) = optimize(lm, [problem]), optimize(lm, [problem], vectors=True)
    assert not plain.history.vectors and len(found.history.vectors) == 7
    assert [float(v[0, 0].norm()) for v in found.history.vectors] == pytest.approx(found.history.norms)
    again = losses_in_full(lm, problem, found.history.vectors[3])
    assert float(again[0]) == pytest.approx(found.history.totals[3], rel=1e-4)

    def stop(done: int, steps: int, words: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(lm, [problem], vectors=True, to=tmp_path / "state.safetensors", progress=stop, save_every=0.0)
    (resumed,) = optimize(lm, [problem], vectors=True, to=tmp_path / "state.safetensors", save_every=0.0)
    assert torch.equal(torch.stack(resumed.history.vectors), torch.stack(found.history.vectors))


def test_gradients_are_added_up_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve prompts in passes of few tokens: the same gradients, and never more than one pass under way."""
    lm = pico("llama")
    asks = [f"Do you like {x} {n} ?" for x in ("tea", "rain", "sun") for n in ("one", "two", "three", "four")]
    goal = promote(asks[0], SAID)
    for k, ask in enumerate(asks[1:]):
        goal = goal + (promote if k % 2 else suppress)(ask, SAID if k % 3 else OTHER)
    goal = goal + Consistent(tuple(asks[:3]), 3)
    problem = Problem(goal, Place((1,)))
    v = torch.stack([start(problem, s) for s in range(2)])
    whole = Losses(lm, [problem], 32).at({0: v}, gradients={0})
    small = Losses(lm, [problem], 32, tokens=40)
    sizes: list[int] = []
    replay = lm.replay
    monkeypatch.setattr(
        lm,
        "replay",
        lambda prefix, layer, h, **how: (sizes.append(h.shape[:3].numel()), replay(prefix, layer, h, **how))[1],
    )
    parts = small.at({0: v}, gradients={0})
    assert (
        torch.allclose(parts.gradients[0], whole.gradients[0], rtol=1e-4, atol=1e-5)
        and max(sizes) < 120
        and len(sizes) >= 6
    )
    assert torch.allclose(torch.stack(parts.terms[0]), torch.stack(whole.terms[0]), rtol=1e-4)
    assert len(small.groups[0]._parts({0: 2})) > 3

    def crooked(_: int, losses: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(losses)).pow(2).sum(0)

    one, two = (x.at({0: v}, gradients={0}, total=crooked).gradients[0] for x in (small, Losses(lm, [problem], 32)))
    assert torch.allclose(one, two, rtol=1e-3, atol=1e-4), "and of a total that is no sum"


def test_every_function_that_renders_can_do_it_plainly() -> None:
    lm = pico("llama")
    for chat in (True, False):
        (best, *_) = likely_completions(lm, ASK, tokens=2, width=1, chat=chat)
        row = lm.row(ASK, chat=chat)
        logits = lm.logits(lm.batch([row]))[0, -1]
        logits[sorted(lm.end_tokens)] = -torch.inf
        assert best.ids[0] == int(logits.argmax())
        goal = swapped_choice(lm, "A good B bad ?", "A bad B good ?", ("A", "B"), chat=chat, separator=" ")
        assert all(t.chat is chat and t.separator == " " for _, t in goal.terms)  # type: ignore[attr-defined]
        one = OneShot(prompt=ASK, promote=("Yes",), chat=chat, separator=" : ")
        assert [r.ids for r in one.objective(None).terms[0][1].rows(lm)] == [
            lm.row(ASK, "Yes", chat=chat, separator=" : ").ids
        ]


def test_shortened_as_cited_and_with_moving_constraints() -> None:
    lm = pico("llama")
    problem = Problem(promote(ASK, SAID), Place((1,)), (), Descent(0.5, (MaxSteps(20),)))
    (found,) = optimize(lm, [problem])
    cited, moving = (
        shorten(lm, problem, found, target=max(found.losses) + 0.5, slack=0.5, steps=60, moving=m)
        for m in (False, True)
    )
    assert cited.holds and moving.holds and cited.history.norms != moving.history.norms
    strict = shorten(lm, problem, found, steps=5)
    assert all(x <= y + 2e-6 for x, y in zip(strict.losses, found.losses, strict=True)), (
        "by default nothing may rise by more than 1e-6 nats"
    )
