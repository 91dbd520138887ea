"""studio(): a local page on which one sees a vector work, and how far to trust it."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trimtab.errors import ServeError
from trimtab.names import LOCAL, check_name
from trimtab.runs import Run

if TYPE_CHECKING:
    from trimtab.serving.api import Server

__all__ = ["desk", "studio"]


def desk(
    vectors: Sequence[str | Path] = (),
    *,
    model: str | None = None,
    runs: str | Path = "runs",
    dtype: str | None = None,
    device: str | None = None,
    **how: Any,
) -> Server:
    """The server of a model with the studio on it, not yet running; its `app` is an ASGI application.

    Args:
        vectors: files, folders of them, or run folders; by default those that come with trimtab, for `smollm2`.
        model: by default the one that the first vector was learned on, else `smollm2`.
        runs: the folder in which run folders are looked for, and new vectors are learned.
        how: as for `trimtab.serving.server`.

    Raises:
        VectorError: a file that is no vector, or a folder without any.
        ModelError: not a model.
        ServeError: the packages of the extra `serve` are not installed.
        RunError: the folder of runs cannot be written to.
    """
    from trimtab.serving import server
    from trimtab.studio.shelved import chosen

    shelf = chosen([Path(v) for v in vectors], model)
    name = model or next((v.vector.made.model for v in shelf if v.vector.made.model), LOCAL[0])
    check_name(name)
    made = server(name, dtype=dtype, device=device, **how)
    from trimtab.studio.routes import Studio

    Run.create(runs)  # refuses a place that cannot be written to
    loading = {"model": name, "dtype": dtype, "device": device}
    Studio(made, shelf, Path(runs), {k: v for k, v in loading.items() if v is not None})
    return made


def studio(
    vectors: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    browser: bool = True,
    token: str = "",
    **how: Any,
) -> None:
    """Serve the studio until interrupted, and open it in a browser. See `desk`.

    Raises:
        ServeError: an address that others can reach, without a token; or a port that is taken.
    """
    from trimtab.serving import check_address, names_of, until_interrupted

    check_address(host, token)
    _check_free(host, port)
    made = desk(vectors, hosts=names_of(host), token=token, **how)
    if browser:  # without the token, which whoever lists processes would see: the page asks for it
        made.beside.append(_opened(address(host, port)))
    until_interrupted(made, host, port)


def address(host: str, port: int, token: str = "") -> str:
    """Of the page. A token stands behind the #, which is sent to nobody and written to no log."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/" + (
        f"#token={quote(token, safe='')}" if token else ""
    )


@asynccontextmanager
async def _opened(page: str) -> AsyncGenerator[None]:
    """Open a page in a browser, once the server listens."""

    waits = threading.Timer(0.5, webbrowser.open, [page])
    waits.daemon = True  # a browser may live in this terminal
    waits.start()
    yield
    waits.cancel()


def _check_free(host: str, port: int) -> None:
    """Refuse a port that is taken, before a model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as problem:
            do = "choose another: --port N"
            raise ServeError(f"{host}:{port} cannot be listened on", given=problem.strerror, do=do) from problem
