"""A checkpoint with the vector in its weights, which plain `from_pretrained` loads.

A vector that is added to the output of a block is a bias of the last linear map of that block, where nothing but the
sum stands behind it. Most families have no such bias: some have a flag for it, and others are Llama under another
name, whose flag will do.

    GPT-NeoX, GPT-2, OPT, Phi, Starcoder2      have the bias already
    Llama, SmolLM3, Granite, Nemotron, ...     have the flag `mlp_bias`
    Qwen2, Mistral                             are written as a Llama with that flag
    Gemma 2 and 3, OLMo 2, GLM 4, experts      have no such form, and are refused
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from trimtab.errors import ExportError
from trimtab.exporters.base import Exporter, Logprobs, Proof, Steered, compared, directions, plainly, probes, slides
from trimtab.exporters.writers import Writer, last_writer, writers
from trimtab.model import LM, Layer, Row
from trimtab.model.quiet import quiet
from trimtab.registry import describe, register
from trimtab.steering.interventions import Intervention, steer
from trimtab.steering.operators import Ablate

CUT = ("llama", "mistral", "qwen2", "gpt_neox", "gpt2")  # whose every write is cut
AS_LLAMA = ("mistral", "qwen2")  # families whose blocks are Llama's, without its flags


@register("exporter", "hf")
@dataclass(frozen=True)
class Weights(Exporter):
    """A checkpoint with the vector in its weights: plain `from_pretrained` loads it, and so does all that reads such
    folders. It steers every token.

    Attributes:
        every_write: remove the direction from all that is written into the stream (embeddings, attention, MLP), which
            for a model is what operator ablate is for the output of a block, and another intervention (Arditi et al.
            2024, weight orthogonalization).
    """

    every_write: bool = False

    def expressible(self, ivs: Sequence[Intervention]) -> None:
        ablated = [iv for iv in ivs if isinstance(iv.operator, Ablate)]
        if self.every_write:
            _direction(ivs)
        elif ablated:
            raise ExportError(
                "no weights do what operator ablate does at the output of a block",
                given=describe(ablated[0].operator),
                expected="operator add",
                do="--every-write removes the direction wherever it is written instead, which is another intervention",
            )
        else:
            directions(ivs, "hf")

    def check(self, lm: LM, ivs: Sequence[Intervention]) -> None:
        if self.every_write:
            if lm.model.config.model_type not in CUT:
                raise ExportError(
                    f"every-write is not known to be whole for {lm.model.config.model_type}",
                    expected=f"one of {', '.join(CUT)}; where a norm follows a projection it cannot be",
                    do="export it as a hook, which ablates at the outputs of blocks",
                )
            writers(lm)
            return
        for layer in directions(ivs, "hf"):
            _form(lm, layer)

    def write(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> None:
        model = _orthogonal(lm, ivs) if self.every_write else _biased(lm, directions(ivs, "hf"))
        with quiet():
            model.save_pretrained(path)
            if lm.tokenizer is not None:
                lm.tokenizer.save_pretrained(path)

    def verify(self, lm: LM, ivs: Sequence[Intervention], path: Path) -> Proof:
        steered: Steered = partial(steer, lm, *ivs)
        if self.every_write:
            steered = partial(_at_every_write, lm, *_direction(ivs))
        rows = probes(lm, steered)
        with quiet():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=lm.dtype)
        model = model.to(lm.device).eval()
        theirs = [_alone(model, row) for row in rows]
        return compared(lm, steered, rows, theirs, f"transformers {transformers.__version__}")


@torch.no_grad()
def _alone(model: Any, row: Row) -> Logprobs:
    """Of a model that nobody steers."""
    ids = torch.tensor([row.ids], device=model.device)
    return model(input_ids=ids).logits[0].float().log_softmax(-1).cpu()


# ------------------------------------------------------------ a vector as a bias


def _form(lm: LM, layer: Layer) -> Writer:
    """The map whose bias is to be the vector.

    Raises:
        ExportError: the block has none, or its family has no form with such a bias.
    """
    writer, config = last_writer(lm, layer), lm.model.config
    if writer is None:
        raise ExportError(
            f"block {layer} of {lm.id} has no linear map with nothing but a sum behind it",
            given=f"{config.model_type}: a norm follows its projections, or its tokens go to experts",
            do="export it as a hook",
        )
    if writer.bias is None and getattr(config, "mlp_bias", None) is None and config.model_type not in AS_LLAMA:
        raise ExportError(
            f"{config.model_type} has no bias at {writer.path}, and no flag for one",
            expected=f"a family with such a bias, or one of {', '.join(AS_LLAMA)}, which can be written as llama",
            do="export it as a hook, or for peft",
        )
    if config.model_type in AS_LLAMA and slides(config):
        raise ExportError(
            f"{lm.id} attends through a sliding window, which a Llama does not", do="export it as a hook, or for peft"
        )
    return writer


def _biased(lm: LM, vectors: Mapping[Layer, Tensor]) -> Any:
    """A model that shares the weights of another, with the vectors as biases."""
    forms = {layer: _form(lm, layer) for layer in vectors}
    config, weights = _with_biases(lm.inner.config), dict(lm.inner.state_dict())
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=lm.dtype)
    # what the flags add is zero everywhere but at the vectors
    for name, p in model.named_parameters():
        if name not in weights:
            weights[name] = torch.zeros(p.shape, dtype=lm.dtype, device=lm.device)
    for layer, writer in forms.items():
        name = f"{writer.path}.bias"
        if name not in weights:
            raise ExportError(f"{config.model_type} has no weight {name}", do="export it as a hook")
        weights[name] = (weights[name].float() + vectors[layer].to(lm.device) / writer.scale).to(lm.dtype)
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie_weights()
    model.generation_config = lm.inner.generation_config
    return model


def _with_biases(config: Any) -> Any:
    """The configuration of a model whose MLPs have a bias at the end."""
    if config.model_type not in AS_LLAMA:
        config = deepcopy(config)
        if getattr(config, "mlp_bias", None) is not None:
            config.mlp_bias = True
        return config
    known = transformers.LlamaConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    settings = {k: v for k, v in config.to_dict().items() if k in known}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    biases = {"attention_bias": config.model_type == "qwen2", "mlp_bias": True}
    changed: Any = {**settings, "head_dim": head, **biases}
    return transformers.LlamaConfig(**changed)


# ------------------------------------------------------------ a direction that nothing writes


def _direction(ivs: Sequence[Intervention]) -> tuple[Tensor, float]:
    """The direction that is removed, and how much of it.

    Raises:
        ExportError: not one direction with operator ablate.
    """
    for iv in ivs:
        plainly(iv, "hf")
    if len(ivs) != 1 or len(ivs[0].vector.layers) != 1 or not isinstance(ivs[0].operator, Ablate):
        raise ExportError(
            "every-write removes one direction",
            given=[iv.describe() for iv in ivs],
            expected="one intervention with operator ablate, and a vector at one layer",
        )
    if str(ivs[0].where) != "everywhere":
        raise ExportError(
            "every-write acts at every token, the prompt's too",
            given=f"positions {ivs[0].where}",
            expected="positions everywhere",
            do="say --positions everywhere",
        )
    v = ivs[0].vector[ivs[0].vector.layers[0]]
    return v / v.norm(), float(ivs[0].multiplier)


@torch.no_grad()
def _orthogonal(lm: LM, ivs: Sequence[Intervention]) -> Any:
    """A copy of a model in which nothing writes a direction any more."""
    u, m = _direction(ivs)
    u = u.to(lm.device)
    model = deepcopy(lm.inner)
    # a matrix that embeds and speaks is cut only where it embeds
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
    modules = dict(model.named_modules())
    for path, transposed in writers(lm).items():
        for p in modules[path].parameters(recurse=False):
            w = p.float()  # what is written: rows of (n, d), columns of (d, n)
            cut = w - m * torch.outer(u, u @ w) if transposed and w.ndim == 2 else w - m * (w @ u)[..., None] * u
            p.copy_(cut.to(p.dtype))
    return model


@contextmanager
def _at_every_write(lm: LM, u: Tensor, m: float) -> Generator[None]:
    """Within the context, the direction is removed from what every module writes: the intervention that the weights
    stand for.
    """
    modules = dict(lm.model.named_modules())
    with ExitStack() as stack:
        for path in writers(lm):
            stack.callback(modules[path].register_forward_hook(partial(_without, u, m)).remove)
        yield


def _without(u: Tensor, m: float, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    along = (output.float() @ u.to(output.device))[..., None] * u.to(output.device)
    return (output.float() - m * along).to(output.dtype)
