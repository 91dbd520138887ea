"""Bad input, by kind, over all commands and recipes: refused before any work, in one screen that names the field and
what was given, with exit status 2 and nothing written; none accepted, none a traceback, none slow.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pico import build, tokenizer, toy_pairs
from trimtab import Provenance, SteeringVector, cli

PATIENCE = 10.0  # seconds


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model, pairs, vectors, and files that are not what they seem."""
    folder = tmp_path_factory.mktemp("bad")
    model = build("llama")
    model.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    toy_pairs(folder / "pairs.jsonl")
    width, made = model.config.hidden_size, Provenance(method={"name": "mean-diff"})
    SteeringVector({1: torch.ones(width), 2: torch.ones(width)}, made).save(folder / "v.safetensors")
    SteeringVector({1: torch.ones(width)}, made).save(folder / "one.safetensors")
    SteeringVector({1: torch.ones(7)}).save(folder / "narrow.safetensors")
    SteeringVector({40: torch.ones(width)}).save(folder / "deep.safetensors")
    (folder / "text.safetensors").write_text("no tensors")
    (folder / "latin.csv").write_bytes("prompt,positive,negative\ncaf\xe9,yes,no\n".encode("latin-1"))
    (folder / "pickle.csv").write_bytes(b"\x80\x04\x95 pickle")
    (folder / "empty.jsonl").write_text("")
    (folder / "half.jsonl").write_text('{"prompt": "a"')
    (folder / "list.json").write_text('{"prompt": "a"}')
    (folder / "columns.csv").write_text("a,b\n1,2\n")
    (folder / "same.jsonl").write_text('{"prompt": "a", "positive": "b", "negative": "b"}\n')
    (folder / "blank.jsonl").write_text('{"prompt": " ", "positive": "b", "negative": "c"}\n')
    (folder / "number.jsonl").write_text('{"prompt": 3, "positive": "b", "negative": "c"}\n')
    (folder / "turns.jsonl").write_text('{"prompt": "a", "positive": "b", "negative": "c", "history": "hello"}\n')
    (folder / "rules.jsonl").write_text('{"prompt": "a", "positive": "b", "negative": "c", "system": 4}\n')
    (folder / "bot.jsonl").write_text(
        '{"prompt": [{"role": "assistant", "content": "a"}], "positive": "b", "negative": "c"}\n'
    )
    (folder / "answers.jsonl").write_text('{"question": "a", "answer": "b", "human": "good"}\n')
    (folder / "mute.jsonl").write_text('{"question": "a"}\n')
    (folder / "prompts.txt").write_text("Do you like tea ?\n")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.doc").write_text("mine")
    (folder / "hollow").mkdir()
    (folder / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 40)
    torch.save({"1": torch.ones(width)}, folder / "weights.pt")
    save_file({"W_dec": torch.ones(5, width)}, folder / "sae.safetensors")
    return folder


VECTOR = ["{h}/v.safetensors", "--model", "{h}/model"]
ON = ["--model", "{h}/model"]
ONE = ["learn", "one-shot", "--prompt", "Do you like tea ?", "--promote", "yes", *ON, "--to", "{h}/new.safetensors"]
PAIRS = ["--data", "{h}/pairs.jsonl", *ON, "--to", "{h}/new.safetensors"]
MEASURE = ["measure", *VECTOR, "--data", "{h}/pairs.jsonl", "--layer", "1", "--to", "{h}/new-run"]
STEER = ["steer", *VECTOR, "-p", "Do you like tea ?"]
NUMBERS = ("nan", "inf", "-inf", "1e30", "many")


