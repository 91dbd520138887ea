"""Types are checked at run time in tests; data of the published studies is used where it lies, and skipped with the
reason elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: threads of theirs would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

from jaxtyping import install_import_hook

# shapes are checked at run time in the rooms where tensors change theirs; plain types are pyright's, everywhere
ROOMS = ("model", "steering", "optimize", "methods", "evaluation", "answers", "safety", "studies")
install_import_hook([f"trimtab.{room}" for room in ROOMS], "checked.check")

import pytest  # noqa: E402
import torch  # noqa: E402

from trimtab.model import LM  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared" / "data"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


@pytest.fixture(scope="session")
def published() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the published data sets are not at {SHARED}")
    return SHARED


@pytest.fixture
def lm() -> LM:
    from pico import pico

    return pico("llama")
