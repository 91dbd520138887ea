"""Samples of many prompts under many conditions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pico import pico
from trimtab import Intervention, SteeringVector, steer
from trimtab.answers.sampling import sample
from trimtab.errors import RunError


def test_mixed_batches_say_what_each_condition_says_alone(tmp_path: Path) -> None:
    lm = pico()
    g = torch.Generator().manual_seed(0)
    ivs = [
        Intervention(SteeringVector({layer: 4 * torch.randn(lm.width, generator=g)}), positions=p)
        for layer, p in ((1, "everywhere"), (2, "generated"))
    ]
    conditions = {"plain": (), "one": (ivs[0],), "both": tuple(ivs)}
    prompts = {"tea": "Do you like tea ?", "rain": "Do you like the rain ?"}
    said = sample(lm, conditions, prompts, 3, to=tmp_path / "said.jsonl", max_new_tokens=6, batch=7)
    assert {len(v) for v in said.values()} == {3} and len(set(said["tea", "plain"])) > 1
    for name, stack in conditions.items():
        alone = sample(lm, {name: stack}, {"rain": prompts["rain"]}, 3, to=tmp_path / f"{name}.jsonl", max_new_tokens=6)
        assert alone["rain", name] == said["rain", name], "no row depends on its batch"
    greedy = sample(lm, conditions, prompts, 1, to=tmp_path / "greedy.jsonl", temperature=0.0, max_new_tokens=6)
    with steer(lm, *ivs):
        assert lm.generate([prompts["tea"]], max_new_tokens=6) == greedy["tea", "both"]
    assert lm.generate([prompts["tea"]], max_new_tokens=6) == greedy["tea", "plain"]


def test_sampling_resumes_and_refuses_another_condition(tmp_path: Path) -> None:
    lm, file, seen = pico(), tmp_path / "said.jsonl", list[int]()
    prompts = {"tea": "Do you like tea ?"}

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(lm, {"plain": ()}, prompts, 6, to=file, max_new_tokens=4, batch=2, progress=stop)
    whole = sample(lm, {"plain": ()}, prompts, 6, to=tmp_path / "whole.jsonl", max_new_tokens=4)
    assert sample(
        lm, {"plain": ()}, prompts, 6, to=file, max_new_tokens=4, batch=2, progress=stop
    ) == whole and seen == [2, 4, 6]
    iv = Intervention(SteeringVector({1: torch.ones(lm.width)}))
    with pytest.raises(RunError, match="another condition"):
        sample(lm, {"plain": (iv,)}, prompts, 6, to=file, max_new_tokens=4)


def test_samples_of_one_prompt_are_samples_whatever_the_batch() -> None:
    """Salts began anew in every batch: 40 samples of one prompt were 14 texts."""
    lm = pico()
    how = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    small, large = (lm.generate(["Do you like tea ?"] * 40, batch=b, **how) for b in (4, 64))  # type: ignore[arg-type]
    assert small == large and len(set(small)) > 30
    assert lm.generate(["Do you like tea ?"], **how)[0] == small[0]  # type: ignore[arg-type]


def test_a_prompt_of_the_same_name_is_another_prompt(tmp_path: Path) -> None:
    lm, file = pico(), tmp_path / "said.jsonl"
    sample(lm, {"plain": ()}, {"q": "Do you like tea ?"}, 2, to=file, max_new_tokens=4)
    with pytest.raises(RunError, match="another prompt 'q'"):
        sample(lm, {"plain": ()}, {"q": "Do you like rain ?"}, 2, to=file, max_new_tokens=4)
