"""The pictures of the studio in README and docs: `make screenshots`. A real Chromium, SmolLM2, the vectors that come
with trimtab, and a measured run, which is made first and takes a minute.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Heard, chromium, opened  # noqa: E402
from served import free_port  # noqa: E402

TRIMTAB = str(Path(sys.executable).with_name("trimtab"))
SHIPPED = ROOT / "src" / "trimtab" / "studio" / "shipped"
WAIT = 120_000


def taken(page: Any, name: str, **how: Any) -> None:
    """A picture."""
    file = ROOT / "docs" / f"{name}.png"
    page.screenshot(path=str(file), **how)
    print(file.relative_to(ROOT), f"{file.stat().st_size / 1000:.0f} kB")


def talk(page: Any) -> None:
    page.wait_for_selector("#status .good", timeout=WAIT)
    page.get_by_role("checkbox", name="Random vector").check()
    page.click(".example >> nth=0")
    for pane in ("unsteered", "steered", "random"):
        page.wait_for_selector(f".pane.{pane} .tokens", timeout=WAIT)
    page.locator(".pane.steered .token").nth(3).hover()
    page.wait_for_timeout(300)
    taken(page, "studio")


def evidence(page: Any) -> None:
    page.click("[data-view=evidence]")
    page.click(".runs >> text=cheerful")
    page.wait_for_selector(".cloud", timeout=WAIT)
    page.locator(".items button").first.click()
    page.wait_for_selector(".item .chart")
    page.locator(".figures").scroll_into_view_if_needed()
    page.evaluate("scrollTo(0, document.querySelector('.figures').offsetTop - 70)")
    page.wait_for_timeout(300)
    taken(page, "studio-evidence")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs, port = Path(folder, "runs"), free_port()
        cheerful = str(SHIPPED / "cheerful.safetensors")
        subprocess.run([TRIMTAB, "measure", cheerful, "--data", "optimism", "--to", str(runs / "cheerful")], check=True)
        studio = subprocess.Popen([TRIMTAB, "studio", "--no-browser", "--runs", str(runs), "--port", str(port)])
        try:
            for _ in range(120):
                try:
                    urlopen(f"http://127.0.0.1:{port}/health")
                    break
                except OSError:
                    time.sleep(0.5)
            with chromium() as browser:
                page = opened(browser, f"http://127.0.0.1:{port}/", Heard(), width=1280, height=860)
                talk(page)
                evidence(page)
        finally:
            studio.terminate()
            studio.wait()


if __name__ == "__main__":
    main()
