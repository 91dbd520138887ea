"""Checkpoints: whole or refused; no code of theirs is run; weights that are kept elsewhere; text paths of models that
also see.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pico import build, rows, saved, tokenizer, toy_pairs
from trimtab.errors import ModelError, SteerError, VectorError
from trimtab.model import LM
from trimtab.model.trials import relative
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.vector import Provenance, SteeringVector
from zoo import SMALL, WIDTH


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(saved(tmp_path / "llama"))


def changed(folder: Path, change: Any) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return folder


def test_a_whole_checkpoint_loads_the_same_twice(checkpoint: Path) -> None:
    one, two = LM.load(str(checkpoint)), LM.load(str(checkpoint))
    tokens = one.batch(rows((5, 2)))
    assert torch.equal(one.logits(tokens), two.logits(tokens))


CUTS = {
    "lm_head": lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"},
    "layers.2": lambda w: {k: v for k, v in w.items() if ".layers.2." not in k},
    "prefix": lambda w: {k.replace("model.layers", "decoder.layers"): v for k, v in w.items()},
}


@pytest.mark.parametrize("name", CUTS)
def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"lacks weights(.|\n)*missing: "):
        LM.load(str(changed(checkpoint, CUTS[name])))


def test_weights_of_something_else_are_told(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    changed(checkpoint, lambda w: {**w, "visual.patch.weight": torch.zeros(3, 3)})
    LM.load(str(checkpoint))
    assert "visual.patch.weight" in caplog.text


def test_code_of_a_checkpoint_is_never_run(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks whether to run it where it is not told; `yes` would answer."""
    witness = checkpoint / "was-run"
    (checkpoint / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(witness)!r}).write_text('x')\nfrom transformers import LlamaConfig as "
        "C, LlamaForCausalLM as M\n"
    )
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError):
        LM.load(str(checkpoint))
    table = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({**table, "tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.T", None]}})
    )
    with pytest.raises(ModelError):
        LM.load(str(checkpoint))
    assert not witness.exists()


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_dtype_by_name_or_as_itself(checkpoint: Path, dtype: Any) -> None:
    assert LM.load(str(checkpoint), dtype=dtype).dtype == torch.bfloat16
    with pytest.raises(ModelError, match="unknown dtype"):
        LM.load(str(checkpoint), dtype=torch.int8)


def test_a_head_on_disk_gives_the_logits_of_a_head_in_memory(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    places = {"model": "cpu", "lm_head": "disk"}
    away = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, device_map=places, offload_folder=str(tmp_path / "away")
    )
    here = LM.load(str(checkpoint), dtype="bfloat16")
    tokens = here.batch(rows((5, 2), (4, 1)))
    for _ in range(3):
        lm = LM(away, tokenizer(), id="away", check=False)
        assert relative(lm.logits(tokens)[tokens.mask.bool()], here.logits(tokens)[tokens.mask.bool()]) <= 1e-5


def test_blocks_on_disk_give_what_blocks_in_memory_give(checkpoint: Path, tmp_path: Path) -> None:
    """A pipeline as accelerate makes one: captures, replays and descents are those of the model in one place."""
    from transformers import AutoModelForCausalLM

    from trimtab import MeanDiff, OneShot, learn
    from trimtab.data.datasets import Dataset
    from trimtab.model.trials import replay_error

    away = {"model.layers.2": "disk", "model.layers.3": "disk"}
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu", **away}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, device_map=places, offload_folder=str(tmp_path / "away")
    )
    here, there = LM.load(str(checkpoint)), LM(model, tokenizer(), id="away")
    assert there.exact.replayable and max(replay_error(there, k) for k in range(4)) <= 1e-5
    data = Dataset.load(str(toy_pairs(tmp_path / "toy.jsonl")))
    shot = OneShot(prompt="Do you like tea ?", promote=("Yes the rain",), norm=1.0, steps=5)
    for method, layers in ((MeanDiff(), None), (shot, [1])):
        one, other = (learn(lm, data, method, layers) for lm in (here, there))
        for k in one.layers:
            assert relative(other[k], one[k]) <= 1e-5, (method, k)


