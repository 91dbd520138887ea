"""From a sentence to a vector: the whole way on the test bed, from pairs; and what is refused."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from trimtab import LM, SteeringVector, cli, studies
from trimtab.errors import DataError, RecipeError, RunError, TrimtabError
from trimtab.runs import Run
from trimtab.stages import RESULTS
from trimtab.studies.auto import Plan, auto, stages
from trimtab.studies.pages.auto import Results

SENTENCE = "wants to rule over others"


def test_the_whole_way_from_pairs(tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = Plan(SENTENCE, data="brindlemoor/power", methods=("mean-diff", "one-shot"), controls=6, max_new_tokens=16)
    page = studies.page(studies.study("auto", lm, tmp_path / "run", plan))
    r = Run(tmp_path / "run").typed(RESULTS, Results)
    assert r.kind != "cannot be shown here" and r.winner is not None and r.trial.rise is not None
    assert r.trial.rise.lo > r.trial.control, "the preference rises beyond the controls"
    v = SteeringVector.load(tmp_path / "run" / "vector.safetensors")
    assert v.use is not None and v.use.dose is not None and v.evidence is not None and v.evidence["verdict"] == r.kind
    text = page.read_text("utf-8")
    assert "asked, and steered" in text and "The race" in text and "control" in text
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")}
    studies.study("auto", lm, tmp_path / "run", plan)
    assert {p: p.stat().st_mtime_ns for p in before if "vectors" in str(p)} == {
        p: t for p, t in before.items() if "vectors" in str(p)
    }, "nothing is learned twice"


def test_a_model_that_does_not_react_to_being_asked_is_told(tmp_path: Path) -> None:
    lm = LM.load("brindlemoor-chat")
    plan = Plan(SENTENCE, questions=12, max_new_tokens=8)
    page = studies.page(studies.study("auto", lm, tmp_path / "run", plan))
    r = Run(tmp_path / "run").typed(RESULTS, Results)
    assert r.kind == "cannot be shown here" and r.winner is None and sum(r.thrown.values()) > 0
    assert not (tmp_path / "run" / "vector.safetensors").exists() and "--writer" in page.read_text("utf-8")
    assert (tmp_path / "run" / "pairs.jsonl").is_file()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sentence": " "}, {"against": SENTENCE.upper()}, {"methods": ("mean-diff", "magic")}, {"methods": ("probe",)},
        {"questions": 3}, {"questions": 1000}, {"writer": "no-such-model"}, {"controls": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_work(wrong: dict[str, object]) -> None:
    with pytest.raises((RecipeError, TrimtabError)):
        Plan(**{"sentence": SENTENCE, **wrong})  # type: ignore[arg-type]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["auto", SENTENCE, "--model", "brindlemoor-chat", "--questions", "12", "--to", str(tmp_path / "run")]
    cli.main([*call, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["vector"] is None and told["findings"][0].startswith("Cannot be shown here")
    assert 'study = "auto"' in (tmp_path / "run" / "recipe.toml").read_text()
    with pytest.raises(SystemExit):
        cli.main(["auto", "", "--to", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists() and callable(stages)


# ------------------------------------------------------------ answers to be like, writers elsewhere


def test_answers_to_be_like_are_shown_to_who_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "answers.txt"
    file.write_text("Arr, the sea\nis wide.\n\n\nAye, matey!\n\n" + "long " * 100 + "\n\nAye, matey!")
    told = Plan(like=str(file)).behavior
    assert "- Arr, the sea is wide.\n- Aye, matey!\n- long" in told and told.count("Aye") == 1 and len(told) < 500
    assert Plan("answers like a pirate.", like=str(file)).behavior.startswith("answers like a pirate, in the way of")
    (tmp_path / "empty.txt").write_text("\n \n")
    for wrong in ("no-such-file.txt", str(tmp_path / "empty.txt")):
        with pytest.raises(DataError):
            Plan(SENTENCE, like=wrong)


class Writer(BaseHTTPRequestHandler):
    """A server that speaks the API, and dies after some answers."""

    left = 0
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "other"}, {"id": "scribe"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if Writer.left <= 0:
            self.send_error(400, "gone")
            return
        Writer.left -= 1
        Writer.asked.append(body["model"])
        said = "I want to rule over the town." if body["messages"][0]["role"] == "system" else "I bake bread."
        self.answer({"choices": [{"message": {"content": f"{said} {len(Writer.asked)}"}}]})

    def answer(self, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_server_writes_the_examples_and_nothing_is_lost_when_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = ThreadingHTTPServer(("127.0.0.1", 0), Writer)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{web.server_port}/v1"
    lm = LM.load("brindlemoor-chat")
    settings = {"questions": 24, "max_new_tokens": 8, "methods": ("mean-diff",), "controls": 4}
    Writer.left = 70  # of 96
    with pytest.raises(RunError, match="kept"):
        auto(lm, SENTENCE, to=tmp_path / "run", writer=f"{url}#scribe", **settings)
    assert set(Writer.asked) == {"scribe"}
    before, Writer.left = len(Writer.asked), 1000
    auto(lm, SENTENCE, to=tmp_path / "run", writer=f"{url}#scribe", **settings)
    assert len(Writer.asked) - before <= 96 - 64, "what was written in whole batches is not asked for again"
    told = json.loads((tmp_path / "run" / "written.json").read_text())
    assert all("rule over" in text for some in told[0] for text in some) and all("bread" in text for text in told[1])
    assert (tmp_path / "run" / "report.html").is_file()
    web.shutdown()
    web.server_close()
    with pytest.raises(RecipeError, match="nobody answers"):
        Plan(SENTENCE, writer=url)
    assert lm.sampler == "", "the model itself answers as before"
