"""What a model's name stands for, said before anything is loaded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trimtab import names
from trimtab.errors import ModelError, TrimtabError
from trimtab.names import check_name


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smolm2", "did you mean 'smollm2'"),
        ("brindelmoor-chat", "did you mean 'brindlemoor-chat'"),
        ("weights.gguf", "does not begin as a GGUF file"),
        ("none.gguf", "no such file"),
        ("notes.txt", "it is a file"),
        ("hollow", "no config.json"),
        ("adapter", "merge the adapter"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ("", "no such folder"),
        ("owner/name", "HF_HUB_OFFLINE is set"),
        ("gpt2-that-nobody-has", "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_a_model_is_said(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.gguf").write_bytes(b"no GGUF")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(TrimtabError) as problem:
        check_name(name)
    assert words in str(problem.value)


def test_local_models_and_folders_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in (*names.LOCAL, str(tmp_path)):
        check_name(name)


@pytest.mark.parametrize(
    ("fault", "told"),
    [("network", "cannot be reached"), ("sleep", "does not answer"), ("", ""), ("missing", "no such")],
)
def test_the_hub_is_not_waited_for(fault: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def model_info(self: object, name: str, timeout: float) -> None:
        if fault == "sleep":
            time.sleep(2)
        elif fault == "missing":
            raise errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError)
        elif fault:
            raise ConnectionError

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(names, "PATIENCE", -0.3)
    names._check_hub.cache_clear()
    started = time.monotonic()
    if told:
        with pytest.raises(ModelError, match=told):
            check_name("owner/name")
    else:
        check_name("owner/name")
    assert time.monotonic() - started < 5
