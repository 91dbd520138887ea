"""A vector in another engine computes what `steer` computes, or is refused before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from pico import build, pico, tokenizer
from trimtab import Ablate, Add, Affine, Clamp, CosineAbove, Intervention, Provenance, Rotate, SteeringVector, steer
from trimtab.errors import ExportError, SteerError, VectorError
from trimtab.exporters import Exporter, Gguf, Hook, Peft, Proof, Weights, export, verify
from trimtab.exporters.base import probes
from trimtab.exporters.control_vector import CARD
from trimtab.exporters.hook import FILE, POSITIONS
from trimtab.exporters.importers import from_peft
from trimtab.model import LM

BAKED = ("llama", "qwen2", "mistral", "gpt_neox", "gpt2", "opt", "phi", "starcoder2", "granite", "smollm3", "nemotron")
CUT = ("llama", "qwen2", "mistral", "gpt_neox", "gpt2")
NORMED = ("gemma2", "gemma3", "olmo2", "glm4", "exaone4")  # a norm stands behind their projections
LLAMA_CPP = ("llama", "qwen2", "mistral")


def families(*names: str) -> list[Any]:
    """Parameters of a test: Llama is always run, the others by `make zoo`."""
    return [pytest.param(name, marks=() if name == "llama" else pytest.mark.zoo) for name in names]


def model(name: str) -> LM:
    """A model of the zoo, of its own: without a sliding window where it has one."""
    made = build(name)
    if name in ("mistral", "starcoder2"):
        weights, config = made.state_dict(), made.config
        config.sliding_window = None
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"] * config.num_hidden_layers
        made = type(made)(config)
        made.load_state_dict(weights)
    return LM(made, tokenizer(), id=f"pico-{name}")


def vector(lm: LM, *layers: int, seed: int = 0) -> SteeringVector:
    g = torch.Generator().manual_seed(seed)
    return SteeringVector({k: torch.randn(lm.width, generator=g) for k in layers}, Provenance.of(lm))


def shown(proof: Proof) -> None:
    """Log-probabilities in float32, and the greedy choice after every token: of steered answers, too."""
    assert proof.error <= 1e-4 < proof.effect
    assert proof.greedy == 1.0


def everywhere(lm: LM, *layers: int, m: float = 1.0, operator: Any = None) -> Intervention:
    return Intervention(vector(lm, *layers), operator or Add(), m, "everywhere")


@pytest.mark.parametrize("layers", [(1,), (0, 3)])
@pytest.mark.parametrize("name", families(*BAKED))
def test_plain_transformers_loads_a_baked_checkpoint(name: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    lm = model(name)
    iv = everywhere(lm, *layers, m=-1.5)
    proof = export(iv, lm, tmp_path / "baked", to="hf")
    shown(proof)
    assert json.loads((tmp_path / "baked" / "trimtab.json").read_text())["proof"]["error"] == proof.error
    baked = LM(AutoModelForCausalLM.from_pretrained(tmp_path / "baked"), tokenizer(), id="baked")
    prompts = ["Do you like tea", "the rain"]
    with steer(lm, iv):
        expected = lm.generate(prompts, max_new_tokens=8)
    assert baked.generate(prompts, max_new_tokens=8) == expected != lm.generate(prompts, max_new_tokens=8)


@pytest.mark.parametrize("m", [1.0, 0.5])
@pytest.mark.parametrize("name", families(*CUT))
def test_weights_that_do_not_write_a_direction(name: str, m: float, tmp_path: Path) -> None:
    lm = model(name)
    shown(export(everywhere(lm, 2, m=m, operator=Ablate()), lm, tmp_path / "cut", to=Weights(every_write=True)))


def test_a_stream_without_the_direction_after_the_cut(tmp_path: Path) -> None:
    """What the name says, measured and not by the hooks of the proof: nothing in the stream points along it."""
    lm, iv = model("llama"), everywhere(model("llama"), 2, operator=Ablate())
    export(iv, lm, tmp_path / "cut", to=Weights(every_write=True))
    cut = LM.load(str(tmp_path / "cut"))
    v = iv.vector[2]
    seen = cut.capture(cut.tokens(["the rain"]), "everywhere")[0]
    assert (
        float((seen @ v / v.norm()).abs().max())
        < 1e-4
        < float((lm.capture(lm.tokens(["the rain"]), "everywhere")[0] @ v).abs().min())
    )


@pytest.mark.parametrize("layers", [(1,), (0, 3)])
@pytest.mark.parametrize("name", families("llama", "qwen2", "qwen3", "phi3", "granite", "gpt_neox", "gemma"))
def test_an_adapter_and_back(name: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    lm = model(name)
    iv = everywhere(lm, *layers, m=2.0)
    shown(export(iv, lm, tmp_path / "adapter", to="peft"))
    back = from_peft(tmp_path / "adapter", lm)
    assert back.layers == layers
    for k in layers:
        torch.testing.assert_close(back[k], 2.0 * iv.vector[k], atol=1e-6, rtol=1e-6)


OPERATORS = [Add(), Ablate(), Clamp(), Rotate(), Affine()]


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.registered_name)
def test_a_hook_does_what_trimtab_does(operator: Any, positions: str, tmp_path: Path) -> None:
    lm = model("llama")
    v = vector(lm, 1, 2)
    if isinstance(operator, Affine):
        g = torch.Generator().manual_seed(1)
        v = SteeringVector({k: torch.randn(5, lm.width, generator=g) / 6 for k in (1, 2)}, Provenance.of(lm))
    stack = [Intervention(v, operator, 0.7, positions), Intervention(vector(lm, 2, seed=3), Add(), 0.5, positions)]
    shown(export(stack, lm, tmp_path / "hook", to="hook"))


@pytest.mark.parametrize("name", families("gemma2", "gpt2", "falcon", "mixtral", "qwen3_next", "olmo2"))
def test_a_hook_fits_every_family(name: str, tmp_path: Path) -> None:
    lm = model(name)
    iv = Intervention(vector(lm, 1), Add(), 1.0, "from_last_prompt_token")
    shown(export(iv, lm, tmp_path / "hook", to="hook"))


@pytest.mark.parametrize("template", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_file_is_short_and_runs_alone(template: bool, tmp_path: Path) -> None:
    made = model("llama")
    lm = LM(made.model, deepcopy(made.tokenizer), id="short")  # the tokenizer is everybody's
    if not template:
        lm.tokenizer.chat_template = None
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    iv = Intervention(vector(lm, 1), Add(), 4.0, "from_last_prompt_token")
    export(iv, lm, tmp_path / "hook", to="hook")
    text = (tmp_path / "hook" / FILE).read_text()
    assert len(text.splitlines()) <= 40
    assert "import trimtab" not in text
    call = [sys.executable, tmp_path / "hook" / FILE, tmp_path / "model", "Do you like tea"]
    printed = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    with steer(lm, iv):
        assert printed.rstrip("\n") == lm.generate(["Do you like tea"], max_new_tokens=60)[0]


@pytest.mark.parametrize("layers", [(1,), (1, 3)])
@pytest.mark.parametrize("name", families(*LLAMA_CPP))
def test_llama_cpp_adds_a_control_vector(name: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    from gguf import GGUFReader

    lm = model(name)
    proof = export(everywhere(lm, *layers, m=1.5), lm, tmp_path / "v.gguf", to="gguf")
    shown(proof)
    assert proof.noise <= 1e-4
    reader = GGUFReader(tmp_path / "v.gguf")
    assert [t.name for t in reader.tensors] == [f"direction.{k}" for k in layers]
    assert json.loads(reader.fields[CARD].contents())["proof"]["error"] == proof.error
    assert verify(everywhere(lm, *layers, m=1.5), lm, tmp_path / "v.gguf", to="gguf").error == proof.error
    with pytest.raises(ExportError, match="does not compute"):
        verify(everywhere(lm, *layers, m=1.4), lm, tmp_path / "v.gguf", to="gguf")


def other(lm: LM, **changes: Any) -> Intervention:
    settings = {"operator": Add(), "multiplier": 1.0, "positions": "everywhere"} | changes
    return Intervention(vector(lm, settings.pop("layer", 1)), **settings)


GATE = CosineAbove(0.1)
CANNOT: list[tuple[str, dict[str, Any], Sequence[str], str]] = [
    ("llama", {"positions": "from_last_prompt_token"}, ("gguf", "hf", "peft"), "every token"),
    ("llama", {"positions": "last_k(3)"}, ("gguf", "hf", "peft", "hook"), "everywhere"),
    ("llama", {"operator": Clamp()}, ("gguf", "hf", "peft"), "only add"),
    ("llama", {"operator": Ablate()}, ("hf",), "every-write"),
    ("llama", {"gate": GATE}, ("gguf", "hf", "peft", "hook"), "gates"),
    ("llama", {"layer": 0}, ("gguf",), "block 0"),
    *((name, {}, ("hf", "peft"), "nothing but a sum") for name in NORMED),
    ("mixtral", {}, ("hf", "peft"), "nothing but a sum"),
    ("qwen3", {}, ("hf",), "no flag"),
    ("gemma", {}, ("gguf",), "model-file"),
]


@pytest.mark.parametrize(
    ("name", "changes", "to", "words"),
    [
        pytest.param(n, c, t, w, marks=() if n in ("llama", "gemma2", "mixtral") else pytest.mark.zoo)
        for n, c, targets, w in CANNOT
        for t in targets
    ],
)
def test_what_a_target_cannot_express_is_said_first(
    name: str, changes: dict[str, Any], to: str, words: str, tmp_path: Path
) -> None:
    lm = model(name) if name == "llama" else pico(name)
    with pytest.raises(ExportError, match=words):
        export(other(lm, **changes), lm, tmp_path / ("v.gguf" if to == "gguf" else "folder"), to=to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_post_norm_families_are_not_cut(name: str, tmp_path: Path) -> None:
    lm = pico(name)
    with pytest.raises(ExportError, match="not known to be whole"):
        export(other(lm, operator=Ablate()), lm, tmp_path / "cut", to=Weights(every_write=True))


def test_what_does_not_come_out_equal_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter with a fault: half the vector."""
    lm = model("llama")
    whole = Weights.write
    monkeypatch.setattr(Weights, "write", lambda self, lm, ivs, path: whole(self, lm, [ivs[0].times(0.5)], path))
    with pytest.raises(ExportError, match="nothing was written"):
        export(everywhere(lm, 1), lm, tmp_path / "baked", to="hf")
    assert not list(tmp_path.iterdir())


