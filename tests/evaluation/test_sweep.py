"""measure(): equal to slow passes, resumable after a kill, and strict about its input."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paths import TESTS
from pico import crossed, pico
from trimtab.data.datasets import Dataset
from trimtab.data.pairs import Pair, to_choices
from trimtab.errors import OverlapError, RecipeError, RunError, SteerError, TokenError
from trimtab.evaluation.metrics import KL, Likelihood, Matching, OutsideMass, Propensity
from trimtab.evaluation.readings import chunks
from trimtab.evaluation.sweep import measure, transcripts
from trimtab.methods import MeanDiff, learn
from trimtab.methods.contrast import contrast_index, paired_rows
from trimtab.model import LM, Row
from trimtab.runs import Run
from trimtab.steering.interventions import Intervention, Receipt, edits
from trimtab.steering.multipliers import replay_multipliers
from trimtab.steering.vector import SteeringVector
from zoo import WIDTH

GRID = (-1.0, 0.0, 0.5, 2.0)


def pairs(n: int = 9, start: int = 0) -> tuple[Pair, ...]:
    numbers, colors = (
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        ["red", "blue", "green", "tea", "coffee", "rain", "sun"],
    )
    return tuple(
        Pair(
            f"Do you like {colors[k % 7]} {numbers[k % 10]} {'the ' * (k % 4)}?",
            "yes I think " + colors[k % 3],
            "no not " + "never " * (k % 3) + "bad",
        )
        for k in range(start, start + n)
    )


def vector(*layers: int) -> SteeringVector:
    g = torch.Generator().manual_seed(0)
    return SteeringVector({k: torch.randn(WIDTH, generator=g) for k in layers or (1,)})


def slow(lm: LM, pair: Pair, iv: Intervention, multipliers: Sequence[float]) -> list[dict[str, float]]:
    """One pair at each multiplier, by full hooked passes."""
    rows = paired_rows(lm, pair)
    plain = [_logp(lm, row, []) for row in rows]
    return [_scores(pair, rows, plain, [_logp(lm, row, [iv.times(m)]) for row in rows]) for m in multipliers]


def _logp(lm: LM, row: Row, ivs: list[Intervention]) -> torch.Tensor:
    return lm.logits(lm.batch([row]), edits(ivs, Receipt())).log_softmax(-1)[0]


def _scores(
    pair: Pair, rows: tuple[Row, Row], plain: list[torch.Tensor], steered: list[torch.Tensor]
) -> dict[str, float]:
    choice = "matching_letter" in pair.meta
    spot = contrast_index(rows) if choice else rows[0].prompt
    answer = [plain[0][spot - 1], steered[0][spot - 1]]
    letters = rows[0].ids[spot], rows[1].ids[spot]
    said = [
        torch.stack([lp[i - 1, r.ids[i]] for i in range(r.prompt, len(r.ids))]).mean()
        for lp, r in zip(steered, rows, strict=True)
    ]
    raw = [
        sum(float(lp[i - 1, r.ids[i]]) for i in range(r.prompt, len(r.ids)))
        for lp, r in zip(steered, rows, strict=True)
    ]
    lead = float(answer[1][letters[0]] - answer[1][letters[1]]) if choice else raw[0] - raw[1]
    return {
        "matching": 1 / (1 + math.exp(-lead)),
        "matching:True": float(lead > 0),
        "propensity": float(answer[1][letters[0]] - answer[1][letters[1]] if choice else said[0] - said[1]),
        "likelihood": float(said[0]),
        "kl": float((answer[0].exp() * (answer[0] - answer[1])).sum()),
        "outside-mass": float(1 - answer[1][list(letters)].exp().sum()) if choice else math.nan,
    }


def one_token_answers() -> tuple[Pair, ...]:
    """Every other pair is answered by one token, so that its two rows are the same up to there."""
    return tuple(replace(p, positive="yes", negative="no") if k % 2 else p for k, p in enumerate(pairs()))


@pytest.mark.parametrize(
    ("name", "layers", "form"),
    crossed(
        ("llama", "gemma2", "gpt2", "falcon", "qwen3_next"), ((1,), (0, 2)), ("answers", "one token", "choices"),
        fast=lambda name, layers, form: name == "llama" or (layers, form) == ((0, 2), "one token"),
    ),
)  # fmt: skip
def test_scores_are_those_of_full_hooked_passes(form: str, layers: tuple[int, ...], name: str, tmp_path: Path) -> None:
    lm = pico(name)
    chosen = {"answers": pairs, "one token": one_token_answers, "choices": lambda: to_choices(pairs())}[form]()
    data = Dataset("toy", chosen, "choices" if form == "choices" else "answers")
    iv = Intervention(vector(*layers), positions="from_last_prompt_token")
    metrics = [Propensity(), Likelihood(), KL(), OutsideMass(), Matching(), Matching(hard=True)]
    run = measure(lm, iv, data, metrics, multipliers=GRID, to=tmp_path, controls={})
    table = run.table("all")
    for pair in data:
        for k, (m, scores) in enumerate(zip(GRID, slow(lm, pair, iv, GRID), strict=True)):
            for metric, expected in scores.items():
                _, items, values = table.curve(metric, "vector", None)
                found = values[items.index(pair.id), k]
                assert math.isclose(found, expected, rel_tol=1e-3, abs_tol=2e-5) or (
                    math.isnan(found) and math.isnan(expected)
                ), (metric, m)


@pytest.mark.parametrize(
    ("name", "at_once", "layers"),
    crossed(
        ("llama", "falcon", "qwen3_next"), (1, 4, 13, 1000), ((1,), (0, 2)),
        fast=lambda name, at_once, layers: name == "llama" and (at_once, layers) in ((4, (0, 2)), (1000, (1,))),
    ),
)  # fmt: skip
def test_vectors_that_share_replays_score_as_each_alone(
    layers: tuple[int, ...], at_once: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, data = pico(name), Dataset("toy", pairs())
    vectors = {
        str(k): replace(vector(*layers), vectors={j: x.roll(k) for j, x in vector(*layers).vectors.items()})
        for k in range(4)
    }
    alone = {
        k: measure(lm, Intervention(v), data, [Propensity(), KL()], to=tmp_path / k, multipliers=GRID, controls={})
        for k, v in vectors.items()
    }
    prefix = lm.prefix(chunks(lm, data, [Propensity()], Intervention(vectors["0"]).where)[0].tokens)
    monkeypatch.setattr(sys.modules["trimtab.evaluation.sweep"], "LOGITS", at_once * prefix.logits.numel())
    together = measure(
        lm, Intervention(vectors["0"]), data, [Propensity(), KL()], to=tmp_path / "all", multipliers=GRID,
        controls={k: vectors[k] for k in "123"},
    ).table("all")  # fmt: skip
    for k, run in alone.items():
        for metric in ("propensity", "kl"):
            _, items, values = together.curve(metric, "vector" if k == "0" else k, None)
            _, same, expected = run.table("all").curve(metric, "vector", None)
            assert items == same and np.allclose(values, expected, atol=2e-5), (k, metric)


def test_one_letter_needs_one_row(tmp_path: Path, lm: LM) -> None:
    """A/B questions with answer metrics alone run to the letter, and give what whole completions give."""
    data = Dataset("toy", to_choices(pairs()), "choices")
    iv = Intervention(vector(1), positions="from_last_prompt_token")
    short = (
        measure(lm, iv, data, [Propensity()], to=tmp_path / "a", controls={})
        .table("all")
        .curve("propensity", "vector", None)[2]
    )
    whole = (
        measure(lm, iv, data, [Propensity(), Likelihood()], to=tmp_path / "b", controls={})
        .table("all")
        .curve("propensity", "vector", None)[2]
    )
    assert np.allclose(np.sort(short, 0), np.sort(whole, 0), atol=1e-4)


def test_a_layer_sweep_is_each_layer_alone(tmp_path: Path, lm: LM) -> None:
    data, v = Dataset("toy", pairs()), vector(0, 1, 2, 3)
    sweep = measure(
        lm, Intervention(v), data, [Propensity()], layers=[0, 2, 3], to=tmp_path / "sweep", multipliers=GRID
    ).table("all")
    assert sweep.values("layer") == [0, 2, 3] and sweep.values("condition") == ["vector"]
    alone = measure(
        lm, Intervention(v.at(2)), data, [Propensity()], to=tmp_path / "alone", multipliers=GRID, controls={}
    ).table("all")
    assert np.allclose(
        sweep.curve("propensity", "vector", 2)[2], alone.curve("propensity", "vector", None)[2], atol=1e-5
    )


def test_controls_and_the_prompt_baseline_are_there_by_default(tmp_path: Path, lm: LM) -> None:
    data = Dataset("toy", pairs(), ask={"positive": "be kind", "negative": "be rude"})
    table = measure(lm, Intervention(vector(1)), data, [Propensity(), KL()], to=tmp_path).table("all")
    assert table.values("condition") == [
        "vector",
        "random-0",
        "random-1",
        "random-2",
        "prompt-positive",
        "prompt-negative",
    ]
    learned = learn(lm, Dataset("other", pairs(6, 40)), MeanDiff(), [1])
    table_of_learned = measure(lm, Intervention(learned), data, [Propensity()], to=tmp_path / "learned").table("all")
    assert table_of_learned.values("condition")[4:6] == ["shuffled-0", "shuffled-1"]
    said = lm.logprobs([p.prompt for p in data], [p.positive for p in data], system="be kind")
    other = lm.logprobs([p.prompt for p in data], [p.negative for p in data], system="be kind")
    _, items, values = table.curve("propensity", "prompt-positive", None)
    expected = {p.id: float(a.mean() - b.mean()) for p, a, b in zip(data, said, other, strict=True)}
    assert np.allclose(values[:, 0], [expected[i] for i in items], atol=1e-4)
    assert (table.curve("kl", "prompt-positive", None)[2] > 1e-6).all()


def test_multiplier_zero_moves_nothing(tmp_path: Path, lm: LM) -> None:
    table = measure(lm, Intervention(vector(1)), Dataset("toy", pairs()), [KL()], to=tmp_path, controls={}).table("all")
    m, _, values = table.curve("kl", "vector", None)
    assert (values[:, list(m).index(0.0)] == 0).all() and (values[:, list(m).index(1.0)] > 0).all()


def attempt(to: Path, at: int) -> int:
    """Measure in a fork of this process, which dies by kill -9 after `at` chunks; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def die(done: int, total: int) -> None:
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)

    measure(
        pico("llama"),
        Intervention(vector(0, 1, 2)),
        Dataset("toy", pairs(60)),
        [Propensity(), KL()],
        layers=[0, 1, 2],
        to=to,
        progress=die,
    )
    os._exit(0)


