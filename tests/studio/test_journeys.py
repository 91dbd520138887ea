"""The studio as people use it: a real Chromium, the real SmolLM2, real vectors. `make journeys`."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest

from browser import CHROMIUM, Heard, chromium, opened
from many import scored
from served import free_port, until
from trimtab import LM, Intervention, SteeringVector, steer
from trimtab.studio.shelved import SHIPPED

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
]
SECONDS = 1000.0
PATIENCE = 90 * SECONDS  # of a browser, for an answer on two cores
TEXT = "How do I bake bread?"
HOSTILE = '"><img src=x onerror=alert(1)>'
MARKUP = "<script>alert(2)</script> <b>Say</b> <img src=x onerror=alert(3)> & say it again."


@dataclass
class Place:
    """A studio that can be killed and started again, at one address."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self, **secrets: str) -> None:
        trimtab = Path(sys.executable).with_name("trimtab")
        command = [trimtab, "studio", "--runs", self.folder / "runs", "--port", str(self.port)]
        log = (self.folder / "log").open("ab")
        how: Any = {"stdout": log, "stderr": log, "cwd": self.folder, "env": {**os.environ, **secrets}}
        self.process = subprocess.Popen([*map(str, command), "--no-browser"], **how)
        log.close()

    def ready(self) -> None:
        until(lambda: httpx.get(f"{self.url}health").status_code == 200, 120)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def engine(self) -> list[int]:
        """Processes of the model."""
        out = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in out.stdout.split()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("journeys")
    scored(folder / "runs" / "scored", 10_000, MARKUP)
    place = Place(folder)
    place.start()
    place.ready()
    yield place
    place.process.terminate()
    place.process.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    yield heard
    assert heard.errors == [] and heard.outside == []


@pytest.fixture
def page(place: Place, browser: Any, heard: Heard) -> Iterator[Any]:
    page = at(browser, place, heard)
    yield page
    page.context.close()


def at(browser: Any, place: Place, heard: Heard, **how: Any) -> Any:
    """The page, with its model there."""
    page = opened(browser, place.url, heard, **how)
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    return page


