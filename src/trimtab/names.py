"""What a model's name stands for, before anything is loaded: what it cannot be is said at once."""

from __future__ import annotations

import difflib
import os
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from trimtab import organisms
from trimtab.errors import ModelError, UnknownName

DTYPES = ("float32", "bfloat16", "float16", "float64")  # a model can compute in
EXTRA = "pip install 'trimtab[gguf]'"
PATIENCE = 4.0  # seconds to wait for the hub
LOCAL = ("smollm2", *organisms.MODELS)
ADDRESSES = '"smollm2", a Hugging Face id such as "owner/name", a folder with a model, or a GGUF file'
PUBLISHED = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # local names of what is on the hub
MODELS = "TRIMTAB_MODELS"  # names a folder whose GGUF files can be had by their names


def check_name(name: str) -> None:
    """Refuse a name that cannot be a model: a file, a folder without a model, a slip of a local name, or one that
    neither this machine nor the hub has.

    Raises:
        UnknownName: nearly a local model.
        ModelError: what it is instead.
    """
    if name in LOCAL:
        return
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        _check_gguf(name)
    elif name and path.is_dir():
        _check_folder(path, name)
    elif name and path.is_file():
        raise _a_file(path, name)
    elif not name or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"cannot load model {name!r}: no such folder", expected=ADDRESSES)
    elif "/" not in name and difflib.get_close_matches(name, LOCAL, n=1, cutoff=0.6):
        raise UnknownName("model", name, LOCAL)
    else:
        _check_hub(name)


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a name stands for: at that path, or else in the folder that `$TRIMTAB_MODELS` names; None for
    a name of another kind.

    Raises:
        ModelError: there is no such file.
    """
    path = Path(name).expanduser()
    if path.suffix != ".gguf":
        return None
    shelf = os.environ.get(MODELS)
    file = next((p for p in (path, *([Path(shelf) / name] if shelf else [])) if p.is_file()), None)
    if file is None:
        here = f"{Path.cwd()} and {shelf}" if shelf else str(Path.cwd())
        raise ModelError(
            f"cannot load model {name!r}: no such file",
            given=f"looked in {here}",
            expected="a GGUF file",
            do=f"give its path, or set {MODELS} to the folder that holds it",
        )
    return file


def _check_gguf(name: str) -> None:
    """Refuse a GGUF file that is not there or is none, or that cannot be read for want of a package."""
    file = gguf_file(name)
    assert file is not None
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"cannot load model {name!r}: it does not begin as a GGUF file", do="fetch it again")
    if find_spec("gguf") is None:
        raise ModelError(f"cannot load model {name!r}: reading GGUF files needs a package", do=EXTRA)


def _a_file(path: Path, name: str) -> ModelError:
    return ModelError(
        f"cannot load model {name!r}: it is a file",
        expected=ADDRESSES,
        do="give the folder that holds config.json",
    )


def _check_folder(path: Path, name: str) -> None:
    if (path / "config.json").is_file():
        return
    held = sorted(p.name for p in path.iterdir())
    merge = "merge the adapter into its base model (merge_and_unload) and save that"
    ggufs = [h for h in held if Path(h).suffix == ".gguf"]
    raise ModelError(
        f"cannot load model {name!r}: the folder holds no config.json",
        given=held[:8] or "an empty folder",
        expected="a folder that save_pretrained wrote",
        do=merge if "adapter_config.json" in held else f"name the file: {path / ggufs[0]}" if ggufs else None,
    )


@cache
def _check_hub(name: str) -> None:
    """Refuse what is not in the cache and not on the hub, or if the hub does not answer in a few seconds. One that is
    there is asked for once: the command line, a recipe and the loading of a model all check its name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
    except HFValidationError as problem:
        raise ModelError(f"cannot load model {name!r}: not a name", given=str(problem), expected=ADDRESSES) from problem
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    reason = "HF_HUB_OFFLINE is set" if offline else _asked_the_hub(name)
    if reason:
        raise ModelError(
            f"cannot load model {name!r}: {reason}, and it is not in the cache",
            expected=ADDRESSES,
            do="trimtab list shows the local models",
        )


def _asked_the_hub(name: str) -> str:
    """Why a model cannot be had from the hub; empty if it can, or if only loading can tell."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    answer = ["the hub does not answer"]

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=PATIENCE)
            answer[0] = ""
        except GatedRepoError:
            answer[0] = ""
        except RepositoryNotFoundError:
            answer[0] = "the hub has no such model, or keeps it private"
        except HfHubHTTPError:
            answer[0] = ""  # a mirror that knows files alone
        except Exception:  # no network, in one of many ways
            answer[0] = "the hub cannot be reached"

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE + 0.5)
    return answer[0]
