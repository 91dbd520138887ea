"""How long the studio keeps people waiting: `.venv/bin/python benchmarks/studio.py`, two minutes, with a Chromium.

Sides take turns: the first text on the page after Enter, and the first token of `LM.generate` in a process of its own,
on the same prompts under the same vector. Beside it the first visit, blocking by a run of 10,000 items, layout shift.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browser import Heard, chromium, opened
from many import scored
from served import free_port

REPEATS = 7
PAGE = HERE.parent / "src" / "trimtab" / "studio" / "page"
PROMPT = "{}. What is the use of a lighthouse, and who keeps it? Say it to somebody who has never seen the sea. " * 4
WATCH = """() => {
    window.long = []; window.shift = 0;
    new PerformanceObserver((l) => window.long.push(...l.getEntries().map((e) => e.duration))).observe({ entryTypes: ['longtask'] });
    new PerformanceObserver((l) => { for (const e of l.getEntries()) if (!e.hadRecentInput) window.shift += e.value; })
        .observe({ type: 'layout-shift', buffered: true });
}"""  # noqa: E501
WORKER = """
import sys, time
from trimtab import LM, SteeringVector, steer
lm, v = LM.load("smollm2"), SteeringVector.load(sys.argv[1])
print("ready", flush=True)
for prompt in sys.stdin:
    began = time.perf_counter()
    with steer(lm, v):
        lm.generate([prompt.strip()], max_new_tokens=1)
    print(time.perf_counter() - began, flush=True)
"""
FIRST = """(before) => new Promise((told) => {
    const began = performance.now();
    const look = () => {
        const pane = document.querySelector('.turn:first-child .pane.steered');
        const there = document.querySelectorAll('.turn').length > before;
        const text = there && pane?.querySelector('.text')?.firstChild?.data?.trim();
        if (text) told((performance.now() - began) / 1000); else requestAnimationFrame(look);
    };
    look();
})"""


def first_words(page: Any, alone: Any) -> tuple[list[float], list[float]]:
    """Seconds to the first text: on the page, and of `LM.generate`."""
    page.get_by_role("checkbox", name="Unsteered").uncheck()
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Color tokens").uncheck()  # comparisons would have the model in the other side's turn
    page.get_by_label("Longest answer").fill("4")
    page.keyboard.press("Enter")
    page.wait_for_timeout(1500)
    ours, plain = list[float](), list[float]()
    for k in range(REPEATS):
        text = PROMPT.format(*[k] * 4)
        alone.stdin.write(text + "\n")
        alone.stdin.flush()
        plain.append(float(alone.stdout.readline()))
        turns = page.locator(".turn").count()
        page.fill(".composer > textarea", text)
        page.evaluate("() => document.querySelector('.composer > textarea').form.requestSubmit()")
        ours.append(page.evaluate(FIRST, turns))
        page.wait_for_selector(".turn:first-child .pane.steered[data-state=done]", timeout=60_000)
        page.wait_for_timeout(200)
    return ours, plain


def ten_thousand(page: Any) -> float:
    """The longest task, in milliseconds, of opening a run of 10,000 items, reading some, and a few rounds of asking."""
    page.evaluate(WATCH)
    page.click("[data-view=evidence]")
    page.click(".runs >> text=many")
    page.wait_for_selector(".cloud", timeout=60_000)
    for k in range(5):
        page.locator(".items button").nth(k).click()
        page.wait_for_timeout(300)
    for _ in range(4):
        page.get_by_text("More", exact=True).click()
    page.wait_for_timeout(5000)
    return max(page.evaluate("window.long"), default=0.0)


def main() -> None:
    trimtab = str(Path(sys.executable).with_name("trimtab"))
    vector = str(PAGE.parent / "shipped" / "pirate.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        scored(Path(folder, "runs", "many"), 10_000, "Is it so?")
        port = free_port()
        command = [trimtab, "studio", "--no-browser", "--runs", str(Path(folder, "runs")), "--port", str(port)]
        studio = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        alone = subprocess.Popen(
            [sys.executable, "-c", WORKER, vector], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert alone.stdout and alone.stdout.readline() == "ready\n"
        try:
            while not _ready(port):
                time.sleep(0.5)
            with chromium() as browser:
                told = measured(browser, f"http://127.0.0.1:{port}/", alone)
        finally:
            alone.kill()
            studio.terminate()
            studio.wait()
    print(json.dumps(told))
    (HERE / "results" / "studio.json").write_text(json.dumps(told, indent=1) + "\n")


def measured(browser: Any, url: str, alone: Any) -> dict[str, Any]:
    page = opened(browser, url, Heard())
    page.evaluate(WATCH)
    page.wait_for_selector("#status .good", timeout=60_000)
    began = time.monotonic()
    page.click(".example >> nth=0")
    for pane in ("unsteered", "steered"):  # visibly different: a line of each
        page.wait_for_selector(f".pane.{pane}", timeout=60_000)
        while len(page.inner_text(f".pane.{pane} > .text").replace("thinking …", "").strip()) < 60:
            page.wait_for_timeout(20)
    visit = time.monotonic() - began
    shift = page.evaluate("window.shift")
    page.wait_for_selector(".pane.steered .tokens", timeout=60_000)
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Clear").click()
    ours, plain = first_words(page, alone)
    return {
        "cores": os.cpu_count(),
        "command": ".venv/bin/python benchmarks/studio.py",
        "repeats": REPEATS,
        "first_text_s": round(statistics.median(ours), 3),
        "first_text_range_s": [round(min(ours), 3), round(max(ours), 3)],
        "generate_first_s": round(statistics.median(plain), 3),
        "generate_range_s": [round(min(plain), 3), round(max(plain), 3)],
        "ratio": round(statistics.median(ours) / statistics.median(plain), 2),
        "first_visit_s": round(visit, 2),
        "longest_task_ms": round(ten_thousand(page), 1),
        "layout_shift": round(shift, 4),
        "page_kb": round(sum(f.stat().st_size for f in PAGE.iterdir()) / 1000, 1),
    }


def _ready(port: int) -> bool:
    try:
        return urlopen(f"http://127.0.0.1:{port}/health").status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
