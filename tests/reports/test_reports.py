"""Statistics and reports, on runs with known answers."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from paths import ROOT
from trimtab import studies
from trimtab.errors import RecipeError, RunError, UnknownName
from trimtab.recipe import Recipe
from trimtab.reports import analyze, report
from trimtab.runs import Cell, Run, Score, row
from trimtab.statistics.nulls import Compared, Null

GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)


def planted(
    folder: Path,
    slopes: dict[str, np.ndarray],
    *,
    form: str = "answers",
    noise: float = 0.01,
    level: float = 0.3,
    nulls: float | None = 0.3,
    said: float = 0.5,
    text: str = "It is a good day. We go.",
) -> Run:
    """A run folder whose items have known slopes, beside null vectors of some spread, with what asking brings and what
    is said at multipliers 1 and -1.
    """
    run, rng = Run.create(folder), np.random.default_rng(0)
    iv = {
        "vector": "0" * 16,
        "layers": [3],
        "operator": {"name": "add"},
        "multiplier": 1.0,
        "positions": "everywhere",
        "gate": {"name": "always"},
    }
    roles = {"vector": "vector", **{c: c.partition("-")[0] for c in slopes if c != "vector"}}
    conditions = [{"name": c, "role": roles[c], "system": None, "intervention": iv} for c in slopes]
    conditions.append({"name": "prompt-positive", "role": "asked", "system": "be kind", "intervention": None})
    plan = {
        "model": {"id": "pico", "dtype": "torch.float32"},
        "data": {"name": "toy", "part": "test", "form": form, "hash": "h", "items": len(slopes["vector"])},
    }
    metrics = [{"name": name, "label": name} for name in ("propensity", "kl")]
    run.claim("test", {**plan, "conditions": conditions, "metrics": metrics, "multipliers": list(GRID), "layers": None})
    rows = []
    for condition, per_item in slopes.items():
        for k, s in enumerate(per_item):
            start = level * rng.normal()
            for m in GRID:
                rows.append(
                    row(
                        Cell("propensity", condition, None, m),
                        Score(f"i{k}", start + s * m + noise * rng.normal(), "nats/token"),
                    )
                )
                rows.append(row(Cell("kl", condition, None, m), Score(f"i{k}", 0.1 * m * m, "nats")))
                rows.append(row(Cell("outside-mass", condition, None, m), Score(f"i{k}", math.nan, "probability")))
    rows += [
        row(Cell("propensity", "prompt-positive", None, 0.0), Score(f"i{k}", said, "nats/token"))
        for k in range(len(slopes["vector"]))
    ]
    run.journal("test").append("test/0/None", rows)
    told = {-1.0: text, 0.0: "It is a day. We stay.", 1.0: text}
    run.journal("../generations").append(
        "g",
        [{"prompt": "<b>Hi</b>", "multiplier": m, "text": f"{t} Said at {m}.", "nats": 1.0} for m, t in told.items()],
    )
    if nulls is not None:
        beside = Null.of("random", [3], rng.normal(0, nulls, (499, 1)))
        run.write(
            "nulls/test.json", Compared("3", float(np.mean(slopes["vector"])), 60, "forecast", (beside,)).to_json()
        )
    run.note(model="pico", layer=3)
    return run


def spread(mean: float, sd: float, n: int = 60, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, sd, n)


CALM = {"random-0": spread(0.0, 0.3, seed=2)}
VERDICTS: dict[str, tuple[dict[str, np.ndarray], dict[str, object]]] = {
    "Works: it raises": ({"vector": spread(1.0, 0.3), **CALM}, {}),
    "Works on average, but reverses on": ({"vector": spread(0.6, 1.2), **CALM}, {"nulls": 0.1, "said": 0.1}),
    "No measurable effect: the mean slope cannot be told": ({"vector": spread(0.0, 1.0), **CALM}, {}),
    "No measurable effect: the mean slope is below": ({"vector": spread(0.005, 0.001), **CALM}, {"nulls": 0.001}),
    "Works backwards": ({"vector": spread(-1.0, 0.3), **CALM}, {}),
    "Not beyond controls": ({"vector": spread(1.0, 0.3), "random-0": spread(-1.1, 0.3, seed=2)}, {}),
    "Not beyond controls: ": ({"vector": spread(-0.4, 0.3), **CALM}, {}),
    "Breaks the text": ({"vector": spread(1.0, 0.3), **CALM}, {"text": "up up up up up up up up up up up up up"}),
    "Does no more than asking": ({"vector": spread(1.0, 0.3), **CALM}, {"said": 3.0}),
    "No verdict: nothing": ({"vector": spread(1.0, 0.3), **CALM}, {"nulls": None}),
    "Too few items": ({"vector": spread(1.0, 0.3, 9), "random-0": spread(0.0, 0.3, 9, 2)}, {}),
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_verdict_follows_the_numbers(verdict: str, tmp_path: Path) -> None:
    slopes, changes = VERDICTS[verdict]
    found = analyze(planted(tmp_path, slopes, **changes), "test")  # type: ignore[arg-type]
    assert found.verdict.startswith(verdict)
    assert verdict.casefold().startswith(found.kind.split(" ")[0].replace("does", "does").casefold())
    assert any("KL" in r for r in found.reasons) and any("system prompt" in r for r in found.reasons)


def test_a_model_without_letters_is_told_so(tmp_path: Path) -> None:
    run = planted(tmp_path, {"vector": spread(0.01, 0.01), "random-0": spread(0, 0.01)}, form="choices", level=0.02)
    found = analyze(run, "test")
    assert "prefers neither answer letter" in found.verdict and "free-form" in found.reasons[0]


def test_figures_recover_what_was_planted(tmp_path: Path) -> None:
    slopes = spread(0.5, 0.6, 200)
    run = planted(tmp_path, {"vector": slopes, "random-0": spread(0, 0.2, 200, 2)})
    report(run)
    figures = {f["name"]: f for f in json.loads((tmp_path / "summary.json").read_text())["figures"]}
    s = figures["steerability"]
    assert s["lo"] < slopes.mean() < s["hi"] and abs(s["value"] - slopes.mean()) < 0.01 and s["n"] == 200
    assert abs(figures["anti-steerable share"]["value"] - (slopes <= 0).mean()) < 0.02
    assert set(s) == {"name", "value", "lo", "hi", "n", "unit", "control"}
    assert not any("outside-mass" in name for name in figures), "what was not measured is not reported as zero"


def test_the_page_is_one_file_and_escapes_text(tmp_path: Path) -> None:
    page = report(planted(tmp_path, VERDICTS["Works: it raises"][0])).read_text()
    assert "&lt;b&gt;Hi" in page and "<b>Hi</b>" not in page
    assert "<script" not in page and 'src="http' not in page and 'href="http' not in page and "<link" not in page
    ids = [part.split('"')[0] for part in page.split('id="')[1:]]
    assert len(ids) == len(set(ids)), "ids of the inlined plots do not collide"
    markdown = (tmp_path / "report.md").read_text()
    assert "Said at -1.0" in markdown and "![" in markdown
    for name in ("propensity", "slopes", "kl"):
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 5000 and (
            tmp_path / "plots" / f"{name}.svg"
        ).is_file()
    rows = list(csv.DictReader((tmp_path / "tables" / "slopes.csv").read_text().splitlines()))
    assert len(rows) == 120 and {r["condition"] for r in rows} == {"vector", "random-0"}


def test_a_report_twice_is_the_same(tmp_path: Path) -> None:
    run = planted(tmp_path, VERDICTS["Works: it raises"][0])
    first = report(run).read_bytes()
    assert report(run).read_bytes() == first


def test_reports_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no scores"):
        report(tmp_path)


def test_reports_never_import_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, trimtab.reports, trimtab.recipe, trimtab.data.formats, trimtab.studies\n"
        "import trimtab.studies.pages as pages\n"
        "names = [m.name for m in pkgutil.iter_modules(pages.__path__)]\n"
        "assert len(names) >= 8\n"
        "for name in names: importlib.import_module(f'trimtab.studies.pages.{name}')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- recipes


def test_recipes_come_back_from_toml(tmp_path: Path) -> None:
    one = Recipe(
        "optimism",
        layers=(1, 2),
        method={"name": "probe", "kind": "whitened"},
        ask={"positive": 'say "é"', "negative": "x"},
        generate=("a\nb",),
    )
    (tmp_path / "r.toml").write_text(one.to_toml())
    assert Recipe.load(tmp_path / "r.toml") == one
    tomllib.loads(one.to_toml())


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('data = "x"\nmultiplers = [0, 1]', UnknownName, "did you mean 'multipliers'"),
        ("seed = 1", RecipeError, "lacks 'data'"),
        ('data = "x"\nseed = "one"', RecipeError, "wrong type"),
        ('data = "x"\nmultipliers = [1.0, 2.0]', RecipeError, "not a grid"),
        ('data = "x"\nform = "choice"', UnknownName, "did you mean 'choices'"),
        ("data = ", RecipeError, "not valid TOML"),
        ('data = "x"\ncontrols = -1', RecipeError, "too small"),
    ],
)
def test_bad_recipes(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(error, match=message):
        Recipe.load(tmp_path / "r.toml")


def test_shipped_recipes_load() -> None:
    found = list((ROOT / "recipes").glob("*.toml"))
    assert found and all(studies.read(f) or Recipe.load(f) for f in found)


def test_a_run_says_in_one_line_what_it_is(tmp_path: Path) -> None:
    assert repr(Run(tmp_path)) == f"<Run {tmp_path}: nothing scored yet>"
    run = planted(tmp_path, VERDICTS["Works: it raises"][0])
    assert repr(run) == f"<Run {tmp_path}: test>"