def flags() -> Iterator[tuple[str, ...]]:
    """Commands with a flag that is out of range, of another type, unknown, or lacks its value."""
    floats = {"one-shot": ("norm", "rate", "coldness"), "preference": ("rate", "beta", "clip")}
    for flag in floats["one-shot"]:
        yield from ((*ONE, f"--{flag}", bad) for bad in (*NUMBERS, "0", "-1"))
    for flag in ("examples", "steps"):
        yield from ((*ONE, f"--{flag}", bad) for bad in ("0", "-3", "1.5", "nan", "many"))
    yield from ((*ONE, "--target", bad) for bad in NUMBERS)
    for flag, bad in (("mode", "sideways"), ("positions", "nowhere"), ("operator", "ad"), ("site", "attention")):
        yield (*ONE, f"--{flag}", bad)
    for flag in floats["preference"]:
        yield from (("learn", "preference", *PAIRS, f"--{flag}", bad) for bad in (*NUMBERS, "0", "-1"))
    for flag in ("batch", "epochs", "patience", "sample", "every"):
        yield from (("learn", "preference", *PAIRS, f"--{flag}", bad) for bad in ("0", "-1", "1.5", "few"))
    yield from (("learn", "preference", *PAIRS, "--norm", bad) for bad in (*NUMBERS, "-1"))
    yield from (("learn", "preference", *PAIRS, "--validation", bad) for bad in ("1", "2", "-0.1", "nan"))
    yield from (("learn", "preference", *PAIRS, f"--{f}", "x") for f in ("loss", "signs", "positions"))
    for flag in ("norm", "rate"):
        yield from (("learn", "discover", *PAIRS, f"--{flag}", bad) for bad in (*NUMBERS, "0", "-1"))
    yield from (("learn", "discover", *PAIRS, f"--{f}", bad) for f in ("examples", "steps") for bad in ("0", "-1", "x"))
    yield from (("learn", "probe", *PAIRS, "--C", bad) for bad in (*NUMBERS, "0", "-1"))
    yield ("learn", "probe", *PAIRS, "--kind", "guess")
    for method in ("mean-diff", "pca", "probe"):
        yield from (("learn", method, *PAIRS, "--layers", bad) for bad in ("-1", "40", "one", "1.5", "nan"))
        yield from (("learn", method, *PAIRS, "--part", bad) for bad in ("exam", "0"))
        yield from (("learn", method, *PAIRS, "--form", bad) for bad in ("essay", ""))
        yield from (("learn", method, *PAIRS, "--device", bad) for bad in ("tpu9", "cuda:99", ""))
        yield from (("learn", method, *PAIRS, "--dtype", bad) for bad in ("int8", "float7", "8"))
        yield ("learn", method, *PAIRS, "--template", "thinking")
        yield ("learn", method, *PAIRS, "--nosuch", "1")
        yield ("learn", method, *ON)
        yield from (("learn", method, "--data", d, *ON) for d in ("optimsm", "nowhere.jsonl", "brindlemoor/greedy"))
    run = ("run", "first-light", "--to", "{h}/new-run")
    yield from ((*run, "--workers", bad) for bad in ("", "local", "local:0", "local:x", "slurm:", "kubernetes:2"))
    yield from ((*run, "--shard", bad) for bad in ("", "0/2", "3/2", "1", "a/b", "1/0"))
    yield from ((*run, "--threads", bad) for bad in ("0", "-1", "x"))
    yield (*run, "--workers", "local:2", "--shard", "1/2")
    yield (*run, "--count", "2")
    yield from (("merge", bad) for bad in ("{h}/foreign", "{h}/nowhere", "{h}/pairs.jsonl"))
    yield from ((*STEER, "--multiplier", bad) for bad in (*NUMBERS, "1e7"))
    yield from ((*STEER, "--layers", bad) for bad in ("4", "-1", "one", "1.5"))
    yield from (
        (*STEER, "--layer", "1", "--positions", bad) for bad in ("nowhere", "last_k(0)", "after()", "1 +", "span")
    )
    yield from ((*STEER, "--layer", "1", "--operator", bad) for bad in ("ad", "", "addd"))
    yield from ((*STEER, "--layer", "1", "--temperature", bad) for bad in ("nan", "-1", "inf", "hot"))
    yield from ((*STEER, "--layer", "1", "--max-new-tokens", bad) for bad in ("0", "-4", "1.5", "x"))
    yield from (("steer", *VECTOR, "--layer", "1", *said) for said in (["-p"], ["-p", ""], ["-p", " "], []))
    yield (*ONE, "--promote", "no")  # given twice
    yield from ((*ONE, "--noise", bad) for bad in ("loud", ""))
    yield from ((*ONE, "--bound", bad) for bad in ("box", "0.1"))
    yield from ((*ONE, flag, bad) for flag in ("--rank", "--member", "--shorten") for bad in ("-1", "1.5", "x"))
    yield from ((*ONE, flag, bad) for flag in ("--noise-size", "--start") for bad in ("0", "-1", "nan"))
    yield from ((*ONE, *bad) for bad in (["--operator", "affine"], ["--rank", "1"], ["--matrix-alone"]))
    yield (*ONE, "--anchor", "nan")
    yield (*STEER, "--layer", "1", "--layer", "2")
    line = ["--vectors", "{h}", "-p", "Do you like tea ?", *ON]
    for bad in ("nosuch", "2 one two", "one @ nowhere", "one@shop", "", "1e9 one"):
        yield ("steer", bad, *line)
    yield ("steer", "one", *line, "--layer", "1")
    yield ("steer", "one", "--vectors", "{h}/hollow", "-p", "a", *ON)
    yield STEER  # two layers that were learned apart, and no word which
    yield from (("chat", *VECTOR, "--layer", "1", "--max-new-tokens", bad) for bad in ("0", "-1", "x"))
    yield from (("chat", *VECTOR, "--layer", "1", "--temperature", bad) for bad in ("nan", "-1", "inf"))
    yield from (("chat", *VECTOR, "--layer", bad) for bad in ("7", "-1"))
    yield from (("chat", *VECTOR, "--layer", "1", "--multiplier", bad) for bad in NUMBERS)
    yield from (
        (*MEASURE, "--multipliers", *bad) for bad in (["1"], ["1", "2"], ["0", "0"], ["0", "nan"], ["0", "1e30"])
    )
    yield from ((*MEASURE, "--metrics", bad) for bad in ("propensty", "", "loss"))
    yield from ((*MEASURE, "--positions", bad) for bad in ("nowhere", "after(3)"))
    yield from ((*MEASURE[:-4], "--layer", bad, "--to", "{h}/new-run") for bad in ("7", "-1", "x"))
    yield from ((*MEASURE[:-1], "{h}/foreign"), (*MEASURE[:-1], "{h}/prompts.txt"), (*MEASURE, "--part", "exam"))
    cost = ["capability", "{h}/one.safetensors", *ON, "--to", "{h}/new-run"]
    yield from ((*cost, "--limit", bad) for bad in ("0", "-1", "1.5", "nan", "few"))
    yield from ((*cost, "--randoms", bad) for bad in ("-1", "1.5", "some"))
    yield from ((*cost, "--multipliers", *bad) for bad in (["1"], ["0"], ["0", "0"], ["0", "nan"], ["0", "1e30"]))
    yield from (
        (*cost, "--questions", bad) for bad in ("knowlege", "{h}/latin.csv", "{h}/columns.csv", "{h}/empty.jsonl")
    )
    yield (*cost, "--questions")
    yield from ((*cost, "--tasks", "mmlu", "--task-folder", bad) for bad in ("{h}/nowhere", "{h}/prompts.txt"))
    yield from (("capability", v, *ON, "--to", "{h}/new-run") for v in ("{h}/text.safetensors", "{h}/none.safetensors"))
    yield from (("capability", v, *ON, "--to", "{h}/new-run") for v in ("{h}/narrow.safetensors", "{h}/v.safetensors"))
    yield ("capability", "{h}/one.safetensors", *ON)
    yield from ((*cost[:-1], bad) for bad in ("{h}/foreign", "{h}/prompts.txt"))
    yield from (("dose", *VECTOR, "--layer", bad) for bad in ("7", "-1", "x"))
    yield from (("dose", *VECTOR, "--data", d) for d in ("optimsm", "{h}/latin.csv"))
    yield ("dose", *VECTOR, "--to", "{h}/v.pt")
    paths = ["paths", "{h}/v.safetensors", "{h}/v.safetensors", "--prompt", "Do you like tea ?", *ON]
    yield paths  # no loss
    yield from ((*paths, "--promote", "yes", "--points", bad) for bad in ("0", "1", "-2", "x"))
    yield ("paths", "{h}/v.safetensors", "--prompt", "a", "--promote", "yes", *ON)
    detect = ["detect", "{h}/v.safetensors", *ON]
    yield (*detect, "--positive", "{h}/prompts.txt")
    yield from (
        (*detect, "--positive", p, "--negative", "{h}/prompts.txt")
        for p in ("nosuch", "{h}/empty.jsonl", "{h}/latin.csv")
    )
    yield from (("sizes", "{h}/pairs.jsonl", *ON, "--sizes", bad) for bad in ("0", "-1", "99", "x"))
    yield ("sizes", "{h}/pairs.jsonl", *ON, "--layer", "-2")
    yield ("sizes", "{h}/pairs.jsonl", *ON, "--layer", "77")
    yield from (
        ("compare", "{h}/v.safetensors", f"{{h}}/{f}") for f in ("narrow.safetensors", "text.safetensors", "no")
    )
    judge = ["judge", "{h}/answers.jsonl", *ON]
    yield from ((*judge, "--truth", bad) for bad in ("human", "nosuch", "answer"))
    yield from ((*judge, "--url", bad) for bad in ("notaurl", "http://127.0.0.1:9", "http://127.0.0.1:x/v1", "ftp://a"))
    yield from ((*judge, "--rubric", bad) for bad in ("kindness", "nowhere.toml"))
    yield from (("judge", f"{{h}}/{f}", *ON) for f in ("mute.jsonl", "empty.jsonl", "half.jsonl", "nosuch.jsonl"))
    yield ("audit", "{h}/model", "--probes", "{h}/half.jsonl")
    yield ("audit", "{h}/model", "--probes", "nowhere.jsonl")
    yield from (("across", *bad) for bad in ([], ["nowhere"], ["{h}/foreign", "{h}/foreign"], ["{h}/prompts.txt"] * 2))
    yield from (("report", bad) for bad in ("nowhere", "{h}/foreign", "{h}/prompts.txt"))


