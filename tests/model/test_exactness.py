"""Where exactness is decided, what it is decided on, and that everything asks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from pico import architectures, build, pico, rows, tokenizer
from trimtab.cli.doctor import examine, told
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair
from trimtab.errors import ModelError
from trimtab.evaluation.forecast import sensitivity
from trimtab.evaluation.metrics import Propensity
from trimtab.evaluation.sweep import measure
from trimtab.methods import MeanDiff, learn
from trimtab.model import LM, trials
from trimtab.model.exactness import Exactness, Switch, switches
from trimtab.model.shrink import shrunken
from trimtab.model.trials import relative
from trimtab.optimize import likely_completions
from trimtab.statistics.slopes import fit_slopes
from trimtab.steering.interventions import Intervention, Receipt, edits
from trimtab.steering.vector import SteeringVector
from zoo import SMALL, WIDTH


def toy() -> Dataset:
    return Dataset(
        "toy",
        tuple(
            Pair(f"Do you like {x} {y} ?", "yes I think so", "no never")
            for x in ("tea", "rain")
            for y in ("one", "two", "three", "four")
        ),
    )


def vector(layer: int = 1) -> SteeringVector:
    return SteeringVector({layer: 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))})


# ------------------------------------------------------------ lengths


def windowed(width: int = 256) -> LM:
    """GPT-Neo as its checkpoints have it: a window far longer than what is tried at load."""
    torch.manual_seed(0)
    settings = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
    config = transformers.GPTNeoConfig(
        **{**settings, "max_position_embeddings": 512}, attention_types=[[["global", "local"], 2]], window_size=width
    )
    model = transformers.GPTNeoForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.15)
    return LM(model, tokenizer(), id="windowed")


@pytest.mark.parametrize("width", [24, 256])
def test_a_window_is_seen_however_long_it_is(width: int) -> None:
    lm = windowed(width)
    assert lm.exact.replayable and not lm.exact.openable, (
        "prompts that share their beginning leave gaps, which a window counts"
    )
    opening = tuple(range(7, 7 + 40))
    tokens = lm.batch([type(rows((1, 0))[0])((*opening, *end, 8, 9), 40 + len(end)) for end in ((50, 51, 52), (53,))])
    prefix = lm.prefix(tokens)
    real = tokens.mask[:, prefix.start :].bool()
    assert relative(prefix.logits[real], lm.logits(tokens)[:, prefix.start :][real]) <= 1e-5


def test_switches_are_read_off_the_rotary_embeddings() -> None:
    assert switches(build("phi3_longrope")) == (Switch(16, graded=False),)
    assert switches(build("llama_dynamic")) == (Switch(16, graded=True),)
    assert switches(build("llama")) == switches(build("llama_yarn")) == ()
    near, far = Switch(16, graded=False), Switch(16, graded=True)
    assert [near.side(n) for n in (1, 16, 17, 40)] == [0, 0, 1, 1] and [far.side(n) for n in (16, 17, 18)] == [
        0,
        17,
        18,
    ]


def test_rows_across_a_switch_never_share_a_pass() -> None:
    lm = pico("phi3_longrope")
    across = rows((9, 3), (20, 2))
    with pytest.raises(ModelError, match="positions change beyond 16 tokens"):
        lm.batch(across)
    assert sorted(map(sorted, lm.batches(across, 8))) == [[0], [1]]
    text = "tea coffee " * 10
    together = lm.logprobs(["tea", text], ["yes", "no"])
    assert torch.allclose(together[0], lm.logprobs(["tea"], ["yes"])[0], atol=1e-5)


def test_a_pass_does_not_depend_on_the_passes_before_it() -> None:
    """Dynamic embeddings remember the longest row seen."""
    lm = pico("llama_dynamic")
    one, other = lm.batch(rows((20, 0))), lm.batch(rows((40, 0)))
    before = lm.logits(one)
    lm.logits(other)
    assert torch.equal(lm.logits(one), before) and lm.context == 64


# ------------------------------------------------------------ what cannot be resumed


def measured(lm: LM, v: SteeringVector, to: Path) -> float:
    run = measure(
        lm,
        Intervention(v, positions="from_last_prompt_token"),
        toy(),
        [Propensity()],
        to=to,
        multipliers=(-1.0, 0.0, 1.0),
        controls={},
    )
    grid, _, values = run.table("all").curve("propensity", "vector", None)
    return float(fit_slopes(grid, values).slope.mean())


def true_slope(lm: LM, v: SteeringVector) -> float:
    """The same by one full, hooked pass an item, an answer and a multiplier."""
    grid = np.array([-1.0, 0.0, 1.0])
    slopes = []
    for pair in toy():
        scores = []
        for m in grid:
            sums = []
            for said in (pair.positive, pair.negative):
                row = lm.row(pair.prompt, said)
                iv = Intervention(v, multiplier=float(m), positions="from_last_prompt_token")
                logp = lm.logits(lm.batch([row]), edits([iv], Receipt()))[0].log_softmax(-1)
                ids = torch.tensor(row.ids[row.prompt :])
                sums.append(float(logp[row.prompt - 1 : -1].gather(-1, ids[:, None]).mean()))
            scores.append(sums[0] - sums[1])
        slopes.append(float(np.polyfit(grid, scores, 1)[0]))
    return float(np.mean(slopes))


@pytest.mark.parametrize("name", architectures("mamba2", "jamba", "recurrent_gemma"))
def test_models_that_cannot_be_resumed_are_measured_right_all_the_same(name: str, tmp_path: Path) -> None:
    lm = pico(name)
    assert not lm.exact.replayable
    found, true = measured(lm, vector(), tmp_path / "run"), true_slope(lm, vector())
    assert found == pytest.approx(true, rel=1e-3, abs=1e-4) and abs(true) > 1e-3


@pytest.mark.parametrize("name", ["mamba2", "llama"])
def test_what_is_built_on_passes_is_right_too(name: str) -> None:
    """Learning, the forecast and beams, against full passes."""
    lm = pico(name)
    learned = learn(lm, toy(), MeanDiff(), [1])
    means = []
    for pair in toy():
        sides = []
        for said in (pair.positive, pair.negative):
            row, seen = lm.row(pair.prompt, said), []
            lm.logits(lm.batch([row]), {1: lambda h, f, s=seen: (s.append(h), h)[1]})
            sides.append(seen[0][0, row.prompt :].mean(0))
        means.append(sides[0] - sides[1])
    assert torch.allclose(learned[1], torch.stack(means).mean(0), atol=1e-5)
    expected = sensitivity(lm, toy())
    small = SteeringVector({1: 1e-2 * vector()[1]})
    forecast = float(expected.slopes(small)[1].mean())
    assert forecast == pytest.approx(true_slope(lm, small), rel=2e-2, abs=1e-6)
    ids = list(lm.row("Do you like tea ?").ids)
    best = likely_completions(lm, "Do you like tea ?", tokens=3, width=1)[0]
    for token in best.ids:
        logits = lm.logits(lm.batch([type(rows((1, 0))[0])(tuple(ids), len(ids))]))[0, -1]
        logits[sorted(lm.end_tokens)] = -torch.inf
        assert token == int(logits.argmax())
        ids.append(token)


def test_positions_that_start_at_the_second_token(tmp_path: Path) -> None:
    """A pass over one column of a recurrent model takes padding for a token: `~span(0, 1)` on Qwen3-Next was off by two
    standard deviations.
    """
    lm = pico("qwen3_next")
    data = Dataset("toy", tuple(Pair(p, "yes", "no") for p in ("tea", "Do you like tea ?", "rain and sun")))
    iv = Intervention(vector(), positions="~span(0, 1)")
    run = measure(lm, iv, data, [Propensity()], to=tmp_path, multipliers=(0.0, 1.0), controls={})
    _, items, values = run.table("all").curve("propensity", "vector", None)
    for pair in data:
        row = lm.row(pair.prompt, pair.positive)
        logp = lm.logits(lm.batch([row]), edits([iv], Receipt()))[0].log_softmax(-1)[row.prompt - 1]
        # of one token each
        true = float(logp[row.ids[row.prompt]] - logp[lm.row(pair.prompt, pair.negative).ids[row.prompt]])
        assert values[items.index(pair.id), 1] == pytest.approx(true, abs=1e-3)


# ------------------------------------------------------------ where it is decided


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_kind_dtype_excuses_nothing(dtype: torch.dtype) -> None:
    """MPT in half precision passed for openable, and shared openings were off by a fifth."""
    lm = LM(build("mpt", dtype=dtype), tokenizer(), id="mpt")
    assert not lm.exact.openable and lm.exact.replayable and dict(lm.exact.worst)["opening"] > 1e-2
    assert 0 <= lm.exact.noise <= trials.TOLERANCE[dtype]
    assert "beside others" in told(examine(lambda: lm, lambda *_: None))["noise of the dtype"], (
        "what the dtype does by itself is told"
    )


@pytest.mark.slow
def test_a_second_load_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    first = LM(build("llama"), tokenizer(), id="first")
    with monkeypatch.context() as patch:
        patch.setattr(trials, "_examined", lambda lm: pytest.fail("it was examined again"))
        assert LM(build("llama"), tokenizer(), id="second").exact.worst == first.exact.worst
    (file,) = (tmp_path / "exactness").iterdir()
    file.write_text("{")
    assert LM(build("llama"), tokenizer(), id="third").exact.worst == first.exact.worst, "a broken memory is made anew"
    again: list[str] = []
    monkeypatch.setattr(trials, "_examined", lambda lm: (again.append(lm.id), Exactness())[1])
    LM(build("qwen2"), tokenizer(), id="another configuration")
    LM(build("llama", dtype=torch.bfloat16), tokenizer(), id="another dtype")
    assert again == ["another configuration", "another dtype"]


def test_a_copy_has_every_kind_of_block_and_short_lengths() -> None:
    small = shrunken(windowed(256).model)
    assert small.config.window_size == 12 and len(small.transformer.h) == 4
    config = transformers.Gemma3TextConfig(
        vocab_size=5000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        sliding_window=512,
        layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 2,
        max_position_embeddings=32768,
    )
    large = transformers.Gemma3ForCausalLM(config)
    small = shrunken(large)
    assert (
        len(small.model.layers) == 6
        and small.config.hidden_size == 128
        and small.config.sliding_window == 12
        and small.config.vocab_size == 256
    )
    assert all(p.dtype == torch.float32 for p in small.parameters()) and large.config.sliding_window == 512
    lm = LM(large, None, id="large")
    assert lm.exact.replayable and "fp32 copy of 6 blocks, width 128" in lm.exact.tried_on