def test_vectors_and_masks_follow_the_stream_to_its_device() -> None:
    """On fake tensors, which know where they are: no GPU is needed to see two devices meet."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from trimtab.model import Frame, Row
    from trimtab.steering.operators import Ablate, Add, Affine, Clamp, Rotate

    iv = Intervention(SteeringVector({0: torch.ones(8)}), positions="generated")
    with FakeTensorMode(allow_non_fake_inputs=True):
        h = torch.empty(2, 3, 8, device="cuda", dtype=torch.bfloat16)
        frame = Frame(torch.zeros(2, 3, dtype=torch.long), (Row((1, 2, 3), 1), Row((1, 2, 3), 2)))
        for operator in (Add(), Ablate(), Affine(), Clamp(), Rotate()):
            for m in (2.0, torch.ones(2, 1, 1)):
                assert operator(h, torch.ones(8), m).device.type == "cuda"
        for m in (None, torch.ones(2, 1, 1)):
            assert iv.apply(h, 0, frame, m)[0].device.type == "cuda"


def test_the_text_path_of_a_model_that_sees(tmp_path: Path) -> None:
    import transformers

    text = {
        **{k: v for k, v in SMALL.items() if k != "intermediate_size"},
        "intermediate_size": 48,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 16,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=90,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    torch.manual_seed(0)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm = LM.load(str(tmp_path))
    assert lm.exact.replayable and lm.n_layers == 4
    plain = lm.generate(["Do you like tea ?"], max_new_tokens=5)
    with steer(lm, Intervention(SteeringVector({1: 3 * torch.ones(WIDTH)}))):
        assert lm.generate(["Do you like tea ?"], max_new_tokens=5) != plain


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_peft_models_keep_every_shortcut() -> None:
    import peft

    adapted = peft.get_peft_model(
        build("llama"), peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    )
    lm = LM(adapted, tokenizer(), id="adapted")
    assert lm.exact.foldable and lm.exact.openable and "logits_to_keep" in lm._accepts and "position_ids" in lm._accepts


def test_a_vector_for_the_model_without_an_added_token_names_the_way_over(checkpoint: Path) -> None:
    base = LM.load(str(checkpoint))
    grown = build("llama")
    grown.resize_token_embeddings(97, mean_resizing=False)
    lm = LM(grown, tokenizer(), id="grown")
    v = SteeringVector({1: torch.ones(WIDTH)}, Provenance(model=base.id, fingerprint=base.fingerprint))
    with pytest.raises(VectorError, match=r"transfer\.onto"), steer(lm, Intervention(v)):
        pass


def test_half_precision_says_where_it_ends() -> None:
    lm = LM(build("llama", dtype=torch.float16), tokenizer(), id="half")
    iv = Intervention(SteeringVector({1: 3e4 * torch.ones(WIDTH)}), multiplier=3.0)
    for run in (
        lambda: lm.generate(["Do you like tea ?"], max_new_tokens=4),
        lambda: lm.generate(["Do you like tea ?"], max_new_tokens=4, temperature=1.0),
        lambda: lm.logprobs(["Do you like tea ?"], ["yes"]),
    ):
        with (
            pytest.raises(SteerError, match=r"not finite at block 1(.|\n)*bfloat16(.|\n)*smaller multiplier"),
            steer(lm, iv),
        ):
            run()


def test_numbers_that_are_lost_further_up_are_told_with_their_block() -> None:
    lm = LM(build("llama", dtype=torch.float16), tokenizer(), id="half")
    with torch.no_grad():
        lm.blocks[2].mlp.down_proj.weight.fill_(6e4)  # type: ignore[union-attr]
    iv = Intervention(SteeringVector({1: torch.ones(WIDTH)}))
    for temperature in (0.0, 1.0):
        with (
            pytest.raises(ModelError, match=r"not finite at block 2(.|\n)*bfloat16(.|\n)*smaller multiplier"),
            steer(lm, iv),
        ):
            lm.generate(["Do you like tea ?"], max_new_tokens=4, temperature=temperature)
    with pytest.raises(ModelError, match="not finite at block 2"):
        lm.logprobs(["Do you like tea ?"], ["yes"])


def test_a_model_that_is_not_finite_by_itself_is_told_so() -> None:
    model = build("llama", dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.fill_(6e4)
    with pytest.raises(ModelError, match="not finite at block 2"):
        LM(model, tokenizer(), id="lost")
