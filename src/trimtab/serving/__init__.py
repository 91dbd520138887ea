"""serve(): an OpenAI-compatible server that steers each request as it asks, and says what it did."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from trimtab.errors import ServeError
from trimtab.names import check_name
from trimtab.serving.shelf import Limits, Shelf

__all__ = ["Limits", "Shelf", "serve", "server"]


def server(
    model: str,
    vectors: str | Path | None = None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    batch: int = 8,
    engine: Literal["hf", "vllm"] = "hf",
    options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    hosts: tuple[str, ...] = (),
    token: str = "",
    admin: str = "",
) -> Any:
    """The server of a model, not yet running; its `app` is an ASGI application.

    Args:
        model: as for `LM.load`; loaded in a process of its own when the application starts.
        vectors: a folder of vectors, served by the names of their files.
        batch: requests answered in one pass at most.
        engine: "hf", the embedded one, or "vllm", where that is installed.
        options: of vLLM's AsyncEngineArgs, such as `{"max_model_len": 4096}`; "layers" among them, a list, is of the
            blocks that can be steered: each costs a little at every token. By default all.
        hosts: names by which it may be addressed, beside those of loopback.
        token: that every request must bring.
        admin: the key with which vectors are added, replaced and freed.

    Raises:
        VectorError: a folder or a file that cannot be used.
        ModelError: not a model.
        ServeError: the packages of the extra are not installed.
    """
    try:
        from trimtab.serving.api import LOOPBACK, Access, Server
    except ImportError as problem:
        raise ServeError(
            "a server needs packages of its own", given=str(problem), do="pip install 'trimtab[serve]'"
        ) from problem

    if engine not in ("hf", "vllm"):
        raise ServeError("not an engine", given=engine, expected="hf or vllm")
    check_name(model)
    limits = limits or Limits()
    shelf = Shelf.of(None if vectors is None else Path(vectors), limits)
    about = {"name": model, "dtype": dtype, "device": device}
    return Server(
        _engine(engine, about, batch, dict(options or {})), shelf, limits, Access((*LOOPBACK, *hosts), token, admin)
    )


def _engine(kind: str, about: dict[str, Any], batch: int, options: dict[str, Any]) -> Any:
    from trimtab.serving.engine import Engine

    if kind == "hf":
        return Engine(about, batch)
    if find_spec("vllm") is None:
        raise ServeError("this engine needs vLLM", do="pip install 'trimtab[vllm]', in an environment of its own")
    from trimtab.serving.vllm_engine import main

    layers = options.pop("layers", None)
    steering = {} if layers is None else {"layers": layers}
    return Engine({**about, "options": options, "steering": steering}, batch, main, holds=32)  # its tables have 63 rows


def serve(
    model: str, vectors: str | Path | None = None, *, host: str = "127.0.0.1", port: int = 8000, **how: Any
) -> None:
    """Serve a model until interrupted. See `server`.

    Raises:
        ServeError: an address that others can reach, without a token.
    """
    check_address(host, str(how.get("token", "")))
    until_interrupted(server(model, vectors, hosts=names_of(host), **how), host, port)


def names_of(host: str) -> tuple[str, ...]:
    """The names by which a server that listens on an address may be called."""
    return ("*",) if host in ("0.0.0.0", "::", "") else (host,)


def check_address(host: str, token: str) -> None:
    """Refuse to be reached by others without a token.

    Raises:
        ServeError: it would be.
    """
    if host not in ("127.0.0.1", "localhost", "::1") and not token:
        raise ServeError(
            f"{host} can be reached by others", expected="a token", do="set TRIMTAB_TOKEN, or serve on 127.0.0.1"
        )


def until_interrupted(made: Any, host: str, port: int) -> None:
    """Run a server until it is interrupted."""
    import uvicorn

    small = 1 << 16  # bytes of a request's head
    uvicorn.run(
        made.app,
        host=host,
        port=port,
        log_level="warning",
        limit_concurrency=512,
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=small,
    )