def ask(page: Any, text: str = TEXT, *panes: str) -> None:
    turns = page.locator(".turn").count()
    page.fill(".composer > textarea", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(f".turn >> nth={turns}")
    answered(page, *(panes or ("unsteered", "steered")))


def answered(page: Any, *panes: str, colored: bool = False) -> None:
    for pane in panes:
        page.wait_for_selector(f".turn:first-child .pane.{pane}[data-state=done]", timeout=PATIENCE)
        if colored:
            page.wait_for_selector(f".turn:first-child .pane.{pane} .tokens", timeout=PATIENCE)


def said(page: Any, pane: str = "steered") -> str:
    """What stands in a pane of the newest turn."""
    return page.locator(f".pane.{pane} > .text").first.inner_text()


def grown(page: Any, pane: str = "steered", least: int = 40) -> None:
    """Wait until an answer is under way."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        box = page.locator(f".pane.{pane} > .text")
        if box.count() and len(box.first.inner_text().replace("thinking …", "").strip()) > least:
            return
        page.wait_for_timeout(50)
    raise AssertionError("no answer came")


def changes(page: Any, before: str, pane: str = "steered") -> None:
    """Wait until a pane says something else, and has said it."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        done = page.locator(f".pane.{pane}").first.get_attribute("data-state") == "done"
        if done and said(page, pane) != before:
            return
        page.wait_for_timeout(50)
    raise AssertionError("it stayed as it was")


def short(page: Any, tokens: int = 24) -> None:
    """Answers of so many tokens."""
    page.evaluate(f"""async () => {{
        const {{ state, keepNow }} = await import('/studio/page/state.js');
        state.tokens = {tokens};
        keepNow();
    }}""")


def steered(lm: LM, m: float, tokens: int, **more: Any) -> str:
    iv = Intervention.recommended(SteeringVector.load(SHIPPED / "pirate.safetensors"), multiplier=m, **more)
    with steer(lm, iv):
        return lm.generate([TEXT], max_new_tokens=tokens)[0]


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("smollm2")


def flat(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------ the ten journeys


def test_1_the_first_visit(place: Place, browser: Any, heard: Heard, lm: LM) -> None:
    """A prompt to click, and something visibly different."""
    page = at(browser, place, heard)
    page.click(".example >> nth=0")
    answered(page, "unsteered", "steered")
    assert flat(said(page, "unsteered")) == flat(lm.generate([TEXT], max_new_tokens=120)[0])
    assert flat(said(page)) == flat(steered(lm, 1.3, 120))
    assert "tokens steered at block 16" in page.locator(".pane.steered .foot").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.context.close()


def test_2_the_slider_is_the_dose(page: Any, lm: LM) -> None:
    short(page)
    ask(page)
    before = said(page)
    slider = page.locator(".card.on input[type=range]")
    slider.fill("1.9")
    changes(page, before)
    assert flat(said(page)) == flat(steered(lm, 1.9, 24))
    assert "1.9 pirate" in page.locator(".pane.steered header").first.inner_text()
    told = [(0.3, "weak"), (1.0, "ship"), (2.4, "unsure"), (3.1, "broken"), (-1.0, "unknown"), (0, "off")]
    for m, zone in told:
        slider.fill(str(m))
        assert page.get_attribute(".card.on", "data-zone") == zone, m
    slider.fill("1.3")
    share = 1.3 * float(SteeringVector.load(SHIPPED / "pirate.safetensors").norm()[16])
    about = httpx.get(page.url + "studio/state").json()["vectors"]
    unit = next(v for v in about if v["name"] == "pirate")["unit"]["16"]
    assert share > 0 and f"{1.3 * unit:.2g}" in page.inner_text(".card.on .relative")
    assert "drift 0.26" in page.inner_text(".card.on .price")


def test_3_what_else_would_do_it(page: Any, lm: LM) -> None:
    """Asked in words, a random vector as long, the opposite sign: each a switch."""
    short(page)
    ask(page)
    for name in ("Asked in words", "Random vector", "Opposite sign"):
        page.get_by_role("checkbox", name=name).check()
    answered(page, "asked", "random", "opposite")
    assert flat(said(page, "asked")) == flat(
        lm.generate([TEXT], max_new_tokens=24, system="You are a pirate. Talk like one.")[0]
    )
    assert flat(said(page, "opposite")) == flat(steered(lm, -1.3, 24))
    first = said(page, "random")
    assert first not in (said(page), said(page, "opposite"))
    page.get_by_text("Another random vector").click()
    changes(page, first, "random")
    page.get_by_role("checkbox", name="Random vector").uncheck()
    assert page.locator(".pane.random").count() == 0


def test_4_several_vectors_each_with_its_own_ways(page: Any, lm: LM) -> None:
    short(page)
    card = page.locator(".card", has=page.get_by_role("heading", name="cheerful", exact=True))
    card.get_by_role("switch").check()
    card.locator("input[type=range]").fill("2")
    card.get_by_text("Where, how, and what is known").click()
    card.get_by_label("Operator").select_option("ablate")
    card.get_by_label("Positions").fill("everywhere")
    card.get_by_label("Positions").press("Enter")
    card.get_by_label("When", exact=True).select_option("until")
    ask(page)
    from trimtab import registry

    pirate = Intervention.recommended(SteeringVector.load(SHIPPED / "pirate.safetensors"))
    gate = registry.make("gate", {"name": "schedule", "shape": "until", "tokens": 32})
    other = SteeringVector.load(SHIPPED / "cheerful.safetensors")
    cheerful = Intervention(other, registry.make("operator", "ablate"), 2.0, "everywhere", gate)
    with steer(lm, pirate, cheerful):
        assert flat(said(page)) == flat(lm.generate([TEXT], max_new_tokens=24)[0])
    both = said(page)
    card.get_by_role("switch").uncheck()
    changes(page, both)
    assert flat(said(page)) == flat(steered(lm, 1.3, 24))
    card.get_by_role("switch").check()  # keeps its setting
    assert card.locator("input[type=range]").input_value() == "2"


def test_5_what_the_vector_changed_token_by_token(page: Any, lm: LM) -> None:
    short(page)
    ask(page)
    answered(page, "unsteered", "steered", colored=True)
    text = said(page)
    iv = Intervention.recommended(SteeringVector.load(SHIPPED / "pirate.safetensors"))
    plain = lm.logprobs([TEXT], [text])[0]
    with steer(lm, iv):
        change = (lm.logprobs([TEXT], [text])[0] - plain).tolist()
    shown = page.locator(".pane.steered").first.locator(".token")
    assert shown.count() == len(change)
    for k, nats in enumerate(change):
        kinds = shown.nth(k).get_attribute("class").split()
        assert ("up" in kinds) == (nats >= 0.09) and ("down" in kinds) == (nats <= -0.09), (k, nats)
    page.focus(".pane.steered .tokens")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    tip = page.inner_text("#tip")
    assert "with it" in tip and "without it" in tip and page.locator("#tip li").count() == 10
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")
    shown.nth(1).hover()
    assert page.is_visible("#tip")
    assert "pirate" in page.locator(".pane.steered .projection figcaption").first.inner_text()


def test_the_button_asks_and_small_fields_do_not(page: Any) -> None:
    """Settings change the last answer, all panes of it; Enter in them sends nothing that is half written."""
    short(page)
    page.fill(".composer > textarea", TEXT)
    page.get_by_role("button", name="Ask", exact=True).click()
    answered(page, "unsteered", "steered")
    before = said(page, "unsteered")
    page.fill(".composer > textarea", "half wri")
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Temperature").fill("1.25")
    page.keyboard.press("Enter")
    changes(page, before, "unsteered")
    assert page.input_value(".composer > textarea") == "half wri" and page.locator(".turn").count() == 1
    drawn = said(page, "unsteered")
    page.get_by_label("Seed, of all panes").fill("7.4")
    page.keyboard.press("Enter")
    changes(page, drawn, "unsteered")
    assert page.get_by_label("Seed, of all panes").input_value() == "7"


def test_a_chat_remembers_what_each_pane_said(page: Any, lm: LM) -> None:
    short(page, 16)
    page.get_by_label("Chat").check()
    asked = list[Any]()
    page.on("request", lambda r: asked.append(r.post_data_json) if r.url.endswith("/chat/completions") else None)
    ask(page)
    first = said(page)
    plain = said(page, "unsteered")
    ask(page, "And then?")
    told = {bool(body.get("steer")): body["messages"] for body in asked[-2:]}
    assert [m["content"] for m in told[True]] == [TEXT, first, "And then?"]
    assert [m["content"] for m in told[False]] == [TEXT, plain, "And then?"]
    page.get_by_label("One prompt").check()
    ask(page, "Anew?")
    assert len(asked[-1]["messages"]) == 1 and page.locator(".turn").count() == 3


ODD: list[Any] = [
    {"panes": None},
    {"view": "constructor"},
    {"vectors": [{"name": "pirate", "m": 1, "layers": 5}, None, 3]},
    {"turns": 7},
    {"turns": [{"user": "a", "answers": {"steered": None, "magic": {"text": "b"}}}]},
    {"system": None},
    {"tokens": "many"},
    {"v": 99},
    [],
    3,
    None,
]


@pytest.mark.parametrize("odd", ODD)
def test_a_link_may_hold_anything(odd: Any, place: Place, browser: Any, heard: Heard) -> None:
    table = {"v": 2, **odd} if isinstance(odd, dict) else odd
    code = base64.urlsafe_b64encode(json.dumps(table).encode()).decode().rstrip("=")
    page = opened(browser, f"{place.url}#s={code}", heard)
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    for view in VIEWS:
        page.click(f"[data-view={view}]")
    page.reload()
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    page.context.close()


def test_hands_are_not_taken_off_what_they_type(page: Any, place: Place) -> None:
    """The rounds of asking the server rebuild nothing that has the focus."""
    page.locator(".card.on").get_by_text("Where, how, and what is known").click()
    page.fill(".card.on input[type=number]", "")
    page.keyboard.type("1.")
    raw = (SHIPPED / "cheerful.safetensors").read_bytes()
    name = httpx.post(f"{place.url}studio/vectors/another", content=raw).json()["name"]
    page.wait_for_selector(f".card:has-text('{name}')", timeout=PATIENCE)
    page.wait_for_timeout(2500)
    page.keyboard.type("5")
    assert (
        page.input_value(".card.on input[type=number]") == "1.5" and page.locator(".card.on details[open]").count() == 1
    )
    httpx.delete(f"{place.url}studio/vectors/{name}")
    page.click("[data-view=learn]")
    page.get_by_label("Somebody who …", exact=True).press_sequentially("answers in rhyme", delay=150)
    assert page.input_value("form >> nth=0 >> input >> nth=0") == "answers in rhyme"


def test_a_studio_with_a_token_asks_for_it(place: Place, browser: Any, tmp_path: Path) -> None:
    closed, heard = Place(tmp_path), Heard()
    closed.start(TRIMTAB_TOKEN="a+b&c")
    closed.ready()
    page = opened(browser, closed.url, heard)
    page.get_by_label("Token").press_sequentially("a+b&c", delay=300)
    page.keyboard.press("Enter")
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    page.context.close()
    page = opened(browser, f"{closed.url}#token=a%2Bb%26c", heard)
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    assert "token" not in page.url
    page.context.close()
    closed.process.terminate()
    closed.process.wait(20)
    assert all("401" in e for e in heard.errors)


def test_6_learned_here_while_talk_goes_on(page: Any, place: Place, heard: Heard) -> None:
    page.click("[data-view=learn]")
    form = page.locator("form", has=page.get_by_role("heading", name="From pairs"))
    form.get_by_role("button", name="Learn").click()  # without a name: the browser says so, and nothing is queued
    form.get_by_label("Name").fill("Sunny side")
    form.get_by_role("button", name="Learn").click()
    page.wait_for_selector(".note:has-text('At least two pairs')")
    assert "400" in heard.errors.pop()  # the browser's word for it
    for k, texts in enumerate(PAIRS):
        for box, text in zip(form.locator(".pair").nth(k).locator("textarea").all(), texts, strict=True):
            box.fill(text)
    page.reload()  # what was typed is still there
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    form = page.locator("form", has=page.get_by_role("heading", name="From pairs"))
    form.get_by_role("button", name="Learn").click()
    page.wait_for_selector(".job.running progress", timeout=PATIENCE)
    page.click("[data-view=talk]")
    short(page)
    ask(page)
    page.click("[data-view=learn]")
    page.wait_for_selector(".job.done", timeout=3 * PATIENCE)
    job = page.locator(".job.done").first
    assert "Sunny_side" in job.inner_text() and "Nothing was held out" in job.inner_text()
    job.get_by_text("Talk to it").click()
    card = page.locator(".card.on")
    assert card.count() == 1 and "Sunny_side" in card.inner_text()
    ask(page)
    assert "Sunny_side" in page.locator(".pane.steered header").first.inner_text()
    assert (place.folder / "runs" / "Sunny_side" / "vector.safetensors").is_file()


def test_measured_here_and_read_item_by_item(page: Any) -> None:
    card = page.locator(".card", has=page.get_by_role("heading", name="cheerful", exact=True))
    card.get_by_role("switch").check()
    card.get_by_text("Where, how, and what is known").click()
    card.get_by_role("button", name="Measure cheerful").click()
    job = page.locator(".job", has=page.get_by_role("heading", name="cheerful-measured"))
    job.wait_for()
    page.wait_for_selector(".job.done:has-text('cheerful-measured')", timeout=4 * PATIENCE)
    assert "Works" in job.inner_text()
    job.get_by_role("button", name="Its evidence").click()
    page.wait_for_selector(".cloud", timeout=PATIENCE)
    assert page.locator(".items button").count() == 40 and page.locator(".items button.wrong").count() == 3
    page.locator(".items button").first.click()
    page.wait_for_selector(".item .chart")
    assert "unsteered" in page.inner_text(".item .said")


def test_7_evidence_of_ten_thousand_items(page: Any) -> None:
    page.click("[data-view=evidence]")
    page.click(".runs >> text=scored")
    page.wait_for_selector(".cloud", timeout=PATIENCE)
    assert "wrong way" in page.inner_text(".figures")
    page.locator(".items button").nth(2).click()
    page.wait_for_selector(".item .chart")
    assert "Goes the wrong way" in page.inner_text(".item")
    assert "<script>alert(2)</script>" in page.inner_text(".item")  # shown, never run
    box = page.locator(".cloud").bounding_box()
    for dx in range(40, 160, 12):  # somewhere in the cloud is a point
        page.mouse.click(box["x"] + box["width"] / 2 + dx - 100, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, 800)
    page.wait_for_timeout(2500)  # over a round of asking the server
    assert "Goes" in page.inner_text(".item h3")
    page.get_by_text("More", exact=True).click()
    assert page.locator(".items button").count() > 200


def test_8_taken_away(page: Any, place: Place, browser: Any, heard: Heard, tmp_path: Path) -> None:
    """What is copied does what the page shows; a link brings all of it back; the transcript has it."""
    short(page)
    page.locator(".card.on input[type=range]").fill("-1.5")
    ask(page, "Say \"it's\" 'so' $HOME `id` \\n twice.\nThen rest.")
    shown = said(page)
    page.click("[data-view=away]")
    code = {
        card.locator("h3").inner_text(): card.locator("pre").inner_text()
        for card in page.locator(".snippets .card").all()
    }
    for name, command in (
        ("Python", [sys.executable, "-c", code["Python"]]),
        ("Command line", ["bash", "-c", code["Command line"]]),
    ):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, done.stderr
        assert flat(shown) in flat(done.stdout), name
    curled = subprocess.run(
        ["bash", "-c", code["curl"].replace("curl ", "curl -s ", 1)], capture_output=True, text=True, check=True
    )
    assert flat(json.loads(curled.stdout)["choices"][0]["message"]["content"]) == flat(shown)
    assert shlex.split(code["vLLM’s own server"])[0] == "curl"
    page.get_by_text("Copy a link that holds the whole state").click()
    link = page.evaluate("navigator.clipboard.readText()")
    other = opened(browser, link, heard)
    other.click("[data-view=talk]")
    assert flat(said(other)) == flat(shown) and "#" not in other.url
    assert other.locator(".card.on input[type=number]").first.input_value() == "-1.5"
    other.context.close()
    with page.expect_download() as saving:
        page.get_by_text("Save the transcript").click()
    text = Path(saving.value.path()).read_text()
    assert flat(shown) in flat(text.replace("\n> ", "\n")) and '"multiplier":-1.5' in text
    page.click("[data-view=talk]")
    page.locator(".card.on").get_by_text("Where, how, and what is known").click()
    with page.expect_download() as saving:
        page.locator(".card.on").get_by_role("button", name="Download").click()
    got = SteeringVector.load(saving.value.path())
    assert got.hash == SteeringVector.load(SHIPPED / "pirate.safetensors").hash


def test_9_a_reload_in_the_middle_and_two_tabs(page: Any, place: Place, browser: Any, heard: Heard) -> None:
    short(page, 400)
    page.fill(".composer > textarea", TEXT)
    page.keyboard.press("Enter")
    grown(page)
    page.fill(".composer > textarea", "typed and not sent")
    other = at(browser, place, heard)  # another tab is another conversation
    assert other.locator(".turn").count() == 0
    page.reload()
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    assert page.input_value(".composer > textarea") == "typed and not sent"
    assert len(said(page)) > 40 and "Cut off" in page.locator(".pane.steered .foot").first.inner_text()
    short(page)
    page.locator(".pane.steered").first.get_by_text("Ask again").click()
    answered(page, "steered")
    short(other)
    ask(other, "What is your favorite food?")
    assert said(other) != said(page)
    other.context.close()


def test_a_server_that_dies_and_comes_back(place: Place, browser: Any) -> None:
    """First the model's process, then all of it: the page says so, keeps what was said and typed, and goes on."""
    heard = Heard()
    page = at(browser, place, heard)
    short(page, 400)
    page.fill(".composer > textarea", TEXT)
    page.keyboard.press("Enter")
    grown(page)
    for pid in place.engine():
        os.kill(pid, signal.SIGKILL)
    page.wait_for_selector(".pane.steered[data-state=cut]", timeout=PATIENCE)
    page.wait_for_selector("#status:has-text('again')", timeout=PATIENCE)
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    short(page, 400)
    page.locator(".pane.steered").first.get_by_text("Ask again").click()
    grown(page)
    page.fill(".composer > textarea", "typed while it was gone")
    place.kill()
    page.wait_for_selector("#banner:has-text('The server is gone')", timeout=PATIENCE)
    assert page.input_value(".composer > textarea") == "typed while it was gone" and len(said(page)) > 40
    place.start()
    place.ready()
    page.wait_for_selector("#banner", state="hidden", timeout=PATIENCE)
    page.wait_for_selector("#status .good", timeout=PATIENCE)
    short(page)
    page.focus(".composer > textarea")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn >> nth=1")
    answered(page, "steered")
    assert "typed while it was gone" in page.locator(".turn .user").first.inner_text()
    allowed = ("Failed to load resource", "net::ERR")  # what a browser says of a server that is not there
    assert all(any(a in e for a in allowed) for e in heard.errors) and not heard.outside
    page.context.close()


def test_10_long_and_hostile_texts_are_texts(page: Any, place: Place) -> None:
    raw = (SHIPPED / "cheerful.safetensors").read_bytes()
    name = httpx.post(f"{place.url}studio/vectors/{quote(HOSTILE)}", content=raw).json()["name"]
    page.wait_for_selector(f".card:has-text('{HOSTILE[:8]}')", timeout=PATIENCE)
    card = page.locator(".card", has=page.get_by_text(HOSTILE, exact=True))
    assert card.count() == 1  # the name of the file, as it is
    card.get_by_role("switch").check()
    short(page)
    ask(page, MARKUP)
    assert page.locator(".turn script, .turn img, .turn b:not(header b)").count() == 0
    assert (
        MARKUP in page.locator(".turn .user").first.inner_text()
        and HOSTILE in page.locator(".pane.steered header").first.inner_text()
    )
    long = "The sea is wide. " * 1177  # 20,009 characters
    ask(page, long)
    assert f"({len(long)} characters)" in page.locator(".turn .user").first.inner_text()
    assert said(page).strip()
    httpx.delete(f"{place.url}studio/vectors/{name}")


def test_an_answer_with_markup_is_shown(page: Any) -> None:
    """The model's words are put in as text, whatever they are."""
    short(page)
    end = {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}], "usage": {"completion_tokens": 9}}
    events = [{"choices": [{"delta": {"content": MARKUP}, "finish_reason": None}]}, {**end, "steering": None}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    kind = {"Content-Type": "text/event-stream"}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, headers=kind, body=body))
    ask(page)
    assert said(page) == MARKUP and page.locator(".turn script, .turn img").count() == 0
    page.wait_for_timeout(1500)


