"""Servers for tests, on free ports of loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.request import urlopen

import uvicorn


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def until(there: Any, patience: float = 90.0) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(Exception):  # nobody listens yet, in the words of one client or another
            if there():
                return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """An application on a port, once its model is there; its address."""
    port = free_port()
    web = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_keep_alive=2))
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: urlopen(f"{url}/health").status == 200)
        yield url
    finally:
        web.should_exit = True
        thread.join(20)
