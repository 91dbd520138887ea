"""A model's weights as a float32 GGUF file without a vocabulary: what llama.cpp is asked on where nobody has the
model's own file. It is made for a proof and thrown away; to ship a model use llama.cpp's converter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import ExportError
from trimtab.exporters.base import slides
from trimtab.model import LM

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}  # model_type -> what llama.cpp calls it


def architecture(lm: LM) -> str:
    """What llama.cpp calls the family of a model.

    Raises:
        ExportError: a family, or a kind of positions, that is not written here.
    """
    config = lm.model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    window = slides(config)
    if config.model_type not in FAMILIES or rope != "default" or window:
        raise ExportError(
            f"no GGUF file of {lm.id} is known, and none can be written to prove the export on",
            given=f"{config.model_type}, positions {rope}" + ", a sliding window" * window,
            expected=f"a model loaded from a GGUF file, or of the families {', '.join(FAMILIES)}",
            do="name the model's GGUF file (--model-file)",
        )
    return FAMILIES[config.model_type]


def write_model(lm: LM, path: Path) -> Path:
    """Write a model's weights in float32.

    Raises:
        ExportError: see `architecture`; weights that llama.cpp has no name for.
    """
    writer = begun(lm, path)
    writer.add_vocab_size(lm.model.config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in tensors(lm):
        writer.add_tensor(name, tensor)
    finish(writer)
    return path


def begun(lm: LM, path: Path) -> Any:
    """A GGUF writer that knows the shape of a model, and not yet its vocabulary and weights.

    Raises:
        ExportError: see `architecture`.
    """
    import gguf

    config: Any = lm.model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, architecture(lm))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(lm.n_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    return writer


def finish(writer: Any) -> None:
    """Write what a GGUF writer has been given, and close its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(lm: LM) -> Iterator[tuple[str, np.ndarray]]:
    """The weights under llama.cpp's names, fp32.

    Raises:
        ExportError: see `architecture`; a weight that llama.cpp has no name for.
    """
    import gguf

    family, config = architecture(lm), lm.model.config
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(kind, lm.n_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in lm.inner.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ExportError(f"llama.cpp has no name for {name}", do="name the model's GGUF file (--model-file)")
        turned = heads.get(name.split(".")[-2]) if family == "llama" else None
        yield theirs, (tensor if turned is None else _interleaved(tensor, turned)).float().cpu().numpy()


def _interleaved(w: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection in the order in which llama.cpp turns them: pairs side by side, where
    transformers has halves.
    """
    halves = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])  # (h, 2, half, ...)
    return torch.swapaxes(halves, 1, 2).reshape(w.shape)