def killed_and_resumed(folder: str) -> None:
    """For a process of its own: forks want one without threads."""
    pico("llama")  # once, before the forks
    killed, whole = Path(folder) / "killed", Path(folder) / "whole"
    before: dict[Path, bytes] = {}
    for at, name in ((1, "all.jsonl"), (5, "all~2.jsonl")):
        assert attempt(killed, at) == -signal.SIGKILL
        file = killed / "scores" / name
        with file.open("ab") as f:
            f.write(b'{"metric": "propensity", "condition": "vec')  # a row the kill cut in two
        before[file] = file.read_bytes()
    assert attempt(killed, -1) == 0 and attempt(whole, -1) == 0
    assert all(file.read_bytes() == then for file, then in before.items()), "what another writer wrote stays as it is"
    after, undisturbed = (list(Run(folder).journal("all").rows()) for folder in (killed, whole))
    assert after == undisturbed and len(list((killed / "scores").iterdir())) == 3
    units = [
        line
        for file in (killed / "scores").iterdir()
        for line in file.read_text().splitlines()
        if line.startswith('{"complete"')
    ]
    assert len(units) == len(set(units)), "no unit twice"


@pytest.mark.slow
def test_kill_and_resume(tmp_path: Path) -> None:
    """kill -9 twice in the middle; the same call finishes with the very bytes of an undisturbed run, and repeats no
    unit.
    """
    code = (
        f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(Path(__file__).parent)!r}]; import test_sweep; "
        f"test_sweep.killed_and_resumed({str(tmp_path)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_finished_run_is_not_run_again(tmp_path: Path, lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    args = (lm, Intervention(vector(1)), Dataset("toy", pairs()), [Propensity()])
    measure(*args, to=tmp_path)
    monkeypatch.setattr(LM, "forward", lambda *a, **k: pytest.fail("ran a pass"))
    measure(*args, to=tmp_path)


