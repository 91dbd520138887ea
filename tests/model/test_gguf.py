"""GGUF files as models: read once, kept by content, and what they say of themselves compared."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from pico import build
from trimtab.errors import ModelError
from trimtab.exporters.model_gguf import begun, finish, tensors
from trimtab.model import LM
from trimtab.model.gguf import Header, differences, folder, header

WORDS = ["<|endoftext|>", "<s>", "</s>", *sorted(ByteLevel.alphabet()), "ab"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path: Path, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32, **changes: object) -> LM:
    """A tiny Llama as a GGUF file with a byte-level tokenizer; and itself."""
    model = build("llama")
    model.resize_token_embeddings(len(WORDS))
    lm = LM(model, None, id="tiny")
    writer = begun(lm, path)
    writer.add_name("tiny")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(bool(changes.get("begins", False)))
    if "parts" in changes:
        writer.add_uint16("split.count", 3)
    for name, tensor in tensors(lm):
        fits = tensor.ndim == 2 and tensor.shape[-1] % 32 == 0
        raw = gguf.quantize(tensor, kind) if fits and kind != gguf.GGMLQuantizationType.F32 else tensor
        writer.add_tensor(name, raw, raw_dtype=kind if raw is not tensor else None)
    finish(writer)
    return lm


def test_a_file_is_the_model_it_was_written_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = written(tmp_path / "tiny.gguf")
    caplog.set_level(logging.WARNING)
    lm = LM.load(str(tmp_path / "tiny.gguf"))
    assert "dequantized once" in caplog.text
    caplog.clear()
    tokens = lm.tokens(["ab cd"])
    torch.testing.assert_close(lm.logits(tokens), mine.logits(mine.batch(tokens.rows)), atol=1e-5, rtol=0)
    again = LM.load(str(tmp_path / "tiny.gguf"))
    assert not caplog.text
    assert torch.equal(again.logits(tokens), lm.logits(tokens))


def test_quantized_weights_are_what_the_file_holds(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    mine = written(tmp_path / "tiny.gguf", kind)
    lm = LM.load(str(tmp_path / "tiny.gguf"))
    w = mine.inner.model.layers[1].mlp.gate_proj.weight.numpy()
    theirs = lm.inner.model.layers[1].mlp.gate_proj.weight
    expected = torch.from_numpy(gguf.dequantize(gguf.quantize(w, kind), kind))
    assert torch.equal(theirs, expected) and not torch.equal(theirs, torch.from_numpy(w))


def test_by_content_and_from_the_shelf(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes under the same name are another model; `$TRIMTAB_MODELS` is a shelf."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    written(shelf / "tiny.gguf")
    monkeypatch.setenv("TRIMTAB_MODELS", str(shelf))
    assert LM.load("tiny.gguf").id == "tiny.gguf"
    written(shelf / "tiny.gguf", gguf.GGMLQuantizationType.Q8_0)
    LM.load("tiny.gguf")
    assert len(list(cache.glob("tiny-*"))) == 2
    with pytest.raises(ModelError, match=r"no such file(.|\n)*shelf"):
        LM.load("other.gguf")


def test_a_killed_conversion_leaves_nothing_half_done(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    written(tmp_path / "tiny.gguf")
    whole = PreTrainedModel.save_pretrained

    def killed(self: PreTrainedModel, path: Path) -> None:
        whole(self, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        folder(tmp_path / "tiny.gguf")
    assert {p.name for p in cache.glob("*")} <= {"exactness"}
    monkeypatch.undo()
    os.environ["TRIMTAB_CACHE"] = str(cache)
    assert (folder(tmp_path / "tiny.gguf") / "config.json").is_file()


def test_no_room_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "tiny.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(ModelError, match="no room"):
        LM.load(str(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("keep", [5, 60, 400, 4000])
def test_a_file_cut_short_is_refused(keep: int, tmp_path: Path) -> None:
    written(tmp_path / "tiny.gguf")
    path = tmp_path / "cut.gguf"
    path.write_bytes((tmp_path / "tiny.gguf").read_bytes()[:keep])
    with pytest.raises(ModelError):
        LM.load(str(path))


def test_one_of_several_parts_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "tiny.gguf", parts=3)
    with pytest.raises(ModelError, match="one of 3 parts"):
        LM.load(str(tmp_path / "tiny.gguf"))


def test_what_a_file_says_of_itself(tmp_path: Path) -> None:
    written(tmp_path / "tiny.gguf")
    head = header(tmp_path / "tiny.gguf")
    assert (head.name, head.architecture, head.quantization) == ("tiny", "llama", "ALL_F32")
    assert (head.vocabulary, head.begin, head.end, head.begins, head.template) == (len(WORDS), 1, 2, False, None)


def test_a_tokenizer_that_is_not_the_files_is_told(tmp_path: Path) -> None:
    written(tmp_path / "tiny.gguf")
    tokenizer = LM.load(str(tmp_path / "tiny.gguf")).tokenizer
    head = header(tmp_path / "tiny.gguf")
    assert differences(head, tokenizer) == []
    other = Header("x", "llama", "", 1, 1, vocabulary=7, begin=1, end=5, begins=True, template="x")
    assert len(differences(other, tokenizer)) == 4