def shipping() -> Iterator[tuple[str, ...]]:
    """Exports of what a target cannot express, imports of what is no vector, references and budgets that are none."""
    out = ["--to", "{h}/new-export"]
    one = ["{h}/one.safetensors", *ON]
    yield from (("export", target, *one, *out) for target in ("ggu", "hf", "peft", "gguf"))  # not every token
    yield from (
        ("export", t, *one, *out, "--positions", bad) for t in ("hf", "hook") for bad in ("nowhere", "last_k(2)")
    )
    yield from (
        ("export", "hf", *one, *out, "--positions", "everywhere", "--operator", o) for o in ("ablate", "clamp", "ad")
    )
    yield ("export", "hf", *one, *out, "--every-write", "--positions", "everywhere")
    yield from (("export", "hook", *one, *out, "--multiplier", bad) for bad in (*NUMBERS, "0"))
    yield from (("export", "hook", *one, *out, "--layer", bad) for bad in ("7", "-1", "x"))
    yield from (("export", "hook", *one, "--to", bad) for bad in ("{h}/foreign", "{h}/prompts.txt", "/proc/x"))
    yield from (("export", "gguf", *one, "--positions", "everywhere", "--to", bad) for bad in ("{h}/v.bin", "{h}/new"))
    yield ("export", "gguf", *one, "--positions", "everywhere", "--to", "{h}/v.gguf", "--model-file", "{h}/no.gguf")
    yield from (
        ("export", "hook", f"{{h}}/{v}.safetensors", *ON, *out) for v in ("text", "narrow", "deep", "nosuch", "v")
    )
    yield from (("export", "hook", "{h}/one.safetensors", *out, "--model", m) for m in ("smolm2", "{h}/hollow"))
    yield from (
        ("export", "hook", *one),
        ("export", "hook", *ON, *out),
        ("export", "hook", *one, *out, "--nosuch", "1"),
    )
    new = ["--to", "{h}/new.safetensors"]
    files = ("text.safetensors", "pairs.jsonl", "broken.gguf", "weights.pt", "foreign", "nosuch.npz", "sae.safetensors")
    yield from (("import", f"{{h}}/{f}", *new, *how) for f in files for how in ([], ["--model", "{h}/model"]))
    yield from (("import", "{h}/sae.safetensors", *new, "--layers-are", bad) for bad in ("inside", "outputs", ""))
    yield from (
        ("import", "{h}/sae.safetensors", *new, "--at", "1", "--feature", bad) for bad in ("7", "-1", "x", "1.5")
    )
    yield ("import", "{h}/sae.safetensors", *new, "--feature", "1")
    yield ("import", "{h}/sae.safetensors", *new, "--feature", "1", "--at", "1", "--key", "encoder")
    yield ("import", "{h}/sae.safetensors", *new, "--feature", "1", "--at", "99", *ON)
    yield ("import", "{h}/one.safetensors", "--layers-are", "outputs", "--to", "{h}/new.pt")
    yield ("card", "{h}/one.safetensors", "--to", "{h}/one.safetensors")
    yield ("import", "{h}/one.safetensors", "--layers-are", "outputs", "--to", "{h}/one.safetensors")
    yield ("import", "{h}/sae.safetensors", *new, "--layers-are", "outputs", "--at", "3")
    yield ("import", "{h}/broken.gguf", *new, "--layers-are", "inputs")
    yield ("gate", "{h}/foreign", "--min-slope", "0.1", "--summary", "{h}/foreign")
    yield from (("card", f"{{h}}/{f}") for f in ("text.safetensors", "nosuch.safetensors", "pairs.jsonl"))
    yield from (("push", "{h}/one.safetensors", bad) for bad in ("", "name", "a/b/c", "a/b@c", "me/tea"))
    yield ("push", "{h}/text.safetensors", "me/tea")
    yield from (("pull", bad, *new) for bad in ("", "name", "a/b/c", "a/b#12", "me/tea", "me/tea@main"))
    yield ("pull", "me/tea", "--to", "{h}/new.pt")
    yield from (("gate", f"{{h}}/{f}", "--min-slope", "0.1") for f in ("foreign", "prompts.txt", "nowhere"))
    yield from (("gate", "{h}/foreign", "--max-wrong", bad) for bad in (*NUMBERS,))
    yield from (("gate",), ("gate", "{h}/foreign"), ("gate", "--min-slope", "0.1"))
    yield ("run", "reliability", "--to", "{h}/new-run", "--size", "huge")
    yield ("run", "first-light", "--to", "{h}/new-run", "--size", "full")


