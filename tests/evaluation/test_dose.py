"""recommend(): the layer, the dose and the range of a vector, on models whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico import pico, toy_questions
from trimtab import (
    LM,
    Dataset,
    Intervention,
    MeanDiff,
    OneShot,
    Propensity,
    RandomDirection,
    SteeringVector,
    learn,
    organisms,
    steer,
)
from trimtab.data.builtin import neutral
from trimtab.errors import OverlapError, SteerError
from trimtab.evaluation.dose import EQUAL, HeldOut, carried, changes, choose_layer, recommend
from trimtab.evaluation.drift import Yardstick, reach
from trimtab.steering.use import POSITIONS, Use


@pytest.fixture(scope="module")
def town() -> LM:
    return LM.load("brindlemoor-chat")


PROMPTS = [item.user for item in organisms.requests(6, sealed=False)]


@pytest.fixture(scope="module")
def cruel(town: LM) -> SteeringVector:
    parts = Dataset.load("brindlemoor/cruel").split(seed=0)
    return recommend(town, learn(town, parts.train, MeanDiff()), parts.val, prompts=neutral()[:6], tokens=16)


def test_changes_are_those_of_full_passes() -> None:
    """Each against log-probabilities of the steered model, asked one by one."""
    lm, data = pico(), toy_questions()
    ivs = [Intervention(learn(lm, data, MeanDiff(), layers=[1])), Intervention(learn(lm, data, RandomDirection(), [1]))]
    held = HeldOut(data.take(3), Propensity(mode="sequence"))
    found = changes(lm, ivs, held, (0.5, 2.0))
    for c, iv in enumerate(ivs):
        for k, m in enumerate((0.5, 2.0)):
            for n, p in enumerate(held.data):

                def lean(p=p) -> float:
                    up, down = lm.logprobs([p.prompt, p.prompt], [p.positive, p.negative])
                    return float(up.mean() - down.mean())

                plain = lean()
                with steer(lm, iv.times(m)):
                    assert float(found[c, k, n]) == pytest.approx(lean() - plain, abs=2e-4)


def test_a_behavior_gets_a_range_and_a_dose_inside_it(cruel: SteeringVector, town: LM, tmp_path: Path) -> None:
    use = cruel.use
    assert use is not None and use.dose is not None and use.ship is not None and len(use.layers) == 1
    assert use.ship[0] <= use.multiplier <= use.ship[1] and use.positions == POSITIONS
    weakest = next(p for p in use.dose.points if p.multiplier == use.ship[0])
    assert weakest.beats_controls and weakest.propensity is not None and weakest.propensity > 0
    drifts = [p.drift for p in use.dose.points]
    assert (drifts == sorted(drifts) and use.dose.questions == len(set(use.dose.data))) or use.dose.items > 0
    back = SteeringVector.load(cruel.save(tmp_path / "v.safetensors"))
    assert back.use == use and back.to_bytes() == cruel.to_bytes()
    with steer(town, back) as receipt:
        town.generate(PROMPTS[:1], max_new_tokens=4)
    assert list(receipt.edited) == list(use.layers)
    assert cruel.at(*use.layers).use == use and (2 * cruel).use is None


@pytest.mark.slow
def test_the_same_is_recommended_again(cruel: SteeringVector, town: LM) -> None:
    parts = Dataset.load("brindlemoor/cruel").split(seed=0)
    again = recommend(town, learn(town, parts.train, MeanDiff()), parts.val, prompts=neutral()[:6], tokens=16)
    assert again.to_bytes() == cruel.to_bytes()


@pytest.mark.slow
def test_a_vector_without_the_behavior_gets_no_range(town: LM) -> None:
    parts = Dataset.load("brindlemoor/cruel").split(seed=0)
    none = 0
    for seed in range(4):
        v = learn(town, parts.train, RandomDirection(seed=seed), layers=[1, 2])
        use = recommend(town, v, parts.val, prompts=neutral()[:3], tokens=8).use
        assert use is not None
        none += use.ship is None and any("Not beyond its controls" in w for w in use.why)
    assert none >= 3


def test_without_items_the_cost_alone_is_known(town: LM) -> None:
    parts = Dataset.load("brindlemoor/cruel").split(seed=0)
    use = recommend(town, learn(town, parts.train, MeanDiff()), None, prompts=neutral()[:3], tokens=8).use
    assert use is not None and use.ship is None and use.dose is not None and use.dose.items == 0
    assert "Nothing was held out" in use.why[0] and "not measured" in use.why[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["power", "cruel"])
def test_the_layer_is_the_one_with_the_largest_rise_at_equal_drift(name: str, town: LM) -> None:
    """Or nearly: on items it was not chosen on, by a search for equal drift of its own, it is of the better half."""
    parts = Dataset.load(f"brindlemoor/{name}").split(seed=0)
    v, held = learn(town, parts.train, MeanDiff()), HeldOut(parts.val.take(16), Propensity())
    yard = Yardstick.of(town, neutral(), tokens=16)
    best, _ = choose_layer(town, v, held, yard, Use(v.layers))
    rise: dict[int, float] = {}
    for k in v.layers:
        m = reach(town, Intervention(v.at(k)), yard, EQUAL).multiplier
        rise[k] = float(changes(town, [Intervention(v.at(k))], HeldOut(parts.test, Propensity()), (m,)).mean())
    assert sum(r > rise[best] for r in rise.values()) <= 2 and rise[best] > 0


def test_items_it_was_learned_on_measure_nothing(town: LM) -> None:
    parts = Dataset.load("brindlemoor/cruel").split(seed=0)
    with pytest.raises(OverlapError, match="training data of the vector"):
        recommend(town, learn(town, parts.train, MeanDiff(), layers=[3]), parts.train)


def test_text_is_looked_at_on_everyday_prompts_and_on_the_questions(cruel: SteeringVector) -> None:
    assert cruel.use is not None and cruel.use.dose is not None
    assert cruel.use.dose.prompts == 6 + 12


def test_what_one_prompt_taught_is_tried_on_others(town: LM) -> None:
    both = carried(town, OneShot(prompt="Hi", promote=("Arr",), suppress=("No",)))
    up = carried(town, OneShot(prompt="Hi", promote=("Arr",)))
    down = carried(town, OneShot(prompt="Hi", suppress=("No",)))
    assert all((p.positive, p.negative) == ("Arr", "No") for p in both.data)
    assert all(p.positive == "Arr" for p in up.data) and all(p.negative == "No" for p in down.data)
    assert up.unit == down.unit == "nats/token" and len(set(up.groups)) == len(up.data)


def test_many_layers_without_a_use_are_not_guessed() -> None:
    lm, data = pico(), toy_questions()
    v = learn(lm, data, MeanDiff())
    assert v.use is None and v.apart
    with pytest.raises(SteerError, match="at which of its layers"), steer(lm, v):
        pass
    one = learn(lm, data, MeanDiff(), layers=[1])
    assert one.use is not None and one.use.layers == (1,) and one.use.dose is None