def test_a_vector_that_does_nothing_proves_nothing(tmp_path: Path) -> None:
    lm = model("llama")
    with pytest.raises(ExportError, match="too little"):
        export(everywhere(lm, 1, m=1e-7), lm, tmp_path / "baked", to="hf")


@pytest.mark.parametrize("to", ["gguf", "hf", "peft", "hook"])
def test_places_that_are_taken_and_vectors_of_others(to: str, tmp_path: Path) -> None:
    lm = model("llama")
    place = tmp_path / ("v.gguf" if to == "gguf" else "folder")
    taken = place / "x" if to == "gguf" else place
    taken.mkdir(parents=True)
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="is taken"):
        export(everywhere(lm, 1), lm, place, to=to)
    stranger = SteeringVector({1: torch.ones(lm.width)}, Provenance.of(pico("gpt2")))
    with pytest.raises(VectorError):
        export(Intervention(stranger, positions="everywhere"), lm, tmp_path / "new", to=to)
    assert (taken / "mine.txt").read_text() == "mine"


def test_a_model_under_an_adapter_is_left_as_it_was(tmp_path: Path) -> None:
    lm = model("llama")
    rows = probes(lm, nullcontext)
    before = [lm.logits(lm.batch([r])) for r in rows]
    names = [n for n, _ in lm.model.named_modules()]
    for to in ("hf", "peft", "hook"):
        export(everywhere(lm, 1), lm, tmp_path / to, to=to)
    assert [n for n, _ in lm.model.named_modules()] == names
    assert all(torch.equal(a, lm.logits(lm.batch([r]))) for a, r in zip(before, rows, strict=True))


