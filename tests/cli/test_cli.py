"""The command line: quick help, one-screen errors, and every command on a small model in a folder."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from paths import TESTS
from pico import build, saved, tokenizer, toy_pairs
from trimtab import LM, Provenance, Use, cli, registry
from trimtab.runs import Run
from trimtab.steering.vector import SteeringVector

GOLDEN = TESTS / "golden"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model as a folder, as a user would have one."""
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(toy_pairs(tmp_path / "toy.jsonl"))


def call(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    cli.main(args)
    return capsys.readouterr().out


def test_help_is_frozen_and_needs_no_torch() -> None:
    code = (
        "import sys; from trimtab.cli import main; main(['--help']); sys.exit('torch' in sys.modules or "
        "'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == (GOLDEN / "help.txt").read_text()


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.COMMANDS:
        if name != "list":
            try:
                cli.main([name, "--help"])
            except SystemExit as end:
                assert end.code == 0
            printed = capsys.readouterr().out
            assert "usage: trimtab" in printed
            assert not speechless(printed), name


def speechless(printed: str) -> list[str]:
    """Flags without a line that says what they are, or with a metavariable nobody can read."""
    lines = [line.strip("│").rstrip() for line in printed.split("\n") if line.startswith("│")]
    bad: list[str] = []
    for k, line in enumerate(lines):
        if line.startswith(" -"):
            told = re.split(r"\s{2,}", line.strip())[1:] or [lines[k + 1].strip()]
            bad += [line] if told[0].startswith(("(", "-")) or "|" in line else []
    return bad


@pytest.mark.parametrize("method", sorted(registry.leaves("method")))
def test_the_flags_of_every_method_can_be_asked_for(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["learn", method, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "--split-seed" in printed and not speechless(printed)


def test_a_flag_without_a_line_is_found() -> None:
    assert speechless("│ --seed N   (default: 0)  │\n│ --to PATH  File. (default: x)  │\n") == [
        " --seed N   (default: 0)"
    ]
    assert speechless("│ --to {None}|PATH   A file.  │\n")


@pytest.mark.slow
def test_a_reader_who_leaves_is_no_error() -> None:
    program = "from trimtab.cli import main; main(['learn', 'one-shot', '--help'])"
    command = f'{sys.executable} -c "{program}" | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("usage: trimtab learn one-shot") and "Traceback" not in done.stderr


def test_one_shot_needs_no_data(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector = str(tmp_path / "one.safetensors")
    told = [
        "learn",
        "one-shot",
        "--prompt",
        "Do you like tea ?",
        "--promote",
        "Yes I like tea .",
        "--steps",
        "5",
        "--layers",
        "1",
        "3",
    ]
    learned = json.loads(call(capsys, *told, "--model", model, "--to", vector, "--json"))
    assert learned["layers"] == [1, 3] and learned["pairs"] == 0 and learned["figures"]["1"]["steps"] == 5
    assert SteeringVector.load(vector).made.figures["3"]["loss"] == learned["figures"]["3"]["loss"]
    with pytest.raises(SystemExit) as end:
        cli.main(["learn", "mean-diff", "--model", model])
    assert end.value.code == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.slow
def test_compare(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        told = [
            "learn",
            "one-shot",
            "--prompt",
            "Do you like tea ?",
            "--promote",
            "Yes I like tea .",
            "--steps",
            "5",
            "--layers",
            "1",
            "--seed",
            str(seed),
        ]
        call(capsys, *told, "--model", model, "--to", str(tmp_path / f"{seed}.safetensors"))
    both = [str(tmp_path / f"{seed}.safetensors") for seed in (0, 1)]
    told = json.loads(call(capsys, "compare", *both, "--json"))
    assert told["cosine"][0][0] == 1.0 and told["cosine"][0][1] == told["cosine"][1][0] < 1.0
    asked = ["--prompt", "Do you like tea ?", "--model", model]
    ways = json.loads(call(capsys, "paths", *both, *asked, "--promote", "Yes", "--points", "5", "--json"))["paths"]
    assert len(ways["1-0"]["losses"]) == 5 and ways["1-0"]["barrier"] >= 0
    assert "barrier" in call(capsys, "paths", *both, *asked, "--suppress", "Yes")
    (tmp_path / "positive").write_text("Do you like tea ?\nDo you like rain ?\n")
    (tmp_path / "negative").write_text("yes\nno\n")
    sides = ["--positive", str(tmp_path / "positive"), "--negative", str(tmp_path / "negative")]
    auc = json.loads(call(capsys, "detect", *both, *sides, "--model", model, "--json"))["auc"]
    assert len(auc) == 2 and all(0 <= a <= 1 for a in auc)


def test_learn_steer_measure_report(model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector, run = str(tmp_path / "v.safetensors"), str(tmp_path / "run")
    learned = json.loads(
        call(
            capsys,
            "learn",
            "probe",
            "--kind",
            "whitened",
            "--data",
            data,
            "--model",
            model,
            "--layers",
            "1",
            "2",
            "--to",
            vector,
            "--json",
        )
    )
    assert learned["layers"] == [1, 2] and SteeringVector.load(vector).made.method["kind"] == "whitened"
    said = json.loads(
        call(
            capsys,
            "steer",
            vector,
            "-p",
            "Do you like tea ?",
            "--model",
            model,
            "--layers",
            "1",
            "--max-new-tokens",
            "4",
            "--json",
        )
    )
    assert said["edited"] == {"1": said["edited"]["1"]} and said["generations"][0]["prompt"] == "Do you like tea ?"
    measured = json.loads(
        call(
            capsys,
            "measure",
            vector,
            "--data",
            data,
            "--model",
            model,
            "--to",
            run,
            "--layer",
            "1",
            "--multipliers",
            "-1",
            "0",
            "1",
            "--json",
        )
    )
    assert measured["folder"] == run and {"name", "value", "lo", "hi", "n", "unit", "control"} == set(
        measured["figures"][0]
    )
    assert call(capsys, "report", run).strip().splitlines()[-1] == run


@pytest.mark.slow
def test_run_prints_its_folder_last_and_resumes(
    model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'data = "{data}"\nmodel = "{model}"\nmultipliers = [-1.0, 0.0, 1.0]\ncontrols = 1\n'
        "samples = 2\nmax_new_tokens = 4\n"
    )
    folder = str(tmp_path / "run")
    assert call(capsys, "run", str(recipe), "--to", folder).strip().splitlines()[-1] == folder
    files = {p.name: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.name != "run.json"}
    assert {
        "summary.json",
        "report.html",
        "report.md",
        "vector.safetensors",
        "recipe.toml",
        "generations.jsonl",
    } <= set(files)
    call(capsys, "run", str(recipe), "--to", folder)
    assert {p.name: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.name != "run.json"} == files
    recipe.write_text(recipe.read_text() + "seed = 1\n")
    with pytest.raises(SystemExit):
        cli.main(["run", str(recipe), "--to", folder])
    assert "another recipe" in capsys.readouterr().err


def test_doctor(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(call(capsys, "doctor", model, "--json"))
    assert facts["blocks"] == 4 and facts["blocks_path"] == "model.layers" and facts["letters_differ_in_one_token"]
    assert facts["replay_exact"] and 0 <= facts["replay_error"] < 1e-4 and facts["pass_seconds"] > 0
    told = call(capsys, "doctor", model)
    assert "4 at model.layers" in told and "exact, largest relative error" in told and "in one token" in told


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(call(capsys, "list", "--json"))
    assert "optimism" in found["behaviors"] and "mean-diff" in found["methods"] and "kl" in found["metrics"]


def test_chat(model: str, tmp_path: Path) -> None:
    from trimtab.cli.chat import Talk
    from trimtab.model import LM
    from trimtab.steering.interventions import Intervention

    lm, said = LM.load(model), list[str]()
    turns = io.StringIO("Do you like tea ?\n/m 2\n/m two\n/what\n/clear\nyes\n/quit\nno\n")
    iv = Intervention(SteeringVector({1: torch.ones(lm.width)}))
    Talk(lm, (iv,), turns.readline, said.append, 4, 0.0, 0).run()
    text = "".join(said)
    assert "multiplier 2" in text and "not a number" in text and text.count("> ") == 7


def test_chat_commands(model: str) -> None:
    """Layers, both answers, another try, a system message; ctrl-C ends the answer, not the conversation."""
    from trimtab.cli.chat import Talk
    from trimtab.model import LM
    from trimtab.steering.interventions import Intervention

    lm, said = LM.load(model), list[str]()
    v = SteeringVector({1: 30 * torch.ones(lm.width), 2: torch.ones(lm.width)})
    lines = ["yes", "/both", "no", "/layer 2", "/layer 7", "/layer x", "/retry", "/system A B", "tea", "/system"]
    turns = io.StringIO("\n".join([*lines, "/nonsense", "/help", ""]))
    iv = Intervention(v.at(1))
    talk = Talk(lm, (iv,), turns.readline, said.append, 4, 0.7, 0, vector=lambda k: Intervention(v.at(k)))
    talk.run()
    text = "".join(said)
    assert "multiplier 1 at layer 1" in text and "multiplier 1 at layer 2" in text
    assert text.count("unsteered: ") == text.count("\nsteered: ") == 3
    assert "no layer 7" in text and "not a layer" in text
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 3 and talk.system is None
    assert "not a command" in text and text.count("/retry         ") == 2

    heard = list[str]()
    stopped = Talk(lm, (), io.StringIO("yes\nno\n").readline, heard.append, 4, 0.0, 0)
    generate = lm.generate

    def interrupted(prompts: list[list[dict[str, str]]], **how: object) -> list[str]:
        if len(prompts[0]) == 1:
            raise KeyboardInterrupt
        return generate(prompts, **how)  # type: ignore[arg-type]

    lm.generate = interrupted  # type: ignore[method-assign]
    stopped.run()
    assert "[stopped]" in "".join(heard) and len(stopped.messages) == 4


def test_a_line_of_several_vectors(model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a conversation, in a measurement, in a recipe, and what it costs."""
    from trimtab.cli.chat import Talk
    from trimtab.cli.flags import UseFlags
    from trimtab.cli.learning import of_line

    lm, folder, said = LM.load(model), tmp_path / "vectors", list[str]()
    folder.mkdir()
    for k, name in ((1, "tea"), (2, "sun")):
        g = torch.Generator().manual_seed(k)
        v = SteeringVector({k: torch.randn(lm.width, generator=g)}, Provenance.of(lm), use=Use((k,), 2.0))
        v.save(folder / f"{name}.safetensors")
    lines = [
        "/m 2",
        "yes",
        "/steer tea - 0.5 sun",
        "/m 2",
        "/layer 1",
        "/both",
        "yes",
        "/steer",
        "yes",
        "/steer 1 no",
        "",
    ]
    read = partial(of_line, folder=folder, use=UseFlags())
    Talk(lm, (), io.StringIO("\n".join(lines)).readline, said.append, 4, 0.0, 0, line=read).run()
    text = "".join(said)
    assert "multiplier 2 at layer 1 and multiplier -0.5 at layer 2" in text and text.count("is for one vector") == 3
    assert text.count("no vector.") == 1 and "unknown vector 'no'" in text and text.count("unsteered: ") == 1
    said.clear()
    Talk(lm, (), io.StringIO("/steer tea\n").readline, said.append, 4, 0.0, 0).run()
    assert "no folder of vectors" in "".join(said)

    line, run = "tea - 0.5 sun", tmp_path / "run"
    by = ["--vectors", str(folder), "--model", model]
    told = json.loads(call(capsys, "measure", line, "--data", data, "--to", str(run), "--draws", "3", *by, "--json"))
    assert told["folder"] == str(run)
    recipe = tmp_path / "line.toml"
    text = f"data = {data!r}\nmodel = {model!r}\nvector = {line!r}\nvectors = {str(folder)!r}\ndraws = 3\nsamples = 2\n"
    recipe.write_text(text)
    again = tmp_path / "again"
    call(capsys, "run", str(recipe), "--to", str(again), "--json")
    a, b = (Run(f).table("test").curve("propensity", "vector", None)[2] for f in (run, again))
    np.testing.assert_allclose(a[:, [0, 3, 6]], b[:, [0, 3, 6]], atol=1e-6)
    found = SteeringVector.load(again / "vector.safetensors")
    assert (
        found.layers == (1, 2) and found.evidence is not None and found.use is not None and found.use.dose is not None
    )
    SteeringVector({1: torch.ones(lm.width)}, Provenance.of(lm), use=Use((1,), 2.0)).save(folder / "tea.safetensors")
    with pytest.raises(SystemExit):
        cli.main(["run", str(recipe), "--to", str(again)])
    assert "another vector" in capsys.readouterr().err


def test_list_reads_names_from_the_sources() -> None:
    for kind in registry.HOMES:
        assert registry.named(kind) == sorted(registry.leaves(kind))


def test_several_layers_that_were_learned_apart_are_used_with_a_warning(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trimtab import Provenance

    width = LM.load(model).width
    v = SteeringVector({1: torch.ones(width), 2: torch.ones(width)}, Provenance(method={"name": "mean-diff"}))
    file = str(v.save(tmp_path / "v.safetensors"))
    cli.main(["steer", file, "--model", model, "-p", "yes", "--layers", "1", "2", "--max-new-tokens", "2"])
    assert "learned to act alone are used together" in capsys.readouterr().err
    cli.main(["steer", file, "--model", model, "-p", "yes", "--layer", "2", "--max-new-tokens", "2"])
    told = capsys.readouterr()
    assert "warning" not in told.err and "{2:" in told.out


@pytest.mark.slow
def test_learn_recommends_a_use_and_the_others_follow_it(
    model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """learn measures the dose, says before how long it takes, and steer, measure and the report use what it found."""
    from trimtab.evaluation import dose

    monkeypatch.setattr(dose, "neutral", lambda: ("Do you like tea ?", "Do you like rain ?", "Do you like the sun ?"))
    monkeypatch.setattr(dose, "TOKENS", 4)
    file = str(tmp_path / "v.safetensors")
    cli.main(["learn", "mean-diff", "--data", data, "--model", model, "--to", file])
    told = capsys.readouterr()
    use = SteeringVector.load(file).use
    assert use is not None and use.dose is not None and "measuring the dose: about" in told.err
    assert f"use it at layer {use.layers[0]}, multiplier {use.multiplier:g}" in told.out and "drift" in told.out
    cli.main(["steer", file, "--model", model, "-p", "yes", "--max-new-tokens", "2", "--json"])
    assert list(json.loads(capsys.readouterr().out)["edited"]) == [str(use.layers[0])]
    cli.main(["measure", file, "--model", model, "--data", data, "--to", str(tmp_path / "run"), "--draws", "0"])
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["parts"]["test"]
    assert plan["multipliers"] == list(use.grid)
    assert "Use this vector" in (tmp_path / "run" / "report.html").read_text()
    cli.main(["learn", "mean-diff", "--data", data, "--model", model, "--to", file, "--no-dose"])
    assert SteeringVector.load(file).use is None and "no use recommended" in capsys.readouterr().out
    cli.main(["dose", file, "--model", model, "--layer", "1"])
    again = SteeringVector.load(file).use
    assert again is not None and again.layers == (1,) and again.ship is None


ERRORS = {
    "unknown command": (["lern"], "did you mean 'learn'"),
    "unknown method": (["learn", "mean-dif"], "did you mean 'mean-diff'"),
    "unknown data": (["learn", "pca", "--data", "optimsm"], "did you mean 'optimism'"),
    "missing recipe": (["run", "nowhere.toml", "--to", "x"], "no such recipe"),
    "missing vector": (["steer", "nowhere.safetensors", "-p", "Hi"], "no such file"),
    "missing model": (["doctor", "/nowhere/at/all"], "cannot load model"),
    "bad dtype": (["doctor", "smollm2", "--dtype", "float7"], "unknown dtype"),
    "empty folder": (["report", "nowhere"], "no such folder"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_screen_on_stderr(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    args, message = ERRORS[case]
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    shown = capsys.readouterr()
    assert end.value.code == 2 and message in shown.err and shown.err.startswith("error: ") and shown.out == ""
    assert len(shown.err.splitlines()) <= 8 and "Traceback" not in shown.err


def test_one_pair_and_layers_out_of_range(
    model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "Do you like tea ?", "positive": "yes", "negative": "no"}')
    for args, message in (
        (["--data", str(tmp_path / "one.jsonl"), "--part", "all"], "at least 2: a mean needs several"),
        (["--data", data, "--layers", "99"], "layer out of range"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["learn", "mean-diff", "--model", model, "--to", str(tmp_path / "v.safetensors"), *args])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "v.safetensors").exists()


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    for command, words in (
        (["run", "x"], "same command"),
        (["learn", "one-shot"], "same command"),
        (["learn", "pca"], "keeps nothing"),
        (["list"], "keeps nothing"),
    ):
        monkeypatch.setitem(cli.COMMANDS, command[0], stop)
        with pytest.raises(SystemExit) as end:
            cli.main(command)
        assert end.value.code == 130 and words in capsys.readouterr().err, command


NOWHERE = {
    "learn": (["learn", "mean-diff", "--data", "{data}", "--to", "{tmp}/v.pt"], "ends in .safetensors"),
    "learn one-shot": (
        ["learn", "one-shot", "--prompt", "x", "--promote", "y", "--to", "{data}/v.safetensors"],
        "cannot write to",
    ),
    "measure": (["measure", "{vector}", "--data", "{data}", "--to", "{data}/run"], "cannot write to the run folder"),
    "run": (["run", "{recipe}", "--to", "{data}/run"], "cannot write to the run folder"),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_where_a_command_writes_is_looked_at_before_it_works(
    name: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trimtab.model.LM.load", lambda *_, **__: pytest.fail("it worked before it looked"))
    (tmp_path / "r.toml").write_text(f'data = "{data}"\n')
    vector = SteeringVector({1: torch.ones(32)}).save(tmp_path / "v.safetensors")
    command, words = NOWHERE[name]
    with pytest.raises(SystemExit):
        cli.main([part.format(data=data, tmp=tmp_path, vector=vector, recipe=tmp_path / "r.toml") for part in command])
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_parents_are_made_and_an_interrupted_descent_goes_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trimtab.optimize import engine, store

    to = tmp_path / "new" / "folder" / "v.safetensors"
    command = [
        "learn",
        "one-shot",
        "--model",
        model,
        "--prompt",
        "Do you like tea ?",
        "--promote",
        "yes I think so",
        "--layers",
        "1",
        "--steps",
        "12",
        "--to",
        str(to),
        "--json",
    ]
    step, steps = engine._step, list[int]()

    def stopping(*args: object) -> None:
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_step", stopping)
    monkeypatch.setattr(store.Kept, "due", lambda self, seconds: True)
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert (
        end.value.code == 130
        and "same command goes on" in capsys.readouterr().err
        and to.with_suffix(".state").is_dir()
    )
    cli.main(command)
    assert len(steps) == 7 + 13 - 6 and to.is_file() and not to.with_suffix(".state").exists()


@pytest.mark.slow
def test_a_base_model_is_learned_on_and_measured_without_its_template(
    model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to, run = tmp_path / "v.safetensors", tmp_path / "run"
    call(
        capsys,
        "learn",
        "mean-diff",
        "--model",
        model,
        "--data",
        data,
        "--to",
        str(to),
        "--layers",
        "1",
        "--no-chat",
        "--between",
        " : ",
        "--json",
    )
    call(
        capsys,
        "measure",
        str(to),
        "--model",
        model,
        "--data",
        data,
        "--to",
        str(run),
        "--no-chat",
        "--between",
        " : ",
        "--json",
    )
    plan = json.loads((run / "run.json").read_text())["parts"]["test"]["model"]["rendering"]
    assert plan["chat"] is False and plan["separator"] == " : "
    (tmp_path / "r.toml").write_text(
        f'data = "{data}"\nmodel = "{model}"\nchat = false\nlayer = 1\ntemplate = {{ enable_thinking = false }}\n'
        "samples = 0\ncontrols = 0\n"
    )
    call(capsys, "run", str(tmp_path / "r.toml"), "--to", str(tmp_path / "whole"), "--json")
    plan = json.loads((tmp_path / "whole" / "run.json").read_text())["parts"]["test"]["model"]["rendering"]
    assert plan["chat"] is False and plan["template"] == {"enable_thinking": False}
    with pytest.raises(SystemExit):
        cli.main(["doctor", model, "--device", "nowhere-at-all"])


def test_what_is_printed_for_machines_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.cli.flags import show

    show({"a": float("nan"), "b": (1.0, float("inf"))}, True, [])
    assert json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name)) == {
        "a": None,
        "b": [1.0, None],
    }


def test_a_console_that_is_not_utf8_shows_what_it_can(model: str, tmp_path: Path) -> None:
    code = (
        "import sys; from trimtab.cli import main; from trimtab.cli.flags import say; import trimtab.cli as c; "
        "c._speak_any_text(); say('caf\\u00e9 \\u2603')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False
    )
    assert done.returncode == 0 and done.stdout == b"caf\\xe9 \\u2603"


def test_the_report_of_a_studys_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.runs import Run

    folder = Run.create(tmp_path / "study")
    folder.note(study="refusal")
    folder.claim("study", {"plan": {}})
    with pytest.raises(SystemExit):
        cli.main(["report", str(folder.path)])
    err = capsys.readouterr().err
    assert "results.json is not there" in err and "run the same command again" in err


def test_a_turn_that_fails_leaves_the_conversation_as_it_was() -> None:
    from trimtab.cli.chat import Talk
    from trimtab.errors import TokenError

    lm, heard, lines = LM(build("llama"), tokenizer(), id="talk"), list[list[str]](), ["tea\n", "rain\n", "sun\n", ""]
    generate = lm.generate

    def failing(prompts: list[list[dict[str, str]]], **how: object) -> list[str]:
        heard.append([m["content"] for m in prompts[0]])
        if len(heard) == 2:
            raise TokenError("too long")
        return generate(prompts, **how)  # type: ignore[arg-type]

    lm.generate = failing  # type: ignore[method-assign]
    Talk(lm, (), lambda: lines.pop(0), lambda text: None, 2, 0.0, 0).run()
    assert len(heard) == 3 and heard[2] == [*heard[0], heard[1][1], "sun"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["steer", "{vector}", "-p", "hi", "--positions", "after(tea)"], "not a set of positions"),
        (["steer", "{vector}", "-p", "hi", "--positions", "after(3)"], "not a set of positions"),
        (["steer", "{vector}", "-p", "hi", "--temperature", "nan"], "temperature is not a number one can use"),
        (["chat", "{vector}", "--max-new-tokens", "0"], "out of range"),
        (
            ["measure", "{vector}", "--data", "{data}", "--to", "{tmp}/run", "--multipliers", "nan", "0"],
            "multipliers is not a number one can use",
        ),
        (["measure", "{vector}", "--data", "{data}", "--to", "{tmp}/run", "--template", "nonsense"], "not a keyword"),
        (["detect", "{vector}", "--positive", "nowhere", "--negative", "{data}"], "no such file"),
        (["compare", "{vector}", "{narrow}"], "vectors of different models"),
        (["report", "{tmp}/nowhere"], "no such folder"),
        (["report", "{tmp}/odd"], "not the manifest of a run"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_screen_before_any_work(
    command: list[str],
    words: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("trimtab.model.LM.load", lambda *_, **__: pytest.fail("it worked before it looked"))
    places = {
        "data": data,
        "tmp": tmp_path,
        "vector": SteeringVector({1: torch.ones(32)}).save(tmp_path / "v.safetensors"),
    }
    places["narrow"] = SteeringVector({1: torch.ones(16)}).save(tmp_path / "n.safetensors")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text("[]")
    with pytest.raises(SystemExit) as end:
        cli.main([part.format(**places) for part in command])
    assert end.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