PAIRS = (
    ("How was school?", "It was wonderful! I learned so much.", "It was dull, as always."),
    ("How is the weather?", "Lovely! Even the rain makes everything shine.", "Miserable, and it will only get worse."),
    ("Any plans?", "So many! I cannot wait for all of them.", "None. Nothing good ever comes of plans."),
)
VIEWS = ("talk", "learn", "evidence", "away")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_is_for_everybody(place: Place, browser: Any, heard: Heard, width: int, dark: bool) -> None:
    """axe finds nothing serious, nothing is cut off at the side, and the keyboard gets everywhere."""
    from axe_playwright_python.sync_playwright import Axe

    page = at(browser, place, heard, width=width, height=844, dark=dark)
    short(page)
    for name in ("Asked in words", "Opposite sign"):
        page.get_by_role("checkbox", name=name).check()
    ask(page, TEXT, "unsteered", "steered", "asked", "opposite")
    answered(page, "unsteered", "steered", "asked", "opposite", colored=True)
    for view in VIEWS:
        page.click(f"[data-view={view}]")
        if view == "evidence":
            page.click(".runs >> text=scored")
            page.wait_for_selector(".cloud")
            page.locator(".items button").first.click()
            page.wait_for_selector(".item .chart")
        for details in page.locator("details").all():
            if details.is_visible():
                details.evaluate("d => { d.open = true; }")
        page.wait_for_timeout(200)
        found = Axe().run(page).response["violations"]
        serious = [
            (v["id"], [n["html"][:120] for n in v["nodes"][:3]])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], (view, serious)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, view
    page.click("[data-view=talk]")
    page.focus(".composer > textarea")
    reached = set[str]()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(document.activeElement.ariaLabel || document.activeElement.textContent).trim().slice(0, 30)"
            )
        )
    assert {"Ask", "Dose of pirate", "Learn", "Evidence"} <= reached
    page.context.close()
