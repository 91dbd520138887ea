"""Models of many architectures with random weights, a few thousand parameters each, built in memory."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from trimtab.model import LM, Row

VOCAB, WIDTH, LAYERS = 96, 32, 4
SMALL = dict(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
HEAD = dict(head_dim=8)
MOE = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
SLIDING = dict(sliding_window=6)

# architecture -> (class prefix, changes to SMALL; None removes a key)
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", HEAD),
    "qwen3_moe": ("Qwen3Moe", {**HEAD, **MOE}),
    "qwen3_next": (
        "Qwen3Next",
        {
            **HEAD,
            **MOE,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "mistral": ("Mistral", {**HEAD, **SLIDING}),
    "mixtral": ("Mixtral", {**MOE, "sliding_window": None}),
    "gemma": ("Gemma", HEAD),
    "gemma2": ("Gemma2", {**HEAD, **SLIDING, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", {**HEAD, **SLIDING, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", {}),
    "olmo": ("Olmo", {}),
    "olmo2": ("Olmo2", {}),
    "gpt2": ("GPT2", {}),
    "gpt_neo": ("GPTNeo", {"attention_types": [[["global", "local"], 2]], "window_size": 6}),
    "gpt_neox": ("GPTNeoX", {"num_key_value_heads": None}),
    "gptj": ("GPTJ", {"rotary_dim": 4}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": WIDTH}),
    "bloom": ("Bloom", {"n_layer": LAYERS, "n_head": 4}),
    "falcon": ("Falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon_alibi": ("Falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": False}),
    "mpt": ("Mpt", {"d_model": WIDTH, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 128}),
    "gpt_oss": ("GptOss", {**HEAD, **MOE, **SLIDING}),
    "cohere": ("Cohere", {}),
    "cohere2": ("Cohere2", {**HEAD, **SLIDING}),
    "granite": ("Granite", {}),
    "granitemoe": ("GraniteMoe", MOE),
    "stablelm": ("StableLm", {}),
    "smollm3": ("SmolLM3", {}),
    "glm4": ("Glm4", HEAD),
    "glm": ("Glm", HEAD),
    "deepseek_v3": (
        "DeepseekV3",
        {
            **MOE,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
        },
    ),
    "starcoder2": ("Starcoder2", SLIDING),
    "nemotron": ("Nemotron", {}),
    "exaone4": ("Exaone4", {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "helium": ("Helium", HEAD),
    "ernie4_5": ("Ernie4_5", HEAD),
}
# Architectures whose stream is not (batch, sequence, width), and what the refusal says.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n": (
        "Gemma3n",
        {
            **HEAD,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "layer_types": ["full_attention"] * LAYERS,
            "activation_sparsity_pattern": [0.0] * LAYERS,
            "altup_num_inputs": 2,
            "intermediate_size": [48] * LAYERS,
        },
    ),
}


CONFIGS = {"Gemma3": "Gemma3TextConfig", "Gemma3n": "Gemma3nTextConfig"}
CLASSES = {"GPT2": "GPT2LMHeadModel"}


def build(name: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """A model of the zoo with fixed random weights."""
    import transformers

    prefix, changes = (ZOO | REFUSED)[name]
    settings = {k: v for k, v in (SMALL | changes).items() if v is not None or (k in changes and k == "sliding_window")}
    config = getattr(transformers, CONFIGS.get(prefix, f"{prefix}Config"))(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES.get(prefix, f"{prefix}ForCausalLM"))(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.15)
    return model.to(dtype)


@lru_cache(maxsize=64)
def pico(name: str = "llama", dtype: torch.dtype = torch.float32) -> LM:
    """A zoo model as LM, with the tiny tokenizer."""
    return LM(build(name, dtype=dtype), tokenizer(), id=f"pico-{name}")


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """A word-level tokenizer with a chat template, made on the spot."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "<end>", "<unk>", "<user>", "<bot>", "<system>", "(", ")", "A", "B", ":", "?", "."]
    words += [
        "yes",
        "no",
        "Yes",
        "No",
        "choices",
        "Choices",
        "Do",
        "you",
        "like",
        "tea",
        "coffee",
        "rain",
        "sun",
        "the",
        "a",
        "of",
        "is",
        "it",
        "good",
        "bad",
        "I",
        "think",
        "so",
        "not",
        "never",
        "always",
    ]
    words += [
        "be",
        "kind",
        "rude",
        "say",
        "something",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "red",
        "blue",
        "green",
    ]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words))}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    raw.add_special_tokens(["<pad>", "<s>", "<end>", "<user>", "<bot>", "<system>"])
    raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tok = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="<end>", unk_token="<unk>")
    tok.chat_template = (
        "<s> {% for m in messages %}<{{ 'bot' if m.role == 'assistant' else m.role }}> {{ m.content }} <end> {% endfor %}"
        "{% if add_generation_prompt %}<bot> {% endif %}"
    )
    return tok


def rows(*lengths: tuple[int, int], seed: int = 0) -> list[Row]:
    """Rows of random ids, each of (prompt length, completion length)."""
    g = torch.Generator().manual_seed(seed)
    return [Row(tuple(torch.randint(7, VOCAB, (p + c,), generator=g).tolist()), p) for p, c in lengths]


def toy_pairs(file: Path) -> Path:
    """Twenty questions in words of the pico tokenizer, with the same two answers each."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    rows = [{"prompt": f"Do you like {a} {b} ?", "positive": "yes I think so", "negative": "no never"} for a in ("tea", "rain") for b in numbers]
    file.write_text("\n".join(json.dumps(r) for r in rows))
    return file
