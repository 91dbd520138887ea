"""The command that opens the studio."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from trimtab.errors import RecipeError, VectorError
from trimtab.names import check_name


@dataclass(frozen=True)
class Studio:
    """A local page on which one talks to a model under vectors, sees what each dose does and costs, learns new ones,
    and reads the evidence of run folders. It is `trimtab serve` with a page: the same API, on loopback. TRIMTAB_TOKEN
    names a token that every request must bring.
    """

    vectors: Positional[tuple[Path, ...]] = ()
    """Files of vectors, folders of them, or run folders; by default those that come with trimtab."""
    model: str | None = None
    """A Hugging Face id, a folder, a GGUF file, or "smollm2"; by default the model the first vector was learned on."""
    runs: Path = Path("runs")
    """Folder of run folders: what the page shows the evidence of, and where it learns."""
    host: str = "127.0.0.1"
    """Address to listen on; one that others can reach needs a token."""
    port: int = 8000
    """Port to listen on."""
    no_browser: bool = False
    """Do not open the page in a browser."""
    dtype: str | None = None
    """float32, bfloat16, float16; by default float32 on a CPU."""
    device: str | None = None
    """cpu, cuda, ..."""

    def __call__(self) -> None:
        if not 0 < self.port < 1 << 16:
            raise RecipeError("not a port", given=self.port, expected="1 to 65535")
        if self.model is not None:
            check_name(self.model)
        for path in self.vectors:
            if not path.exists():
                raise VectorError(f"no such file: {path}", expected="a vector, a folder of vectors, or a run folder")
        from trimtab.studio import address, studio

        token = os.environ.get("TRIMTAB_TOKEN", "")
        print(f"the studio: {address(self.host, self.port, token)} (ctrl-C ends it)", file=sys.stderr, flush=True)
        studio(
            self.vectors,
            model=self.model,
            runs=self.runs,
            host=self.host,
            port=self.port,
            browser=not self.no_browser,
            token=token,
            dtype=self.dtype,
            device=self.device,
        )
