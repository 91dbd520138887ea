"""The command that serves a model."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from trimtab.errors import RecipeError
from trimtab.names import check_name


@dataclass(frozen=True)
class Serve:
    """Serve a model with OpenAI's API, on loopback: every request says which vectors steer it ("steer": "0.6 pirate +
    formal @ answer") and gets a receipt of what was done. TRIMTAB_TOKEN names a token that every request must bring,
    TRIMTAB_ADMIN_KEY the key with which vectors are added and freed.
    """

    model: Positional[str]
    """Local default "smollm2", a Hugging Face id, a folder, or a GGUF file."""
    vectors: Path | None = None
    """Folder of vectors, served by the names of their files."""
    host: str = "127.0.0.1"
    """Address to listen on; one that others can reach needs a token."""
    port: int = 8000
    """Port to listen on."""
    batch: int = 8
    """Requests answered in one pass at most."""
    engine: Literal["hf", "vllm"] = "hf"
    """hf is the embedded one; vllm needs vLLM, in an environment of its own."""
    options: str = "{}"
    """Of vLLM, as JSON: its AsyncEngineArgs, and "layers", the blocks that can be steered (by default all)."""
    dtype: str | None = None
    """float32, bfloat16, float16; by default float32 on a CPU."""
    device: str | None = None
    """cpu, cuda, ..."""

    def __call__(self) -> None:
        if not 0 < self.port < 1 << 16 or self.batch < 1:
            raise RecipeError(
                "not a server", given=(self.port, self.batch), expected="a port, and batches of 1 or more"
            )
        check_name(self.model)
        try:
            options = json.loads(self.options)
        except ValueError as problem:
            raise RecipeError("--options", given=self.options, expected="a JSON object") from problem
        if not isinstance(options, dict) or (options and self.engine != "vllm"):
            raise RecipeError("--options", given=self.options, expected="a JSON object, with --engine vllm")
        from trimtab.serving import serve

        known = {"token": os.environ.get("TRIMTAB_TOKEN", ""), "admin": os.environ.get("TRIMTAB_ADMIN_KEY", "")}
        print(
            f"serving {self.model} on http://{self.host}:{self.port}/v1 (ctrl-C ends it)", file=sys.stderr, flush=True
        )
        serve(
            self.model,
            self.vectors,
            host=self.host,
            port=self.port,
            batch=self.batch,
            engine=self.engine,
            options=options,
            dtype=self.dtype,
            device=self.device,
            **known,
        )