def files() -> Iterator[tuple[str, ...]]:
    """Data, vectors, models and places that are not what a command needs."""
    data = ("latin.csv", "pickle.csv", "empty.jsonl", "half.jsonl", "list.json", "columns.csv", "same.jsonl")
    data += (
        "blank.jsonl",
        "number.jsonl",
        "turns.jsonl",
        "rules.jsonl",
        "bot.jsonl",
        "prompts.txt",
        "foreign",
        "hollow",
    )
    for name in data:
        yield ("learn", "mean-diff", "--data", f"{{h}}/{name}", *ON, "--to", "{h}/new.safetensors")
        yield (*MEASURE[:5], f"{{h}}/{name}", *MEASURE[6:])
    vectors = (
        "text.safetensors",
        "narrow.safetensors",
        "deep.safetensors",
        "pairs.jsonl",
        "nosuch.safetensors",
        "model",
    )
    for name in vectors:
        yield ("steer", f"{{h}}/{name}", *ON, "-p", "Do you like tea ?")
        yield ("chat", f"{{h}}/{name}", *ON)
        yield ("measure", f"{{h}}/{name}", *MEASURE[2:])
        yield ("dose", f"{{h}}/{name}", *ON)
    models = (
        "smolm2",
        "{h}/hollow",
        "{h}/foreign",
        "{h}/prompts.txt",
        "./nowhere",
        "/no/such/model",
        "",
        "a b",
        "x/y/z",
    )
    for name in models:
        yield ("doctor", name)
        yield ("steer", "{h}/v.safetensors", "--model", name, "-p", "hi", "--layer", "1")
        yield ("learn", "mean-diff", "--data", "{h}/pairs.jsonl", "--model", name)
    places = ("{h}/new.pt", "{h}/new", "{h}/prompts.txt/new.safetensors", "/proc/new.safetensors")
    yield from (("learn", "mean-diff", "--data", "{h}/pairs.jsonl", *ON, "--to", to) for to in places)
    yield from (
        ("lern",),
        ("learn", "mean-dif"),
        ("run",),
        ("run", "nowhere.toml", "--to", "{h}/new-run"),
        ("steer",),
        ("list", "x"),
    )


