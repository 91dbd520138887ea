"""What a recipe will cost: stand-ins take the passes of the model they stand for, and the sums are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pico import saved, toy_pairs
from trimtab import cli
from trimtab.errors import RunError, TrimtabError
from trimtab.planning import Plan, StagePlan, plan, standin
from trimtab.planning.clock import Clock
from trimtab.planning.counting import Call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("model"))


def clock(**more: float) -> Clock:
    """A machine on which a token takes a second in a block, two with a gradient, and none in the head."""
    curves = {"block": [(1, 1.0), (10, 10.0)], "block grad": [(1, 2.0), (10, 20.0)], "head": [(1, 0.0), (2, 0.0)]}
    settings = {"pair": 0.0, "saved": 0.0, "inner": 0.0, **more}
    return Clock("x", {**curves, "head grad": [(1, 0.0), (2, 0.0)]}, **settings)  # type: ignore[arg-type]


def recipe(folder: Path, model: str, more: str = "") -> Path:
    file = folder / "r.toml"
    data = toy_pairs(folder / "toy.jsonl")
    file.write_text(
        f'data = "{data}"\nmodel = "{model}"\nmultipliers = [-1.0, 0.0, 1.0]\ncontrols = 1\ndraws = 3\n'
        f"max_new_tokens = 4\ndose = false\n{more}" + ("" if "samples" in more else "samples = 2\n")
    )
    return file


@pytest.mark.parametrize("more", ["samples = 0\n", "samples = 0\nlayer = 1\n"])
def test_a_stand_in_takes_the_passes_of_its_model(
    more: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe(tmp_path, model, more)
    itself, _ = plan(file, clocks={model: clock()})
    monkeypatch.setattr(standin, "SMALL", 0)
    monkeypatch.setattr(standin, "HEAD", 4)
    thin, _ = plan(file, clocks={model: clock()})
    names = ["learn", "measure"] if "layer" in more else ["learn", "choose layer", "measure"]
    assert [s.name for s in thin.stages] == names and not thin.stopped
    for one, other in zip(itself.stages, thin.stages, strict=True):
        if one.name != "measure" or "layer" in more:  # which layer is chosen says how many blocks are run above it
            assert (one.units, one.passes, one.tokens) == (other.units, other.passes, other.tokens), one.name
    depth = 4
    learning = thin.stages[0]  # a second for each token in each block, whatever the stand-in took
    assert sum(learning.seconds) == pytest.approx(depth * learning.tokens, rel=0.2)
    assert itself.models[model] == thin.models[model] > 0


def test_kept_prefixes_are_told_in_the_models_own_width(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe(tmp_path, model, "layer = 1\n")
    itself, _ = plan(file, clocks={model: clock()})
    monkeypatch.setattr(standin, "SMALL", 0)
    monkeypatch.setattr(standin, "HEAD", 4)
    thin, _ = plan(file, clocks={model: clock()})
    without = [p.memory - p.models[model] for p in (itself, thin)]
    assert without[0] == pytest.approx(without[1], rel=0.2)


def test_a_descent_has_gradients_and_keeps_their_values(model: str, tmp_path: Path) -> None:
    file = recipe(tmp_path, model, 'layer = 1\nmethod = { name = "one-shot", examples = 1, steps = 5 }\n')
    cheap, _ = plan(file, clocks={model: clock()})
    dear, _ = plan(file, clocks={model: clock(saved=1e9)})
    assert dear.stages[0].memory > cheap.stages[0].memory + 1e9
    assert cheap.stages[0].passes >= 5


def test_time_by_size_and_workers() -> None:
    one = clock(pair=1.0)
    assert one.seconds(Call("block", 5, 0, False)) == pytest.approx(5.0)
    assert one.seconds(Call("block", 100, 0, False)) == pytest.approx(100.0), "in proportion beyond what was measured"
    assert one.seconds(Call("block", 10, 10 * 132, True)) == pytest.approx(20.0 + 3 * 1000)
    stages = (StagePlan("a", 3, 0, 0, (3.0, 2.0, 2.0), 1.0), StagePlan("b", 1, 0, 0, (5.0,), 1.0))
    alone, two = (Plan({}, "", n, stages, 1.0, 10.0, 1.0) for n in (1, 2))
    assert alone.seconds == 10 + 1 + 7 + 5 and two.seconds == 10 + 1 + 4 + 5


def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, speed = recipe(tmp_path, model, "layer = 1\n"), tmp_path / "speed.json"
    cli.main(["plan", str(file), "--save", str(speed), "--threads", "1"])
    out = capsys.readouterr().out
    assert "learn" in out and "all of it" in out and model in out
    cli.main(["plan", str(file), "--hardware", str(speed), "--workers", "2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["workers"] == 2 and told["seconds"] > 0 and {s["name"] for s in told["stages"]} == {"learn", "measure"}
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_planned_is_said(model: str, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}x")
    with pytest.raises(RunError, match="how fast"):
        Clock.read(tmp_path / "no.json")
    with pytest.raises(TrimtabError):
        plan(recipe(tmp_path, model, 'vector = "v.safetensors"\n'))
    with pytest.raises(TrimtabError):
        plan(recipe(tmp_path, str(tmp_path / "nowhere")))
    for flags in (["--workers", "0"], ["--threads", "0"], ["--hardware", str(tmp_path / "none.json")]):
        with pytest.raises(SystemExit):
            cli.main(["plan", str(recipe(tmp_path, model)), *flags])