@pytest.mark.parametrize(
    ("to", "dtype"), [("hf", "bfloat16"), ("peft", "bfloat16"), ("hook", "bfloat16"), ("hf", "float16")]
)
def test_half_precision(to: str, dtype: str, tmp_path: Path) -> None:
    lm = LM(build("llama", dtype=getattr(torch, dtype)), tokenizer(), id="half")
    proof = export(everywhere(lm, 1, m=2.0), lm, tmp_path / "out", to=to)
    assert proof.effect > 1 and abs(proof.share - 1) < 0.05


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    """Not even by a vector for the very model in it."""
    from trimtab.exporters.model_gguf import write_model

    lm = model("llama")
    file = write_model(lm, tmp_path / "model.gguf")
    before = file.read_bytes()
    with pytest.raises(ExportError, match="is taken"):
        export(everywhere(lm, 1), lm, file, to=Gguf(str(file)))
    assert file.read_bytes() == before
    export(everywhere(lm, 1), lm, tmp_path / "v.gguf", to=Gguf(str(file)))


@pytest.mark.parametrize("place", [".", "new/..", "a\0b", "x" * 300, "link", "dangling"])
def test_places_that_are_none(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "real").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("link").symlink_to(tmp_path / "real")
    Path("dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError):
        export(everywhere(model("llama"), 1), model("llama"), place, to="hook")


def test_somebody_takes_the_place_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(self: Hook, path: Path, card: object) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("theirs")

    monkeypatch.setattr(Hook, "sign", taken)
    with pytest.raises(ExportError, match="meanwhile"):
        export(everywhere(model("llama"), 1), model("llama"), tmp_path / "out", to="hook")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["theirs"]


@pytest.mark.parametrize("name", ["C:\\Users\\me", 'a"""b', 'x"""\nprint("INJECTED")\n"""', "m{x}"])
def test_a_name_is_no_code(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = model("llama")
    lm.id = name
    export(everywhere(lm, 1), lm, tmp_path / "hook", to="hook")
    assert "INJECTED" not in capsys.readouterr().out


def test_maps_zeros_and_repeats(tmp_path: Path) -> None:
    lm = model("llama")
    v = vector(lm, 1)
    export(Intervention(v, Affine(), 1.0, "everywhere"), lm, tmp_path / "plain", to="hook")  # rank 0 is an addition
    export([Intervention(v), Intervention(v, multiplier=0.5)], lm, tmp_path / "twice", to="hook")
    some = SteeringVector({1: v[1], 2: torch.zeros(lm.width)}, v.made)
    export(Intervention(some, Ablate(), 1.0, "everywhere"), lm, tmp_path / "zeros", to="hook")
    wide = SteeringVector({1: torch.randn(3, lm.width)}, v.made)
    with pytest.raises(SteerError, match="affine map"):
        Intervention(wide, Add(), 1.0, "everywhere")
    for iv in (Intervention(v, multiplier=0.0), Intervention(v * 0.0)):
        with pytest.raises(ExportError, match="nothing to export"):
            export(iv, lm, tmp_path / "none", to="hook")


def test_a_cut_says_what_it_is(tmp_path: Path) -> None:
    lm = model("llama")
    iv = everywhere(lm, 2, operator=Ablate())
    with pytest.raises(ExportError, match="every token"):
        export(Intervention(iv.vector, Ablate()), lm, tmp_path / "cut", to=Weights(every_write=True))
    export(iv, lm, tmp_path / "cut", to=Weights(every_write=True))
    told = json.loads((tmp_path / "cut" / "trimtab.json").read_text())
    assert told["target"] == {"name": "hf", "every_write": True}


def test_what_the_code_of_others_says_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    lm = model("llama")
    names = [n for n, _ in lm.model.named_modules()]
    whole = PeftModel.from_pretrained

    def broken(*args: Any, **kwargs: Any) -> None:
        whole(*args, **kwargs)
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(PeftModel, "from_pretrained", broken)
    with pytest.raises(ExportError, match="size mismatch"):
        export(everywhere(lm, 1), lm, tmp_path / "adapter", to="peft")
    assert [n for n, _ in lm.model.named_modules()] == names
    for to in ("hf", "peft", "hook"):
        with pytest.raises(ExportError, match="no such export"):
            verify(everywhere(lm, 1), lm, tmp_path / "missing", to=to)
    with pytest.raises(ExportError, match="not a target"):
        export(everywhere(lm, 1), lm, tmp_path / "x", to=Hook)  # type: ignore[arg-type]


def test_a_folder_that_was_made_for_nothing_is_gone(tmp_path: Path) -> None:
    lm = model("llama")
    tiny = SteeringVector({1: torch.full((lm.width,), 1e-9)}, Provenance.of(lm))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="too little"):
        export(Intervention(tiny, positions="everywhere"), lm, tmp_path / "mine" / "a" / "b" / "baked", to="hf")
    assert not any((tmp_path / "mine").iterdir())


def test_a_sliding_window_is_not_written_as_if_there_were_none(tmp_path: Path) -> None:
    lm = model("qwen2")
    lm.model.config.sliding_window, lm.model.config.use_sliding_window = 16, True
    for to, place in (("gguf", "v.gguf"), ("hf", "baked")):
        with pytest.raises(ExportError, match="sliding window"):
            export(everywhere(lm, 1), lm, tmp_path / place, to=to)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("exporter", [Gguf(), Hook(), Peft(), Weights()])
def test_exporters_are_values(exporter: Exporter) -> None:
    from trimtab import registry

    assert registry.make("exporter", registry.describe(exporter)) == exporter