RECIPE = {"data": '"{h}/pairs.jsonl"', "model": '"{h}/model"'}
KEYS: dict[str, tuple[str, ...]] = {
    "multipliers": ('"many"', "[]", "[1.0]", "[0, 0]", "[0, nan]", "[0, 1e30]", '[0, "one"]', "3", "{ a = 1 }"),
    "layers": ('"3"', "[-1]", "[1.5]", '["one"]', "2", "[true]"),
    "layer": ('"3"', "-1", "1.5", "[1]", "true"),
    "generate": ('"hello"', "[1]", "5", "{ a = 1 }"),
    "ask": ('"politely"', "[1]", '{ positve = "x" }', "{ positive = 3 }"),
    "metrics": ('["kl"]', '"propensity"', "[]", '["propensity", "nosuch"]', "[3]"),
    "limit": ("-1", "0", '"all"', "1.5", "1"),
    "form": ('"essay"', "3"),
    "positions": ('"nowhere"', "3", '"last_k(0)"'),
    "method": (
        '"mean-dif"',
        '{ name = "mean-dif" }',
        "{ }",
        '{ name = "probe", C = -1 }',
        '{ name = "pca", nosuch = 1 }',
        "3",
    ),
    "operator": ('{ name = "ad" }', '{ name = "add", much = 1 }', "[]"),
    "seed": ('"one"', "1.5"),
    "controls": ("-1", '"few"', "1.5"),
    "draws": ("-1", '"few"'),
    "samples": ("-1", '"few"'),
    "max_new_tokens": ("0", "-5", '"long"'),
    "dtype": ('"int8"', "8", '"float7"'),
    "device": ('"tpu9"', "0"),
    "chat": ('"yes"', "1"),
    "separator": ("1", "[]"),
    "template": ('"thinking"', "[1]"),
    "dose": ('"no"', "1"),
    "model": ('"smolm2"', "3", '"{h}/hollow"', '""'),
    "data": ('"optimsm"', "3", '"{h}/half.jsonl"', '"{h}/latin.csv"'),
    "colour": ('"red"',),
}
RECIPES = [(key, bad) for key, values in KEYS.items() for bad in values]
COMMANDS = [*flags(), *files(), *shipping()]