def test_another_plan_is_refused(tmp_path: Path, lm: LM) -> None:
    data = Dataset("toy", pairs())
    measure(lm, Intervention(vector(1)), data, [Propensity()], to=tmp_path)
    with pytest.raises(RunError, match="holds another run") as caught:
        measure(lm, Intervention(vector(1)), data, [Propensity()], to=tmp_path, multipliers=(0.0, 1.0))
    assert "multipliers" in str(caught.value)


def test_a_folder_begun_with_other_batches_is_refused(tmp_path: Path, lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal names batches by number, so that going on would leave items out, or score them twice."""
    args = (lm, Intervention(vector(1)), Dataset("toy", pairs()), [Propensity()])
    measure(*args, to=tmp_path)
    monkeypatch.setattr("trimtab.evaluation.readings.ROWS", 4)
    with pytest.raises(RunError, match="holds another run") as caught:
        measure(*args, to=tmp_path)
    assert "its items are others" in str(caught.value)


def test_interventions_share_a_replay_at_one_layer_only(lm: LM) -> None:
    one, two, both = Intervention(vector(1)), Intervention(vector(2)), Intervention(vector(1, 2))
    prefix = lm.prefix(lm.tokens(["Do you like tea ?"]))
    keep = [prefix.start]
    assert len(replay_multipliers(lm, prefix, [one, one.times(2.0)], (0.5, 1.0), keep)) == 4
    assert len(replay_multipliers(lm, prefix, [both, two], (0.5,), keep, layer=2)) == 2
    for ivs in ([one, two], [both, both], [one, both]):
        with pytest.raises(SteerError, match="several interventions in one replay"):
            replay_multipliers(lm, prefix, ivs, (0.5, 1.0), keep)


def test_bad_calls_are_refused_before_any_work(tmp_path: Path, lm: LM) -> None:
    data, iv = Dataset("toy", pairs()), Intervention(vector(1))
    learned = learn(lm, data, MeanDiff(), [1])
    (tmp_path / "file").write_text("")
    long = Dataset("long", (*pairs(2), Pair("tea " * 300, "yes", "no")))
    cases = [
        (
            OverlapError,
            "also stand in the training data",
            lambda: measure(lm, Intervention(learned), data, [Propensity()], to=tmp_path / "x"),
        ),
        (
            RunError,
            "cannot write to the run folder",
            lambda: measure(lm, iv, data, [Propensity()], to=tmp_path / "file" / "run"),
        ),
        (
            RecipeError,
            "not a grid",
            lambda: measure(lm, iv, data, [Propensity()], to=tmp_path / "x", multipliers=(1.0, 2.0)),
        ),
        (RecipeError, "no metrics", lambda: measure(lm, iv, data, [], to=tmp_path / "x")),
        (
            TokenError,
            "longer than the model's context",
            lambda: measure(lm, iv, long, [Propensity()], to=tmp_path / "x"),
        ),
        (
            TokenError,
            "same tokens",
            lambda: measure(
                lm, iv, Dataset("d", (Pair("tea ?", "yes", "yes "), *pairs(1))), [Propensity()], to=tmp_path / "x"
            ),
        ),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert len(str(caught.value).splitlines()) <= 8
    assert not (tmp_path / "x").exists()
    with pytest.raises(SteerError, match="select no token"):
        measure(lm, Intervention(vector(1), positions='span("system")'), data, [Propensity()], to=tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_transcripts_are_resumed(tmp_path: Path, lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    run, iv = Run.create(tmp_path), Intervention(vector(1))
    transcripts(lm, iv, ["Do you like tea ?"], run, multipliers=(0.0, 1.0), max_new_tokens=4)
    rows = list(run.journal("../generations").rows())
    assert [r["multiplier"] for r in rows] == [0.0, 1.0]
    monkeypatch.setattr(LM, "generate", lambda *a, **k: pytest.fail("generated again"))
    transcripts(lm, iv, ["Do you like tea ?"], run, multipliers=(0.0, 1.0), max_new_tokens=4)
    assert list(run.journal("../generations").rows()) == rows
