"""A server with eight requests at once, plain or each under one of four vectors too small to change the text."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from turns import inputs, serve

REQUESTS, NEW = 8, 48


def main() -> None:
    import torch
    import uvicorn

    from trimtab import SteeringVector
    from trimtab.serving import server

    work, kind = inputs()
    *engine, kind = kind.split()
    vectors = torch.from_numpy(np.load(work["vectors"]))
    folder = Path(tempfile.mkdtemp())
    for k, layer in enumerate((10, 14, 18, 22)):
        SteeringVector({layer: vectors[layer] * 1e-4}).save(folder / f"v{k}.safetensors")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    how: Any = {"engine": "vllm", "options": {"max_model_len": 2048}} if engine else {}
    made = server(work["model"], folder, dtype="float32", **how)
    web = uvicorn.Server(uvicorn.Config(made.app, port=port, log_level="error"))
    threading.Thread(target=web.run, daemon=True).start()
    url = f"http://127.0.0.1:{port}"
    while not _answers(f"{url}/health"):
        time.sleep(0.2)

    def ask(k: int) -> int:
        body = {"messages": [{"role": "user", "content": work["questions"][k]}], "max_tokens": NEW, "temperature": 0}
        body["steer"] = f"1 v{k % 4}" if kind == "steered" else ""
        data = json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/chat/completions", data)) as answer:
            return int(json.load(answer)["usage"]["completion_tokens"])

    def repeat() -> Any:
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(ask, range(REQUESTS)))

    serve(repeat)


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url).status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