def tree(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def refused(
    args: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """What was said; status, length and the folder are checked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    before, started = tree(home), time.monotonic()
    with pytest.raises(SystemExit) as end:
        cli.main([a.replace("{h}", str(home)) for a in args])
    took, said = time.monotonic() - started, capsys.readouterr().err
    assert end.value.code == 2, said
    assert said.strip() and "Traceback" not in said and len(said.splitlines()) <= 40, said
    assert tree(home) == before, "something was written"
    assert took < PATIENCE, f"{took:.1f} s"
    return said


def test_there_are_three_hundred_of_them() -> None:
    assert len(COMMANDS) + len(RECIPES) >= 300


@pytest.mark.slow
@pytest.mark.parametrize("args", COMMANDS, ids=lambda a: " ".join(a)[-70:])
def test_commands(
    args: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(args, home, capsys, monkeypatch)


@pytest.mark.parametrize(("key", "bad"), RECIPES)
def test_recipes(
    key: str, bad: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each names the key, or shows what was given."""
    lines = [f"{k} = {v}" for k, v in (RECIPE | {key: bad}).items()]
    recipe = home / "recipe.toml"
    recipe.write_text("\n".join(lines).replace("{h}", str(home)))
    said = refused(("run", str(recipe), "--to", "{h}/new-run"), home, capsys, monkeypatch)
    shown = bad.replace("{h}", str(home)).strip('"[]{} ')
    assert key in said or (shown and shown in said), said


@pytest.mark.slow
@pytest.mark.parametrize("args", COMMANDS[:: len(COMMANDS) // 14], ids=lambda a: " ".join(a)[-70:])
def test_as_real_commands(args: tuple[str, ...], home: Path) -> None:
    """Fifteen of them in a process of their own."""
    filled = [a.replace("{h}", str(home)) for a in args]
    code = "from trimtab.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *filled], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr


def test_with_json_an_error_is_an_object(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "smolm2", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert end.value.code == 2 and error["failed"] == "unknown model 'smolm2'" and "smollm2" in error["do"]
